"""The reader of a stream may make another call, at any capacity; a slot is shared only as the last resort."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any

import pytest
from patience import PATIENCE
from sdk_calls import Sdk, each_async_sdk, each_sdk, each_sync_sdk, now, opened
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import LlmServer

import loco_otel
from loco_otel.events import Granted, GrantReason, Released, Submitted, Waiting
from loco_otel.patching import response_body


def reasons(scheduling: Scheduling) -> list[GrantReason]:
    return [event.reason for event in scheduling.seen.of(Granted)]


FREE, SCORE, REENTRANT = GrantReason.FREE, GrantReason.SCORE, GrantReason.REENTRANT


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
    assert reasons(scheduling) == [FREE, REENTRANT, REENTRANT]


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
    assert reasons(scheduling) == [FREE, *[REENTRANT] * depth]


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
    assert reasons(scheduling) == [FREE, *[REENTRANT] * (calls - 1)]


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
    assert reasons(scheduling) == [FREE, REENTRANT]


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
    assert reasons(scheduling) == [FREE, REENTRANT, REENTRANT]


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
            await scheduling.seen.told(Waiting)
            go.set()
            await reader
            await asyncio.wait_for(asker, PATIENCE)

    sdk.run(main())
    scheduling.settled(2)
    assert reasons(scheduling) == [FREE, REENTRANT]


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
    assert reasons(scheduling) == [FREE, REENTRANT]


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
    assert reasons(scheduling) == [FREE, REENTRANT, REENTRANT]


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
    assert reasons(scheduling) == [FREE, REENTRANT, REENTRANT, REENTRANT]


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
    assert reasons(scheduling)[:3] == [FREE, FREE, REENTRANT]
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
    assert reasons(scheduling)[:3] == [FREE, FREE, REENTRANT]
    assert most_at_once(scheduling) == 3, "one at a time"


def most_at_once(scheduling: Scheduling) -> int:
    at_once = most = 0
    for event in scheduling.seen.events:
        at_once += isinstance(event, Granted) - isinstance(event, Released)
        most = max(most, at_once)
    return most


# -- what is handed to threads ----------------------------------------------------------------------------------------


@each_sync_sdk
def test_thread_pool_of_a_waiting_reader_finishes(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(2) as pool, sdk.stream(client) as stream:
        for _ in range(2):
            next(stream)
            list(pool.map(lambda _: sdk.ask(client), range(2), timeout=PATIENCE))
    scheduling.settled(5)
    assert reasons(scheduling) == [FREE, *[REENTRANT] * 4]


@each_async_sdk
def test_run_in_executor_during_an_async_stream_finishes(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    sync = Sdk(sdk.name, is_async=False)

    async def main() -> None:
        with sync.client(server) as other:
            async with sdk.client(server) as client, await sdk.stream(client) as stream:
                await stream.__anext__()
                asked = asyncio.get_running_loop().run_in_executor(None, sync.ask, other)
                await asyncio.wait_for(asked, PATIENCE)

    sdk.run(main())
    scheduling.settled(2)
    assert reasons(scheduling) == [FREE, REENTRANT]


@each_sync_sdk
def test_pool_calls_have_name_and_claims_of_the_submitter(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(1) as pool:
        with loco_otel.as_agent("writer"):
            with loco_otel.slot():
                pool.submit(sdk.ask, client).result(PATIENCE)
            inherited = pool.submit(sdk.ask, client)
        inherited.result(PATIENCE)
        pool.submit(sdk.ask, client).result(PATIENCE)
    ended = [event.ticket for event in scheduling.seen.of(Released)]
    default = scheduling.runtime.default_agent
    assert [ticket.request.agent for ticket in ended] == ["writer", "writer", "writer", default]
    assert reasons(scheduling)[:2] == [FREE, REENTRANT], "the slot, and the job that it waits for"


def test_threads_are_unpatched_once_nothing_is_patched(scheduled: Scheduled) -> None:
    scheduled(capacity=1)
    assert hasattr(ThreadPoolExecutor.submit, "__wrapped__")
    loco_otel.uninstall()
    assert not hasattr(ThreadPoolExecutor.submit, "__wrapped__")


# -- streams that are opened first, and read later ---------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots lie idle as soon as a stream is there."""
    monkeypatch.setattr(response_body, "_UNREAD_IDLE_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
@each_async_sdk
@pytest.mark.parametrize("settings", [{"capacity": 1}, {"capacity": "auto"}], ids=str)
def test_streams_opened_together_and_read_later_finish(
    settings: dict[str, object], sdk: Sdk, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(**settings)
    if settings["capacity"] == "auto":
        server.script({"type": "fail", "status": 429, "retry_after": 0.01, "times": 1})

    async def main() -> None:
        async with sdk.client(server) as client:
            opening = asyncio.gather(*[sdk.stream(client) for _ in range(4)])
            while not opening.done():
                # What the timer does each second.
                scheduling.runtime.engine.run_due_actions()
                await asyncio.sleep(0)
            for stream in await opening:
                async for _ in stream:
                    pass

    sdk.run(asyncio.wait_for(main(), PATIENCE))
    scheduling.settled(4)


@pytest.mark.usefixtures("impatient")
@each_sync_sdk
def test_streams_opened_by_a_pool_and_read_later_finish(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client:
        with ThreadPoolExecutor(4) as pool:
            opening = [pool.submit(sdk.stream, client) for _ in range(4)]
            while not all(each.done() for each in opening):
                scheduling.runtime.engine.run_due_actions()
        for each in opening:
            list(each.result(PATIENCE))
    scheduling.settled(4)
    assert reasons(scheduling) == [FREE, REENTRANT, REENTRANT, REENTRANT]


@each_sync_sdk
def test_stream_lends_its_slot_while_its_reader_is_busy(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_body, "_PAUSED_IDLE_SECONDS", -1.0)
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(1) as pool:
        with sdk.stream(client) as stream:
            other = Context().run(pool.submit, sdk.ask, client)
            scheduling.seen.wait_for(Waiting)
            scheduling.runtime.engine.run_due_actions()
            assert reasons(scheduling) == [FREE], "not read yet, and not for long"
            next(stream)
            scheduling.runtime.engine.run_due_actions()
            other.result(PATIENCE)
    scheduling.settled(2)
    assert reasons(scheduling) == [FREE, REENTRANT]


# -- nothing is shared that need not be -------------------------------------------------------------------------------


@each_sync_sdk
def test_nested_call_waits_for_a_stream_that_can_end(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=2)
    with sdk.client(server) as client, ThreadPoolExecutor(1) as pool:
        unrelated = sdk.stream(client)

        def read() -> None:
            with sdk.stream(client) as stream:
                next(stream)
                sdk.ask(client)

        reader = Context().run(pool.submit, read)  # it has nothing to do with the stream
        scheduling.seen.wait_for(Waiting)
        assert reasons(scheduling) == [FREE, FREE]
        unrelated.close()
        reader.result(PATIENCE)
    scheduling.settled(3)
    assert reasons(scheduling) == [FREE, FREE, SCORE]


@each_async_sdk
def test_nested_call_of_a_task_waits_for_a_stream_that_can_end(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=2)

    async def main() -> None:
        async with sdk.client(server) as client:

            async def read() -> None:
                async with await sdk.stream(client) as stream:
                    await stream.__anext__()
                    await sdk.ask(client)

            reader = asyncio.create_task(read())
            await scheduling.seen.told(Submitted)
            unrelated = await sdk.stream(client)
            await scheduling.seen.told(Waiting)
            assert reasons(scheduling) == [FREE, FREE]
            await unrelated.close()
            await reader

    sdk.run(main())
    scheduling.settled(3)
    assert reasons(scheduling) == [FREE, FREE, SCORE]


@each_async_sdk
def test_stream_handed_to_another_task_belongs_to_it(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    """The task that opened it does not hold it any more: a call there waits for its end, and shares nothing."""
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()
        async with sdk.client(server) as client:
            stream = await sdk.stream(client)

            async def read() -> None:
                async for _ in stream:
                    begun.set()
                    await go_on.wait()

            reader = asyncio.create_task(read())
            await begun.wait()
            asker = asyncio.create_task(ask(client))
            await scheduling.seen.told(Waiting)
            assert reasons(scheduling) == [FREE]
            go_on.set()
            await asker
            await reader

    async def ask(client: Any) -> None:
        await sdk.ask(client)

    sdk.run(main())
    scheduling.settled(2)
    assert reasons(scheduling) == [FREE, SCORE]


@each_async_sdk
def test_stream_handed_to_another_task_is_lent_to_it(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:
            stream = await sdk.stream(client)

            async def read() -> None:
                async for _ in stream:
                    await sdk.ask(client)
                    break
                await stream.close()

            # In a context without the stream.
            await asyncio.create_task(read(), context=Context())

    sdk.run(main())
    scheduling.settled(2)
    assert reasons(scheduling) == [FREE, REENTRANT]


@each_sync_sdk
def test_stream_handed_to_another_thread_belongs_to_it(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    begun, go_on = threading.Event(), threading.Event()
    with sdk.client(server) as client, ThreadPoolExecutor(2) as pool:
        stream = sdk.stream(client)

        def read() -> None:
            for _ in stream:
                begun.set()
                go_on.wait(PATIENCE)

        def release() -> None:
            scheduling.seen.wait_for(Waiting)
            assert reasons(scheduling) == [FREE]
            go_on.set()

        reader = pool.submit(read)
        begun.wait(PATIENCE)
        releaser = pool.submit(release)
        sdk.ask(client)
        reader.result(PATIENCE)
        releaser.result(PATIENCE)
    scheduling.settled(2)
    assert reasons(scheduling) == [FREE, SCORE]


# -- calls within what holds a slot already ---------------------------------------------------------------------------


@each_sdk
def test_call_inside_a_slot_is_not_scheduled_again(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            with loco_otel.slot("analyst"):
                await now(sdk.ask(client))
                async with opened(await now(sdk.stream(client))) as stream:
                    await now(stream.__anext__() if sdk.is_async else next(stream))
            await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(2)
    assert len(server.requests()) == 3
    assert [event.ticket.request.provider for event in scheduling.seen.of(Submitted)] == [None, sdk.name]


@each_async_sdk
def test_first_child_of_a_slot_is_not_scheduled_again(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client, loco_otel.slot("analyst"):
            await asyncio.gather(sdk.ask(client), sdk.ask(client))

    sdk.run(main())
    scheduling.settled(2)
    assert reasons(scheduling) == [FREE, REENTRANT], "the slot, and the call beside the one that runs under it"
    assert len(server.requests()) == 2


@each_sync_sdk
def test_sdk_over_an_sdk_is_scheduled_once(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    """As LiteLLM upon OpenAI's: what is patched calls what is patched."""
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as inner, sdk.client(server) as outer:
        send = outer._prepare_options

        def prepare(options: Any) -> Any:
            sdk.ask(inner)
            return send(options)

        outer._prepare_options = prepare
        sdk.ask(outer)
    scheduling.settled(1)
    assert len(server.requests()) == 2
    assert reasons(scheduling) == [FREE]


@each_async_sdk
def test_async_sdk_over_an_sdk_is_scheduled_once(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as inner, sdk.client(server) as outer:
            send = outer._prepare_options

            async def prepare(options: Any) -> Any:
                await asyncio.create_task(ask(inner))
                return await send(options)

            outer._prepare_options = prepare
            await sdk.ask(outer)

    async def ask(client: Any) -> None:
        await sdk.ask(client)

    sdk.run(main())
    scheduling.settled(1)
    assert len(server.requests()) == 2
    assert reasons(scheduling) == [FREE]
