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
from loco_otel._telemetry.gauges import Gauges, Source
from loco_otel._telemetry.inference import Subject
from loco_otel._telemetry.instruments import VALUE_LIMIT, Fold
from loco_otel._telemetry.metrics import MetricListener
from loco_otel._telemetry.spans import SpanListener
from loco_otel._version import __version__
from loco_otel.events import Listener, Snapshot
from loco_otel.money import Standing

__all__ = ["SCOPE", "CallTrace", "Configured", "Subject", "Telemetry", "configured"]

SCOPE = "loco_otel"
"""Name of the instrumentation scope. It has no schema URL: `loco.*` is in no published schema."""


class Configured(NamedTuple):
    """What the program has set up."""

    tracing: bool
    metrics: bool


def configured(
    tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> Configured:
    """Tell whether spans and metrics would go anywhere; a provider that is not given is the global one.

    They would not while no provider is set, nor with `OTEL_SDK_DISABLED`: then the SDK's providers hand out
    tracers and meters that do nothing.
    """
    tracer_provider = tracer_provider or get_tracer_provider()
    meter_provider = meter_provider or get_meter_provider()
    return Configured(
        tracing=not isinstance(tracer_provider, ProxyTracerProvider | NoOpTracerProvider)
        and not isinstance(tracer_provider.get_tracer(SCOPE, __version__), NoOpTracer),
        metrics=not isinstance(meter_provider, _ProxyMeterProvider | NoOpMeterProvider)
        and not isinstance(meter_provider.get_meter(SCOPE, __version__), NoOpMeter),
    )


class Telemetry:
    """The telemetry of one runtime; made by `start`."""

    def __init__(
        self,
        listeners: tuple[Listener, ...],
        tracer: Tracer | None,
        shown: tuple[Gauges, Source] | None,
        leave: Callable[[], None] | None,
    ) -> None:
        self.listeners = listeners
        """For the engine; none where nothing is set up."""
        self.bears_delay = tracer is None or leave is not None
        """Whether listeners may be told late: all that reads what they make flushes first."""
        self._tracer = tracer
        self._shown = shown
        self._leave = leave

    @classmethod
    def start(
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
        tell: Callable[[], object] = lambda: None,
        budgets: Callable[[], Sequence[Standing]] = tuple,
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
            tell: tells the listeners what has happened until now.
            budgets: how the budgets stand; asked as `snapshot` is.

        """
        tracing, measuring = configured(tracer_provider, meter_provider)
        listeners: list[Listener] = []
        tracer = None
        leave = None
        if tracing:
            tracer_provider = tracer_provider or get_tracer_provider()
            if batched_delivery.exports_in_batches(tracer_provider):
                batched_delivery.before_flush(tracer_provider, tell)
                leave = partial(batched_delivery.leave, tracer_provider, tell)
            tracer = tracer_provider.get_tracer(SCOPE, __version__)
            listeners.append(SpanListener(tracer, clock=clock, wall=wall))
        shown = None
        if measuring:
            meter = (meter_provider or get_meter_provider()).get_meter(SCOPE, __version__)
            fold = Fold(value_limit)
            counting = MetricListener(meter, fold, resources)
            listeners.append(counting)
            source = Source(
                snapshot,
                active,
                clock,
                fold,
                budgets=budgets,
                tallies=counting.tallies,
                recorder=counting.recorder,
                tell=tell,
            )
            shown = gauges.of(meter), source
            shown[0].show(shown[1])
        return cls(tuple(listeners), tracer, shown, leave)

    def capture(self) -> CallTrace:
        """Return what a request is to carry as its `context`; the current span is the parent."""
        return CallTrace(get_current(), self._tracer)

    def close(self) -> None:
        """Stop reading gauges. The listeners are the engine's to drop."""
        if self._shown is not None:
            gauges_, source = self._shown
            source.flush()
            gauges_.hide(source)
            self._shown = None
        if self._leave is not None:
            self._leave()
