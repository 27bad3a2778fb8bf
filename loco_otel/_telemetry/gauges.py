"""Observable instruments, all read from one snapshot per collection."""

import logging
import operator
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary, ref

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from loco_otel import _fork
from loco_otel._fork import ForkSafeLock
from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import budget_gauges, catalogue, presence
from loco_otel._telemetry.call_trace import ROOT_CONTEXT
from loco_otel._telemetry.catalogue import InstrumentKind, MetricDefinition
from loco_otel._telemetry.instruments import PointLimit, PointValues, create_observable
from loco_otel._telemetry.metrics_source import MetricsSource
from loco_otel._telemetry.sdk_points import discard_points
from loco_otel._version import __version__
from loco_otel.events import MILLI, GateCause
from loco_otel.snapshots import AgentSnapshot, EngineMode, EngineSnapshot, ReportedLimit, ResourceSnapshot, Snapshot

_logger = logging.getLogger("loco_otel")

_Combine = Callable[[float, float], float]
"""Combines the values of agents that share one label set."""
_Points = Iterable[tuple[PointValues, float]]


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
    _ResourceGauge(catalogue.SATURATION, lambda resource: resource.saturation, max),
    _ResourceGauge(catalogue.LIMIT_REFERENCE, lambda resource: resource.reference),
    _ResourceGauge(catalogue.ALPHA, lambda resource: resource.alpha, max),
    _ResourceGauge(catalogue.TICKS, lambda resource: resource.tick),
    _ResourceGauge(catalogue.FAIRNESS, lambda resource: resource.fairness, min),
)
_PROCESS_GAUGES: dict[MetricDefinition, Callable[[Snapshot], int | None]] = {
    catalogue.EVENTS_DROPPED: lambda snapshot: snapshot.events_dropped,
    catalogue.RECOVERIES: lambda snapshot: snapshot.recoveries,
    catalogue.WAITING_MAX: lambda snapshot: snapshot.max_waiting,
}
_RATE_GAUGES: dict[MetricDefinition, Callable[[ReportedLimit], int | None]] = {
    catalogue.RATE_LIMIT: lambda reported: reported.limit,
    catalogue.RATE_LIMIT_REMAINING: lambda reported: reported.remaining,
}
_ENGINE_GAUGES: dict[MetricDefinition, Callable[[EngineSnapshot], _Points]] = {
    catalogue.ENGINE_MODE: lambda engine: [((mode.value,), int(mode is engine.mode)) for mode in EngineMode],
    catalogue.ENGINE_PROCESSES: lambda engine: [((), engine.processes)],
    catalogue.ENGINE_OVERBOOKED: lambda engine: [((name,), count) for name, count in engine.overbooked],
    catalogue.ENGINE_ERRORS: lambda engine: [((kind,), count) for kind, count in engine.errors],
}
_TIMES = (catalogue.SLOT_TIME, catalogue.CAPACITY_TIME, catalogue.PAUSE_TIME)


class Gauges:
    """The observable instruments of one meter.

    OpenTelemetry cannot unregister a callback, and ignores those of a second instrument with the same name. So they are
    created once per meter, see `get_gauges`, and their source is replaced when the runtime is rebuilt. Without a source
    only SDKs without scheduling and forked processes have points.
    """

    def __init__(self, meter: Meter) -> None:
        self._source: MetricsSource | None = None
        self._meter = ref(meter)  # else the meter would exist for ever, in `_gauges_by_meter`
        for agent_gauge in _AGENT_GAUGES:
            self._create_instrument(
                meter, agent_gauge.metric, partial(_observe_agents, agent_gauge), agent_gauge.combine
            )
        for gauge in _RESOURCE_GAUGES:
            self._create_instrument(meter, gauge.metric, partial(_observe_resources, gauge), gauge.combine)
        for budget_gauge in budget_gauges.BUDGET_GAUGES:
            self._create_instrument(meter, budget_gauge.metric, budget_gauge.list_points, budget_gauge.combine)
        for metric, read in _PROCESS_GAUGES.items():
            self._create_instrument(meter, metric, partial(_observe_process, read))
        for metric, list_points in _ENGINE_GAUGES.items():
            self._create_instrument(meter, metric, partial(_observe_engine, list_points))
        self._create_instrument(meter, catalogue.GATE_CLOSED, _observe_gates, max)
        for row, read_rate in _RATE_GAUGES.items():
            self._create_instrument(meter, row, partial(_observe_rate_limits, read_rate))
        self._create_instrument(meter, catalogue.WAIT_TIME, _observe_wait_time)
        self._create_instrument(meter, catalogue.INFO, _observe_info, max)
        self._create_instrument(meter, catalogue.RUNS_ACTIVE, _observe_runs)
        for row in _TIMES:
            self._create_observations(meter, row, partial(_observe_time, row))
        for row in catalogue.METRICS:
            if row.kind is InstrumentKind.COUNTER:
                self._create_observations(meter, row, partial(_observe_counter, row))
        create_observable(meter, catalogue.ACTIVE, self._observe_sdks)
        create_observable(meter, catalogue.CHILDREN, presence.observe_children)
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def after_fork(self) -> None:
        """Discard in a forked child what the SDK has aggregated in its parent, of histograms too."""
        discard_points(self._meter())

    def set_source(self, source: MetricsSource) -> None:
        """Set the source of the instruments."""
        self._source = source

    def clear_source(self, source: MetricsSource) -> None:
        """Remove this source, if it is the current one."""
        if self._source is source:
            self._source = None

    def _create_instrument(
        self,
        meter: Meter,
        row: MetricDefinition,
        list_points: Callable[[MetricsSource], _Points],
        combine: _Combine = operator.add,
    ) -> None:
        """Create an instrument of points, and combine those that have the same values."""
        limit = PointLimit(row)

        def read(source: MetricsSource) -> list[Observation]:
            values: dict[PointValues, float] = {}
            for point, value in list_points(source):
                kept = limit.limit_values(point)
                values[kept] = combine(values[kept], value) if kept in values else value
            return [Observation(value, limit.get_attributes(point), ROOT_CONTEXT) for point, value in values.items()]

        self._create_observations(meter, row, read)

    def _create_observations(
        self, meter: Meter, row: MetricDefinition, read: Callable[[MetricsSource], list[Observation]]
    ) -> None:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            source = self._source
            if source is None:
                return ()
            try:
                source.begin_read(row)
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

    def _observe_sdks(self, _: CallbackOptions) -> list[Observation]:
        source = self._source
        return presence.list_sdks(() if source is None else source.active_sdks())


