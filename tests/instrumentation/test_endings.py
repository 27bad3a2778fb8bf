"""However a body ends, its slot comes back once, with what is known of the tokens, and the call's span ends with it."""

import asyncio
import gc
import json
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, nullcontext
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

import anthropic
import openai
import pytest
from opentelemetry.trace import StatusCode
from patience import PATIENCE
from sdk_calls import Sdk, each, each_async_sdk, each_sdk, each_sync_sdk, now, opened
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import KEY, LlmServer
from sdk_versions import has

import loco_otel
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._runtime import runtime
from loco_otel.events import Granted, Outcome, Rejected, Released, Spent, Submitted, Waiting
from loco_otel.testing import ManualClock

_Chunk = TypeVar("_Chunk")

STALL = 5.0
"""Seconds for which a scripted stream pauses; no test waits for its end."""


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Let only reference counts free what is dropped."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def ended(scheduling: Scheduling, error: str | None = None, *, spent: bool = True) -> None:
    """Check the end of the only call: its slot, its spending, its span."""
    scheduling.settled(1)
    spendings = scheduling.seen.of(Spent)
    assert len(spendings) == spent
    if spent:
        usage = spendings[0].spending.usage
        assert usage is not None
        assert usage.estimated
    (span,) = scheduling.spans("call ")
    if error is None:
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in (span.attributes or {})
    else:
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == error


def error_type(error: BaseException) -> str:
    """Return the `error.type` of what the program got: SDKs name it differently, in the course of their versions."""
    return f"{type(error).__module__}.{type(error).__qualname__}"


class Raised(Exception):
    """The program's own error."""


# -- the program stops reading ----------------------------------------------------------------------------------------

Ending = Callable[[Sdk, Any], Coroutine[Any, Any, None]]


async def closed_unread(sdk: Sdk, client: Any) -> None:
    stream = await now(sdk.stream(client))
    await now(stream.close())


async def closed_early(sdk: Sdk, client: Any) -> None:
    stream = await now(sdk.stream(client))
    async for _ in each(stream):
        break
    await now(stream.close())


async def closed_twice(sdk: Sdk, client: Any) -> None:
    stream = await now(sdk.stream(client))
    await now(stream.close())
    await now(stream.close())


async def closed_at_its_response(sdk: Sdk, client: Any) -> None:
    stream = await now(sdk.stream(client))
    async for _ in each(stream):
        break
    await now(stream.response.aclose() if sdk.is_async else stream.response.close())


async def with_left_early(sdk: Sdk, client: Any) -> None:
    async with opened(await now(sdk.stream(client))) as stream:
        async for _ in each(stream):
            break


async def with_left_by_an_exception(sdk: Sdk, client: Any) -> None:
    with pytest.raises(Raised):
        async with opened(await now(sdk.stream(client))) as stream:
            async for _ in each(stream):
                raise Raised


async def helper_left_early(sdk: Sdk, client: Any) -> None:
    async with opened(sdk.streaming(client)) as stream:
        async for _ in each(stream):
            break


async def helper_left_unread(sdk: Sdk, client: Any) -> None:
    async with opened(sdk.streaming(client)):
        pass


async def helper_left_by_an_exception(sdk: Sdk, client: Any) -> None:
    with pytest.raises(Raised):
        async with opened(sdk.streaming(client)) as stream:
            async for _ in each(stream):
                raise Raised


async def raw_stream_closed(sdk: Sdk, client: Any) -> None:
    async with opened(await now((await now(sdk.raw(client).create(**_arguments(sdk), stream=True))).parse())) as stream:
        async for _ in each(stream):
            break


async def raw_bytes_left_early(sdk: Sdk, client: Any) -> None:
    async with opened(_streaming_response(sdk, client)) as raw:
        async for _ in each(raw.iter_bytes(1)):
            break


async def raw_response_left_unread(sdk: Sdk, client: Any) -> None:
    async with opened(_streaming_response(sdk, client)):
        pass


