"""Schedulers of loco-agent's API with one resource, and programs that wait for it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from loco_otel import Agent, AsyncLOCOScheduler, SharedResource, Task

Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end."""

Until = Callable[[Callable[[], bool]], Awaitable[None]]
"""Lets others run until a condition holds."""


def make_scheduler(*names: str, capacity: int = 1, **options: Any) -> AsyncLOCOScheduler:
    return AsyncLOCOScheduler([Agent(name) for name in names], SharedResource("llm_api", capacity), **options)


def is_empty(made: AsyncLOCOScheduler) -> bool:
    resource = made.resource
    return (resource.holder_count, resource.waiter_count, len(resource.view.list_holders())) == (0, 0, 0)


async def start(made: AsyncLOCOScheduler, settle: Until, *bodies: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Start programs that all have to wait, in this order."""
    tasks = []
    for body in bodies:
        before = made.resource.waiter_count
        tasks.append(asyncio.create_task(body))
        await settle(lambda before=before: made.resource.waiter_count == before + 1)
    return tasks


async def hold(made: AsyncLOCOScheduler, agent: str, until: asyncio.Event, **options: Any) -> Task | None:
    async with made.acquire(agent, **options) as task:
        await until.wait()
        return task


async def pass_by(made: AsyncLOCOScheduler, agent: str, order: list[str] | None = None, **options: Any) -> Task | None:
    async with made.acquire(agent, **options) as task:
        if order is not None:
            order.append(agent)
        return task


async def list_grants(made: AsyncLOCOScheduler, settle: Until, holder: str, *agents: str) -> list[str]:
    """Let agents wait in this order for what another one holds, and return the order in which they are served."""
    order: list[str] = []
    release = asyncio.Event()
    holding = asyncio.create_task(hold(made, holder, release))
    await settle(lambda: made.resource.holder_count == 1)
    waiters = await start(made, settle, *(pass_by(made, agent, order) for agent in agents))
    release.set()
    await asyncio.gather(holding, *waiters)
    return order
