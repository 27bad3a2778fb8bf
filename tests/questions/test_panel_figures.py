"""What the panels show is true, on each Prometheus, in each state: of the ledger, the provider's log and the spans."""

from bisect import bisect_left
from collections import Counter
from math import ceil

import pytest
from prometheus_server import PROGRAMS
from workload import AGENTS, MODELS
from workload_run import AGENT, OVERVIEW, SCHEDULING, SPEND, Moment, Run

from loco_otel._telemetry.catalogue import WAIT_DURATION
from loco_otel.money import MICRO, Period, Unit

BUDGET = ("loco_budget_scope", "loco_budget_key", "loco_budget_period")
STATES = ("unlimited", "learnt", "fixed", "half", "end")
TOLERANCE = 0.1
"""Of a rate: Prometheus extrapolates, the more so if a busy machine delays a scrape."""

each_version = pytest.mark.parametrize("version", PROGRAMS)
each_state = pytest.mark.parametrize("state", STATES)


class Shown:
    """What the panels show of one state."""

    def __init__(self, run: Run, version: str, state: str) -> None:
        self.moment: Moment = run.moments[state]
        self._version = version

    def read(self, dashboard: str, title: str, *labels: str, ref: str = "A") -> dict[tuple[str, ...], float]:
        """Return the values of a panel by these labels."""
        answer = self.moment.panels[self._version, (dashboard, title, ref)]
        values = {tuple(dict(series).get(label, "") for label in labels): value for series, value in answer.items()}
        assert len(values) == len(answer), "other labels differ"
        return values

    @property
    def held(self) -> Counter[str]:
        """The agents whose requests the provider was answering."""
        agents = {model: agent for agent, model in MODELS.items() if agent != "broke"}
        return Counter(agents[request.model] for request in self.moment.requests if request.ended_at is None)


@each_version
@each_state
def test_refusals_are_exactly_those_of_the_log(run: Run, version: str, state: str) -> None:
    shown = Shown(run, version, state)
    refused = sum(it.status == 429 for it in shown.moment.requests)
    assert refused == (0 if state == "unlimited" else 28)
    assert shown.read(OVERVIEW, "Refused by providers") == {(): refused}


@each_version
@each_state
def test_money_spent_is_exactly_that_of_the_ledger(run: Run, version: str, state: str) -> None:
    shown = Shown(run, version, state)
    (spent,) = [it.spent / MICRO for it in shown.moment.statuses if it.key.scope == "all"]
    assert spent > 0
    assert shown.read(SPEND, "Spent in this range") == {(): pytest.approx(spent, abs=1e-9)}


@each_version
def test_money_by_agent_tenant_and_model_is_the_ledgers(run: Run, version: str) -> None:
    shown = Shown(run, version, "end")
    for name, label in (("agent", "loco_agent_id"), ("tenant", "loco_tenant_id"), ("model", "gen_ai_request_model")):
        expected = {(it.by[0],): it.usd / MICRO for it in run.totals(name) if it.usd}
        found = shown.read(SPEND, f"Spent in this range by {name}", label)
        assert {point: value for point, value in found.items() if value} == pytest.approx(expected, abs=1e-9)


@each_version
@each_state
def test_budgets_are_exactly_those_of_the_ledger(run: Run, version: str, state: str) -> None:
    shown = Shown(run, version, state)
    # A minute may end between the scrape and the reading of the ledger, but for the last state.
    statuses = [it for it in shown.moment.statuses if it.key.unit is Unit.USD]
    if state != "end":
        statuses = [it for it in statuses if it.key.period is not Period.MINUTE]
    assert statuses
    points = {(it.key.scope, it.key.key, it.key.period): it for it in statuses}
    for ref, amounts in (
        ("A", {point: it.limit / MICRO for point, it in points.items()}),
        ("B", {point: it.spent / MICRO for point, it in points.items()}),
        ("C", {point: it.reserved / MICRO for point, it in points.items()}),
    ):
        found = shown.read(SPEND, "Budgets in USD", *BUDGET, ref=ref)
        assert {point: found[point] for point in points} == pytest.approx(amounts, abs=1e-9), ref