_gauges_by_meter: WeakKeyDictionary[Meter, Gauges] = WeakKeyDictionary()
_gauges_lock = ForkSafeLock()


def get_gauges(meter: Meter) -> Gauges:
    """Return the gauges of a meter, one object per meter."""
    with _gauges_lock:
        gauges = _gauges_by_meter.get(meter)
        if gauges is None:
            gauges = _gauges_by_meter[meter] = Gauges(meter)
        return gauges


def _list_resources(source: MetricsSource) -> Iterable[tuple[str, ResourceSnapshot]]:
    for resource in source.read_snapshot().resources:
        yield source.cardinality_limit(key.RESOURCE, resource.resource), resource


def _observe_agents(gauge: _AgentGauge, source: MetricsSource) -> _Points:
    for name, resource in _list_resources(source):
        for agent in resource.agents:
            value = gauge.read(agent)
            if value is not None:
                yield (source.cardinality_limit(key.AGENT, agent.agent), name), value


def _observe_resources(gauge: _ResourceGauge, source: MetricsSource) -> _Points:
    for name, resource in _list_resources(source):
        value = gauge.read(resource)
        if value is not None:
            yield (name,), value


def _observe_process(read: Callable[[Snapshot], int | None], source: MetricsSource) -> _Points:
    value = read(source.read_snapshot())
    return () if value is None else (((), value),)


def _observe_engine(list_points: Callable[[EngineSnapshot], _Points], source: MetricsSource) -> _Points:
    engine = source.read_snapshot().engine
    return () if engine is None else list_points(engine)


def _observe_gates(source: MetricsSource) -> _Points:
    for name, resource in _list_resources(source):
        if resource.pause:
            yield (name, GateCause.BACKOFF.value, resource.pause_header), resource.pause
        for cause, seconds in resource.gates:
            yield (name, cause, None), seconds


def _observe_rate_limits(read: Callable[[ReportedLimit], int | None], source: MetricsSource) -> _Points:
    for name, resource in _list_resources(source):
        for reported in resource.rate_limits:
            value = read(reported)
            if value is not None:
                yield (name, reported.kind), value


def _observe_wait_time(source: MetricsSource) -> _Points:
    now, dropped = source.read_clock(), source.read_snapshot().events_dropped
    # Events up to now first: a wait that has ended must not be counted as open.
    source.flush()
    return source.blame_listener.read_seconds(now, dropped).items()


def _observe_info(source: MetricsSource) -> _Points:
    for name, resource in _list_resources(source):
        yield (name, resource.policy, resource.mode.value, __version__), 1


def _observe_runs(source: MetricsSource) -> _Points:
    for workflow, priority in source.runs.list_active_runs(source.read_clock()):
        yield (source.cardinality_limit(key.WORKFLOW, workflow), priority), 1


def _observe_time(row: MetricDefinition, source: MetricsSource) -> list[Observation]:
    source.read_snapshot()  # resets what is under way, if events were dropped
    totals = source.time_sums.integrals[row].read_totals(source.read_clock())
    return [Observation(seconds, attributes, ROOT_CONTEXT) for seconds, attributes in totals]


def _observe_counter(row: MetricDefinition, source: MetricsSource) -> list[Observation]:
    return source.counters[row].list_observations(ROOT_CONTEXT)
