"""The composition root: one scheduler per process, its settings while it runs, its listeners, its faults."""

import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from opentelemetry import metrics, trace
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import loco_otel
from loco_otel import ConfigurationError, Settings, ShutdownError, as_agent, slot
from loco_otel._core.ticket import State, Ticket
from loco_otel._runtime import process
from loco_otel._runtime import runtime as runtime_module
from loco_otel._runtime.runtime import Runtime
from loco_otel.events import Bypassed, BypassReason, Event, Granted, Limited, Priority, Released, Request, Submitted
from loco_otel.testing import ManualClock, RecordingListener

ONCE = "(logged once; LOCO_ENABLED=false turns loco-otel off)"


def started(**settings: object) -> Runtime:
    """Return the process's runtime under these settings."""
    runtime = process.replace_runtime(Settings().changed(**settings))
    assert runtime is not None
    return runtime


def use() -> None:
    """Use a slot once, and deliver the events of it."""
    with slot("a"):
        pass
    assert process.get_runtime().engine.flush()


def in_a_handler(report: Callable[[], None]) -> None:
    try:
        [].pop()
    except IndexError:
        report()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- one per process --------------------------------------------------------------------------------------------------


def test_concurrent_first_threads_get_one_scheduler() -> None:
    together = threading.Barrier(8)
    found: list[Runtime] = []

    def come() -> None:
        together.wait()
        found.append(process.get_runtime())

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert process.get_existing_runtime() is found[0]


def test_nothing_is_created_before_its_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process.get_existing_runtime() is None
    monkeypatch.setenv("LOCO_CAPACITY", "7")
    assert process.get_runtime().settings.capacity == 7
    monkeypatch.setenv("LOCO_CAPACITY", "8")
    assert process.get_runtime().settings.capacity == 7


def test_replacement_by_none_reloads_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCO_CAPACITY", "7")
    first = process.get_runtime()
    monkeypatch.setenv("LOCO_CAPACITY", "8")
    assert process.replace_runtime(None) is None
    assert process.get_existing_runtime() is None
    assert process.get_runtime() is not first
    assert process.get_runtime().settings.capacity == 8


def test_replacement_rejects_waiters_and_late_callers() -> None:
    first = started(capacity=1)
    held, late = slot("a"), slot("a")
    held.__enter__()
    waiting = first.engine.create_ticket(slot("b")._request)
    first.engine.submit(waiting)
    second = started(capacity=1)
    assert first.engine.take_snapshot().resources[0].waiting == 0
    with pytest.raises(ShutdownError):
        late.__enter__()
    with slot("b", timeout=0):
        assert second.engine.take_snapshot().resources[0].active == 1
    held.__exit__(None, None, None)
    assert first.engine.take_snapshot().resources[0].active == 0


def test_replacement_keeps_the_sdk_facts() -> None:
    first = started()
    first.sdks["openai"] = "3.1.0"
    assert started().sdks == {"openai": "3.1.0"}


# -- settings ---------------------------------------------------------------------------------------------------------


def test_invalid_setting_is_reported_each_time_until_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCO_CAPACITY", "none at all")
    for _ in range(2):
        with pytest.raises(
            ConfigurationError,
            match=r"^LOCO_CAPACITY=none at all: must be auto or a whole number of at least 0 \(0 grants no slot\)$",
        ):
            slot("a")
    assert process.get_existing_runtime() is None
    monkeypatch.setenv("LOCO_CAPACITY", "1")
    use()


def test_unknown_variable_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("LOCO_CAPACTY", "4")
    use()
    assert errors(caplog) == ["LOCO_CAPACTY is not a setting of loco-otel; did you mean LOCO_CAPACITY?"]


def test_settings_change_while_the_program_runs() -> None:
    started(capacity=1)
    settings = loco_otel.configure(
        capacity=5, policy="fifo", max_wait_ticks=7, max_waiters=9, max_hold=11, acquire_timeout=13, agent_id="b"
    ).settings
    runtime = process.get_runtime()
    assert runtime.settings is settings
    (standing,) = loco_otel.snapshot().resources
    assert (standing.capacity, standing.policy) == (5, "fifo")
    core = runtime.engine._core
    assert (core.max_waiters, core.deadlines.max_hold) == (9, 11)
    assert core.resources.get_queue_set(("llm_api",)).max_wait_ticks == 7
    default = slot()
    assert (default.agent, default._request.timeout) == ("b", 13)

    loco_otel.configure(policy="load", alpha=0.4)
    (standing,) = loco_otel.snapshot().resources
    assert (standing.capacity, standing.policy, standing.alpha) == (5, "load", 0.4)
    assert loco_otel.configure(capacity=None).settings.capacity is None
    assert loco_otel.snapshot().resources[0].capacity is None


