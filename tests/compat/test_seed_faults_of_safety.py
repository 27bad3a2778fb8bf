"""What loco-agent got wrong, through its own API: slots lost, deadlocks, waits without end."""

import asyncio
import gc
import random
import threading
from typing import Any

import pytest
from library_callers import Run, Until, hold, is_empty, make_scheduler, pass_by, start
from patience import PATIENCE

import loco_otel
from loco_otel import (
    AcquireTimeoutError,
    BudgetManager,
    ResourcePool,
    SharedResource,
    ShutdownError,
    Task,
)


@pytest.mark.parametrize("error", [RuntimeError(), asyncio.CancelledError()], ids=lambda error: type(error).__name__)
def test_d1_failed_body_wakes_the_next_before_newcomers(run: Run, settle: Until, error: BaseException) -> None:
    made = make_scheduler("a", "b", "newcomer")

    async def program() -> None:
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def fail() -> None:
            async with made.acquire("a"):
                inside.set()
                await go_on.wait()
                raise error

        failing = asyncio.create_task(fail())
        await inside.wait()
        (waiter,) = await start(made, settle, hold(made, "b", asyncio.Event()))
        go_on.set()
        with pytest.raises(type(error)):
            await failing
        with pytest.raises(AcquireTimeoutError):
            await pass_by(made, "newcomer", timeout=0)
        assert made.resource.is_holding("b")
        assert made.logical_tick == 1
        waiter.cancel()

    run(program())
    assert is_empty(made)


def test_d1_sixty_wraps_with_failures_all_end(run: Run) -> None:
    made = loco_otel.configure(capacity=3)

    async def call(number: int) -> int:
        await asyncio.sleep(0)
        if number % 5 == 0:
            raise RuntimeError
        return number

    async def program() -> list[Any]:
        calls = (loco_otel.wrap(call, agent_id=f"agent-{number % 4}", number=number) for number in range(60))
        return await asyncio.gather(*calls, return_exceptions=True)

    ends = run(program())
    assert sum(isinstance(end, int) for end in ends) == 48
    assert sum(isinstance(end, RuntimeError) for end in ends) == 12
    assert is_empty(made)


def test_d1_cancelling_one_of_five_wraps_leaves_four(run: Run, settle: Until) -> None:
    made = loco_otel.configure(capacity=1)

    async def program() -> list[int]:
        gate = asyncio.Event()

        async def call(number: int) -> int:
            await gate.wait()
            return number

        tasks = [asyncio.create_task(loco_otel.wrap(call, agent_id="a", number=number)) for number in range(5)]
        await settle(lambda: made.resource.waiter_count == 4)
        tasks[2].cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await tasks[2]
        return [await task for number, task in enumerate(tasks) if number != 2]

    assert run(program()) == [0, 1, 3, 4]
    assert is_empty(made)
    assert made.get_agent("a").tasks == []


def test_d2_release_at_a_waiters_deadline_loses_no_slot(run: Run) -> None:
    made = make_scheduler("holder", "waiter", "next")
    timeout = 0.005

    async def trial(number: int) -> None:
        release = asyncio.Event()
        holder = asyncio.create_task(hold(made, "holder", release))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(timeout * (0.96 + 0.08 * number / 100), release.set)
        try:
            await pass_by(made, "waiter", timeout=timeout)
        except AcquireTimeoutError:
            pass
        finally:
            await holder
            await pass_by(made, "next", timeout=0)

    async def program() -> None:
        for number in range(100):
            await trial(number)

    run(program())
    assert is_empty(made)


def test_d2_waiter_cancelled_after_its_grant_passes_it_on(run: Run, settle: Until) -> None:
    made = make_scheduler("a", "b", "c")

    async def program() -> None:
        await made.submit_task("b", task := Task())
        handle = await made.acquire_start("a")
        granted, last = await start(made, settle, pass_by(made, "b"), pass_by(made, "c"))
        await made.release_handle(handle)  # b has its slot now, and has not run yet
        assert made.resource.is_holding("b")
        granted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await granted
        await last
        # Its task was submitted by a caller that may ask again.
        assert made.get_agent("b").tasks == [task]
        assert await pass_by(made, "b") is task

    run(program())
    assert is_empty(made)


