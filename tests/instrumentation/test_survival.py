"""Whatever fails on our side, and with other wrappers: the program's calls succeed."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import anthropic
import openai
import pytest
import wrapt
from identity_readers import add_readers
from loco_otel_instrumentation.anthropic import AnthropicInstrumentor
from loco_otel_instrumentation.anthropic.adapter import AnthropicAdapter
from loco_otel_instrumentation.openai import OpenAIInstrumentor
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from sdk_calls import PROMPT, Sdk, each, each_async_sdk, each_sdk, each_sync_sdk, now, opened
from sdk_http import http_of
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

import loco_otel
from loco_otel._config.settings import Settings
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._runtime import faults as fault_log
from loco_otel._runtime import process
from loco_otel.events import Bypassed, BypassReason, Event, Spent, Submitted


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of fault is logged once in a process: reset that."""
    monkeypatch.setattr(fault_log, "_logged", set())


class Broken(Exception):
    """A fault of ours."""


def broken(*_: object, **__: object) -> Any:
    raise Broken("on our side")


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged as a fault, a line for each."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "loco_otel" and record.levelno >= logging.WARNING
    ]


def calls_go_on(sdk: Sdk, server: LlmServer) -> None:
    """Make a call for a whole answer, and one for a stream."""

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            answer = await now(sdk.ask(client))
            assert answer.model
            async with opened(await now(sdk.stream(client))) as stream:
                assert [chunk async for chunk in each(stream)]

    sdk.run(main())
    assert [request.status for request in server.requests()] == [200, 200]
    server.reset()


# -- faults of ours ---------------------------------------------------------------------------------------------------


def bypassed(reader: InMemoryMetricReader, reason: str) -> int:
    data = reader.get_metrics_data()
    assert data is not None
    points = [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "loco.bypassed"
        for point in metric.data.data_points
    ]
    (value,) = [point.value for point in points if reason in (point.attributes or {}).values()]
    return value


@each_sdk
def test_engine_that_accepts_no_request_costs_no_call(
    sdk: Sdk,
    server: LlmServer,
    scheduled: Scheduled,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scheduling = scheduled(capacity=1)
    reader = InMemoryMetricReader()
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    scheduling.runtime.start_telemetry(None, meter_provider)
    monkeypatch.setattr(InProcessEngine, "submit", broken)
    calls_go_on(sdk, server)
    assert [event.reason for event in scheduling.seen.of(Bypassed)] == [BypassReason.INTERNAL_ERROR] * 2
    assert bypassed(reader, "internal_error") == 2
    (line,) = faults(caplog)
    assert "acquiring a slot" in line
    assert "Broken: on our side" in caplog.text
    assert len(scheduling.spans("call ")) == 2
    meter_provider.shutdown()


OPERATIONS = (
    "create_ticket",
    "submit",
    "park_ticket",
    "admit_ticket",
    "release",
    "cancel",
    "abandon_ticket",
    "suspend_ticket",
    "resume_ticket",
    "touch_lease",
    "set_scopes",
    "record_throttling",
    "record_bypass",
)


@each_sdk
@pytest.mark.parametrize("operation", [*OPERATIONS, "all"])
def test_engine_with_failing_operations_costs_no_call(
    operation: str, sdk: Sdk, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduled(capacity=4)
    for name in OPERATIONS if operation == "all" else [operation]:
        monkeypatch.setattr(InProcessEngine, name, broken)
    calls_go_on(sdk, server)
    server.script({"type": "fail", "status": 429, "retry_after": 0.01})

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            await now(sdk.ask(client))
            server.script({"type": "fail", "status": 400})
            with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)):
                await now(sdk.ask(client))
            server.script({"type": "stream_fault", "kind": "disconnect", "after_chunks": 2})
            async with opened(await now(sdk.stream(client))) as stream:
                with pytest.raises((openai.APIConnectionError, http_of(sdk.name).RemoteProtocolError)):
                    assert [chunk async for chunk in each(stream)]

    sdk.run(main())
    monkeypatch.undo()


ADAPTERS = {"openai": OpenAIAdapter, "anthropic": AnthropicAdapter}


@each_sdk
def test_adapter_that_cannot_describe_costs_no_call(
    sdk: Sdk,
    server: LlmServer,
    scheduled: Scheduled,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ADAPTERS[sdk.name], "describe_call", broken)
    scheduling = scheduled(capacity=1)
    calls_go_on(sdk, server)
    assert not scheduling.seen.of(Submitted)
    assert [event.reason for event in scheduling.seen.of(Bypassed)] == [BypassReason.INTERNAL_ERROR] * 2
    assert len(faults(caplog)) == 1


@each_sdk
@pytest.mark.parametrize("method", ["read_chunk", "read_answer"])
def test_adapter_that_cannot_read_costs_no_call(
    method: str,
    sdk: Sdk,
    server: LlmServer,
    scheduled: Scheduled,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ADAPTERS[sdk.name], method, broken)
    scheduling = scheduled(capacity=1)
    calls_go_on(sdk, server)
    scheduling.settled(2)
    assert len(scheduling.seen.of(Spent)) == 2
    assert len(faults(caplog)) == 1


