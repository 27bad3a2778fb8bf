"""What `loco-otel top` shows, computed from the pages of all processes."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.catalogue import MetricDefinition
from loco_otel.cli.capacities import add_capacities, is_shared
from loco_otel.cli.metrics_page import MetricsPage, to_label
from loco_otel.cli.quantiles import estimate_quantile
from loco_otel.cli.top.readings import Reading
from loco_otel.cli.wait_causes import WAIT_CAUSES
from loco_otel.events import GateCause

_Pair = tuple[str, str]
"""An agent and a resource."""

_BUDGET_KEYS = (key.BUDGET_SCOPE, key.BUDGET_KEY, key.BUDGET_PERIOD)
_AMOUNTS = {
    "usd": (catalogue.BUDGET_LIMIT, catalogue.BUDGET_SPENT, catalogue.BUDGET_RESERVED),
    "weight": (catalogue.BUDGET_WEIGHT_LIMIT, catalogue.BUDGET_WEIGHT_SPENT, catalogue.BUDGET_WEIGHT_RESERVED),
}


class BudgetState(NamedTuple):
    """One budget."""

    scope: str
    key: str
    period: str
    unit: str
    limit: float
    spent: float
    reserved: float

    @property
    def used(self) -> float:
        """The share of the limit that is spent or reserved."""
        return (self.spent + self.reserved) / self.limit if self.limit else inf


class ResourceState(NamedTuple):
    """One resource, over all processes."""

    resource: str
    policy: str
    capacity: int | None
    """None while it is unlimited in some process."""
    active: int
    waiting: int
    pause: float
    """Seconds for which a provider still asks for a pause."""


class AgentState(NamedTuple):
    """One agent at one resource, over all processes."""

    agent: str
    resource: str
    active: int
    waiting: int
    score: float | None
    oldest_wait: float
    """Seconds."""
    waited: float
    """Seconds that its calls have waited since the start of the processes, open waits included."""
    p95: float | None
    """Seconds: the 95th percentile of its waits since then."""
    spend: float
    """USD since then, at all resources."""
    budget: BudgetState | None
    """The fullest of its own."""
    causes: Sequence[tuple[str, float]]
    """What its waiting calls wait for, each with its share; empty while none waits."""


class LiveState(NamedTuple):
    """All of it."""

    resources: Sequence[ResourceState]
    agents: Sequence[AgentState]
    budgets: Sequence[BudgetState]
    """The fullest first."""


def build_state(readings: Iterable[Reading]) -> LiveState:
    """Return the state over all processes.

    Gauges are those of processes that answer. Counters include those that have ended since.
    """
    known = [it for it in readings if it.page is not None]
    pages = [it.page for it in known if it.page is not None]
    live = [it.page for it in known if it.page is not None and it.is_current]
    budgets = _build_budgets(pages)
    return LiveState(_build_resources(pages, live), _build_agents(known, pages, live, budgets), budgets)


def _combine(
    pages: Iterable[MetricsPage], metric: MetricDefinition, *keys: str, by: Callable[[float, float], float]
) -> dict[tuple[str, ...], float]:
    combined: dict[tuple[str, ...], float] = {}
    for page in pages:
        for point, value in page.sum_by(metric, *keys).items():
            combined[point] = by(combined[point], value) if point in combined else value
    return combined


def _add(left: float, right: float) -> float:
    return left + right


def _build_resources(pages: Sequence[MetricsPage], live: Sequence[MetricsPage]) -> list[ResourceState]:
    capacities: defaultdict[str, list[tuple[bool, float]]] = defaultdict(list)
    policies: defaultdict[str, set[str]] = defaultdict(set)
    for page in live:
        limits, shared = page.sum_by(catalogue.CAPACITY, key.RESOURCE), is_shared(page)
        for resource, policy in page.sum_by(catalogue.INFO, key.RESOURCE, key.POLICY):
            policies[resource].add(policy)
            capacities[resource].append((shared, limits.get((resource,), inf)))
    active = _combine(live, catalogue.REQUESTS_ACTIVE, key.RESOURCE, by=_add)
    waiting = _combine(live, catalogue.REQUESTS_WAITING, key.RESOURCE, by=_add)
    pauses = _combine(live, catalogue.GATE_CLOSED, key.RESOURCE, key.GATE_CAUSE, by=max)
    names = {resource for page in pages for (resource,) in page.sum_by(catalogue.INFO, key.RESOURCE)}
    return [
        ResourceState(
            name,
            ", ".join(sorted(policies[name])),
            _count_slots(capacities[name]),
            int(active.get((name,), 0)),
            int(waiting.get((name,), 0)),
            pauses.get((name, GateCause.BACKOFF), 0.0),
        )
        for name in sorted(names)
    ]


def _count_slots(capacities: Sequence[tuple[bool, float]]) -> int | None:
    total = add_capacities(capacities) if capacities else inf
    return None if total == inf else int(total)


def _build_agents(
    readings: Sequence[Reading],
    pages: Sequence[MetricsPage],
    live: Sequence[MetricsPage],
    budgets: Sequence[BudgetState],
) -> list[AgentState]:
    pair = (key.AGENT, key.RESOURCE)
    active = _combine(live, catalogue.REQUESTS_ACTIVE, *pair, by=_add)
    waiting = _combine(live, catalogue.REQUESTS_WAITING, *pair, by=_add)
    scores = _combine(live, catalogue.SCORE, *pair, by=max)
    oldest = _combine(live, catalogue.QUEUE_WAIT, *pair, by=max)
    decided = _combine(pages, catalogue.REQUESTS, *pair, by=_add)
    waited = _combine(pages, catalogue.WAIT_TIME, *pair, by=_add)
    spend = _combine(pages, catalogue.SPENT, key.AGENT, by=_add)
    quantiles, causes = _estimate_waits(pages), _share_causes(readings)
    own: dict[str, BudgetState] = {}
    for budget in budgets:  # the fullest comes first
        if budget.scope == "agent":
            own.setdefault(budget.key, budget)
    return [
        AgentState(
            agent,
            resource,
            int(active.get(point, 0)),
            int(waiting.get(point, 0)),
            scores.get(point) if waiting.get(point) else None,
            oldest.get(point, 0.0) if waiting.get(point) else 0.0,
            waited.get(point, 0.0),
            quantiles.get((agent, resource)),
            spend.get((agent,), 0.0),
            own.get(agent),
            causes.get((agent, resource), ()) if waiting.get(point) else (),
        )
        for point in sorted({*active, *waiting, *decided, *waited})
        for agent, resource in [point]
    ]


def _estimate_waits(pages: Iterable[MetricsPage]) -> dict[_Pair, float | None]:
    buckets: defaultdict[_Pair, defaultdict[float, float]] = defaultdict(lambda: defaultdict(float))
    agent, resource = to_label(key.AGENT), to_label(key.RESOURCE)
    for page in pages:
        for sample in page.list_samples(catalogue.WAIT_DURATION, "bucket"):
            pair = sample.labels.get(agent, ""), sample.labels.get(resource, "")
            buckets[pair][float(sample.labels["le"])] += sample.value
    return {pair: estimate_quantile(0.95, counts) for pair, counts in buckets.items()}


def _share_causes(readings: Iterable[Reading]) -> dict[_Pair, Sequence[tuple[str, float]]]:
    """Return the shares of what each agent's calls have waited for lately, the largest first."""
    seconds: defaultdict[_Pair, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    keys = (key.AGENT, key.RESOURCE, key.WAIT_CAUSE, key.BLAME_AGENT)
    for reading in readings:
        if reading.page is None or not reading.is_current:
            continue
        before = reading.earlier.sum_by(catalogue.WAIT_TIME, *keys) if reading.earlier is not None else {}
        for point, value in reading.page.sum_by(catalogue.WAIT_TIME, *keys).items():
            earlier = before.get(point, 0.0)
            agent, resource, cause, holder = point
            # A counter that has fallen is that of a process that was restarted.
            seconds[agent, resource][holder or WAIT_CAUSES.get(cause, cause)] += value - (
                earlier if earlier <= value else 0.0
            )
    return {pair: _list_shares(causes) for pair, causes in seconds.items()}


def _list_shares(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    total = sum(seconds.values())
    if total <= 0:
        return []
    shares = [(cause, part / total) for cause, part in seconds.items() if part > 0]
    return sorted(shares, key=lambda it: (-it[1], it[0]))


def _build_budgets(pages: Sequence[MetricsPage]) -> list[BudgetState]:
    """Return the budgets: the largest amount of the processes that share a ledger, else the sum over processes."""
    found = []
    for unit, metrics in _AMOUNTS.items():
        limit, spent, reserved = (_combine_budget(pages, metric) for metric in metrics)
        found += [
            BudgetState(*point, unit, amount, spent.get(point, 0.0), reserved.get(point, 0.0))
            for point, amount in limit.items()
        ]
    return sorted(found, key=lambda it: (-it.used, it))


def _combine_budget(pages: Sequence[MetricsPage], metric: MetricDefinition) -> dict[tuple[str, str, str], float]:
    combined: dict[tuple[str, str, str], float] = {}
    for page in pages:
        for (scope, name, period, store), value in page.sum_by(metric, *_BUDGET_KEYS, key.BUDGET_STORE).items():
            point = scope, name, period
            before = combined.get(point, 0.0)
            combined[point] = max(before, value) if store == "ledger" else before + value
    return combined