def test_d3_timeout_wakes_no_other_waiter_of_the_agent(run: Run, settle: Until) -> None:
    made = make_scheduler("a")

    async def program() -> None:
        release = asyncio.Event()
        holder = asyncio.create_task(hold(made, "a", release))
        await settle(lambda: made.resource.holder_count == 1)
        patient, impatient = await start(made, settle, pass_by(made, "a"), pass_by(made, "a", timeout=0.01))
        with pytest.raises(TimeoutError):
            await impatient
        assert not patient.done()
        assert (made.resource.holder_count, made.resource.waiter_count) == (1, 1)
        release.set()
        await asyncio.gather(holder, patient)

    run(program())
    assert is_empty(made)


def test_d4_shutdown_runs_no_body_and_awaits_holders(run: Run, settle: Until) -> None:
    made = make_scheduler("a", budget=BudgetManager())

    async def program() -> None:
        release, bodies = asyncio.Event(), list[str]()
        for _ in range(11):
            await made.submit_task("a", Task(weight=3.0))
        holder = asyncio.create_task(hold(made, "a", release))
        await settle(lambda: made.resource.holder_count == 1)
        waiters = await start(made, settle, *[pass_by(made, "a", bodies) for _ in range(10)])
        assert await made.shutdown(timeout=0.01) == {"cancelled_waiters": 10, "active_holders": 1}
        ends = await asyncio.gather(*waiters, return_exceptions=True)
        assert [type(end) for end in ends] == [ShutdownError] * 10
        assert bodies == []
        last = asyncio.create_task(made.shutdown(timeout=PATIENCE))
        await asyncio.sleep(0)
        release.set()
        assert await last == {"cancelled_waiters": 0, "active_holders": 0}
        await holder
        assert made.metrics.total_cost() == 3.0
        for attempt in (made.submit_task("a", Task()), pass_by(made, "a")):
            with pytest.raises(ShutdownError, match="shutting down"):
                await attempt

    run(program())
    assert is_empty(made)


def test_d5_failures_keep_no_slot(run: Run) -> None:
    made = make_scheduler("a")

    async def program() -> None:
        with pytest.raises(ValueError, match="Unknown agent"):
            await pass_by(made, "nobody")
        with pytest.raises(ValueError, match="Unknown agent"):
            await made.acquire_start("nobody")
        assert is_empty(made)

        def fail(*_: object) -> None:
            raise KeyError("hook")

        made.on_task_started = fail
        await made.submit_task("a", Task())
        with pytest.raises(KeyError):
            await pass_by(made, "a")
        assert is_empty(made)
        assert (made.metrics.total_cost(), made.get_agent("a").tasks) == (0.0, [])

        made.on_task_started, made.on_task_completed = None, fail
        await made.submit_task("a", Task())
        with pytest.raises(KeyError):
            await pass_by(made, "a")
        assert is_empty(made)
        await made.submit_task("a", Task())
        handle = await made.acquire_start("a")
        with pytest.raises(KeyError):
            await made.release_handle(handle)
        assert is_empty(made)
        await made.release_handle(handle)
        assert made.logical_tick == 3

    run(program())


def test_d6_waiter_without_a_task_gets_its_turn(run: Run, settle: Until) -> None:
    made = make_scheduler("worker", budget=BudgetManager(default_limit=1.0))

    async def program() -> None:
        await made.submit_task("worker", Task())
        release = asyncio.Event()
        first = asyncio.create_task(hold(made, "worker", release))
        await settle(lambda: made.resource.holder_count == 1)
        (second,) = await start(made, settle, pass_by(made, "worker"))
        release.set()
        assert isinstance(await first, Task)
        assert await second is None
        assert made.metrics.cost_by_agent() == {"worker": 1.0}

    run(program())
    assert is_empty(made)