def test_unchanged_policy_is_not_replaced() -> None:
    runtime = started(capacity=1)
    line = runtime.engine._core.resources.get_queue_set(("llm_api",))
    policy = line.policy
    loco_otel.configure(capacity=2)
    assert line.policy is policy
    loco_otel.configure(alpha=0.4)
    assert line.policy is not policy


def test_fair_applies_to_a_running_program_with_its_shares() -> None:
    runtime = started(capacity=1)
    engine = runtime.engine

    def ask(agent: str, tenant: str | None = None) -> Ticket:
        ticket = engine.create_ticket(Request(agent, tenant=tenant))
        engine.submit(ticket)
        return ticket

    holder = ask("first")
    waiters = [ask("batch") for _ in range(6)] + [ask("chat") for _ in range(6)]
    loco_otel.configure(policy="fair", shares={"chat": 2}, tenant_shares={"acme": 3})
    assert loco_otel.snapshot().resources[0].policy == "fair"
    order = []
    for _ in range(7):
        engine.release(holder)
        (holder,) = [ticket for ticket in waiters if ticket.state is State.GRANTED]
        order.append(holder.request.agent)
    assert (order[0], order.count("chat")) == ("batch", 4)
    waiters += [ask("late", "acme") for _ in range(4)]
    for _ in range(5):
        engine.release(holder)
        (holder,) = [ticket for ticket in waiters if ticket.state is State.GRANTED]
        order.append(holder.request.agent)
    assert order[7:].count("late") >= 3


def test_priority_rules_apply_to_a_running_program() -> None:
    engine = started(capacity=4).engine

    def ask(priority: Priority) -> Ticket:
        ticket = engine.create_ticket(Request("a", priority=priority))
        engine.submit(ticket)
        return ticket

    batch = [ask(Priority.BACKGROUND) for _ in range(4)]
    assert [ticket.state for ticket in batch] == [State.GRANTED] * 3 + [State.WAITING]
    loco_otel.configure(priority={"background": {"ceiling": "none"}, "interactive": {"strict": True}})
    assert batch[3].state is State.GRANTED
    rules = engine._core.resources.pools["llm_api"].rules
    assert (rules[Priority.INTERACTIVE].is_strict, rules[Priority.BACKGROUND].share) == (True, 1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": -1}, "capacity=-1: must be auto or a whole number of at least 0 (0 grants no slot)"),
        ({"capacity": 4, "policy": "random"}, "policy=random: must be load, fair, las or fifo"),
        ({"capacity": 4, "alpha": 0.7}, "alpha=0.7: must be a number from 0 to 0.5"),
        ({"capacity": 4, "slots": 2}, "slots is not a setting of loco-otel"),
    ],
)
def test_invalid_change_changes_nothing(changes: dict[str, object], message: str) -> None:
    runtime = started(capacity=1)
    before = runtime.settings
    standing = runtime.engine.take_snapshot().resources
    with pytest.raises(ConfigurationError) as raised:
        loco_otel.configure(**changes)
    assert str(raised.value) == message
    assert runtime.settings is before
    assert runtime.engine.take_snapshot().resources == standing


# -- an SDK that is set up before, after or never ---------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """What the runtime reads to detect an SDK; no provider is set as yet."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", None)
    clock = ManualClock()
    monkeypatch.setattr(runtime_module, "time", SimpleNamespace(monotonic=clock))
    return clock


