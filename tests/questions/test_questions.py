"""Each question of `docs/questions.md` has the right answer on each Prometheus, in each state of the workload."""

import re
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from math import ceil, inf
from pathlib import Path

import pytest
from prometheus_server import PROGRAMS
from workload import AGENTS, MODELS
from workload_run import ALL, RECENT, Moment, Run

from loco_otel._telemetry import questions
from loco_otel._telemetry.catalogue import METRICS, WAIT_DURATION
from loco_otel._version import __version__
from loco_otel.money import MICRO, BudgetStatus, Period, Unit

PAGE = Path(__file__).parents[2] / "docs" / "questions.md"
BUDGET = ("loco_budget_scope", "loco_budget_key", "loco_budget_period")
RECENT_SECONDS, ALL_SECONDS = 8.0, 1800.0

TOLERANCE = 0.1
"""Of a rate: Prometheus extrapolates, the more so if a busy machine delays a scrape."""

each_version = pytest.mark.parametrize("version", PROGRAMS)


class Answers:
    """What one Prometheus answers at one moment."""

    def __init__(self, run: Run, version: str, moment: str) -> None:
        self.moment: Moment = run.moments[moment]
        self._version = version

    def get(self, key: str, *labels: str, over: str = ALL) -> dict[tuple[str, ...], float]:
        """Return the values of an answer by these labels."""
        answer = self.moment.answers[self._version, key, over]
        values = {tuple(dict(series).get(label, "") for label in labels): value for series, value in answer.items()}
        assert len(values) == len(answer), "other labels differ"
        return values

    @property
    def held(self) -> Counter[str]:
        """The agents whose requests the provider was answering."""
        agents = {model: agent for agent, model in MODELS.items() if agent != "broke"}
        return Counter(agents[request.model] for request in self.moment.requests if request.ended_at is None)

    @property
    def capacity(self) -> float:
        """The slots of all processes."""
        return sum(self.moment.capacities[self._version].values())


def test_page_is_current() -> None:
    assert questions.main([str(PAGE), "--check"]) == 0


def test_queries_name_metrics_of_the_catalogue() -> None:
    names = {row.prometheus_name + end for row in METRICS for end in ("", "_bucket", "_sum")}
    used = {name for it in questions.QUESTIONS for name in re.findall(r"\bloco_[a-zA-Z_]+(?=[\[{ )]|$)", it.query)}
    labels = {label for row in METRICS for label in (*row.attributes, *row.optional)}
    assert used - {label.replace(".", "_") for label in labels} <= names
    assert all("15m" in it.query or "[" not in it.query for it in questions.QUESTIONS)


@each_version
def test_refusals_are_those_of_the_providers_log(run: Run, version: str) -> None:
    assert Answers(run, version, "unlimited").get("refusals", "error_type") == {}
    for moment in ("learnt", "fixed", "half", "end"):
        answers = Answers(run, version, moment)
        logged = Counter((it.api, str(it.status)) for it in answers.moment.requests if it.status == 429)
        assert logged == {("openai", "429"): 28}
        assert answers.get("refusals", "gen_ai_provider_name", "error_type") == logged


@each_version
def test_timeouts_are_no_refusals(run: Run, version: str) -> None:
    assert Answers(run, version, "unlimited").get("timeouts") == {}
    ended = run.outcomes["impatient"]
    assert ended == {"APITimeoutError": 3}
    assert Answers(run, version, "end").get("timeouts", "gen_ai_provider_name") == {("openai",): 3}


@each_version
@pytest.mark.parametrize("moment", ["unlimited", "learnt", "fixed", "half", "end"])
def test_budget_has_spent_what_the_ledger_states(run: Run, version: str, moment: str) -> None:
    answers = Answers(run, version, moment)
    spent = answers.get("spent", *BUDGET)
    expected = {
        (it.key.scope, it.key.key, it.key.period): it.spent / MICRO
        for it in answers.moment.statuses
        if it.key.unit is Unit.USD
    }
    if moment != "end":  # a period may end between the scrape and the reading of the ledger
        spent = {key: value for key, value in spent.items() if key[2] != Period.MINUTE}
        expected = {key: value for key, value in expected.items() if key[2] != Period.MINUTE}
    assert spent == pytest.approx(expected, abs=1e-9)
    assert expected


