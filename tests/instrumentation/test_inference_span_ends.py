"""How an inference span ends: closed, broken off, refused, cancelled, rejected, retried."""

import asyncio
import gc
import json
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

import anthropic
import openai
import pytest
from call_endings import STALL
from inference_spans import find_inference_span, read_attributes, read_status
from opentelemetry.trace import SpanKind, StatusCode
from patience import PATIENCE
from sdk_calls import Sdk, each, each_async_sdk, each_sdk, now, opened
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import LlmServer

import loco_otel
from loco_otel.errors import AcquireTimeoutError
from loco_otel.events import Granted, Released, Suspended

pytestmark = pytest.mark.usefixtures("no_foreign_context")

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
    await scheduling.seen.await_event(Released)


async def dropped_in_a_cycle(sdk: Sdk, client: Any, scheduling: Scheduling) -> None:
    stream = await now(sdk.stream(client))
    await now(stream.__anext__() if sdk.is_async else next(stream))
    stream.itself = stream
    del stream
    gc.collect()
    await scheduling.seen.await_event(Released)


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
    assert read_status(find_inference_span(scheduling)) == (StatusCode.UNSET, None)


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
    span = find_inference_span(scheduling)
    assert read_status(span) == (StatusCode.ERROR, f"{sdk.name}.BadRequestError")
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
    assert read_status(find_inference_span(scheduling)) == (StatusCode.ERROR, "json.decoder.JSONDecodeError")


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
            await (scheduling.seen.await_event(Granted) if amid == "headers" else reading.wait())
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader

    sdk.run(main())
    scheduling.settled(1)
    assert read_status(find_inference_span(scheduling)) == (StatusCode.ERROR, "asyncio.exceptions.CancelledError")


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
    assert read_status(around) == (StatusCode.ERROR, "timeout")


@each_sdk
def test_stalled_reader_ends_the_span_with_its_lease(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": 0.5})
    scheduling = scheduled(capacity=1, max_hold=0.1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            stream = await now(sdk.stream(client))
            await now(stream.__anext__() if sdk.is_async else next(stream))
            await scheduling.seen.await_event(Released)
            assert find_inference_span(scheduling)
            async for _ in each(stream):
                pass

    sdk.run(main())
    (released,) = scheduling.seen.of(Released)
    assert released.expired
    assert read_status(find_inference_span(scheduling)) == (StatusCode.UNSET, None)


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
    span = find_inference_span(scheduling)
    assert read_attributes(span)["http.request.resend_count"] == 2
    assert [event.name for event in span.events] == ["loco.throttle", "loco.throttle"]
    assert read_status(span) == (StatusCode.UNSET, None)
