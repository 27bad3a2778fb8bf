"""The listeners of one runtime, for those signals that the program has configured providers for.

Imported with the first of these providers, as it is slow to import: nothing else imports the listeners.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Self

from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import TracerProvider, get_tracer_provider

from loco_otel._telemetry import batched_delivery, gauges
from loco_otel._telemetry.blame import BlameListener
from loco_otel._telemetry.call_trace import CallTrace
from loco_otel._telemetry.current_context import get_current
from loco_otel._telemetry.gauges import Gauges
from loco_otel._telemetry.instruments import VALUE_LIMIT, CardinalityLimit
from loco_otel._telemetry.metrics import MetricListener
from loco_otel._telemetry.metrics_source import MetricsSource, ProcessState
from loco_otel._telemetry.runs import RunListener
from loco_otel._telemetry.signals import INSTRUMENTATION_SCOPE, detect_active_signals
from loco_otel._telemetry.span_starter import SpanStarter, create_span_starter
from loco_otel._telemetry.spans import SpanListener
from loco_otel._telemetry.time_sums import TimeSums
from loco_otel._version import __version__
from loco_otel.events import Listener

__all__ = ["ProcessState", "Telemetry"]


class Telemetry:
    """The telemetry of one runtime; made by `from_providers`."""

    def __init__(
        self,
        listeners: tuple[Listener, ...],
        tracer: SpanStarter | None,
        shown: tuple[Gauges, MetricsSource] | None,
        leave: Callable[[], None] | None,
        *,
        can_batch: bool,
    ) -> None:
        self.listeners = listeners
        """Listeners for the engine; empty if nothing is configured."""
        self.can_batch = can_batch
        """True if events may be delivered in batches: every reader flushes before it reads."""
        self._tracer = tracer
        self._observed_gauges = shown
        self._unregister_flush = leave

    @classmethod
    def from_providers(
        cls,
        state: ProcessState,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
        value_limit: int = VALUE_LIMIT,
        run_idle_timeout: float = 900.0,
        resources: Iterable[str] = (),
        shows_costs: bool = False,
    ) -> Self:
        """Create the telemetry for those signals that the program has configured providers for.

        Args:
            state: reads the process.
            tracer_provider: None for the global one.
            meter_provider: None for the global one.
            clock: the scheduler's clock, in seconds.
            wall: nanoseconds since the epoch.
            value_limit: the number of values of one attribute that metrics distinguish.
            run_idle_timeout: seconds of silence after which a run has ended.
            resources: initially known resources, whose counters start at 0 now.
            shows_costs: whether inference spans have the cost attributes that are proposed for the conventions.

        """
        tracing, measuring = detect_active_signals(tracer_provider, meter_provider)
        listeners: list[Listener] = []
        tracer: SpanStarter | None = None
        leave = None
        batching = True
        fold = CardinalityLimit(value_limit)
        blame_listener = BlameListener(fold)
        runs = RunListener(idle=run_idle_timeout)
        if tracing or measuring:
            listeners += [blame_listener, runs]
        if tracing:
            tracer_provider = tracer_provider or get_tracer_provider()
            if batched_delivery.is_flushable(tracer_provider):
                batched_delivery.register_flush(tracer_provider, state.flush_events)
                leave = partial(batched_delivery.unregister_flush, tracer_provider, state.flush_events)
            batching = batched_delivery.is_batch_exporting(tracer_provider)
            tracer = create_span_starter(tracer_provider.get_tracer(INSTRUMENTATION_SCOPE, __version__))
            listeners.append(
                SpanListener(tracer, blame_listener, runs, clock=clock, wall=wall, shows_costs=shows_costs)
            )
        shown = None
        if measuring:
            meter = (meter_provider or get_meter_provider()).get_meter(INSTRUMENTATION_SCOPE, __version__)
            counting = MetricListener(meter, fold, resources)
            runs.record = counting.record_run
            time_sums = TimeSums(fold, clock)
            listeners += [counting, time_sums]
            source = MetricsSource(
                state,
                clock,
                fold,
                counters=counting.counters,
                time_sums=time_sums,
                histogram_buffer=counting.histogram_buffer,
                record_engine_calls=counting.record_engine_calls,
                blame_listener=blame_listener,
                runs=runs,
            )
            shown = gauges.get_gauges(meter), source
            shown[0].set_source(shown[1])
        return cls(tuple(listeners), tracer, shown, leave, can_batch=batching)

    def create_trace(self) -> CallTrace:
        """Return the `context` of a new request; the current span is its parent."""
        return CallTrace(get_current(), self._tracer)

    def finish_runs(self) -> None:
        """Record the runs that have not ended, at the end of the process."""
        if self._observed_gauges is not None:
            self._observed_gauges[1].finish_runs()

    def close(self) -> None:
        """Stop reading gauges. The engine removes the listeners."""
        if self._observed_gauges is not None:
            gauges_, source = self._observed_gauges
            source.flush()
            source.finish_runs()
            gauges_.clear_source(source)
            self._observed_gauges = None
        if self._unregister_flush is not None:
            self._unregister_flush()
