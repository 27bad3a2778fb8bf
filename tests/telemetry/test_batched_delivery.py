"""Where spans are exported in batches listeners get many events at a time, and no reader gets less for it."""

import subprocess
import sys
import threading
from math import inf

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from patience import PATIENCE

import loco_otel
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._engine import outbox
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._engine.outbox import Outbox
from loco_otel._runtime import process
from loco_otel._runtime.runtime import Runtime
from loco_otel._telemetry import batched_delivery
from loco_otel.events import Bypassed, BypassReason, Event, Granted, Limited, Outcome, Released, Request, Submitted
from loco_otel.testing import ManualClock


class Rig:
    """A runtime with a provider whose batches nothing but a flush exports, and a listener of our own."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(self.exporter, schedule_delay_millis=3_600_000))
        self.seen: list[Event] = []

    def start(self, meter_provider: MeterProvider | None = None) -> Runtime:
        runtime = process.get_runtime()
        runtime.start_telemetry(self.provider, meter_provider)
        runtime.engine.add_listener(self.seen.append)
        return runtime

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def use(times: int = 1) -> None:
    for _ in range(times):
        with loco_otel.slot(agent="analyst"):
            pass


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let callers deliver their events for as long as it takes, so that none is left to the background thread."""
    monkeypatch.setattr(outbox, "_MAX_CALLER_SECONDS", inf)


@pytest.mark.parametrize("method", ["force_flush", "shutdown"])
def test_flush_or_shutdown_of_the_provider_exports_all_spans(rig: Rig, method: str) -> None:
    rig.start()
    with trace.use_span(rig.provider.get_tracer("program").start_span("program"), end_on_exit=True) as program:
        use(3)
    assert rig.seen == []

    getattr(rig.provider, method)()
    ours = [span for span in rig.spans() if span.name == "acquire llm_api"]
    assert len(ours) == 3
    own = next(span for span in rig.spans() if span.name == "program")
    assert own.start_time is not None
    assert own.end_time is not None
    for span in ours:
        # Made after the program's own has ended, and yet at its times, and below it.
        assert span.parent == program.get_span_context()
        assert span.start_time is not None
        assert span.end_time is not None
        assert own.start_time <= span.start_time <= span.end_time <= own.end_time


def test_flush_of_a_provider_without_batches_exports_all_spans(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outbox, "_deliver_bounded", lambda *_: None)  # the background thread has not run yet
    seen_at_once = InMemorySpanExporter()
    rig.provider.add_span_processor(SimpleSpanProcessor(seen_at_once))
    rig.start()
    use()
    rig.provider.force_flush()
    assert len(seen_at_once.get_finished_spans()) == 1


def test_collection_has_all_counts_and_measurements(rig: Rig) -> None:
    reader = InMemoryMetricReader()
    rig.start(MeterProvider([reader], shutdown_on_exit=False))
    for calls in (1, 2):
        use()
        data = reader.get_metrics_data()
        assert data is not None
        metrics = {metric.name: metric.data for metric in data.resource_metrics[0].scope_metrics[0].metrics}
        requests = metrics["loco.acquire.requests"].data_points
        assert [point.value for point in requests if isinstance(point, NumberDataPoint)] == [
            calls,
            *[0] * (len(Outcome) - 1),
        ]
        (held,) = metrics["loco.hold.duration"].data_points
        assert isinstance(held, HistogramDataPoint)
        assert held.count == calls


def test_many_events_are_delivered_without_a_flush(rig: Rig, unhurried: None) -> None:
    rig.start()
    use(15)
    assert rig.seen == []
    use(100)
    assert sum(isinstance(event, Released) for event in rig.seen) > 80


def test_last_events_are_delivered_within_a_heartbeat(rig: Rig) -> None:
    delivered = threading.Event()
    threads: list[int] = []

    def listener(event: Event, /) -> None:
        threads.append(threading.get_ident())
        if isinstance(event, Released):
            delivered.set()

    rig.start().engine.add_listener(listener)
    use()
    assert delivered.wait(PATIENCE)
    assert threading.get_ident() not in threads, "by the timer"


def test_spans_with_a_simple_processor_are_made_at_once(rig: Rig, unhurried: None) -> None:
    seen_at_once = InMemorySpanExporter()
    rig.provider.add_span_processor(SimpleSpanProcessor(seen_at_once))
    rig.start()
    use()
    assert len(seen_at_once.get_finished_spans()) == 1


def test_closed_runtime_delivers_the_rest_and_keeps_the_provider(rig: Rig) -> None:
    rig.start()
    use()
    process.replace_runtime(None)
    assert sum(isinstance(event, Released) for event in rig.seen) == 1
    assert batched_delivery._flushers[rig.provider] == []
    rig.provider.force_flush()
    assert len(rig.spans()) == 1


def test_spans_of_the_last_calls_are_exported_at_exit() -> None:
    program = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
import loco_otel
from loco_otel._runtime import process

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name + "\\n")))
process.get_runtime().start_telemetry(provider)
with loco_otel.slot(agent="analyst"):
    pass
print("the end")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert ran.stdout.splitlines() == ["the end", "acquire llm_api"], ran.stderr


def bypassed() -> Bypassed:
    return Bypassed(0.0, BypassReason.INTERNAL_ERROR)


def test_flush_waits_for_the_delivering_thread() -> None:
    box = Outbox()
    going, go_on = threading.Event(), threading.Event()
    told: list[Event] = []

    def slow(event: Event, /) -> None:
        going.set()
        assert go_on.wait(PATIENCE)
        told.append(event)

    box.listeners.append(slow)
    box.add_batch([], [bypassed()])
    teller = threading.Thread(target=box.deliver_due)
    teller.start()
    assert going.wait(PATIENCE)
    # Events of another caller, which the delivering thread takes along.
    box.add_batch([], [bypassed(), bypassed()])
    threading.Timer(0.05, go_on.set).start()
    box.flush()
    assert len(told) == 3
    teller.join(PATIENCE)


def test_listener_may_flush() -> None:
    box = Outbox()
    told: list[Event] = []

    def flushing(event: Event, /) -> None:
        box.flush()
        told.append(event)

    box.listeners.append(flushing)
    box.add_batch([], [bypassed(), bypassed()])
    box.deliver_due()
    assert len(told) == 2


def test_engine_without_a_timer_delivers_at_once(rig: Rig) -> None:
    core = Scheduler({"llm_api": 1}, FifoPolicy)
    engine = InProcessEngine(core, clock=ManualClock(), timer=False)
    engine.add_listener(rig.seen.append)
    engine.set_batch_size(64)
    engine.submit(engine.create_ticket(Request("analyst")))
    assert [type(event) for event in rig.seen] == [Limited, Submitted, Granted]


def test_dropped_events_are_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_MAX_EVENTS", 3)
    reader = InMemoryMetricReader()
    runtime = process.get_runtime()
    runtime.start_telemetry(None, MeterProvider([reader], shutdown_on_exit=False))
    runtime.engine.set_batch_size(100)
    with monkeypatch.context() as patch:
        # The timer's first run would deliver some of them, now and then.
        patch.setattr(Outbox, "deliver_events", lambda _: None)
        use(2)
    dropped = runtime.engine.take_snapshot().events_dropped
    assert dropped > 0
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = (
        metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "loco.events.dropped"
    )
    (point,) = metric.data.data_points
    assert isinstance(point, NumberDataPoint)
    assert (point.value, dict(point.attributes or {})) == (dropped, {})
