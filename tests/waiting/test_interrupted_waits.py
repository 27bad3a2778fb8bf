"""A waiter that is interrupted before its grant, at it or after it leaves nothing, in every way of waiting."""

import asyncio
import threading
from functools import partial

import pytest
from callers import Desk, Loop, Threads, Way, happens
from queued_callers import hold_slot, queue_callers

from loco_otel import (
    slot,
)
from loco_otel._core.ticket import State
from loco_otel._waiting import aio, threads
from loco_otel.events import Request


def test_waiter_interrupted_before_it_parks_leaves_no_trace(desk: Desk, way: Way) -> None:
    holder = hold_slot(way)
    error = way.interruption()
    stop = desk.stop_next(parked=False)
    caller = way.call(partial(slot, "a"))
    with stop:
        assert desk.counts == (1, 1)
        stop.interrupt(error)
    assert caller.end() is error
    assert desk.counts == (1, 0)
    holder.leave()
    assert desk.is_empty()


def test_waiter_interrupted_in_its_wait_frees_its_place(desk: Desk, way: Way) -> None:
    holder = hold_slot(way)
    error = way.interruption()
    stop = desk.stop_next()
    first = way.call(partial(slot, "a"))
    with stop:
        stop.interrupt(error)
    assert first.end() is error
    (second,) = queue_callers(desk, way, "a")
    holder.leave()
    assert second.leave() is None
    assert not first.is_inside
    assert desk.is_empty()


def test_waiter_interrupted_at_its_grant_passes_the_slot_on(desk: Desk, way: Way) -> None:
    # The lost grant: the slot is its own already when it learns that it shall not have it.
    in_threads = Threads()
    holder = hold_slot(in_threads)
    error = way.interruption()
    stop = desk.stop_next()
    first = way.call(partial(slot, "a"))
    with stop:
        (second,) = queue_callers(desk, in_threads, "a")
        holder.leave()
        assert desk.counts == (1, 1)
        assert not second.is_inside
        stop.interrupt(error)
    assert first.end() is error
    assert not first.is_inside
    assert second.leave() is None
    assert desk.is_empty()


def test_holder_interrupted_in_its_body_passes_the_slot_on(desk: Desk, way: Way) -> None:
    holder = hold_slot(way)
    (waiter,) = queue_callers(desk, way, "a")
    error = way.interruption()
    assert holder.leave(error) is error
    assert waiter.leave() is None
    assert desk.is_empty()


def test_rejected_waiter_raises_its_interruption(desk: Desk, way: Way) -> None:
    holder = hold_slot(way)
    error = way.interruption()
    stop = desk.stop_next()
    caller = way.call(partial(slot, "a", timeout=5))
    with stop:
        desk.advance(5)
        stop.interrupt(error)
    assert caller.end() is error
    holder.leave()
    assert desk.is_empty()


@pytest.mark.parametrize("granted", [False, True], ids=["waiting", "granted"])
def test_interrupted_shell_has_cancelled_the_ticket(desk: Desk, granted: bool) -> None:
    holder, ticket = (desk.engine.create_ticket(Request(agent)) for agent in ("holder", "a"))
    desk.engine.submit(holder)
    desk.engine.submit(ticket)
    stop = desk.stop_next()
    stop.interrupt(KeyboardInterrupt())

    def wait() -> None:
        with pytest.raises(KeyboardInterrupt):
            threads.wait_until_decided(desk.engine, ticket)

    thread = threading.Thread(target=wait)
    thread.start()
    with stop:
        if granted:
            desk.engine.release(holder)
            assert ticket.state is State.GRANTED
    thread.join()
    assert ticket.state is (State.RELEASED if granted else State.REJECTED)
    assert ticket.wake is None
    desk.engine.release(holder)
    assert desk.is_empty()


@pytest.mark.parametrize("granted", [False, True], ids=["waiting", "granted"])
def test_cancelled_async_shell_has_cancelled_the_ticket(desk: Desk, loop: Loop, granted: bool) -> None:
    holder, ticket = (desk.engine.create_ticket(Request(agent)) for agent in ("holder", "a"))
    desk.engine.submit(holder)
    desk.engine.submit(ticket)
    tasks: list[asyncio.Task[None]] = []
    ended = threading.Event()

    async def wait() -> None:
        try:
            await aio.wait_until_decided(desk.engine, ticket)
        finally:
            ended.set()

    loop.say(lambda: tasks.append(loop.loop.create_task(wait())))
    desk.waiters(1)
    with loop.frozen():
        if granted:
            desk.engine.release(holder)
            assert ticket.state is State.GRANTED
        loop.say(lambda: tasks[0].cancel())  # noqa: PLW0108 - an eager task parks before it is known here
    happens(ended)
    assert ticket.state is (State.RELEASED if granted else State.REJECTED)
    assert ticket.wake is None
    desk.engine.release(holder)
    assert desk.is_empty()
