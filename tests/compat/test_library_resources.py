"""Resources and pools of loco-agent's API."""

import asyncio
from typing import Any

import pytest
from library_callers import Run, Until, is_empty, pass_by, start

import loco_otel
from loco_otel import (
    Agent,
    AsyncLOCOScheduler,
    BackpressureError,
    ResourcePool,
    SharedResource,
    Task,
)
from loco_otel.testing import mock_resource


@pytest.mark.parametrize("capacity", [0, -1, 1.5, None])
def test_resource_has_slots(capacity: Any) -> None:
    with pytest.raises(ValueError, match="Capacity must be"):
        SharedResource("r", capacity)
    with pytest.raises(ValueError, match="Capacity must be"):
        mock_resource().capacity = capacity


def test_resource_alone_is_a_fair_semaphore(run: Run, settle: Until) -> None:
    resource = SharedResource("r", 2)
    assert repr(resource) == "SharedResource(name='r', capacity=2)"

    async def program() -> None:
        assert await resource.try_acquire("a")
        await resource.wait_for_slot("b")
        assert not await resource.try_acquire("c")
        assert (resource.holder_count, resource.available_slots, resource.utilization) == (2, 0, 1.0)
        assert resource.is_holding("a")
        assert not resource.is_holding("c")
        first, second = (asyncio.create_task(resource.wait_for_slot(agent)) for agent in "cd")
        await settle(lambda: resource.waiter_count == 2)
        await resource.cancel_waiter("d")
        with pytest.raises(loco_otel.AcquireRejectedError):
            await second
        await resource.release("nobody")
        await resource.release("a")
        await first
        await resource.release("b")
        await resource.release("c")
        async with resource.held_by("e"):
            assert resource.holder_count == 1
        await resource.grant("f")
        await resource.release("f")
        assert (resource.holder_count, resource.waiter_count, resource.available_slots) == (0, 0, 2)

    run(program())


def test_each_scheduler_of_a_pool_bounds_its_own_waiters(run: Run, settle: Until) -> None:
    pool = ResourcePool()
    llm, gpu = SharedResource("llm"), SharedResource("gpu")
    pool.add(llm)
    busy = AsyncLOCOScheduler([Agent("a"), Agent("b")], llm, max_waiters=1000)
    narrow = AsyncLOCOScheduler([Agent("c"), Agent("d")], gpu, max_waiters=1)
    pool.add(gpu)
    assert (busy.max_waiters, narrow.max_waiters) == (1000, 1)

    async def acquire_both() -> None:
        async with pool.acquire_multiple("e", ["llm", "gpu"]):
            pass

    async def program() -> None:
        # In tasks of their own, so that waiters here are not taken for parts of them.
        acquisitions = (busy, busy.acquire_start("a")), (narrow, narrow.acquire_start("c"))
        handles = [(made, await asyncio.create_task(acquired)) for made, acquired in acquisitions]
        waiters = await start(narrow, settle, pass_by(narrow, "d"))
        waiters += await start(busy, settle, pass_by(busy, "b"), pass_by(busy, "b"), acquire_both())
        with pytest.raises(BackpressureError):
            await narrow.acquire_start("d")
        for made, handle in handles:
            await made.release_handle(handle)
        await asyncio.gather(*waiters)

    run(program())
    assert is_empty(busy)
    assert is_empty(narrow)


def test_scheduler_of_the_process_resource_bounds_no_other() -> None:
    process = loco_otel.configure(capacity=1)
    made = AsyncLOCOScheduler([Agent("a")], process.resource, max_waiters=1)
    assert (made.max_waiters, loco_otel.snapshot().max_waiting) == (1, None)


def test_resources_form_a_pool(run: Run) -> None:
    pool = ResourcePool()
    with pytest.raises(RuntimeError, match="No resources"):
        _ = pool.primary
    llm = SharedResource("llm", 2)
    made = AsyncLOCOScheduler([Agent("a")], llm, alpha=0.4, max_waiters=7, auto_tune=True)
    pool.add(llm)
    pool.add(SharedResource("db"))
    assert (pool.names, pool.primary.name, pool.get("llm")) == (["db", "llm"], "db", llm)
    assert (made.alpha, made.max_waiters) == (0.4, 7)
    with pytest.raises(ValueError, match="already in pool"):
        pool.add(SharedResource("db"))
    with pytest.raises(ValueError, match="Unknown resource"):
        pool.get("gpu")

    async def program() -> None:
        await made.submit_task("a", Task())
        async with made.acquire("a") as task:
            assert task is not None
            async with pool.acquire_multiple("b", ["llm", "db", "llm"]):
                assert pool.utilization() == {"db": 1.0, "llm": 1.0}
            assert pool.utilization() == {"db": 0.0, "llm": 0.5}
        with pytest.raises(ValueError, match="Unknown resource"):
            async with pool.acquire_multiple("b", ["llm", "gpu"]):
                pass
        async with pool.acquire_multiple("b", []):
            assert set(pool.utilization().values()) == {0.0}
        busy = SharedResource("busy")
        async with busy.held_by("a"):
            with pytest.raises(RuntimeError, match="in use"):
                pool.add(busy)

    run(program())
