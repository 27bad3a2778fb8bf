"""A task that is cancelled while it waits, against the wake that is under way."""

import asyncio
import gc
import threading

import pytest
from callers import Desk, Loop, Threads
from queued_callers import hold_slot, queue_callers

from loco_otel import (
    slot,
)
from loco_otel.events import Outcome, Rejected, Request


def test_cancelled_task_leaves_the_queue(desk: Desk, loop: Loop) -> None:
    holder = hold_slot(loop)
    first, second = queue_callers(desk, loop, "a", "a")
    loop.cancel(first)
    assert isinstance(first.end(), asyncio.CancelledError)
    assert desk.counts == (1, 1)
    holder.leave()
    assert second.leave() is None
    assert desk.is_empty()


@pytest.mark.parametrize("first_comes", ["grant", "cancellation"])
def test_task_cancelled_at_its_grant_passes_the_slot_on(desk: Desk, loop: Loop, first_comes: str) -> None:
    holder = hold_slot(Threads())
    first, second = queue_callers(desk, loop, "a", "a")
    with loop.frozen():
        # The loop learns of both in one go, in this order; the scheduler has granted either way.
        if first_comes == "cancellation":
            loop.cancel(first)
        holder.leave()
        assert desk.counts == (1, 1)
        if first_comes == "grant":
            loop.cancel(first)
    assert isinstance(first.end(), asyncio.CancelledError)
    assert not first.is_inside
    assert second.leave() is None
    assert desk.is_empty()


def test_waiters_all_cancelled_at_the_grant_free_the_slot(desk: Desk, loop: Loop) -> None:
    holder = hold_slot(Threads())
    callers = queue_callers(desk, loop, "a", "b", "a", "c")
    with loop.frozen():
        holder.leave()
        for caller in callers:
            loop.cancel(caller)
    assert all(isinstance(caller.end(), asyncio.CancelledError) for caller in callers)
    assert not any(caller.is_inside for caller in callers)
    assert desk.is_empty()


def test_task_cancelled_at_its_deadline_is_cancelled(desk: Desk, loop: Loop) -> None:
    holder = hold_slot(loop)
    (caller,) = queue_callers(desk, loop, "a", timeout=5)
    with loop.frozen():
        desk.advance(5)
        loop.cancel(caller)
    assert isinstance(caller.end(), asyncio.CancelledError)
    holder.leave()
    assert desk.is_empty()


def test_task_cancelled_in_its_body_frees_its_slot(desk: Desk, loop: Loop) -> None:
    holder = hold_slot(loop)
    (waiter,) = queue_callers(desk, loop, "a")
    loop.cancel(holder)
    assert isinstance(holder.end(), asyncio.CancelledError)
    assert waiter.leave() is None
    assert desk.is_empty()


def test_collected_waiter_calls_no_listener_in_its_finaliser(desk: Desk, loop: Loop) -> None:
    # A finaliser runs in the midst of anything, so it may not lock, wake or deliver: another thread does.
    holder = hold_slot(loop)
    listener = desk.record()
    threads: list[int] = []
    desk.engine.add_listener(lambda event: threads.append(threading.get_ident()) if type(event) is Rejected else None)

    async def drop() -> int:
        entering = slot("a").__aenter__()
        entering.send(None)
        del entering
        gc.collect()
        return threading.get_ident()

    of_finaliser = asyncio.run_coroutine_threadsafe(drop(), loop.loop).result()
    desk.advance()
    (rejected,) = listener.of(Rejected)
    assert rejected.outcome is Outcome.CANCELLED
    assert len(threads) == 1
    assert of_finaliser not in threads
    assert desk.counts == (1, 0)
    holder.leave()


@pytest.mark.parametrize("where", ["another thread", "the same thread"])
def test_slot_of_a_task_of_a_closed_loop_passes_on(desk: Desk, where: str) -> None:
    holder = desk.engine.create_ticket(Request("holder"))
    desk.engine.submit(holder)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it gets the task that will never run

    async def enter() -> None:
        async with slot("a"):
            pytest.fail("this loop is closed")

    async def look() -> None:
        desk.waiters(1)

    task = loop.create_task(enter())
    loop.run_until_complete(look())
    loop.close()
    (waiter,) = queue_callers(desk, Threads(), "a")
    if where == "the same thread":
        desk.engine.release(holder)
    else:
        releasing = threading.Thread(target=desk.engine.release, args=(holder,))
        releasing.start()
        releasing.join()
    desk.advance()
    assert waiter.leave() is None
    assert desk.is_empty()
    assert not task.done()
