"""Telemetry: listeners that turn events into spans and metrics, where the program has set up either.

The two are independent of each other. Without an SDK there are no listeners, so nothing is computed.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Self

from opentelemetry.metrics import MeterProvider, NoOpMeter, NoOpMeterProvider, get_meter_provider
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.trace import (
    NoOpTracer,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Tracer,
    TracerProvider,
    get_tracer_provider,
)

from loco_otel._telemetry import batched_delivery, gauges
from loco_otel._telemetry.call_trace import CallTrace
from loco_otel._telemetry.current_context import get_current
from loco_otel._telemetry.gauges import Gauges, MetricsSource
from loco_otel._telemetry.inference import InferenceRequest
from loco_otel._telemetry.instruments import VALUE_LIMIT, CardinalityLimit
from loco_otel._telemetry.metrics import MetricListener
from loco_otel._telemetry.spans import SpanListener
from loco_otel._version import __version__
from loco_otel.events import Listener, Snapshot
from loco_otel.money import BudgetStatus

__all__ = [
    "INSTRUMENTATION_SCOPE",
    "ActiveSignals",
    "CallTrace",
    "InferenceRequest",
    "Telemetry",
    "detect_active_signals",
]

INSTRUMENTATION_SCOPE = "loco_otel"
"""Name of the instrumentation scope. It has no schema URL: `loco.*` is in no published schema."""


class ActiveSignals(NamedTuple):
    """What the program has set up."""

    tracing: bool
    metrics: bool


def detect_active_signals(
    tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> ActiveSignals:
    """Tell whether spans and metrics would go anywhere; a provider that is not given is the global one.

    They would not while no provider is set, nor with `OTEL_SDK_DISABLED`: then the SDK's providers hand out
    tracers and meters that do nothing.
    """
    tracer_provider = tracer_provider or get_tracer_provider()
    meter_provider = meter_provider or get_meter_provider()
    return ActiveSignals(
        tracing=not isinstance(tracer_provider, ProxyTracerProvider | NoOpTracerProvider)
        and not isinstance(tracer_provider.get_tracer(INSTRUMENTATION_SCOPE, __version__), NoOpTracer),
        metrics=not isinstance(meter_provider, _ProxyMeterProvider | NoOpMeterProvider)
        and not isinstance(meter_provider.get_meter(INSTRUMENTATION_SCOPE, __version__), NoOpMeter),
    )


class Telemetry:
    """The telemetry of one runtime; made by `start`."""

    def __init__(
        self,
        listeners: tuple[Listener, ...],
        tracer: Tracer | None,
        shown: tuple[Gauges, MetricsSource] | None,
        leave: Callable[[], None] | None,
    ) -> None:
        self.listeners = listeners
        """For the engine; none where nothing is set up."""
        self.can_batch = tracer is None or leave is not None
        """Whether listeners may be told late: all that reads what they make flushes first."""
        self._tracer = tracer
        self._observed_gauges = shown
        self._unregister_flush = leave

    @classmethod
    def from_providers(
        cls,
        snapshot: Callable[[], Snapshot],
        active: Callable[[], Iterable[tuple[str, str]]],
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
        value_limit: int = VALUE_LIMIT,
        resources: Iterable[str] = (),
        flush_events: Callable[[], object] = lambda: None,
        budgets: Callable[[], Sequence[BudgetStatus]] = tuple,
    ) -> Self:
        """Create what the program has set up providers for.

        Args:
            snapshot: how everything stands; asked once per collection of metrics, on the collecting thread.
            active: name and version of each SDK whose calls are scheduled.
            tracer_provider: the global one by default.
            meter_provider: the global one by default.
            clock: the scheduler's, in seconds.
            wall: nanoseconds since the epoch.
            value_limit: how many values of any one attribute metrics tell apart.
            resources: those known from the start, whose counters begin with 0 now.
            flush_events: tells the listeners what has happened until now.
            budgets: how the budgets stand; asked as `snapshot` is.

        """
        tracing, measuring = detect_active_signals(tracer_provider, meter_provider)
        listeners: list[Listener] = []
        tracer = None
        leave = None
        if tracing:
            tracer_provider = tracer_provider or get_tracer_provider()
            if batched_delivery.is_batch_exporting(tracer_provider):
                batched_delivery.register_flush(tracer_provider, flush_events)
                leave = partial(batched_delivery.unregister_flush, tracer_provider, flush_events)
            tracer = tracer_provider.get_tracer(INSTRUMENTATION_SCOPE, __version__)
            listeners.append(SpanListener(tracer, clock=clock, wall=wall))
        shown = None
        if measuring:
            meter = (meter_provider or get_meter_provider()).get_meter(INSTRUMENTATION_SCOPE, __version__)
            fold = CardinalityLimit(value_limit)
            counting = MetricListener(meter, fold, resources)
            listeners.append(counting)
            source = MetricsSource(
                snapshot,
                active,
                clock,
                fold,
                budgets=budgets,
                counters=counting.counters,
                histogram_buffer=counting.histogram_buffer,
                flush_events=flush_events,
            )
            shown = gauges.get_gauges(meter), source
            shown[0].set_source(shown[1])
        return cls(tuple(listeners), tracer, shown, leave)

    def create_trace(self) -> CallTrace:
        """Return what a request is to carry as its `context`; the current span is the parent."""
        return CallTrace(get_current(), self._tracer)

    def close(self) -> None:
        """Stop reading gauges. The listeners are the engine's to drop."""
        if self._observed_gauges is not None:
            gauges_, source = self._observed_gauges
            source.flush()
            gauges_.clear_source(source)
            self._observed_gauges = None
        if self._unregister_flush is not None:
            self._unregister_flush()
