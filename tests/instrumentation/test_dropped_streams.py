"""A stream that the program drops gives its slot back, without the garbage collector where there is no cycle."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from call_endings import (
    Raised,
    check_end,
    list_arguments,
)
from sdk_calls import Sdk, each_async_sdk, each_sdk, each_sync_sdk, now, opened
from sdk_scheduling import Scheduled
from sdk_server import LlmServer
from sdk_versions import has

from loco_otel.events import Released


@pytest.fixture
def no_gc() -> Iterator[None]:
    """Let only reference counts free what is dropped."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


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
    check_end(scheduling)


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
            await scheduling.seen.await_event(Released)

    sdk.run(main())
    check_end(scheduling)


@each_sdk
@pytest.mark.parametrize("call", ["stream", "raw"])
def test_answer_dropped_unread_frees_slot_without_gc(
    call: str, sdk: Sdk, server: LlmServer, scheduled: Scheduled, no_gc: None
) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            if call == "raw":
                answer = await now(sdk.raw(client).create(**list_arguments(sdk), stream=True))
            else:
                answer = await now(sdk.stream(client))
            assert scheduling.active() == 1
            del answer
            await scheduling.seen.await_event(Released)

    sdk.run(main())
    check_end(scheduling)


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
    check_end(scheduling)


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
            await scheduling.seen.await_event(Released)

    sdk.run(main())
    check_end(scheduling)


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
    check_end(scheduling)
