"""Observable instruments, all read from one snapshot per collection."""

import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from loco_otel._fork import ForkSafeLock
from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.blame import BlameListener
from loco_otel._telemetry.call_trace import ROOT_CONTEXT
from loco_otel._telemetry.catalogue import InstrumentKind, MetricDefinition
from loco_otel._telemetry.instruments import CardinalityLimit, CounterSums, HistogramBuffer, create_observable
from loco_otel.events import MILLI, AgentSnapshot, ResourceSnapshot, Snapshot
from loco_otel.money import Action, BudgetStatus, Unit

_logger = logging.getLogger("loco_otel")

_SNAPSHOT_SECONDS = 0.1
"""Seconds for which a snapshot is reused: longer than one collection, shorter than the interval between two."""

_Combine = Callable[[float, float], float]
"""Combines the values of agents that share one label set."""


class _AgentGauge(NamedTuple):
    metric: MetricDefinition
    read: Callable[[AgentSnapshot], float | None]
    combine: _Combine = operator.add


class _ResourceGauge(NamedTuple):
    metric: MetricDefinition
    read: Callable[[ResourceSnapshot], float | None]
    combine: _Combine = operator.add


_AGENT_GAUGES = (
    _AgentGauge(catalogue.REQUESTS_WAITING, lambda agent: agent.waiting),
    _AgentGauge(catalogue.REQUESTS_ACTIVE, lambda agent: agent.active),
    _AgentGauge(catalogue.QUEUE_WEIGHT, lambda agent: agent.queue_weight / MILLI),
    _AgentGauge(catalogue.QUEUE_AGE, lambda agent: agent.queue_age, max),
    _AgentGauge(catalogue.QUEUE_WAIT, lambda agent: agent.oldest_wait, max),
    _AgentGauge(catalogue.SCORE, lambda agent: agent.score, max),
)
_RESOURCE_GAUGES = (
    _ResourceGauge(catalogue.CAPACITY, lambda resource: resource.capacity),
    _ResourceGauge(catalogue.ALPHA, lambda resource: resource.alpha, max),
    _ResourceGauge(catalogue.TICKS, lambda resource: resource.tick),
    _ResourceGauge(catalogue.FAIRNESS, lambda resource: resource.fairness, min),
)
_PROCESS_COUNTERS: dict[MetricDefinition, Callable[[Snapshot], int]] = {
    catalogue.EVENTS_DROPPED: lambda snapshot: snapshot.events_dropped,
    catalogue.RECOVERIES: lambda snapshot: snapshot.recoveries,
}


class _BudgetGauge(NamedTuple):
    metric: MetricDefinition
    unit: Unit
    read: Callable[[BudgetStatus], int]


_BUDGET_GAUGES = (
    _BudgetGauge(catalogue.BUDGET_LIMIT, Unit.USD, lambda budget: budget.limit),
    _BudgetGauge(catalogue.BUDGET_SPENT, Unit.USD, lambda budget: budget.spent),
    _BudgetGauge(catalogue.BUDGET_RESERVED, Unit.USD, lambda budget: budget.reserved),
    _BudgetGauge(catalogue.BUDGET_WEIGHT_LIMIT, Unit.WEIGHT, lambda budget: budget.limit),
    _BudgetGauge(catalogue.BUDGET_WEIGHT_SPENT, Unit.WEIGHT, lambda budget: budget.spent),
    _BudgetGauge(catalogue.BUDGET_WEIGHT_RESERVED, Unit.WEIGHT, lambda budget: budget.reserved),
)


