"""The reader of a stream may make another call, at any capacity; a slot is shared only as the last resort."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any

import pytest
from grant_reasons import FREE, REENTRANT, list_reasons
from patience import PATIENCE
from sdk_calls import Sdk, each_async_sdk, each_sdk, each_sync_sdk, now, opened
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import LlmServer

from loco_otel.events import Granted, Released, Waiting

# -- one slot ---------------------------------------------------------------------------------------------------------


@each_sdk
def test_call_during_a_stream_finishes(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client, opened(await now(sdk.stream(client))) as stream:
            await now(stream.__anext__() if sdk.is_async else next(stream))
            await now(sdk.ask(client))
            await now(stream.__anext__() if sdk.is_async else next(stream))
            await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(3)
    assert list_reasons(scheduling) == [FREE, REENTRANT, REENTRANT]


@each_sdk
def test_nested_streams_finish(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    depth = 4

    async def nest(client: Any, left: int) -> None:
        async with opened(await now(sdk.stream(client))) as stream:
            await now(stream.__anext__() if sdk.is_async else next(stream))
            if left:
                await nest(client, left - 1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            await nest(client, depth)

    sdk.run(main())
    scheduling.settled(1 + depth)
    assert list_reasons(scheduling) == [FREE, *[REENTRANT] * depth]


Nested = Callable[[Callable[[], Coroutine[Any, Any, None]]], Coroutine[Any, Any, None]]


async def in_the_same_task(call: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await call()


async def in_wait_for(call: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On 3.11 it makes a task."""
    await asyncio.wait_for(call(), PATIENCE)