def test_d7_waiter_for_several_resources_holds_none(run: Run, settle: Until) -> None:
    pool = ResourcePool()
    llm, gpu = SharedResource("llm"), SharedResource("gpu")
    pool.add(llm)
    pool.add(gpu)

    async def program() -> None:
        release = asyncio.Event()

        async def first() -> None:
            async with llm.held_by("first"):
                await release.wait()

        async def second() -> str:
            async with pool.acquire_multiple("second", ["llm", "gpu"]):
                assert pool.utilization() == {"gpu": 1.0, "llm": 1.0}
            return "done"

        holder = asyncio.create_task(first())
        await settle(lambda: llm.holder_count == 1)
        waiting = asyncio.create_task(second())
        await settle(lambda: llm.waiter_count == 1)
        assert gpu.holder_count == 0
        assert await gpu.try_acquire("third")
        await gpu.release("third")
        with pytest.raises(AcquireTimeoutError):
            async with pool.acquire_multiple("hasty", ["gpu", "llm"], timeout=0.01):
                pass
        release.set()
        assert await waiting == "done"
        await holder
        assert pool.utilization() == {"gpu": 0.0, "llm": 0.0}

    run(program())


def test_d7_two_callers_of_the_same_two_both_get_them(run: Run) -> None:
    pool = ResourcePool()
    for name in ("a", "b", "c"):
        pool.add(SharedResource(name))

    async def program() -> None:
        rng = random.Random(1)

        async def work(agent: str) -> None:
            for _ in range(50):
                async with pool.acquire_multiple(agent, rng.sample(["a", "b", "c"], 2)):
                    await asyncio.sleep(0)

        await asyncio.gather(*(work(f"agent-{number}") for number in range(6)))

    run(program())
    assert set(pool.utilization().values()) == {0.0}


def test_d9_dropped_handle_is_reclaimed(run: Run, settle: Until) -> None:
    made = make_scheduler("careless", "a")

    async def program() -> None:
        kept = [await asyncio.create_task(made.acquire_start("careless"))]
        (waiter,) = await start(made, settle, pass_by(made, "a"))
        kept.clear()
        gc.collect()
        await waiter

    run(program())
    assert is_empty(made)


def test_d9_nested_acquire_of_one_agent_does_not_deadlock(run: Run) -> None:
    made = make_scheduler("a", "b")

    async def program() -> None:
        async with made.acquire("a"):
            await pass_by(made, "a")
            assert made.resource.holder_count == 1
            # Two agents in one task are two slots.
            with pytest.raises(TimeoutError):
                await pass_by(made, "b", timeout=0.01)
            # So are two tasks of one agent.
            with pytest.raises(TimeoutError):
                await asyncio.create_task(pass_by(made, "a", timeout=0.01))

    run(program())
    assert is_empty(made)


def test_d9_raising_the_capacity_by_three_grants_to_three(run: Run, settle: Until) -> None:
    made = make_scheduler("a", "b", "c", "d")

    async def program() -> None:
        release = asyncio.Event()
        holder = asyncio.create_task(hold(made, "a", release))
        await settle(lambda: made.resource.holder_count == 1)
        waiters = await start(made, settle, *(hold(made, agent, release) for agent in "bcd"))
        made.resource.capacity = 4
        assert (made.resource.holder_count, made.resource.waiter_count) == (4, 0)
        with pytest.raises(RuntimeError, match="No slot"):
            await made.resource.grant("a")
        assert made.resource.holder_count == 4
        release.set()
        await asyncio.gather(holder, *waiters)

    run(program())
    assert is_empty(made)


def test_d13_eight_threads_with_loops_lose_no_slot_or_wake() -> None:
    made = make_scheduler(*(f"agent-{number}" for number in range(8)), max_waiters=1000)
    inside, seen, faults = [0], set[int](), list[BaseException]()

    async def work(agent: str) -> None:
        for _ in range(100):
            await made.submit_task(agent, Task(weight=2.0))
            async with made.acquire(agent, timeout=PATIENCE):
                inside[0] += 1
                seen.add(inside[0])
                made.get_agent(agent).serve_oldest_task()
                await asyncio.sleep(0)
                inside[0] -= 1

    def thread(agent: str) -> None:
        try:
            asyncio.run(work(agent))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=thread, args=(agent,), daemon=True) for agent in made.agents]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert not any(each.is_alive() for each in threads)
    assert faults == []
    assert seen == {1}
    assert made.logical_tick == 800
    assert made.metrics.cost_by_agent() == dict.fromkeys(made.agents, 200.0)
    assert is_empty(made)
