"""Patched calls within a lease of the library: they pass under it, and are not scheduled again."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sdk_calls import Sdk, each_async_sdk, each_sync_sdk
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

import loco_otel
from loco_otel import Agent, AsyncLOCOScheduler, SharedResource, Task
from loco_otel.adapters.vanilla import VanillaAdapter
from loco_otel.events import Granted, Submitted

Within = Callable[[Callable[[], Any]], Any]


async def in_wrap(call: Callable[[], Any]) -> None:
    await loco_otel.wrap(call, agent_id="wrapped")


async def in_acquire(call: Callable[[], Any]) -> None:
    scheduler = AsyncLOCOScheduler([Agent("own")], SharedResource("r"))
    async with scheduler.acquire("own"):
        result = call()
        if asyncio.iscoroutine(result):
            await result


async def in_handle(call: Callable[[], Any]) -> None:
    scheduler = AsyncLOCOScheduler([Agent("own")], SharedResource("r"))
    handle = await scheduler.acquire_start("own")
    result = call()
    if asyncio.iscoroutine(result):
        await result
    await scheduler.release_handle(handle)


async def in_adapter(call: Callable[[], Any]) -> None:
    adapter = VanillaAdapter(loco_otel.get_scheduler())
    await adapter.register_agent("adapted", lambda agent_id, task: call())
    await adapter.submit_task("adapted", Task())
    await adapter.run_next("adapted")


WAYS = [(in_wrap, 1), (in_adapter, 1), (in_acquire, 0), (in_handle, 0)]
"""And how many leases of the process's scheduler each takes."""


@pytest.mark.parametrize(("within", "leases"), WAYS)
@each_async_sdk
def test_async_call_inside_a_lease_is_scheduled_once(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, within: Within, leases: int
) -> None:
    scheduling = scheduled(capacity=1)
    loco_otel.configure()

    async def program() -> None:
        client = sdk.client(server)
        await within(lambda: sdk.ask(client))
        await client.close()

    asyncio.run(program())
    assert len(scheduling.seen.of(Granted)) == leases
    assert len(scheduling.seen.of(Submitted)) == leases


@pytest.mark.parametrize(("within", "leases"), WAYS)
@each_sync_sdk
def test_sync_call_inside_a_lease_is_scheduled_once(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, within: Within, leases: int
) -> None:
    scheduling = scheduled(capacity=1)
    loco_otel.configure()
    client = sdk.client(server)
    asyncio.run(within(lambda: sdk.ask(client)))
    client.close()
    assert len(scheduling.seen.of(Granted)) == leases