@each_sdk
def test_adapter_that_cannot_judge_a_refusal_costs_no_call(
    sdk: Sdk,
    server: LlmServer,
    scheduled: Scheduled,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ADAPTERS[sdk.name], "is_spend_limit", broken)
    server.script({"type": "fail", "status": 429, "retry_after": 0.01, "times": 3})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            with pytest.raises((openai.RateLimitError, anthropic.RateLimitError)):
                await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(1)
    assert faults(caplog)


@each_sync_sdk
def test_failing_identity_reader_costs_no_call(
    sdk: Sdk,
    server: LlmServer,
    scheduled: Scheduled,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add_readers(monkeypatch, Broken())
    scheduling = scheduled(capacity=1)
    calls_go_on(sdk, server)
    scheduling.settled(2)
    assert {event.ticket.request.agent for event in scheduling.seen.of(Submitted)} == {"unknown"}
    (record,) = caplog.records
    assert "cannot read the running agent from reader0" in record.getMessage()


# -- faults of listeners ----------------------------------------------------------------------------------------------


@each_sdk
def test_failing_listener_is_removed(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Event] = []

    def listener(event: Event, /) -> None:
        told.append(event)
        raise Broken

    scheduling = scheduled(capacity=1)
    scheduling.runtime.engine.add_listener(listener)
    calls_go_on(sdk, server)
    scheduling.settled(2)
    assert len(told) == 1
    assert len(faults(caplog)) == 1


@each_sdk
def test_failing_exporter_costs_no_call(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, caplog: pytest.LogCaptureFixture
) -> None:
    class Exporter(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            raise Broken

        def shutdown(self) -> None:
            pass

    scheduling = scheduled(capacity=1)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    scheduling.runtime._tracing = None
    scheduling.runtime.start_telemetry(provider)
    calls_go_on(sdk, server)
    scheduling.settled(2)
    assert not faults(caplog)


# -- what is not ours to schedule -------------------------------------------------------------------------------------


def lists_models(client: Any) -> Any:
    return client.models.list()


def uploads_a_file(client: Any) -> Any:
    return client.files.create(file=("batch.jsonl", b"{}"), purpose="batch")


def lists_batches(client: Any) -> Any:
    return (client.batches if hasattr(client, "batches") else client.messages.batches).list()


def creates_a_batch(client: Any) -> Any:
    params: Any = {"model": "claude-sonnet-5", "max_tokens": 8, "messages": [{"role": "user", "content": PROMPT}]}
    return client.messages.batches.create(requests=[{"custom_id": "1", "params": params}])


def moderates(client: Any) -> Any:
    return client.moderations.create(input=PROMPT)


def counts_tokens(client: Any) -> Any:
    return client.messages.count_tokens(model="claude-sonnet-5", messages=[{"role": "user", "content": PROMPT}])


OTHER_CALLS: list[tuple[str, Callable[[Any], Any], int]] = [
    ("openai", lists_models, 200),
    ("openai", uploads_a_file, 200),
    ("openai", lists_batches, 200),
    ("openai", moderates, 404),
    ("anthropic", lists_batches, 200),
    ("anthropic", creates_a_batch, 200),
    ("anthropic", counts_tokens, 404),
]


@pytest.mark.parametrize(("name", "call", "status"), OTHER_CALLS)
@pytest.mark.parametrize("is_async", [False, True])
def test_other_calls_are_not_scheduled(
    is_async: bool, name: str, call: Callable[[Any], Any], status: int, server: LlmServer, scheduled: Scheduled
) -> None:
    """With all slots held: they do not wait, and emit no events."""
    sdk = Sdk(name, is_async=is_async)
    scheduling = scheduled(capacity=1)

    async def main() -> list[Any]:
        results = []
        async with opened(sdk.client(server)) as client, opened(await now(sdk.stream(client))):
            for _ in range(2):
                try:
                    results.append(type(await now(call(client))))
                except (openai.NotFoundError, anthropic.NotFoundError) as error:
                    results.append(type(error))
                loco_otel.uninstall()
        return results

    patched, unpatched = sdk.run(main())
    assert patched is unpatched
    assert [request.status for request in server.requests()][1:] == [status, status]
    assert len(scheduling.seen.of(Submitted)) == 1


# -- coming and going -------------------------------------------------------------------------------------------------


class Method(NamedTuple):
    owner: type
    name: str

    @property
    def current(self) -> Any:
        return vars(self.owner)[self.name]


METHODS = [
    Method(getattr(module._base_client, owner), name)
    for module in (openai, anthropic)
    for owner in ("SyncAPIClient", "AsyncAPIClient")
    for name in ("request", "_sleep_for_retry")
]


@pytest.fixture
def originals() -> Iterator[dict[Method, Any]]:
    """The methods as they are now; put back at the end, for tests that leave something on them."""
    originals = {method: method.current for method in METHODS}
    assert not any(isinstance(it, wrapt.ObjectProxy) for it in originals.values())
    yield originals
    for method, original in originals.items():
        setattr(method.owner, method.name, original)


def test_uninstall_restores_all(scheduled: Scheduled, originals: dict[Method, Any]) -> None:
    scheduled(capacity=1)
    assert all(method.current is not original for method, original in originals.items())
    loco_otel.uninstall()
    assert all(method.current is original for method, original in originals.items())
    assert OpenAIInstrumentor.list_patched() == ()
    assert AnthropicInstrumentor.list_patched() == ()


@each_sdk
def test_second_install_schedules_again(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, originals: dict[Method, Any]
) -> None:
    scheduling = scheduled(capacity=1)
    calls_go_on(sdk, server)
    loco_otel.uninstall()
    calls_go_on(sdk, server)
    assert len(scheduling.seen.of(Submitted)) == 2
    loco_otel.install()
    loco_otel.install()
    calls_go_on(sdk, server)
    scheduling.settled(4)
    loco_otel.uninstall()
    assert all(method.current is original for method, original in originals.items())


def count_with_wrapt(counted: list[str]) -> None:
    """Wrap as other instrumentors do."""

    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        counted.append(wrapped.__name__)
        return wrapped(*args, **kwargs)

    for method in METHODS:
        wrapt.wrap_function_wrapper(method.owner, method.name, wrapper)


def count_with_a_closure(counted: list[str]) -> None:
    """Wrap with a plain function, which hides the wrapped one."""

    def wrap(wrapped: Any) -> Any:
        def closure(*args: Any, **kwargs: Any) -> Any:
            counted.append(wrapped.__name__)
            return wrapped(*args, **kwargs)

        return closure

    for method in METHODS:
        setattr(method.owner, method.name, wrap(getattr(method.owner, method.name)))


@each_sdk
@pytest.mark.parametrize("count", [count_with_wrapt, count_with_a_closure])
@pytest.mark.parametrize("first", [False, True])
def test_another_wrapper_is_kept(
    first: bool,
    count: Callable[[list[str]], None],
    sdk: Sdk,
    server: LlmServer,
    scheduled: Scheduled,
    originals: dict[Method, Any],
) -> None:
    counted: list[str] = []
    if first:
        count(counted)
    scheduling = scheduled(capacity=1)
    if not first:
        count(counted)
    calls_go_on(sdk, server)
    scheduling.settled(2)
    assert counted == ["request"] * 2

    loco_otel.uninstall()
    calls_go_on(sdk, server)
    assert len(scheduling.seen.of(Submitted)) == 2
    assert counted == ["request"] * 4

    loco_otel.install()
    calls_go_on(sdk, server)
    scheduling.settled(4)
    assert counted == ["request"] * 6

    loco_otel.uninstall()
    if count is count_with_wrapt:
        for method, original in originals.items():
            assert method.current is not original, "the other's stays"
            assert method.current.__wrapped__ is original


@each_sdk
def test_running_call_ends_normally_after_uninstall(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client, opened(await now(sdk.stream(client))) as stream:
            loco_otel.uninstall()
            assert scheduling.active() == 1
            assert [chunk async for chunk in each(stream)]

    sdk.run(main())
    scheduling.settled(1)


# -- settings ---------------------------------------------------------------------------------------------------------


def test_invalid_setting_is_reported_and_patches_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, originals: dict[Method, Any]
) -> None:
    monkeypatch.setenv("LOCO_CAPACITY", "plenty")
    process.replace_runtime(None)
    OpenAIInstrumentor().instrument()
    (line,) = [record for record in caplog.records if record.name == "loco_otel"]
    assert line.levelno == logging.ERROR
    assert "LOCO_CAPACITY=plenty" in line.getMessage()
    assert all(method.current is original for method, original in originals.items())
    OpenAIInstrumentor().uninstrument()


def test_disabled_package_patches_nothing(originals: dict[Method, Any]) -> None:
    process.replace_runtime(Settings.load({"LOCO_ENABLED": "false"}))
    assert loco_otel.install() == ()
    assert all(method.current is original for method, original in originals.items())
    process.replace_runtime(None)


@each_async_sdk
def test_calls_in_trio_bypass_the_scheduler(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, caplog: pytest.LogCaptureFixture
) -> None:
    trio = pytest.importorskip("trio")
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:
            await sdk.ask(client)
            await sdk.ask(client)

    trio.run(main)
    assert not scheduling.seen.of(Submitted)
    assert [event.reason for event in scheduling.seen.of(Bypassed)] == [BypassReason.UNSUPPORTED_RUNTIME] * 2
    assert len(faults(caplog)) == 1
    assert len(scheduling.spans("call ")) == 2
