"""A holder that needs a second slot before it can end the first: all finish, and nothing is shared without need."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial

import pytest
from callers import Desk, Loop, Threads, happens
from patience import PATIENCE

import loco_otel
from loco_otel import AcquireTimeoutError, slot
from loco_otel.events import Granted, GrantReason
from loco_otel.testing import RecordingListener

FREE, SCORE, REENTRANT = GrantReason.FREE, GrantReason.SCORE, GrantReason.REENTRANT

Nest = Callable[[], Awaitable[None]]


async def second() -> None:
    async with slot("a"):
        await asyncio.sleep(0)


def sync_second() -> None:
    with slot("a"):
        pass


async def by_wait_for() -> None:
    await asyncio.wait_for(second(), PATIENCE)


async def by_create_task() -> None:
    await asyncio.create_task(second())


async def by_a_grandchild() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(by_create_task())


async def by_to_thread() -> None:
    await asyncio.to_thread(sync_second)


async def on_the_loops_own_thread() -> None:
    sync_second()


NESTS = [second, by_wait_for, by_create_task, by_a_grandchild, by_to_thread, on_the_loops_own_thread]

each_nest = pytest.mark.parametrize("nest", NESTS, ids=lambda nest: nest.__name__)


def start(loop: Loop, program: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a coroutine function in the loop; return what to call to see it finish."""

    async def run() -> None:
        await program()

    running = asyncio.run_coroutine_threadsafe(run(), loop.loop)
    return partial(running.result, PATIENCE)


def reasons(listener: RecordingListener) -> list[GrantReason]:
    return [event.reason for event in listener.of(Granted)]


def check_full_capacity(desk: Desk) -> None:
    """See that every slot is there, once."""
    assert desk.is_empty()
    callers = [Threads().call(partial(slot, "a", timeout=0)).inside() for _ in range(desk.standing.capacity or 0)]
    assert isinstance(Threads().call(partial(slot, "a", timeout=0)).end(), AcquireTimeoutError)
    for caller in callers:
        assert caller.leave() is None
    assert desk.is_empty()


@each_nest
def test_holder_that_needs_the_only_slot_again_shares_it(desk: Desk, loop: Loop, nest: Nest) -> None:
    listener = desk.record()

    async def program() -> None:
        async with slot("a"):
            await nest()

    start(loop, program)()
    assert reasons(listener) == [FREE, REENTRANT]
    check_full_capacity(desk)


@each_nest
def test_nothing_is_shared_while_another_holder_can_end(desk: Desk, loop: Loop, nest: Nest) -> None:
    loco_otel.configure(capacity=2)
    listener = desk.record()
    unrelated = Threads().call(partial(slot, "unrelated")).inside()

    async def program() -> None:
        async with slot("a"):
            await nest()

    finish = start(loop, program)
    desk.waiters(1)
    assert desk.counts == (2, 1)
    assert reasons(listener) == [FREE, FREE]
    unrelated.leave()
    finish()
    assert reasons(listener) == [FREE, FREE, SCORE]
    check_full_capacity(desk)


@each_nest
def test_holders_that_need_a_second_slot_share_one_at_a_time(desk: Desk, loop: Loop, nest: Nest) -> None:
    loco_otel.configure(capacity=2)
    listener = desk.record()

    async def program() -> None:
        both = asyncio.Barrier(2)

        async def holder() -> None:
            async with slot("a"):
                await both.wait()
                await nest()

        await asyncio.gather(holder(), holder())

    start(loop, program)()
    assert reasons(listener).count(REENTRANT) == 1
    assert len(reasons(listener)) == 4
    check_full_capacity(desk)


