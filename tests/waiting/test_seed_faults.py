"""What the seed got wrong, row by row of its list of faults: the same experiment, and it comes out right.

More than the contract: here the real clock and the real timer run, unless an experiment is about a moment in time.
"""

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import Callable
from contextvars import Context
from functools import partial

import pytest
from callers import Caller, Desk, Loop, Threads, Way
from patience import PATIENCE

import loco_otel
from loco_otel import AcquireTimeoutError, BackpressureError, Settings, ShutdownError, slot
from loco_otel._runtime import process
from loco_otel.testing import ManualClock


@pytest.fixture
def live() -> Desk:
    """A scheduler of one slot, as programs have it."""
    runtime = process.replace_runtime(Settings().changed(capacity=1))
    assert runtime is not None
    return Desk(runtime.engine, ManualClock())


def queue(desk: Desk, way: Way, *agents: str, timeout: float | None = None) -> list[Caller]:
    waiting = desk.counts[1]
    callers = []
    for position, agent in enumerate(agents, start=1):
        callers.append(way.call(partial(slot, agent, timeout=timeout)))
        desk.waiters(waiting + position)
    return callers


def all_ended(work: Callable[[int], None], count: int) -> None:
    """Run `work` in a number of threads at once, and wait for all of them."""
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("error", [RuntimeError(), asyncio.CancelledError()], ids=lambda error: type(error).__name__)
def test_d1_failing_body_wakes_the_next_before_newcomers(live: Desk, way: Way, error: BaseException) -> None:
    """The seed skipped the tick and the grant: the waiter slept beside a free slot, and newcomers barged past it."""
    holder = way.call(partial(slot, "a")).inside()
    (waiter,) = queue(live, way, "b")
    holder.leave(error)
    assert isinstance(way.call(partial(slot, "newcomer", timeout=0)).end(), AcquireTimeoutError)
    assert waiter.leave() is None
    assert live.standing.tick == 2
    assert live.is_empty()


def test_d1_sixty_calls_with_failures_all_end(live: Desk) -> None:
    """In the seed 44 of 60 hung for ever, with 3 slots free."""
    loco_otel.configure(capacity=3)

    async def call(number: int) -> int:
        async with slot(f"agent-{number % 4}"):
            await asyncio.sleep(0)
            if number % 5 == 0:
                raise RuntimeError
            return number

    async def program() -> list[int | BaseException]:
        calls = (call(number) for number in range(60))
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE)

    ends = asyncio.run(program())
    assert sum(isinstance(end, int) for end in ends) == 48
    assert sum(isinstance(end, RuntimeError) for end in ends) == 12
    assert live.is_empty()


def test_d1_cancelling_one_of_five_leaves_four(live: Desk, loop: Loop) -> None:
    """In the seed all the others hung."""
    holder = loop.call(partial(slot, "a")).inside()
    others = queue(live, loop, "a", "a", "a", "a")
    loop.cancel(holder)
    assert isinstance(holder.end(), asyncio.CancelledError)
    assert [other.leave() for other in others] == [None] * 4
    assert live.is_empty()


def test_d2_release_at_a_waiters_deadline_loses_no_slot(live: Desk) -> None:
    """In the seed a waiter timed out after its grant kept the slot for ever: 109 to 120 times in 200."""
    timeout = 0.005

    async def trial(number: int) -> bool:
        released = asyncio.Event()

        async def hold() -> None:
            async with slot("holder"):
                await released.wait()

        holder = asyncio.create_task(hold())
        await asyncio.sleep(0)
        # From 4 % before the waiter's deadline to 4 % after it.
        asyncio.get_running_loop().call_later(timeout * (0.96 + 0.08 * number / 200), released.set)
        try:
            async with slot("waiter", timeout=timeout):
                return True
        except AcquireTimeoutError:
            return False
        finally:
            await holder
            async with slot("next", timeout=0):
                pass

    async def program() -> list[bool]:
        return [await trial(number) for number in range(200)]

    asyncio.run(program())
    assert live.is_empty()


@pytest.mark.parametrize("first_comes", ["release", "deadline"])
def test_d2_release_and_deadline_together_lose_no_slot(desk: Desk, way: Way, first_comes: str) -> None:
    """The same without chance: both happen before the waiter runs again, in either order."""
    holder = Threads().call(partial(slot, "a")).inside()
    stop = desk.stop_next()
    waiter = way.call(partial(slot, "a", timeout=5))
    with stop:
        if first_comes == "release":
            holder.leave()
            desk.advance(5)
        else:
            desk.advance(5)
            holder.leave()
    if first_comes == "release":
        assert waiter.leave() is None
    else:
        assert isinstance(waiter.end(), AcquireTimeoutError)
    assert Threads().call(partial(slot, "next", timeout=0)).leave() is None
    assert desk.is_empty()


def test_d3_timeout_wakes_no_other_waiter_of_the_agent(desk: Desk, way: Way) -> None:
    """The seed woke another waiter of the agent without a slot: two ran at capacity 1."""
    holder = way.call(partial(slot, "a")).inside()
    (patient,) = queue(desk, way, "a")
    (impatient,) = queue(desk, way, "a", timeout=5)
    desk.advance(5)
    assert isinstance(impatient.end(), AcquireTimeoutError)
    desk.waiters(1)
    assert desk.counts == (1, 1)
    assert not patient.is_inside
    assert holder.leave() is None
    assert patient.leave() is None
    assert desk.is_empty()


