"""Calls of a thread pool belong to who submitted them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from grant_reasons import FREE, REENTRANT, list_reasons
from patience import PATIENCE
from sdk_calls import Sdk, each_async_sdk, each_sync_sdk
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

import loco_otel
from loco_otel.events import Released


@each_sync_sdk
def test_thread_pool_of_a_waiting_reader_finishes(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(2) as pool, sdk.stream(client) as stream:
        for _ in range(2):
            next(stream)
            list(pool.map(lambda _: sdk.ask(client), range(2), timeout=PATIENCE))
    scheduling.settled(5)
    assert list_reasons(scheduling) == [FREE, *[REENTRANT] * 4]


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
    assert list_reasons(scheduling) == [FREE, REENTRANT]


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
    assert list_reasons(scheduling)[:2] == [FREE, REENTRANT], "the slot, and the job that it waits for"


def test_threads_are_unpatched_once_nothing_is_patched(scheduled: Scheduled) -> None:
    scheduled(capacity=1)
    assert hasattr(ThreadPoolExecutor.submit, "__wrapped__")
    loco_otel.uninstall()
    assert not hasattr(ThreadPoolExecutor.submit, "__wrapped__")