@each_sdk
@pytest.mark.parametrize(
    "ending",
    [
        closed_unread,
        closed_early,
        closed_twice,
        closed_at_its_response,
        with_left_early,
        with_left_by_an_exception,
        helper_left_early,
        helper_left_unread,
        helper_left_by_an_exception,
        raw_stream_closed,
        raw_bytes_left_early,
        raw_response_left_unread,
    ],
)
def test_closed_body_frees_slot(ending: Ending, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            await ending(sdk, client)
            assert scheduling.active() == 0, "free before the client is closed"

    sdk.run(main())
    ended(scheduling)


@each_sdk
def test_read_after_the_end_is_harmless(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            stream = await now(sdk.stream(client))
            assert [chunk async for chunk in each(stream)]
            assert not [chunk async for chunk in each(stream)]
            await now(stream.close())

    sdk.run(main())
    scheduling.settled(1)


def _arguments(sdk: Sdk) -> dict[str, Any]:
    class Caught:
        def create(self, **arguments: Any) -> dict[str, Any]:
            return arguments

        completions = messages = property(lambda self: self)
        chat = property(lambda self: self)

    arguments: dict[str, Any] = sdk.ask(Caught())
    return arguments


def _streaming_response(sdk: Sdk, client: Any) -> Any:
    calls = client.chat.completions if sdk.name == "openai" else client.messages
    return calls.with_streaming_response.create(**_arguments(sdk), stream=True)


# -- the program drops the stream -------------------------------------------------------------------------------------


@each_sync_sdk
def test_stream_dropped_half_read_frees_slot_without_gc(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, no_gc: None
) -> None:
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client:
        stream = sdk.stream(client)
        for _ in stream:
            break
        assert scheduling.active() == 1
        del stream
        scheduling.seen.wait_for(Released)
    ended(scheduling)


@each_async_sdk
def test_async_stream_dropped_half_read_frees_slot_without_gc(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, no_gc: None
) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:
            stream = await sdk.stream(client)
            async for _ in stream:
                break
            assert scheduling.active() == 1
            del stream
            await scheduling.seen.told(Released)

    sdk.run(main())
    ended(scheduling)


@each_sdk
@pytest.mark.parametrize("call", ["stream", "raw"])
def test_answer_dropped_unread_frees_slot_without_gc(
    call: str, sdk: Sdk, server: LlmServer, scheduled: Scheduled, no_gc: None
) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            if call == "raw":
                answer = await now(sdk.raw(client).create(**_arguments(sdk), stream=True))
            else:
                answer = await now(sdk.stream(client))
            assert scheduling.active() == 1
            del answer
            await scheduling.seen.told(Released)

    sdk.run(main())
    ended(scheduling)


@each_sync_sdk
def test_error_in_a_read_loop_frees_slot_with_the_stream(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, no_gc: None
) -> None:
    scheduling = scheduled(capacity=1)

    def read(client: Any) -> None:
        stream = sdk.stream(client)
        for _ in stream:
            raise Raised

    with sdk.client(server) as client:
        try:
            read(client)
        except Raised:
            assert scheduling.active() == 1, "the traceback holds the stream"
        scheduling.seen.wait_for(Released)
    ended(scheduling)


@each_sdk
def test_stream_in_a_cycle_frees_slot_once_collected(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            stream = await now(sdk.stream(client))
            await now(stream.__anext__() if sdk.is_async else next(stream))
            stream.itself = stream
            del stream
            gc.collect()
            await scheduling.seen.told(Released)

    sdk.run(main())
    ended(scheduling)


CLOSES_WITH_ITS_LOOP = {"openai": "2.9", "anthropic": "0.76"}
"""The first versions that close the response of a stream when its loop ends; before, it stays open while it is kept."""


@each_async_sdk
def test_stream_of_a_closed_loop_frees_slot(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    kept = []

    async def main() -> None:
        async with sdk.client(server) as client:
            stream = await sdk.stream(client)
            kept.append(stream)
            async for _ in stream:
                break

    sdk.run(main())
    if not has(sdk.name, CLOSES_WITH_ITS_LOOP[sdk.name]):
        assert scheduling.active() == 1, "it is open: nobody has closed it"
        kept.clear()
    scheduling.seen.wait_for(Released)
    ended(scheduling)


# -- the provider breaks off ------------------------------------------------------------------------------------------


@each_sdk
@pytest.mark.parametrize("how", ["read", "helper", "raw"])
def test_dropped_connection_is_an_error(how: str, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "disconnect", "after_chunks": 2})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            if how == "raw":
                raw = await now(sdk.raw(client).create(**_arguments(sdk), stream=True))
                manager = await now(raw.parse())
            else:
                manager = sdk.streaming(client) if how == "helper" else await now(sdk.stream(client))
            async with opened(manager) as stream:
                with pytest.raises((openai.APIConnectionError, http_of(sdk.name).RemoteProtocolError)) as raised:
                    async for _ in each(stream):
                        pass
            errors.append(raised.value)

    errors: list[BaseException] = []
    sdk.run(main())
    ended(scheduling, error_type(errors[0]))


@each_sdk
def test_truncated_stream_is_estimated(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    """No SDK takes it for an error."""
    server.script({"type": "stream_fault", "kind": "truncate", "after_chunks": 3})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client, opened(await now(sdk.stream(client))) as stream:
            async for _ in each(stream):
                pass

    sdk.run(main())
    ended(scheduling)


@each_sdk
def test_chunk_that_is_no_json_is_an_error(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "malformed", "after_chunks": 1})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client, opened(await now(sdk.stream(client))) as stream:
            with pytest.raises(json.JSONDecodeError):
                async for _ in each(stream):
                    pass

    sdk.run(main())
    ended(scheduling, "json.decoder.JSONDecodeError")


@each_sdk
@pytest.mark.parametrize(
    ("status", "error"), [(400, "BadRequestError"), (404, "NotFoundError"), (500, "InternalServerError")]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_refused_call_spends_nothing(
    status: int, error: str, streamed: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled
) -> None:
    server.script({"type": "fail", "status": status})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server, max_retries=0)) as client:
            with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as raised:
                await now(sdk.ask(client, stream=streamed))
            assert type(raised.value).__name__ == error

    sdk.run(main())
    ended(scheduling, f"{sdk.name}.{error}", spent=False)


def test_answer_that_is_no_json_is_an_error(scheduled: Scheduled) -> None:
    library = http_of("openai")

    def broken(_: Any) -> Any:
        return library.Response(200, content=b'{"id": ', headers={"content-type": "application/json"})

    scheduling = scheduled(capacity=1)
    http = client_of(library, broken)
    with openai.OpenAI(api_key=KEY, http_client=http) as client, pytest.raises(json.JSONDecodeError):
        client.embeddings.create(model="text-embedding-3-small", input="hi")
    ended(scheduling, "json.decoder.JSONDecodeError", spent=False)


@each_sdk
def test_unreachable_provider_is_an_error(sdk: Sdk, scheduled: Scheduled, server: LlmServer) -> None:
    scheduling = scheduled(capacity=1)
    library = http_of(sdk.name)

    def refuse(request: Any) -> Any:
        raise library.ConnectError("refused", request=request)

    http = client_of(library, refuse, is_async=sdk.is_async)

    async def main() -> None:
        async with opened(sdk.client(server, http_client=http, max_retries=0)) as client:
            with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError)):
                await now(sdk.ask(client))

    sdk.run(main())
    ended(scheduling, f"{sdk.name}.APIConnectionError", spent=False)