def test_d4_shutdown_runs_no_body(live: Desk, way: Way) -> None:
    """The seed ran them all: 11 bodies at once at capacity 1, and without an error."""
    holder = way.call(partial(slot, "a")).inside()
    waiters = queue(live, way, *["a"] * 10)
    live.engine.close()
    assert all(isinstance(waiter.end(), ShutdownError) for waiter in waiters)
    assert not any(waiter.is_inside for waiter in waiters)
    assert holder.leave() is None
    assert live.is_empty()


def test_d6_two_workers_of_one_agent_are_both_served(live: Desk, way: Way) -> None:
    """In the seed a waiter whose agent had no task left was never granted: plain use as a semaphore hung."""
    holder = way.call(partial(slot, "worker")).inside()
    first, second = queue(live, way, "worker", "worker")
    for caller in (holder, first, second):
        assert caller.leave() is None
    assert live.is_empty()


def test_d9_dropped_slot_is_reclaimed(live: Desk) -> None:
    """In the seed a dropped handle was a lost slot. Nothing else happens here that could help."""
    kept = [slot("careless")]
    Context().run(kept[0].__enter__)
    (waiter,) = queue(live, Threads(), "a")
    kept.clear()
    gc.collect()
    assert waiter.leave() is None
    assert live.is_empty()


def test_d9_nested_slot_does_not_deadlock(live: Desk, way: Way) -> None:
    """The seed waited for ever."""
    caller = way.call(partial(slot, "a"), partial(slot, "a"))
    assert caller.leave() is None
    assert live.is_empty()


def test_d9_raising_the_capacity_by_three_grants_to_three(live: Desk, way: Way) -> None:
    """The seed granted to one."""
    callers = [way.call(partial(slot, "a")).inside(), *queue(live, way, "a", "b", "c")]
    loco_otel.configure(capacity=4)
    for caller in callers:
        caller.inside()
    assert live.counts == (4, 0)
    assert [caller.leave() for caller in callers] == [None] * 4
    assert live.is_empty()


def test_d13_waiter_in_an_idle_loop_is_woken_from_another(desk: Desk, loop: Loop) -> None:
    """The seed's waiter was woken by a timer of its own loop, seconds later. This loop has nothing else to do."""
    other = Loop(asyncio.new_event_loop)
    holder = other.call(partial(slot, "a")).inside()
    in_loop, in_thread = *queue(desk, loop, "a"), *queue(desk, Threads(), "a")
    assert holder.leave() is None
    assert in_loop.leave() is None
    assert in_thread.leave() is None
    assert desk.is_empty()
    other.close()


def test_d13_eight_threads_lose_no_slot_or_wake(live: Desk) -> None:
    """In the seed: clean, 14 timeouts, or 1002 timeouts and a lost slot, in three runs."""
    inside, seen = [0], set()
    faults: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(250):
                with slot(f"agent-{number}", timeout=PATIENCE):
                    inside[0] += 1
                    seen.add(inside[0])
                    inside[0] -= 1
        except BaseException as error:
            faults.append(error)

    all_ended(work, 8)
    assert faults == []
    assert seen == {1}
    assert live.standing.tick == 2000
    assert live.is_empty()


def test_d16_failures_leave_no_load(desk: Desk, way: Way) -> None:
    """In the seed five failed calls left a Qi of 15 that aged, and the flaky agent was served first."""
    loco_otel.configure(max_waiters=2)
    holder = way.call(partial(slot, "holder")).inside()
    for _ in range(5):
        (flaky,) = queue(desk, way, "flaky", timeout=1)
        desk.advance(1)
        assert isinstance(flaky.end(), AcquireTimeoutError)
    healthy = queue(desk, way, "healthy", "healthy")
    for _ in range(3):
        assert isinstance(way.call(partial(slot, "flaky", weight=3)).end(), BackpressureError)
    standings = [(standing.agent, standing.waiting, standing.queue_weight) for standing in desk.standing.agents]
    assert standings == [("healthy", 2, 2000), ("holder", 0, 0)]
    holder.leave()
    healthy[0].inside()
    (flaky,) = queue(desk, way, "flaky")
    assert isinstance(healthy[0].leave(RuntimeError()), RuntimeError)
    assert healthy[1].leave() is None
    assert flaky.leave() is None
    assert desk.is_empty()


@pytest.mark.parametrize("desk", ["memory"], indirect=True)  # 100,000 round trips take too long
def test_d27_memory_does_not_grow_with_calls(desk: Desk) -> None:
    """The seed kept 190 bytes of each call."""
    calls = 3000

    def work() -> None:
        for number in range(calls):
            with slot(f"agent-{number}", timeout=60), pytest.raises(AcquireTimeoutError):
                slot("refused", timeout=0).__enter__()
            waiter = desk.engine.create_ticket(slot("a", timeout=1)._request)
            with slot("a"):
                desk.engine.submit(waiter)
                desk.engine.cancel(waiter)

    tracemalloc.start()
    try:
        work()  # some of what was served is kept, up to a bound
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown / calls < 20
    assert desk.is_empty()