@each_version
def test_calls_without_room_are_the_rejected_ones(run: Run, version: str) -> None:
    assert run.outcomes["broke"] == {"BudgetExceededError": 4}
    assert Shown(run, version, "end").read(SPEND, "Calls without room in a budget") == {(): 4}


@each_version
@each_state
def test_active_and_waiting_calls_are_those_of_the_server(run: Run, version: str, state: str) -> None:
    shown = Shown(run, version, state)
    held, waiting = shown.held, {"fixed": Counter(analyst=4, crawler=4)}.get(state, Counter[str]())
    if state == "learnt":
        waiting = Counter(crawler=6)
    waiting = waiting - held if waiting else waiting
    assert shown.read(OVERVIEW, "Active calls") == {(): held.total()}
    assert shown.read(OVERVIEW, "Waiting calls") == {(): waiting.total()}
    for ref, expected in (("A", held), ("B", waiting)):
        agents = Counter[str]()
        for (agent, _), count in shown.read(
            SCHEDULING, "Agents now", "loco_agent_id", "loco_resource_name", ref=ref
        ).items():
            agents[agent] += int(count)
        assert +agents == expected


@each_version
def test_utilisation_is_absent_before_a_refusal(run: Run, version: str) -> None:
    assert Shown(run, version, "unlimited").read(OVERVIEW, "Slot utilisation") == {}


@each_version
@pytest.mark.parametrize(("state", "share"), [("fixed", 1.0), ("half", 0.5)])
def test_utilisation_is_the_share_of_held_slots(run: Run, version: str, state: str, share: float) -> None:
    (found,) = Shown(run, version, state).read(OVERVIEW, "Slot utilisation").values()
    assert found == pytest.approx(share, rel=TOLERANCE)


@each_version
def test_fairness_is_shown_where_two_agents_wait(run: Run, version: str) -> None:
    shown = {
        state: Shown(run, version, state).read(SCHEDULING, "Fairness index", "loco_resource_name") for state in STATES
    }
    assert {state: [*values] for state, values in shown.items() if values} == {"fixed": [("llm_api",)]}
    assert 0.8 <= shown["fixed"]["llm_api",] <= 1.0


@each_version
def test_granted_calls_are_exactly_those_of_the_program(run: Run, version: str) -> None:
    made = sum(outcomes.total() for outcomes in run.outcomes.values())
    rejected = run.outcomes["broke"]["BudgetExceededError"]
    assert Shown(run, version, "end").read(AGENT, "Calls in this range") == {(): made - rejected}


@each_version
def test_waiting_time_by_cause_sums_to_the_spans(run: Run, version: str) -> None:
    waited = sum(seconds for waits in run.waits.values() for seconds in waits)
    shown = Shown(run, version, "end").read(OVERVIEW, "Waiting time by cause", "loco_wait_cause")
    assert sum(shown.values()) == pytest.approx(waited, rel=0.01)


@each_version
def test_quantile_of_waits_is_within_a_bucket(run: Run, version: str) -> None:
    waits = sorted(seconds for waits in run.waits.values() for seconds in waits)
    rank = ceil(0.95 * len(waits)) - 1
    # The first wait of each series is in no increase.
    low, high = (waits[max(0, min(len(waits) - 1, rank + step))] for step in (-3, 3))
    for dashboard in (OVERVIEW, AGENT):
        ((_, found),) = Shown(run, version, "end").read(dashboard, "Wait, 95th percentile").items()
        bounds = WAIT_DURATION.buckets
        assert bisect_left(bounds, low) <= bisect_left(bounds, found) <= bisect_left(bounds, high)


def test_workload_has_agents_of_two_tenants() -> None:
    assert {tenant for tenant, _ in AGENTS.values()} == {"acme", "globex"}