def test_threads_that_need_a_second_slot_share_one_at_a_time(desk: Desk) -> None:
    loco_otel.configure(capacity=2)
    listener = desk.record()
    both = threading.Barrier(2)

    def holder() -> None:
        with slot("a"):
            both.wait(PATIENCE)
            sync_second()

    threads = [threading.Thread(target=holder, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert reasons(listener) == [FREE, FREE, REENTRANT, SCORE]
    check_full_capacity(desk)


@each_nest
def test_thread_and_task_that_need_a_second_slot_both_finish(desk: Desk, loop: Loop, nest: Nest) -> None:
    loco_otel.configure(capacity=2)
    listener = desk.record()
    thread_holds, task_holds = threading.Event(), threading.Event()

    def in_thread() -> None:
        with slot("a"):
            thread_holds.set()
            happens(task_holds)
            sync_second()

    async def program() -> None:
        async with slot("a"):
            await asyncio.to_thread(thread_holds.wait)
            task_holds.set()
            await nest()

    thread = threading.Thread(target=in_thread, daemon=True)
    thread.start()
    start(loop, program)()
    thread.join(PATIENCE)
    assert reasons(listener).count(REENTRANT) == 1
    assert len(reasons(listener)) == 4
    check_full_capacity(desk)


def test_each_level_of_a_deep_nest_shares(desk: Desk, loop: Loop) -> None:
    listener = desk.record()

    async def deeper() -> None:
        async with slot("a"):
            await by_to_thread()

    async def program() -> None:
        async with slot("a"):
            await asyncio.wait_for(deeper(), PATIENCE)

    start(loop, program)()
    assert reasons(listener) == [FREE, REENTRANT, REENTRANT]
    check_full_capacity(desk)


def test_nested_slot_that_times_out_is_given_up(desk: Desk, loop: Loop) -> None:
    loco_otel.configure(capacity=2)
    unrelated = Threads().call(partial(slot, "unrelated")).inside()

    async def program() -> None:
        async with slot("a"):
            with pytest.raises(AcquireTimeoutError):
                async with slot("a", timeout=5):
                    pytest.fail("nothing is free")

    finish = start(loop, program)
    desk.waiters(1)
    desk.advance(5)
    finish()
    assert desk.counts == (1, 0)
    unrelated.leave()
    check_full_capacity(desk)


def test_shared_slot_outlives_its_lender(desk: Desk, loop: Loop) -> None:
    outer_left, inside, leave = threading.Event(), asyncio.Event(), asyncio.Event()

    async def child() -> None:
        async with slot("a"):
            inside.set()
            await leave.wait()

    async def program() -> None:
        async with slot("a"):
            inner = asyncio.create_task(child())
            await inside.wait()
            assert desk.counts == (2, 0)
        outer_left.set()
        await inner

    finish = start(loop, program)
    happens(outer_left)
    waiter = Threads().call(partial(slot, "b"))
    desk.waiters(1)
    assert desk.counts == (1, 1)
    assert not waiter.is_inside
    loop.say(leave.set)
    finish()
    assert waiter.leave() is None
    check_full_capacity(desk)


# -- a sync wait that blocks the loop, and with it every task of the loop ----------------------------------------------


def block(loop: Loop) -> threading.Event:
    """Wait for a slot in the loop's thread, outside of any holder's context; return a future of its grant."""
    done = threading.Event()

    def wait() -> None:
        with slot("blocking"):
            pass
        done.set()

    loop.loop.call_soon_threadsafe(wait, context=Context())
    return done


def test_blocked_loop_whose_tasks_hold_all_slots_shares_one(desk: Desk, loop: Loop) -> None:
    loco_otel.configure(capacity=2)
    listener = desk.record()
    holders = [loop.call(partial(slot, "a")).inside() for _ in range(2)]
    happens(block(loop))
    assert reasons(listener) == [FREE, FREE, REENTRANT]
    for holder in holders:
        assert holder.leave() is None
    check_full_capacity(desk)


def test_blocked_loop_waits_while_another_holder_can_end(desk: Desk, loop: Loop) -> None:
    loco_otel.configure(capacity=2)
    listener = desk.record()
    on_the_loop = loop.call(partial(slot, "a")).inside()
    elsewhere = Threads().call(partial(slot, "a")).inside()
    done = block(loop)
    desk.waiters(1)
    assert desk.counts == (2, 1)
    assert reasons(listener) == [FREE, FREE]
    elsewhere.leave()
    happens(done)
    assert reasons(listener) == [FREE, FREE, SCORE]
    on_the_loop.leave()
    check_full_capacity(desk)


def test_slot_granted_in_a_blocked_loop_is_shared_with_it(desk: Desk, loop: Loop) -> None:
    listener = desk.record()
    elsewhere = Threads().call(partial(slot, "a")).inside()
    stuck = loop.call(partial(slot, "blocking"))
    desk.waiters(1)
    done = block(loop)
    desk.waiters(2)
    elsewhere.leave()
    happens(done)
    assert [(event.ticket.request.agent, event.reason) for event in listener.of(Granted)] == [
        ("a", FREE),
        ("blocking", SCORE),
        ("blocking", REENTRANT),
    ]
    assert stuck.leave() is None
    check_full_capacity(desk)
