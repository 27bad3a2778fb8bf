"""A body that the program closes or reads to its end gives its slot back once, with what is known of the tokens."""

import pickle
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import openai
import pytest
from call_endings import Raised, check_end, list_arguments, request_streaming_response
from patience import PATIENCE
from sdk_calls import Sdk, each, each_sdk, each_sync_sdk, now, opened
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

from loco_otel.events import Submitted

_Chunk = TypeVar("_Chunk")

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
    async with opened(
        await now((await now(sdk.raw(client).create(**list_arguments(sdk), stream=True))).parse())
    ) as stream:
        async for _ in each(stream):
            break


async def raw_bytes_left_early(sdk: Sdk, client: Any) -> None:
    async with opened(request_streaming_response(sdk, client)) as raw:
        async for _ in each(raw.iter_bytes(1)):
            break


async def raw_response_left_unread(sdk: Sdk, client: Any) -> None:
    async with opened(request_streaming_response(sdk, client)):
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
    check_end(scheduling)


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


# -- nobody reads any more --------------------------------------------------------------------------------------------


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