@each_version
def test_period_has_ended_and_its_budget_begins_again(run: Run, version: str) -> None:
    ended, begun = (Answers(run, version, moment).get("spent", *BUDGET) for moment in ("learnt", "end"))
    minute, month = ("team", "research", "minute"), ("tenant", "acme", "month")
    assert begun[minute] < begun[month]
    assert begun[month] > ended[month]


@each_version
def test_budgets_that_run_out_before_their_period_ends(run: Run, version: str) -> None:
    answers = Answers(run, version, "fixed")
    expected = {}
    for it in answers.moment.statuses:
        seconds = _compute_seconds_left(it)
        if (
            it.key.unit is Unit.USD
            and it.key.period is not Period.MINUTE
            and seconds < (it.resets_at or inf) - time.time()
        ):
            expected[it.key.scope, it.key.key, it.key.period] = seconds
    assert set(expected) == {("tenant", "acme", "month")}
    assert answers.get("exhaustion", *BUDGET) == pytest.approx(expected, rel=0.3)


def _compute_seconds_left(it: BudgetStatus) -> float:
    rate = it.spent / ALL_SECONDS
    return (it.limit - it.spent - it.reserved) / rate if rate else inf


@each_version
def test_utilization_and_saturation_before_a_refusal_are_absent(run: Run, version: str) -> None:
    answers = Answers(run, version, "unlimited")
    assert answers.capacity == 0
    assert answers.get("utilization", over=RECENT) == answers.get("saturation", over=RECENT) == {}


@each_version
@pytest.mark.parametrize(("moment", "requests"), [("learnt", 6), ("fixed", 8), ("half", 1)])
def test_utilization_and_saturation_of_a_limit(run: Run, version: str, moment: str, requests: int) -> None:
    answers = Answers(run, version, moment)
    (utilization,) = answers.get("utilization", over=RECENT).values()
    held = answers.held.total()
    assert utilization == pytest.approx(held / answers.capacity, rel=TOLERANCE)
    (saturation,) = answers.get("saturation", over=RECENT).values()
    assert saturation == requests / (2 if moment == "half" else held)


@each_version
def test_fairness_needs_two_agents_that_wait(run: Run, version: str) -> None:
    for moment in ("unlimited", "learnt", "half", "end"):
        assert Answers(run, version, moment).get("fairness") == {}
    index = Answers(run, version, "fixed").get("fairness", "loco_resource_name")
    assert list(index) == [("llm_api",)]
    assert 0.8 <= index["llm_api",] <= 1.0


@each_version
def test_wait_is_due_to_the_agents_that_hold_the_slots(run: Run, version: str) -> None:
    answers = Answers(run, version, "fixed")
    held = answers.held
    assert held.total() == 2
    expected = {}
    for agent in ("analyst", "crawler"):
        waiting = 4 - held[agent]
        for holder in held:
            cause = ("self", "") if holder == agent else ("slot", holder)
            expected[agent, *cause] = waiting * held[holder] / 2
    found = answers.get("blame", "loco_agent_id", "loco_wait_cause", "loco_blame_agent", over=RECENT)
    assert found == pytest.approx(expected, rel=TOLERANCE)


@each_version
def test_headroom_is_what_the_provider_reports(run: Run, version: str) -> None:
    for moment in ("unlimited", "learnt", "end"):
        values = Answers(run, version, moment).get("headroom", "loco_resource_name", "loco_ratelimit_kind")
        assert {(kind, value) for (_, kind), value in values.items()} == {("requests", 0.999), ("tokens", 0.99)}


@each_version
def test_pause_is_what_the_provider_asked_for(run: Run, version: str) -> None:
    assert Answers(run, version, "unlimited").get("pauses") == {}
    pauses = Answers(run, version, "end").get("pauses", "loco_agent_id")
    assert pauses == pytest.approx({("crawler",): 1.0}, rel=0.3)


@each_version
@pytest.mark.parametrize("moment", ["learnt", "fixed", "half"])
def test_holds_under_way_count(run: Run, version: str, moment: str) -> None:
    answers = Answers(run, version, moment)
    expected = {(agent,): RECENT_SECONDS * slots for agent, slots in answers.held.items()}
    assert expected
    assert answers.get("holds", "loco_agent_id", over=RECENT) == pytest.approx(expected, rel=TOLERANCE)


