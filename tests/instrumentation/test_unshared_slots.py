"""No slot is shared with a caller that a holder can still end without."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

from grant_reasons import FREE, REENTRANT, SCORE, list_reasons
from patience import PATIENCE
from sdk_calls import Sdk, each_async_sdk, each_sync_sdk
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

from loco_otel.events import Submitted, Waiting


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
        assert list_reasons(scheduling) == [FREE, FREE]
        unrelated.close()
        reader.result(PATIENCE)
    scheduling.settled(3)
    assert list_reasons(scheduling) == [FREE, FREE, SCORE]


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
            await scheduling.seen.await_event(Submitted)
            unrelated = await sdk.stream(client)
            await scheduling.seen.await_event(Waiting)
            assert list_reasons(scheduling) == [FREE, FREE]
            await unrelated.close()
            await reader

    sdk.run(main())
    scheduling.settled(3)
    assert list_reasons(scheduling) == [FREE, FREE, SCORE]


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
            await scheduling.seen.await_event(Waiting)
            assert list_reasons(scheduling) == [FREE]
            go_on.set()
            await asker
            await reader

    async def ask(client: Any) -> None:
        await sdk.ask(client)

    sdk.run(main())
    scheduling.settled(2)
    assert list_reasons(scheduling) == [FREE, SCORE]


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
    assert list_reasons(scheduling) == [FREE, REENTRANT]


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
            assert list_reasons(scheduling) == [FREE]
            go_on.set()

        reader = pool.submit(read)
        begun.wait(PATIENCE)
        releaser = pool.submit(release)
        sdk.ask(client)
        reader.result(PATIENCE)
        releaser.result(PATIENCE)
    scheduling.settled(2)
    assert list_reasons(scheduling) == [FREE, SCORE]