def set_up_tracing(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def test_no_telemetry_is_created_without_an_sdk(clock: ManualClock) -> None:
    runtime = started(capacity=1)
    use()
    clock.advance(60)
    use()
    assert not runtime.engine.observed
    assert runtime.capture_trace() is None


def test_present_sdk_receives_the_first_call(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    exporter = set_up_tracing(monkeypatch)
    runtime = started(capacity=1)
    use()
    assert runtime.engine.observed
    assert [span.name for span in exporter.get_finished_spans()] != []


def test_late_sdk_is_noticed_within_a_second(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    runtime = started(capacity=1)
    use()
    exporter = set_up_tracing(monkeypatch)
    clock.advance(0.9)
    use()
    assert not runtime.engine.observed
    clock.advance(0.1)
    use()
    assert runtime.engine.observed
    spans = len(exporter.get_finished_spans())
    assert spans > 0

    # Metrics come later still; neither is attached twice.
    reader = InMemoryMetricReader()
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", MeterProvider([reader], shutdown_on_exit=False))
    clock.advance(1)
    for _ in range(3):
        use()
        clock.advance(1)
    assert len(exporter.get_finished_spans()) == 4 * spans
    data = reader.get_metrics_data()
    assert data is not None
    names = [metric.name for metric in data.resource_metrics[0].scope_metrics[0].metrics]
    assert "loco.acquire.requests" in names
    assert metrics.get_meter_provider() is not None


def test_failing_sdk_costs_no_call(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenProvider(TracerProvider):
        def get_tracer(self, *_: object, **__: object) -> trace.Tracer:
            raise OSError("no tracer today")

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", BrokenProvider(shutdown_on_exit=False))
    runtime = started(capacity=1)
    for _ in range(3):
        use()
        clock.advance(1)
    assert not runtime.engine.observed
    assert errors(caplog) == [
        f"loco-otel internal error while detecting an OpenTelemetry SDK; calls continue without telemetry {ONCE}"
    ]


def test_closed_runtime_shows_no_gauges(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    reader = InMemoryMetricReader()
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", MeterProvider([reader], shutdown_on_exit=False))

    def capacities() -> list[object]:
        data = reader.get_metrics_data()
        found = [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics
        return [
            point.value
            for metric in found
            if metric.name == "loco.resource.capacity"
            for point in metric.data.data_points
        ]

    started(capacity=3)
    use()
    assert capacities() == [3]
    process.replace_runtime(None)
    assert capacities() == []


# -- listeners and faults ----------------------------------------------------------------------------------------------


def test_failing_listener_is_removed_and_costs_no_call(caplog: pytest.LogCaptureFixture) -> None:
    runtime = started(capacity=1)
    told = []

    def broken(event: Event, /) -> None:
        told.append(event)
        raise OSError("disk full")

    well = RecordingListener()
    runtime.engine.add_listener(broken)
    runtime.engine.add_listener(well)
    use()
    use()
    assert [type(event) for event in told] == [Limited]
    assert [type(event) for event in well.events] == [Limited, *[Submitted, Granted, Released] * 2]
    (message,) = errors(caplog)
    assert "receives no further events" in message
    assert caplog.records[-1].exc_info is not None


def test_bypass_is_counted_each_time_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runtime = started(capacity=1)
    listener = RecordingListener()
    runtime.engine.add_listener(listener)
    for _ in range(2):
        in_a_handler(lambda: runtime.record_fault("describing a call"))
        in_a_handler(lambda: process.record_fault("describing a call"))
        runtime.record_unsupported("a strange loop")
    internal, unsupported = BypassReason.INTERNAL_ERROR, BypassReason.UNSUPPORTED_RUNTIME
    assert [event.reason for event in listener.of(Bypassed)] == [internal, internal, unsupported] * 2
    assert errors(caplog) == [
        f"loco-otel internal error while describing a call; the call is sent unscheduled {ONCE}",
        "a strange loop: the call is sent unscheduled (logged once)",
    ]
    assert caplog.records[0].exc_info is not None


def test_fault_before_the_scheduler_creates_none(caplog: pytest.LogCaptureFixture) -> None:
    in_a_handler(lambda: process.record_fault("describing a call"))
    assert process.get_existing_runtime() is None
    assert len(errors(caplog)) == 1


AUTO = (
    "LOCO_CAPACITY is auto: calls are not limited until a provider throttles one, then their number adapts to the "
    "provider, policy load"
)


@pytest.mark.parametrize(
    ("capacity", "limits"),
    [
        (None, AUTO),
        (3, "at most 3 concurrent calls in this process (LOCO_CAPACITY), policy load"),
    ],
)
def test_startup_log_names_instrumented_sdks_and_limits(
    capacity: int | None, limits: str, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = started(capacity=capacity)
    with caplog.at_level(logging.INFO, "loco_otel"):
        runtime.register_sdk("openai", "3.1.0")
        runtime.register_sdk("anthropic", "2.0.0")
    assert [record.getMessage() for record in caplog.records] == [
        limits,
        "loco-otel schedules the calls of openai 3.1.0",
        "loco-otel schedules the calls of anthropic 2.0.0",
    ]
    assert runtime.sdks == {"openai": "3.1.0", "anthropic": "2.0.0"}


def test_slot_span_has_the_whole_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = set_up_tracing(monkeypatch)
    process.get_runtime().start_telemetry()
    with as_agent("analyst", tenant="acme", team="research", workflow="digest", session="s-1"):
        with slot():
            pass
        with slot("analyst", tenant="globex"):
            pass
    process.get_runtime().engine.flush()
    names = ("loco.tenant.id", "loco.team.id", "gen_ai.workflow.name", "gen_ai.conversation.id")
    callers = [tuple((span.attributes or {}).get(name) for name in names) for span in exporter.get_finished_spans()]
    assert callers == [("acme", "research", "digest", "s-1"), ("globex", "research", "digest", "s-1")]
