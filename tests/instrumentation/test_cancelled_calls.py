"""A cancelled or destroyed task leaves no slot, no waiter and no open span."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from contextvars import Context
from typing import Any

import pytest
from call_endings import (
    STALL,
    check_end,
    list_failed_spans,
)
from sdk_calls import Sdk, each_async_sdk
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled
from sdk_server import LlmServer
from sdk_versions import has

import loco_otel
from loco_otel.events import Granted, Outcome, Rejected, Released, Waiting

CANCELLED = "asyncio.exceptions.CancelledError"


@each_async_sdk
def test_cancelled_wait_leaves_nothing(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client, await sdk.stream(client):
            # In a context of its own: a call within the other's would be a part of it, and share its slot.
            waiter = asyncio.create_task(_ask_apart(sdk, client), context=Context())
            await scheduling.seen.await_event(Waiting)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert scheduling.active() == 1
            assert scheduling.waiting() == 0

    sdk.run(main())
    scheduling.settled(2)
    (rejected,) = scheduling.seen.of(Rejected)
    assert rejected.outcome is Outcome.CANCELLED
    assert len(server.requests()) == 1
    assert [span.attributes["error.type"] for span in list_failed_spans(scheduling, "call ")] == ["cancelled"]


async def _ask_apart(sdk: Sdk, client: Any) -> Any:
    return await sdk.ask(client)


@each_async_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_cancelled_before_the_headers_leaves_nothing(
    streamed: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled
) -> None:
    server.script({"type": "delay", "seconds": STALL})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:

            async def call() -> None:
                await sdk.ask(client, stream=streamed)

            caller = asyncio.create_task(call())
            await scheduling.seen.await_event(Granted)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller

    sdk.run(main())
    check_end(scheduling, CANCELLED)


@each_async_sdk
@pytest.mark.parametrize("close", [False, True])
def test_cancelled_stream_leaves_nothing(close: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": STALL})
    scheduling = scheduled(capacity=1)

    @asynccontextmanager
    async def kept(stream: Any) -> AsyncIterator[Any]:
        yield stream

    async def main() -> None:
        async with sdk.client(server) as client:
            reading = asyncio.Event()

            async def read() -> None:
                stream = await sdk.stream(client)
                async with stream if close else kept(stream):
                    async for _ in stream:
                        reading.set()

            reader = asyncio.create_task(read())
            await reading.wait()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await scheduling.seen.await_event(Released)

    sdk.run(main())
    check_end(scheduling, CANCELLED)


async def stuck() -> AsyncIterator[bytes]:
    """Stop after the first event of a body, for ever."""
    yield b'event: message_start\ndata: {"type": "message_start", "message": {}, "choices": []}\n\n'
    await asyncio.get_running_loop().create_future()


@each_async_sdk
@pytest.mark.parametrize("phase", ["waiting", "headers", "body"])
def test_task_destroyed_with_its_loop_leaves_nothing(
    phase: str, sdk: Sdk, server: LlmServer, scheduled: Scheduled, caplog: pytest.LogCaptureFixture
) -> None:
    """Its coroutine is closed by the garbage collector, in whatever context that finds."""
    scheduling = scheduled(capacity=1)
    library = http_of(sdk.name)

    async def answer(_: Any) -> Any:
        if phase == "headers":
            await asyncio.get_running_loop().create_future()
        return library.Response(200, headers={"content-type": "text/event-stream"}, content=stuck())

    async def read(client: Any, reading: asyncio.Event) -> None:
        async for _ in await sdk.stream(client):
            reading.set()

    async def lost() -> None:
        # Without its own spans, which would complain of the foreign context.
        options = {"open_telemetry": False} if sdk.name == "anthropic" and has("anthropic", "2") else {}
        client = sdk.client(server, http_client=client_of(library, answer, is_async=True), **options)
        reading = asyncio.Event()
        asyncio.create_task(read(client, reading))  # noqa: RUF006 - it is meant to be lost
        if phase == "waiting":
            await scheduling.seen.await_event(Waiting)
        elif phase == "headers":
            await scheduling.seen.await_event(Granted)
        else:
            await reading.wait()

    def destroyed() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(lost())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    with loco_otel.slot() if phase == "waiting" else nullcontext():
        Context().run(destroyed)
        gc.collect()
    # One that waits is the scheduler's to find: granted, it turns out to be gone.
    calls = 2 if phase == "waiting" else 1
    scheduling.seen.wait_for(Released, calls)
    scheduling.settled(calls)
    assert not [record for record in caplog.records if record.name.startswith(("loco_otel", "opentelemetry"))]
