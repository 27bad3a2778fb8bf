"""The figures of a recording: totals, agents, budgets, and which agent made which wait."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel.cli.report.recording import Recording
from loco_otel.cli.wait_causes import WAIT_CAUSES
from loco_otel.events import Outcome, ThrottleKind

_BUDGET_KEYS = (key.BUDGET_SCOPE, key.BUDGET_KEY, key.BUDGET_PERIOD, key.BUDGET_STORE)
_AMOUNTS = {
    "usd": (catalogue.BUDGET_LIMIT, catalogue.BUDGET_SPENT, catalogue.BUDGET_RESERVED),
    "weight": (catalogue.BUDGET_WEIGHT_LIMIT, catalogue.BUDGET_WEIGHT_SPENT, catalogue.BUDGET_WEIGHT_RESERVED),
}


class AgentSummary(NamedTuple):
    """One agent."""

    agent: str
    decided: int
    rejected: int
    """Requests that got no slot."""
    waited: float
    """Seconds."""
    p50: float | None
    p95: float | None
    held: float
    """Seconds of slots."""
    input_tokens: int
    output_tokens: int
    spend: float
    """USD."""


class BudgetSummary(NamedTuple):
    """One budget at the end of the run."""

    name: str
    period: str
    unit: str
    limit: float
    spent: float
    reserved: float


class RunSummary(NamedTuple):
    """One run."""

    first: int
    """The number of the last time before the first call."""
    seconds: float
    """From then on."""
    totals: AgentSummary
    """Of all agents."""
    refused: int
    """By providers."""
    timeouts: int
    """Of the client's own."""
    utilisation: float | None
    """The share of the slots' time that was held; None while they were unlimited."""
    most_waiting: int
    most_active: int
    agents: Sequence[AgentSummary]
    """Those that waited longest first."""
    budgets: Sequence[BudgetSummary]
    causes: Mapping[tuple[str, str], float]
    """Seconds by the agent that waited, and the agent that held the slots or another cause."""


def summarize_run(recording: Recording) -> RunSummary:
    """Return the figures of a recording."""
    first = _find_first(recording)
    throttles = _sum_last(recording, catalogue.THROTTLES, key.THROTTLE_KIND)
    agents = sorted(_list_agents(recording), key=lambda it: (-it.waited, it.agent))
    return RunSummary(
        first=first,
        seconds=recording.times[-1] - recording.times[first],
        totals=_build_totals(recording, agents),
        refused=round(sum(count for (kind,), count in throttles.items() if kind != ThrottleKind.TIMEOUT)),
        timeouts=round(throttles.get((ThrottleKind.TIMEOUT,), 0.0)),
        utilisation=_compute_utilisation(recording, first),
        most_waiting=_find_most(recording.sum_gauge(catalogue.REQUESTS_WAITING)),
        most_active=_find_most(recording.sum_gauge(catalogue.REQUESTS_ACTIVE)),
        agents=agents,
        budgets=_list_budgets(recording),
        causes=sum_causes(recording),
    )


def sum_causes(recording: Recording) -> dict[tuple[str, str], float]:
    """Return the seconds that agents waited, by the agent that held the slots or another cause in words."""
    seconds = defaultdict[tuple[str, str], float](float)
    keys = (key.AGENT, key.WAIT_CAUSE, key.BLAME_AGENT)
    for (agent, cause, holder), waited in _sum_last(recording, catalogue.WAIT_TIME, *keys).items():
        if waited > 0:
            seconds[agent, holder or WAIT_CAUSES.get(cause, cause)] += waited
    return dict(seconds)


def _sum_last(
    recording: Recording, metric: catalogue.MetricDefinition, *keys: str, part: str = ""
) -> dict[tuple[str, ...], float]:
    return {point: grown[-1] for point, grown in recording.sum_counter(metric, *keys, part=part).items()}


def _list_agents(recording: Recording) -> list[AgentSummary]:
    outcomes = _sum_last(recording, catalogue.REQUESTS, key.AGENT, key.OUTCOME)
    waited = _sum_last(recording, catalogue.WAIT_TIME, key.AGENT)
    held = _sum_last(recording, catalogue.SLOT_TIME, key.AGENT)
    tokens = _sum_last(recording, catalogue.TOKENS, key.AGENT, key.TOKEN_TYPE)
    spend = _sum_last(recording, catalogue.SPENT, key.AGENT)
    median, high = (recording.estimate_wait(share, key.AGENT) for share in (0.5, 0.95))
    names = {agent for agent, _ in outcomes} | {agent for (agent,) in (*waited, *spend)}
    return [
        AgentSummary(
            agent,
            round(sum(count for (name, _), count in outcomes.items() if name == agent)),
            round(sum(count for (name, end), count in outcomes.items() if name == agent and end != Outcome.GRANTED)),
            waited.get((agent,), 0.0),
            median.get((agent,)),
            high.get((agent,)),
            held.get((agent,), 0.0),
            round(tokens.get((agent, key.INPUT), 0.0)),
            round(tokens.get((agent, key.OUTPUT), 0.0)),
            spend.get((agent,), 0.0),
        )
        for agent in names
    ]


def _build_totals(recording: Recording, agents: Sequence[AgentSummary]) -> AgentSummary:
    return AgentSummary(
        "all",
        sum(it.decided for it in agents),
        sum(it.rejected for it in agents),
        sum(it.waited for it in agents),
        recording.estimate_wait(0.5).get(()),
        recording.estimate_wait(0.95).get(()),
        sum(it.held for it in agents),
        sum(it.input_tokens for it in agents),
        sum(it.output_tokens for it in agents),
        sum(it.spend for it in agents),
    )


def _find_first(recording: Recording) -> int:
    """Return the number of the last time at which no request had been made; 0 without a request."""
    made = [
        *recording.sum_gauge(catalogue.REQUESTS_ACTIVE).values(),
        *recording.sum_gauge(catalogue.REQUESTS_WAITING).values(),
        *recording.sum_counter(catalogue.REQUESTS).values(),
    ]
    return max(0, next((number for number in range(len(recording.times)) if any(it[number] for it in made)), 0) - 1)


def _compute_utilisation(recording: Recording, first: int) -> float | None:
    held, existed = (
        sum(grown[-1] - grown[first] for grown in recording.sum_counter(metric).values())
        for metric in (catalogue.SLOT_TIME, catalogue.CAPACITY_TIME)
    )
    return held / existed if existed else None


def _find_most(values: Mapping[tuple[str, ...], Sequence[float]]) -> int:
    return round(max((value for it in values.values() for value in it), default=0.0))


def _list_budgets(recording: Recording) -> list[BudgetSummary]:
    """Return the budgets: the largest amount of the processes that share a ledger, else the sum over processes."""
    budgets = []
    for unit, metrics in _AMOUNTS.items():
        limits, spent, reserved = (
            {
                point: max(values) if point[-1] == "ledger" else sum(values)
                for point, values in recording.get_last(metric, *_BUDGET_KEYS).items()
            }
            for metric in metrics
        )
        for point, limit in sorted(limits.items()):
            scope, name, period, _ = point
            title = scope if scope == "all" else f"{scope} {name}"
            amounts = (limit, spent.get(point, 0.0), reserved.get(point, 0.0))
            budgets.append(BudgetSummary(title, period, unit, *amounts))
    return sorted(budgets, key=lambda it: -(it.spent + it.reserved) / it.limit if it.limit else 0.0)