@each_version
@pytest.mark.parametrize("moment", ["unlimited", "learnt", "fixed", "half", "end"])
def test_process_that_schedules_nothing_is_found(run: Run, version: str, moment: str) -> None:
    answers, instance = Answers(run, version, moment), f"127.0.0.1:{run.ports['inactive']}"
    found = answers.get("inactive", "instance", "loco_inactive_reason", "loco_sdk_name")
    assert {(instance, "disabled", sdk) for sdk in ("openai", "anthropic")} <= set(found)
    assert {key[:2] for key in found} == {(instance, "disabled")}
    assert answers.get("children", "instance") == {(instance,): 2}


@each_version
def test_cost_and_tokens_are_those_of_the_ledger(run: Run, version: str) -> None:
    answers = Answers(run, version, "end")
    totals = [it for it in run.totals("agent") if it.usd or it.input_tokens]
    cost = {(it.by[0],): it.usd / MICRO for it in totals}
    assert answers.get("cost", "loco_agent_id") == pytest.approx(cost, abs=1e-9)
    tokens: dict[tuple[str | None, str], int] = {}
    for it in totals:
        tokens[it.by[0], "input"], tokens[it.by[0], "output"] = it.input_tokens, it.output_tokens
    tokens = {point: amount for point, amount in tokens.items() if amount}
    assert answers.get("tokens", "loco_agent_id", "gen_ai_token_type") == tokens
    assert {"analyst", "crawler", "writer"} <= {it.by[0] for it in totals}


@each_version
def test_waits_of_tenants_are_those_of_the_spans(run: Run, version: str) -> None:
    waited: defaultdict[tuple[str], float] = defaultdict(float)
    for agent, seconds in run.waits.items():
        waited[AGENTS[agent][0],] += sum(seconds)
    assert waited
    assert Answers(run, version, "end").get("waits", "loco_tenant_id") == pytest.approx(waited, rel=1e-6)


@each_version
def test_budget_decisions_are_the_rejected_calls(run: Run, version: str) -> None:
    assert run.outcomes["broke"] == {"BudgetExceededError": 4}
    labels = (*BUDGET, "loco_budget_unit", "loco_budget_action")
    assert Answers(run, version, "end").get("decisions", *labels) == {("agent", "broke", "day", "usd", "reject"): 4}


@each_version
def test_policy_and_limit_of_each_process(run: Run, version: str) -> None:
    labels = ("instance", "loco_resource_name", "loco_policy", "loco_capacity_mode", "loco_version")
    found = Answers(run, version, "fixed").get("policy", *labels)
    assert set(found.values()) == {1}
    released, restarted = (f"127.0.0.1:{run.ports[name]}" for name in ("released", "restarted"))
    assert (released, "llm_api", "fair", "fixed", __version__) in found
    modes = {(name, mode) for instance, name, _, mode, _ in found if instance == restarted}
    assert ("llm_api", "unlimited") in modes
    assert {mode for name, mode in modes if name != "llm_api"} == {"auto"}


@each_version
@pytest.mark.parametrize("agent", ["analyst", "crawler"])
def test_quantile_is_within_a_bucket_of_the_spans(run: Run, version: str, agent: str) -> None:
    answer = Answers(run, version, "end").get("quantile", "loco_agent_id")[agent,]
    waits = sorted(run.waits[agent])
    rank = ceil(0.95 * len(waits)) - 1
    # The first wait of each process is in no increase.
    low, high = (waits[max(0, min(len(waits) - 1, rank + step))] for step in (-1, 1))
    bounds = WAIT_DURATION.buckets
    assert bisect_left(bounds, low) <= bisect_left(bounds, answer) <= bisect_left(bounds, high)


def test_workload_was_scraped_from_both_releases(run: Run) -> None:
    for prometheus in run.servers.values():
        found = prometheus.ask("count by (service_version) (max_over_time(target_info[30m]))", time.time())
        assert {dict(series)["service_version"] for series in found} == {"1", "2"}
