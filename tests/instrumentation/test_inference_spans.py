"""The inference span of real calls: its attributes, how long it lasts, when it is current, and when there is none."""

import asyncio
import gc
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context
from typing import Any

import anthropic
import openai
import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode
from patience import PATIENCE
from sdk_calls import Sdk, each, each_async_sdk, each_sdk, each_sync_sdk, now, opened
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import LlmServer
from sdk_versions import BEDROCK_KEY

import loco_otel
from loco_otel.errors import AcquireTimeoutError
from loco_otel.events import Granted, Released, Submitted, Suspended, Waiting

STALL = 5.0
"""Seconds for which a scripted stream pauses; no test waits for its end."""


@pytest.fixture(autouse=True)
def no_foreign_context(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing may be detached where it was not attached: OpenTelemetry logs an error for each."""
    yield
    assert not [record for record in caplog.get_records("call") if record.name.startswith("opentelemetry")]


def inference(scheduling: Scheduling) -> ReadableSpan:
    """Return the only inference span."""
    (span,) = (span for span in scheduling.spans() if span.kind is SpanKind.CLIENT)
    return span


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def status(span: ReadableSpan) -> tuple[StatusCode, object]:
    return span.status.status_code, facts(span).get("error.type")


def current() -> int:
    span_id: int = trace.get_current_span().get_span_context().span_id
    return span_id


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    span_id: int = span.context.span_id
    return span_id


def begun_and_ended(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


PROGRAM = TracerProvider(shutdown_on_exit=False).get_tracer("program")


# -- attributes ------------------------------------------------------------------------------------------------------


@each_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_span_shows_request_and_answer(streamed: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    options = {"stream_options": {"include_usage": True}} if streamed and sdk.name == "openai" else {}

    async def main() -> tuple[str, str, int, int]:
        async with opened(sdk.client(server)) as client:
            answer = await now(sdk.ask(client, stream=streamed, **options))
            if not streamed:
                return (answer.id, answer.model, *_tokens(answer.usage))
            return await _read(sdk, answer)

    answer_id, model, read, written = sdk.run(main())
    scheduling.settled(1)
    span = inference(scheduling)
    asked = "gpt-4o" if sdk.name == "openai" else "claude-sonnet-5"
    assert span.name == f"chat {asked}"
    said = facts(span)
    first_chunk = said.pop("gen_ai.response.time_to_first_chunk", None)
    assert (first_chunk is not None) == streamed
    optional = (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.reasoning.output_tokens",
    )
    spent = {key for key in said if key.startswith("loco.spend.")}
    assert {"loco.spend.weight", "loco.spend.estimated"} <= spent
    assert not {"loco.spend.input_tokens", "loco.spend.output_tokens"} & spent
    assert {key: value for key, value in said.items() if key not in {*optional, *spent}} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": sdk.name,
        "gen_ai.request.model": asked,
        "loco.agent.id": "unknown",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "gen_ai.response.id": answer_id,
        "gen_ai.response.model": model,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": read,
        "gen_ai.usage.output_tokens": written,
        **({"gen_ai.request.stream": True} if streamed else {}),
        **({"gen_ai.request.max_tokens": 64} if sdk.name == "anthropic" else {}),
    }
    if first_chunk is not None:
        begun, ended = begun_and_ended(span)
        # By two clocks, and a process may be suspended between two reads of them.
        assert 0 < first_chunk <= (ended - begun) / 1e9 + 1
    assert status(span) == (StatusCode.UNSET, None)


def _tokens(usage: Any) -> tuple[int, int]:
    if hasattr(usage, "prompt_tokens"):
        return usage.prompt_tokens, usage.completion_tokens
    return usage.input_tokens, usage.output_tokens


async def _read(sdk: Sdk, stream: Any) -> tuple[str, str, int, int]:
    chunks = [chunk async for chunk in each(stream)]
    if sdk.name == "openai":
        return (chunks[0].id, chunks[0].model, *_tokens(chunks[-1].usage))
    start = chunks[0].message
    (end,) = (chunk for chunk in chunks if chunk.type == "message_delta")
    return start.id, start.model, start.usage.input_tokens, end.usage.output_tokens


@pytest.mark.parametrize("is_async", [False, True])
def test_embeddings_and_responses_have_spans(is_async: bool, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    sdk = Sdk("openai", is_async=is_async)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            await now(client.embeddings.create(model="text-embedding-3-small", input="hi", encoding_format="float"))
            await now(client.responses.create(model="gpt-4o", input="hi"))

    sdk.run(main())
    scheduling.settled(2)
    spans = [span for span in scheduling.spans() if span.kind is SpanKind.CLIENT]
    assert [span.name for span in spans] == ["embeddings text-embedding-3-small", "chat gpt-4o"]
    assert facts(spans[1])["gen_ai.response.finish_reasons"] == ("stop",)


CLOUDS: dict[str, tuple[str, Callable[[Any], Any], str, str]] = {
    "azure": (
        "openai",
        lambda http: openai.AzureOpenAI(
            api_key="key", azure_endpoint="https://azure.invalid", api_version="2024-10-21", http_client=http
        ),
        "azure.ai.openai",
        "azure.invalid",
    ),
    "bedrock": (
        "anthropic",
        lambda http: anthropic.AnthropicBedrock(
            **BEDROCK_KEY, aws_region="eu-west-1", base_url="https://bedrock.invalid", http_client=http
        ),
        "aws.bedrock",
        "bedrock.invalid",
    ),
    "vertex": (
        "anthropic",
        lambda http: anthropic.AnthropicVertex(
            access_token="key",
            region="europe-west1",
            project_id="harbour",
            base_url="https://vertex.invalid",
            http_client=http,
        ),
        "gcp.vertex_ai",
        "vertex.invalid",
    ),
}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_client_of_another_provider_has_its_name(cloud: str, scheduled: Scheduled) -> None:
    name, make, provider, host = CLOUDS[cloud]
    library = http_of(name)
    scheduling = scheduled(capacity=1)
    sdk = Sdk(name, is_async=False)
    with make(client_of(library, lambda _: library.Response(400, json={}))) as client:
        with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)):
            sdk.ask(client)
    scheduling.settled(1)
    said = facts(inference(scheduling))
    assert (said["gen_ai.provider.name"], said["server.address"]) == (provider, host)
    assert said["server.port"] == 443


# -- parent and duration ----------------------------------------------------------------------------------------------


@each_sdk
def test_parent_is_the_span_of_the_program(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> int:
        async with opened(sdk.client(server)) as client:
            with PROGRAM.start_as_current_span("program") as span:
                await now(sdk.ask(client))
                return span.get_span_context().span_id

    program = sdk.run(main())
    scheduling.settled(1)
    span = inference(scheduling)
    assert span.parent is not None
    assert span.parent.span_id == program
    assert not scheduling.spans("call ")


@each_sdk
def test_parent_is_the_call_span_without_a_program_span(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(1)
    (call,) = scheduling.spans("call ")
    assert inference(scheduling).parent == call.context


@each_sdk
def test_span_lasts_from_the_grant_to_the_end_of_the_body(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def call() -> None:
        async with opened(sdk.client(server)) as client:
            async with opened(await now(sdk.stream(client))) as stream:
                assert [chunk async for chunk in each(stream)]

    with loco_otel.slot("holder"), ThreadPoolExecutor(1) as pool:
        calling = pool.submit(Context().run, sdk.run, call())
        scheduling.seen.wait_for(Waiting)
        loco_otel.configure(capacity=2)
        calling.result(PATIENCE)
    scheduling.settled(2)
    (acquire,) = (span for span in scheduling.spans("acquire ") if facts(span)["loco.agent.id"] != "holder")
    span = inference(scheduling)
    assert begun_and_ended(span)[0] >= begun_and_ended(acquire)[1] - 1_000_000
    assert facts(acquire)["loco.wait.duration"] > 0
    (call_span,) = scheduling.spans("call ")
    assert begun_and_ended(call_span)[0] < begun_and_ended(span)[0]


# -- how it ends ------------------------------------------------------------------------------------------------------

Reading = Callable[[Sdk, Any, Scheduling], Coroutine[Any, Any, None]]


async def finished_whole(sdk: Sdk, client: Any, _: Scheduling) -> None:
    stream = await now(sdk.stream(client))
    assert [chunk async for chunk in each(stream)]


async def closed_early(sdk: Sdk, client: Any, _: Scheduling) -> None:
    stream = await now(sdk.stream(client))
    async for _chunk in each(stream):
        break
    await now(stream.close())


async def broken_off_and_dropped(sdk: Sdk, client: Any, scheduling: Scheduling) -> None:
    stream = await now(sdk.stream(client))
    async for _chunk in each(stream):
        break
    del stream, _chunk
    await scheduling.seen.told(Released)


async def dropped_in_a_cycle(sdk: Sdk, client: Any, scheduling: Scheduling) -> None:
    stream = await now(sdk.stream(client))
    await now(stream.__anext__() if sdk.is_async else next(stream))
    stream.itself = stream
    del stream
    gc.collect()
    await scheduling.seen.told(Released)


@each_sdk
@pytest.mark.parametrize("reading", [finished_whole, closed_early, broken_off_and_dropped, dropped_in_a_cycle])
def test_stream_closed_by_the_program_is_no_error(
    reading: Reading, sdk: Sdk, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            await reading(sdk, client, scheduling)

    sdk.run(main())
    scheduling.settled(1)
    assert status(inference(scheduling)) == (StatusCode.UNSET, None)


@each_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_refusal_is_an_error(streamed: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "fail", "status": 400})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)):
                await now(sdk.ask(client, stream=streamed))

    sdk.run(main())
    scheduling.settled(1)
    span = inference(scheduling)
    assert status(span) == (StatusCode.ERROR, f"{sdk.name}.BadRequestError")
    assert span.status.description is None
    assert not [event for event in span.events if event.name == "exception"]


@each_sdk
def test_error_during_the_stream_is_an_error(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "malformed", "after_chunks": 1})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client, opened(await now(sdk.stream(client))) as stream:
            with pytest.raises(json.JSONDecodeError):
                async for _ in each(stream):
                    pass

    sdk.run(main())
    scheduling.settled(1)
    assert status(inference(scheduling)) == (StatusCode.ERROR, "json.decoder.JSONDecodeError")


@each_async_sdk
@pytest.mark.parametrize("amid", ["headers", "body"])
def test_cancelled_task_is_an_error(amid: str, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    if amid == "headers":
        server.script({"type": "delay", "seconds": STALL})
    else:
        server.script({"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": STALL})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:
            reading = asyncio.Event()

            async def read() -> None:
                async with await sdk.stream(client) as stream:
                    async for _ in stream:
                        reading.set()

            reader = asyncio.create_task(read())
            await (scheduling.seen.told(Granted) if amid == "headers" else reading.wait())
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader

    sdk.run(main())
    scheduling.settled(1)
    assert status(inference(scheduling)) == (StatusCode.ERROR, "asyncio.exceptions.CancelledError")


@each_sdk
def test_rejected_call_has_no_span(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, acquire_timeout=0.01)

    async def call() -> None:
        async with opened(sdk.client(server)) as client:
            with pytest.raises(AcquireTimeoutError):
                await now(sdk.ask(client))

    with loco_otel.slot("holder"), ThreadPoolExecutor(1) as pool:
        pool.submit(Context().run, sdk.run, call()).result(PATIENCE)
    scheduling.settled(2)
    assert not [span for span in scheduling.spans() if span.kind is SpanKind.CLIENT]
    (around,) = scheduling.spans("call ")
    assert status(around) == (StatusCode.ERROR, "timeout")


@each_sdk
def test_stalled_reader_ends_the_span_with_its_lease(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": 0.5})
    scheduling = scheduled(capacity=1, max_hold=0.1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            stream = await now(sdk.stream(client))
            await now(stream.__anext__() if sdk.is_async else next(stream))
            await scheduling.seen.told(Released)
            assert inference(scheduling)
            async for _ in each(stream):
                pass

    sdk.run(main())
    (released,) = scheduling.seen.of(Released)
    assert released.expired
    assert status(inference(scheduling)) == (StatusCode.UNSET, None)


@each_sdk
def test_retries_are_inside_the_span_and_counted(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "fail", "status": 429, "retry_after": 0.01, "times": 2})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(1)
    assert len(scheduling.seen.of(Suspended)) == 2
    span = inference(scheduling)
    assert facts(span)["http.request.resend_count"] == 2
    assert [event.name for event in span.events] == ["loco.throttle", "loco.throttle"]
    assert status(span) == (StatusCode.UNSET, None)


# -- when it is the current one ---------------------------------------------------------------------------------------


@each_sdk
def test_span_is_current_only_while_the_sdk_reads(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    within = _note_reads(sdk, monkeypatch)

    async def main() -> list[bool]:
        async with opened(sdk.client(server)) as client:
            with PROGRAM.start_as_current_span("program"):
                program = current()
                stream = await now(sdk.stream(client))
                outside = [current() == program]
                outside += [current() == program async for _ in each(stream)]
                return [*outside, current() == program]

    outside = sdk.run(main())
    assert all(outside)
    assert len(outside) > 4
    scheduling.settled(1)
    assert len(within) > 2
    assert set(within) == {id_of(inference(scheduling))}


def _note_reads(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the current span wherever the SDK's decoder of events is at work."""
    streaming = __import__(f"{sdk.name}._streaming", fromlist=["SSEDecoder"])
    decode, within = streaming.SSEDecoder.decode, []

    def noted(self: Any, line: str) -> Any:
        within.append(current())
        return decode(self, line)

    monkeypatch.setattr(streaming.SSEDecoder, "decode", noted)
    return within


@each_async_sdk
@pytest.mark.parametrize("apart", [False, True])
def test_stream_may_be_read_in_another_task(apart: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:
            with PROGRAM.start_as_current_span("program"):
                stream = await sdk.stream(client)
                await stream.__anext__()

                async def read() -> None:
                    before = current()
                    async for _ in stream:
                        assert current() == before

                await asyncio.create_task(read(), context=Context() if apart else None)

    sdk.run(main())
    scheduling.settled(1)
    assert status(inference(scheduling)) == (StatusCode.UNSET, None)


@each_sync_sdk
def test_stream_may_be_read_in_another_thread(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    seen: list[int] = []
    with sdk.client(server) as client:
        with PROGRAM.start_as_current_span("program"):
            stream = sdk.stream(client)
            next(stream)
        reader = threading.Thread(target=lambda: seen.extend(current() for _ in stream))
        reader.start()
        reader.join(PATIENCE)
    assert seen
    assert set(seen) == {trace.INVALID_SPAN_ID}
    scheduling.settled(1)
    assert status(inference(scheduling)) == (StatusCode.UNSET, None)


# -- suppressed -------------------------------------------------------------------------------------------------------


def _points(reader: InMemoryMetricReader) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Return what was measured: attributes and point, by metric."""
    data = reader.get_metrics_data()
    found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found[metric.name] = [(dict(point.attributes or {}), point) for point in metric.data.data_points]
    return found


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


def measured(scheduling: Scheduling, reader: InMemoryMetricReader) -> None:
    scheduling.runtime.start_telemetry(meter_provider=MeterProvider([reader], shutdown_on_exit=False))


@contextmanager
def suppressed(key: str) -> Iterator[None]:
    token = otel_context.attach(otel_context.set_value(key, True))
    yield
    otel_context.detach(token)


@each_sdk
@pytest.mark.parametrize("key", ["suppress_instrumentation", _SUPPRESS_INSTRUMENTATION_KEY], ids=["older", "newer"])
def test_suppressed_call_is_scheduled_without_telemetry(
    key: str, sdk: Sdk, server: LlmServer, scheduled: Scheduled, reader: InMemoryMetricReader
) -> None:
    scheduling = scheduled(capacity=1)
    measured(scheduling, reader)

    async def call() -> None:
        async with opened(sdk.client(server)) as client:
            with suppressed(key):
                async with opened(await now(sdk.stream(client))) as stream:
                    assert [chunk async for chunk in each(stream)]

    with ThreadPoolExecutor(1) as pool, suppressed(key):
        with loco_otel.slot("holder"):
            calling = pool.submit(Context().run, sdk.run, call())
            scheduling.seen.wait_for(Waiting)
            assert not server.requests()
        calling.result(PATIENCE)
    scheduling.settled(2)
    assert not scheduling.spans()
    points = _points(reader)
    for name in ("loco.acquire.requests", "loco.wait.duration", "loco.hold.duration", "loco.tokens"):
        assert not points.get(name), name
    assert not [name for name in points if name.startswith("gen_ai.")]


# -- metrics ----------------------------------------------------------------------------------------------------------


@each_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_metrics_are_recorded(
    streamed: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled, reader: InMemoryMetricReader
) -> None:
    scheduling = scheduled(capacity=1)
    measured(scheduling, reader)
    options = {"stream_options": {"include_usage": True}} if streamed and sdk.name == "openai" else {}

    async def main() -> None:
        async with opened(sdk.client(server, max_retries=0)) as client:
            answer = await now(sdk.ask(client, stream=streamed, **options))
            if streamed:
                assert [chunk async for chunk in each(answer)]
            server.script({"type": "fail", "status": 500})
            with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)):
                await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(2)
    ok, failed = (span for span in scheduling.spans() if span.kind is SpanKind.CLIENT)
    said = facts(ok)
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": sdk.name,
        "gen_ai.request.model": said["gen_ai.request.model"],
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    answered = {**common, "gen_ai.response.model": said["gen_ai.response.model"]}
    points = _points(reader)

    durations = {attributes.get("error.type"): (attributes, point) for attributes, point in _duration(points)}
    assert durations.keys() == {None, f"{sdk.name}.InternalServerError"}
    assert durations[None][0] == answered
    error = f"{sdk.name}.InternalServerError"
    assert durations[error][0] == {**common, "error.type": error}
    for span, key in ((ok, None), (failed, error)):
        begun, ended = begun_and_ended(span)
        point = durations[key][1]
        assert point.count == 1
        # The span's ends are of the wall clock, the metric's of the scheduler's.
        assert point.sum == pytest.approx((ended - begun) / 1e9, abs=0.05)

    tokens = {attributes.pop("gen_ai.token.type"): (attributes, point) for attributes, point in _usage(points)}
    for direction in ("input", "output"):
        attributes, point = tokens.pop(direction)
        assert attributes == answered
        assert (point.count, point.sum) == (1, said[f"gen_ai.usage.{direction}_tokens"])
    assert not tokens
    first = points.get("gen_ai.client.operation.time_to_first_chunk", [])
    assert [attributes for attributes, _ in first] == ([answered] if streamed else [])
    for _, point in first:
        assert point.sum == pytest.approx(said["gen_ai.response.time_to_first_chunk"])


def _duration(points: dict[str, list[tuple[dict[str, Any], Any]]]) -> list[tuple[dict[str, Any], Any]]:
    return points["gen_ai.client.operation.duration"]


def _usage(points: dict[str, list[tuple[dict[str, Any], Any]]]) -> list[tuple[dict[str, Any], Any]]:
    return points["gen_ai.client.token.usage"]


def test_estimate_is_not_reported_as_usage(
    server: LlmServer, scheduled: Scheduled, reader: InMemoryMetricReader
) -> None:
    scheduling = scheduled(capacity=1)
    measured(scheduling, reader)
    sdk = Sdk("openai", is_async=False)
    with sdk.client(server) as client:
        assert list(sdk.stream(client))
    scheduling.settled(1)
    assert len(scheduling.seen.of(Submitted)) == 1
    assert "gen_ai.usage.input_tokens" not in facts(inference(scheduling))
    points = _points(reader)
    assert not points.get("gen_ai.client.token.usage")
    assert len(_duration(points)) == 1


@pytest.mark.parametrize("opts_in", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_tier_and_cost_of_the_answer_are_shown(streamed: bool, opts_in: bool, scheduled: Scheduled) -> None:
    opt_in = {"otel_semconv_stability_opt_in": "http,gen_ai_latest_experimental"} if opts_in else {}
    scheduling = scheduled(capacity=1, **opt_in)
    library = http_of("openai")
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    answer = {"id": "c", "object": "chat.completion", "model": "gpt-4o", "created": 1, "service_tier": "flex"}
    if streamed:
        chunk = {**answer, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        text = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        response = library.Response(200, text=text, headers={"content-type": "text/event-stream"})
    else:
        response = library.Response(200, json={**answer, "choices": [], "usage": usage})
    with client_of(library, lambda _: response) as http:
        client = openai.OpenAI(api_key="none", http_client=http)
        created: Any = client.chat.completions.create(model="gpt-4o", messages=[], stream=streamed)
        if streamed:
            list(created)
    scheduling.settled(1)
    (span,) = scheduling.spans("chat")
    known = facts(span)
    assert known["openai.response.service_tier"] == "flex"
    assert known.get("gen_ai.usage.cost.amount") == (known["loco.spend.usd"] if opts_in else None)
    assert known.get("gen_ai.usage.cost.source") == ("local" if opts_in else None)