class MetricsSource:
    """The data of the observable instruments: one snapshot for all callbacks of a collection.

    OpenTelemetry does not signal the start of a collection, so a snapshot is cached for a tenth of a second. Two
    threads that collect concurrently may each take one, which is correct but slower.

    Args:
        snapshot: returns the state of all resources.
        active: name and version of each SDK whose calls are scheduled.
        clock: seconds.
        fold: shared with the counters, so that all metrics use the same agent names.
        budgets: returns the status of the budgets.
        tallies: the counters.
        recorder: buffered measurements.
        blame_listener: the causes of waits.
        tell: delivers pending events to the listeners.

    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        active: Callable[[], Iterable[tuple[str, str]]],
        clock: Callable[[], float],
        fold: CardinalityLimit,
        *,
        budgets: Callable[[], Sequence[BudgetStatus]],
        counters: Iterable[CounterSums],
        histogram_buffer: HistogramBuffer,
        blame_listener: BlameListener,
        flush_events: Callable[[], object],
    ) -> None:
        self._histogram_buffer = histogram_buffer
        self.blame_listener = blame_listener
        self._flush_events = flush_events
        self.active_sdks = active
        self.cardinality_limit = fold
        self.counters = {tally.row: tally for tally in counters}
        self.has_failed = False
        self._snapshot = snapshot
        self._budgets = budgets
        self._clock = clock
        self._latest: tuple[float, Snapshot] | None = None
        self._latest_budgets: tuple[float, Sequence[BudgetStatus]] | None = None

    def flush(self) -> None:
        """Update counters and histograms. SDKs call all callbacks before they read any histogram."""
        self._flush_events()
        self._histogram_buffer.flush()

    def read_clock(self) -> float:
        """Return the time of the scheduler's clock, in seconds."""
        return self._clock()

    def read_snapshot(self) -> Snapshot:
        """Return the current snapshot, at most a tenth of a second old."""
        now = self._clock()
        latest = self._latest
        if latest is None or now - latest[0] >= _SNAPSHOT_SECONDS:
            latest = self._latest = now, self._snapshot()
        return latest[1]

    def read_budgets(self) -> Sequence[BudgetStatus]:
        """Return the status of the budgets, at most a tenth of a second old."""
        kept = self._latest_budgets
        if kept is None or self._clock() - kept[0] >= _SNAPSHOT_SECONDS:
            latest: Sequence[BudgetStatus] = ()
            try:
                latest = self._budgets()
                self._start_decision_counters(latest)
            finally:
                # If the ledger can't be used, it is not tried again in this collection.
                self._latest_budgets = self._clock(), latest
            return latest
        return kept[1]

    def _start_decision_counters(self, standings: Iterable[BudgetStatus]) -> None:
        """Start the counters of budget decisions at 0, so that alerts see their first increase."""
        decisions = self.counters[catalogue.BUDGET_DECISIONS]
        for standing in standings:
            who = standing.key.scope.value, self.cardinality_limit(key.BUDGET_KEY, standing.key.key)
            decisions.start_at_zero(*who, standing.action.value)
            if standing.action is Action.DOWNGRADE:  # at the end of its ladder
                decisions.start_at_zero(*who, Action.REJECT.value)


class Gauges:
    """The observable instruments of one meter.

    OpenTelemetry cannot unregister a callback, and ignores those of a second instrument with the same name. So they are
    created once per meter, see `get_gauges`, and their source is replaced when the runtime is rebuilt. Without a source
    they have no points.
    """

    def __init__(self, meter: Meter) -> None:
        self._source: MetricsSource | None = None
        for agent_gauge in _AGENT_GAUGES:
            self._create_instrument(meter, agent_gauge.metric, partial(_observe_agents, agent_gauge))
        for resource_gauge in _RESOURCE_GAUGES:
            self._create_instrument(meter, resource_gauge.metric, partial(_observe_resources, resource_gauge))
        for budget_gauge in _BUDGET_GAUGES:
            self._create_instrument(meter, budget_gauge.metric, partial(_observe_budgets, budget_gauge))
        for row in catalogue.METRICS:
            if row.kind is InstrumentKind.COUNTER:
                self._create_instrument(meter, row, partial(_observe_counter, row))
        for metric, read in _PROCESS_COUNTERS.items():
            self._create_instrument(meter, metric, partial(_observe_process, read))
        self._create_instrument(meter, catalogue.GATE_CLOSED, _observe_pauses)
        self._create_instrument(meter, catalogue.WAIT_TIME, _observe_wait_time)
        self._create_instrument(meter, catalogue.ACTIVE, _observe_sdks)

    def set_source(self, source: MetricsSource) -> None:
        """Set the source of the instruments."""
        self._source = source

    def clear_source(self, source: MetricsSource) -> None:
        """Remove this source, if it is the current one."""
        if self._source is source:
            self._source = None

    def _create_instrument(
        self, meter: Meter, row: MetricDefinition, read: Callable[[MetricsSource], list[Observation]]
    ) -> None:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            source = self._source
            if source is None:
                return ()
            try:
                source.flush()
                return read(source)
            except Exception:
                # Once, not for every instrument at every collection; the next may succeed.
                if not source.has_failed:
                    source.has_failed = True
                    _logger.exception(
                        "internal error: reading %s failed, it has no points in this collection (logged once)", row.name
                    )
                return ()

        create_observable(meter, row, callback)


