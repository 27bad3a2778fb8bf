"""What a slot does however its body ends, and as an object that is used again, in every way of waiting."""

import asyncio
from functools import partial

import pytest
from callers import Desk, Way
from queued_callers import hold_slot, queue_callers

import loco_otel
from loco_otel import (
    AcquireTimeoutError,
    BackpressureError,
    slot,
)
from loco_otel.events import Granted, GrantReason

# -- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [RuntimeError("broken"), asyncio.CancelledError(), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_failing_body_passes_the_slot_on(desk: Desk, way: Way, error: BaseException) -> None:
    holder = hold_slot(way)
    first, second = queue_callers(desk, way, "a", "a")
    assert holder.leave(error) is error
    assert first.leave(error) is error
    assert second.leave() is None
    assert desk.is_empty()
    assert desk.standing.tick == 3


def test_closed_generator_body_passes_the_slot_on(desk: Desk, way: Way) -> None:
    # Perhaps by the garbage collector, so it is done by the next operation, or by the timer.
    holder = hold_slot(way)
    (waiter,) = queue_callers(desk, way, "a")
    error = GeneratorExit()
    assert holder.leave(error) is error
    desk.advance()
    assert waiter.leave() is None
    assert desk.is_empty()


def test_dropped_slot_is_reclaimed(desk: Desk, way: Way) -> None:
    way.drop(partial(slot, "careless"))
    assert desk.is_empty()
    way.drop(partial(slot, "careless"))
    waiter = way.call(partial(slot, "a")).inside()
    assert desk.counts == (1, 0)
    waiter.leave()


def test_failures_leave_nothing_behind(desk: Desk, way: Way) -> None:
    loco_otel.configure(max_waiters=1)
    holder = hold_slot(way)
    (waiter,) = queue_callers(desk, way, "flaky", timeout=5)
    assert isinstance(way.call(partial(slot, "flaky")).end(), BackpressureError)
    assert isinstance(way.call(partial(slot, "flaky", timeout=0)).end(), AcquireTimeoutError)
    desk.advance(5)
    assert isinstance(waiter.end(), AcquireTimeoutError)
    assert [standing.agent for standing in desk.standing.agents] == ["holder"]
    assert isinstance(holder.leave(RuntimeError()), RuntimeError)
    assert desk.is_empty()


# -- slots as objects -------------------------------------------------------------------------------------------------


def test_slot_can_be_used_again(desk: Desk, way: Way) -> None:
    again = slot("a", weight=2.5)
    for _ in range(3):
        caller = way.call(lambda: again).inside()
        assert desk.counts == (1, 0)
        assert caller.leave() is None
    assert desk.standing.tick == 3
    assert (again.agent, again.weight, again.waited_ticks) == ("a", 2.5, 0)
    assert desk.is_empty()


def test_slot_can_be_used_again_after_a_rejection(desk: Desk, way: Way) -> None:
    holder = hold_slot(way)
    again = slot("a", timeout=0)
    assert isinstance(way.call(lambda: again).end(), AcquireTimeoutError)
    holder.leave()
    assert way.call(lambda: again).leave() is None
    assert desk.is_empty()


def test_held_slot_cannot_be_entered_twice(desk: Desk, way: Way) -> None:
    held = slot("a")
    holder = way.call(lambda: held).inside()
    error = way.call(lambda: held).end()
    assert isinstance(error, RuntimeError)
    assert str(error) == "this slot is held already; make one for each body that runs at the same time"
    assert desk.counts == (1, 0)
    assert holder.leave() is None
    nested = way.call(lambda: held, lambda: held)
    assert isinstance(nested.end(), RuntimeError)
    assert desk.is_empty()


def test_slot_counts_the_ticks_it_waited(desk: Desk, way: Way) -> None:
    holder = hold_slot(way)
    first = slot("a")
    callers = [way.call(lambda: first)]
    desk.waiters(1)
    second = slot("a")
    callers.append(way.call(lambda: second))
    desk.waiters(2)
    holder.leave()
    callers[0].inside()
    assert first.waited_ticks == 1
    callers[0].leave()
    callers[1].inside()
    assert (first.waited_ticks, second.waited_ticks) == (0, 2)
    callers[1].leave()


def test_heartbeat_keeps_a_slot(desk: Desk, way: Way) -> None:
    loco_otel.configure(max_hold=10)
    slow, lost = slot("slow"), slot("lost")
    holder = way.call(lambda: slow).inside()
    desk.advance(9)
    slow.touch()
    desk.advance(9)
    assert desk.counts == (1, 0)
    assert holder.leave() is None

    holder = way.call(lambda: lost).inside()
    (waiter,) = queue_callers(desk, way, "a")
    desk.advance(10)
    waiter.inside()
    assert holder.leave() is None
    assert desk.counts == (1, 0)
    assert waiter.leave() is None
    assert desk.is_empty()


def test_nested_slot_shares_the_only_one(desk: Desk, way: Way) -> None:
    listener = desk.record()
    caller = way.call(partial(slot, "a"), partial(slot, "a")).inside()
    assert desk.counts == (2, 0)
    assert [event.reason for event in listener.of(Granted)] == [GrantReason.FREE, GrantReason.REENTRANT]
    (waiter,) = queue_callers(desk, way, "b")
    assert caller.leave() is None
    assert waiter.leave() is None
    assert desk.is_empty()