async def in_a_child(call: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await asyncio.create_task(call())


async def in_a_group(call: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(call())
        group.create_task(call())


@each_async_sdk
@pytest.mark.parametrize("nested", [in_the_same_task, in_wait_for, in_a_child, in_a_group])
def test_async_call_during_a_stream_finishes(nested: Nested, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client, await sdk.stream(client) as stream:

            async def call() -> None:
                await sdk.ask(client)

            async for _ in stream:
                await nested(call)
                break

    sdk.run(main())
    calls = 3 if nested is in_a_group else 2
    scheduling.settled(calls)
    assert list_reasons(scheduling) == [FREE, *[REENTRANT] * (calls - 1)]


@each_async_sdk
@pytest.mark.parametrize("where", ["to_thread", "on the loop", "in a callback"])
def test_sync_call_during_an_async_stream_finishes(
    where: str, sdk: Sdk, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    sync = Sdk(sdk.name, is_async=False)

    async def main() -> None:
        with sync.client(server) as other:
            async with sdk.client(server) as client, await sdk.stream(client) as stream:
                async for _ in stream:
                    if where == "to_thread":
                        await asyncio.to_thread(sync.ask, other)
                    elif where == "on the loop":
                        sync.ask(other)
                    else:
                        # In a context without the stream; but it blocks the loop of its reader.
                        done = asyncio.get_running_loop().create_future()
                        loop = asyncio.get_running_loop()
                        loop.call_soon(lambda: done.set_result(sync.ask(other)), context=Context())  # noqa: B023
                        await done
                    break

    sdk.run(main())
    scheduling.settled(2)
    assert list_reasons(scheduling) == [FREE, REENTRANT]


@each_async_sdk
def test_chunks_read_by_a_task_each_finish(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    """As with a time limit for each chunk; on 3.11 `wait_for` makes a task."""
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client, await sdk.stream(client) as stream:

            async def read() -> None:
                await stream.__anext__()

            for _ in range(2):
                await asyncio.create_task(read())
                await asyncio.wait_for(stream.__anext__(), PATIENCE)
                await asyncio.wait_for(sdk.ask(client), PATIENCE)

    sdk.run(main())
    scheduling.settled(3)
    assert list_reasons(scheduling) == [FREE, REENTRANT, REENTRANT]


@each_async_sdk
def test_reader_that_leaves_during_a_wait_finishes(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    """It leaves the stream open, held by its earlier holders."""
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client, await sdk.stream(client) as stream:
            begun, go = asyncio.Event(), asyncio.Event()

            async def read() -> None:
                await stream.__anext__()
                begun.set()
                await go.wait()

            async def ask() -> None:
                await sdk.ask(client)

            reader = asyncio.create_task(read())
            await begun.wait()
            asker = asyncio.create_task(ask())
            await scheduling.seen.await_event(Waiting)
            go.set()
            await reader
            await asyncio.wait_for(asker, PATIENCE)

    sdk.run(main())
    scheduling.settled(2)
    assert list_reasons(scheduling) == [FREE, REENTRANT]


@each_async_sdk
def test_chunk_read_by_a_kept_task_finishes(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    """As with a sign of life to one's own client while the chunk is awaited."""
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client, await sdk.stream(client) as stream:

            async def read() -> None:
                await stream.__anext__()

            reader = asyncio.create_task(read())
            await asyncio.wait({reader})
            await asyncio.wait_for(sdk.ask(client), PATIENCE)
            assert reader.done()

    sdk.run(main())
    scheduling.settled(2)
    assert list_reasons(scheduling) == [FREE, REENTRANT]


@each_sync_sdk
def test_sync_chunks_read_by_to_thread_finish(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    coloured = Sdk(sdk.name, is_async=True)

    async def main() -> None:
        with sdk.client(server) as sync, sdk.stream(sync) as stream:
            async with coloured.client(server) as client:
                for _ in range(2):
                    await asyncio.to_thread(next, stream)
                    await asyncio.wait_for(coloured.ask(client), PATIENCE)

    asyncio.run(main())
    scheduling.settled(3)
    assert list_reasons(scheduling) == [FREE, REENTRANT, REENTRANT]


@each_sync_sdk
def test_chunks_read_in_another_thread_finish(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    """As web frameworks read a generator: one step in a thread, in a copy of the context, then the next step."""
    scheduling = scheduled(capacity=1)

    def generate(client: Any) -> Any:
        with sdk.stream(client) as stream:
            for chunk in stream:
                sdk.ask(client)
                yield chunk

    with sdk.client(server) as client:
        generated = generate(client)
        for _ in range(3):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(copy_context().run, next, generated).result(PATIENCE)
        generated.close()
    scheduling.settled(4)
    assert list_reasons(scheduling) == [FREE, REENTRANT, REENTRANT, REENTRANT]


# -- two slots, two readers -------------------------------------------------------------------------------------------


@each_sync_sdk
def test_two_threads_with_nested_calls_finish(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=2)
    both = threading.Barrier(2)

    def read(client: Any) -> None:
        with sdk.stream(client) as stream:
            next(stream)
            both.wait(PATIENCE)
            sdk.ask(client)

    with sdk.client(server) as client, ThreadPoolExecutor(2) as pool:
        list(pool.map(read, [client] * 2, timeout=PATIENCE))
    scheduling.settled(4)
    assert list_reasons(scheduling)[:3] == [FREE, FREE, REENTRANT]
    assert most_at_once(scheduling) == 3, "one at a time"


@each_async_sdk
def test_two_tasks_with_nested_calls_finish(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=2)

    async def main() -> None:
        reading: list[None] = []
        both = asyncio.Event()
        async with sdk.client(server) as client:

            async def read() -> None:
                async with await sdk.stream(client) as stream:
                    await stream.__anext__()
                    reading.append(None)
                    if len(reading) == 2:
                        both.set()
                    await both.wait()
                    await sdk.ask(client)

            await asyncio.gather(read(), read())

    sdk.run(main())
    scheduling.settled(4)
    assert list_reasons(scheduling)[:3] == [FREE, FREE, REENTRANT]
    assert most_at_once(scheduling) == 3, "one at a time"


def most_at_once(scheduling: Scheduling) -> int:
    at_once = most = 0
    for event in scheduling.seen.events:
        at_once += isinstance(event, Granted) - isinstance(event, Released)
        most = max(most, at_once)
    return most