@each_sdk
def test_read_timeout_ends_the_call(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": STALL})
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        library = http_of(sdk.name)
        timeout = library.Timeout(PATIENCE, read=2.0)
        async with opened(sdk.client(server, timeout=timeout)) as client:
            async with opened(await now(sdk.stream(client))) as stream:
                with pytest.raises((openai.APITimeoutError, library.ReadTimeout)) as raised:
                    async for _ in each(stream):
                        pass
            errors.append(raised.value)

    errors: list[BaseException] = []
    sdk.run(main())
    ended(scheduling, error_type(errors[0]))


# -- the task is cancelled --------------------------------------------------------------------------------------------

CANCELLED = "asyncio.exceptions.CancelledError"


@each_async_sdk
def test_cancelled_wait_leaves_nothing(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client, await sdk.stream(client):
            # In a context of its own: a call within the other's would be a part of it, and share its slot.
            waiter = asyncio.create_task(_ask_apart(sdk, client), context=Context())
            await scheduling.seen.told(Waiting)
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
    assert [span.attributes["error.type"] for span in _failed(scheduling, "call ")] == ["cancelled"]


async def _ask_apart(sdk: Sdk, client: Any) -> Any:
    return await sdk.ask(client)


def _failed(scheduling: Scheduling, name: str) -> list[Any]:
    return [span for span in scheduling.spans(name) if span.status.status_code is StatusCode.ERROR]


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
            await scheduling.seen.told(Granted)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller

    sdk.run(main())
    ended(scheduling, CANCELLED)


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
            await scheduling.seen.told(Released)

    sdk.run(main())
    ended(scheduling, CANCELLED)


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
            await scheduling.seen.told(Waiting)
        elif phase == "headers":
            await scheduling.seen.told(Granted)
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


# -- nobody reads any more --------------------------------------------------------------------------------------------


@each_sdk
def test_stalled_reader_loses_its_slot(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": STALL})
    scheduling = scheduled(capacity=1, max_hold=0.2)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            stream = await now(sdk.stream(client))
            async for _ in each(stream):
                break
            await scheduling.seen.told(Released)
            (released,) = scheduling.seen.of(Released)
            assert released.expired
            assert released.held >= 0.2
            await now(sdk.ask(client))
            await now(stream.close())

    sdk.run(main())
    scheduling.settled(2)
    assert len(scheduling.spans("call ")) == 2
    assert not _failed(scheduling, "call ")


@each_sync_sdk
def test_each_chunk_renews_the_lease(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body takes longer than `LOCO_MAX_HOLD`, no pause in it does."""
    clock = ManualClock()
    monkeypatch.setattr(runtime, "InProcessEngine", partial(InProcessEngine, clock=clock))
    scheduling = scheduled(capacity=1, max_hold=0.4)
    with sdk.client(server) as client, sdk.stream(client) as stream:
        for _ in stream:
            clock.advance(0.3)
            scheduling.runtime.engine.run_due_actions()
    (released,) = scheduling.seen.of(Released)
    assert not released.expired
    assert released.held > 0.4
    scheduling.settled(1)


def test_unparsed_raw_answer_has_ended(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with server.openai() as client:
        raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=[])
        assert scheduling.active() == 0
        assert raw.http_response.is_closed
    scheduling.settled(1)


def test_ended_response_can_be_pickled(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with (
        server.openai() as client,
        client.chat.completions.with_streaming_response.create(model="gpt-4o", messages=[]) as raw,
    ):
        raw.read()
        again = pickle.loads(pickle.dumps(raw.http_response))
    assert again.json() == raw.http_response.json()
    scheduling.settled(1)


def test_custom_stream_keeps_its_counts(server: LlmServer, scheduled: Scheduled) -> None:
    class Counting(openai.Stream[_Chunk]):
        count = 0

        def __stream__(self) -> Iterator[_Chunk]:
            for chunk in super().__stream__():
                self.count += 1
                yield chunk

    scheduling = scheduled(capacity=1)
    body = {"model": "gpt-4o", "messages": [], "stream": True}
    with server.openai() as client:
        stream = client.post(
            "/chat/completions", body=body, cast_to=dict[str, Any], stream=True, stream_cls=Counting[dict[str, Any]]
        )
        assert len(list(stream)) == stream.count > 0
    scheduling.settled(1)


@each_sync_sdk
def test_close_by_another_thread_during_a_read_frees_slot(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": 0.5})
    scheduling = scheduled(capacity=1)
    reading = threading.Event()
    with sdk.client(server) as client:
        stream = sdk.stream(client)

        def read() -> None:
            try:
                for _ in stream:
                    reading.set()
            except Exception as error:
                errors.append(error)

        errors: list[Exception] = []
        reader = threading.Thread(target=read)
        reader.start()
        reading.wait(PATIENCE)
        stream.close()
        reader.join(PATIENCE)
        assert not reader.is_alive()
    scheduling.settled(1)
    assert len(scheduling.seen.of(Submitted)) == 1