_gauges_by_meter: WeakKeyDictionary[Meter, Gauges] = WeakKeyDictionary()
_gauges_lock = ForkSafeLock()


def get_gauges(meter: Meter) -> Gauges:
    """Return the gauges of a meter, one object per meter."""
    with _gauges_lock:
        gauges = _gauges_by_meter.get(meter)
        if gauges is None:
            gauges = _gauges_by_meter[meter] = Gauges(meter)
        return gauges


def _observe_agents(gauge: _AgentGauge, source: MetricsSource) -> list[Observation]:
    values: dict[tuple[str, str], float] = {}
    for standing in source.read_snapshot().resources:
        resource = source.cardinality_limit(key.RESOURCE, standing.resource)
        for agent in standing.agents:
            value = gauge.read(agent)
            if value is not None:
                point = source.cardinality_limit(key.AGENT, agent.agent), resource
                values[point] = gauge.combine(values[point], value) if point in values else value
    return [
        Observation(value, {key.AGENT: agent, key.RESOURCE: resource}, ROOT_CONTEXT)
        for (agent, resource), value in values.items()
    ]


def _observe_resources(gauge: _ResourceGauge, source: MetricsSource) -> list[Observation]:
    values: dict[str, float] = {}
    for standing in source.read_snapshot().resources:
        value = gauge.read(standing)
        if value is not None:
            point = source.cardinality_limit(key.RESOURCE, standing.resource)
            values[point] = gauge.combine(values[point], value) if point in values else value
    return [Observation(value, {key.RESOURCE: resource}, ROOT_CONTEXT) for resource, value in values.items()]


def _observe_process(read: Callable[[Snapshot], int], source: MetricsSource) -> list[Observation]:
    return [Observation(read(source.read_snapshot()), {}, ROOT_CONTEXT)]


def _observe_pauses(source: MetricsSource) -> list[Observation]:
    pauses: dict[tuple[str, str], float] = {}
    for standing in source.read_snapshot().resources:
        if standing.pause:
            point = source.cardinality_limit(key.RESOURCE, standing.resource), standing.pause_header or key.UNKNOWN
            pauses[point] = max(standing.pause, pauses.get(point, 0.0))
    return [
        Observation(seconds, {key.RESOURCE: resource, key.GATE_CAUSE: cause}, ROOT_CONTEXT)
        for (resource, cause), seconds in pauses.items()
    ]


def _observe_wait_time(source: MetricsSource) -> list[Observation]:
    now, dropped = source.read_clock(), source.read_snapshot().events_dropped
    # Events up to now first: a wait that has ended must not be counted as open.
    source.flush()
    observations = []
    for (agent, resource, cause, by), seconds in source.blame_listener.read_seconds(now, dropped).items():
        attributes = {key.AGENT: agent, key.RESOURCE: resource, key.WAIT_CAUSE: cause}
        if by is not None:
            attributes[key.BLAME_AGENT] = by
        observations.append(Observation(seconds, attributes, ROOT_CONTEXT))
    return observations


def _observe_budgets(gauge: _BudgetGauge, source: MetricsSource) -> list[Observation]:
    values: dict[tuple[str, str, str], float] = {}
    for standing in source.read_budgets():
        scope, name, unit, period = standing.key
        if unit is gauge.unit:
            # Values folded into one label set are combined.
            point = scope.value, source.cardinality_limit(key.BUDGET_KEY, name), period.value
            values[point] = values.get(point, 0) + unit.amount(gauge.read(standing))
    return [
        Observation(value, dict(zip(gauge.metric.attributes, point, strict=True)), ROOT_CONTEXT)
        for point, value in values.items()
    ]


def _observe_counter(row: MetricDefinition, source: MetricsSource) -> list[Observation]:
    return source.counters[row].list_observations(ROOT_CONTEXT)


def _observe_sdks(source: MetricsSource) -> list[Observation]:
    return [
        Observation(1, {key.SDK_NAME: name, key.SDK_VERSION: version}, ROOT_CONTEXT)
        for name, version in dict.fromkeys(source.active_sdks())
    ]
