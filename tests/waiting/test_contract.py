"""What every way of waiting owes its callers, each behaviour written once: see `conftest.py` for the ways.

The test moves the clock and no timer runs, so each order of events is the one that the test brings about: a waiter is
stopped before it parks or after, is granted or rejected meanwhile, and then resumes or is interrupted.
"""

import pickle
from functools import partial

import pytest
from callers import Desk, Loop, Threads, Way
from queued_callers import hold_slot, queue_callers

import loco_otel
from loco_otel import (
    AcquireTimeoutError,
    BackpressureError,
    ShutdownError,
    as_agent,
    slot,
)
from loco_otel._waiting.slot import Slot
from loco_otel.events import Granted, GrantReason, Limited, Released, Submitted, Waiting

# -- the plain way ----------------------------------------------------------------------------------------------------


def test_free_slot_is_granted_at_once(desk: Desk, way: Way) -> None:
    caller = hold_slot(way)
    assert desk.counts == (1, 0)
    assert caller.leave() is None
    assert desk.is_empty()


def test_waiter_gets_the_slot_at_its_release(desk: Desk, way: Way) -> None:
    holder = hold_slot(way)
    (waiter,) = queue_callers(desk, way, "waiter")
    assert not waiter.is_inside
    assert holder.leave() is None
    waiter.inside()
    assert desk.counts == (1, 0)
    assert waiter.leave() is None
    assert desk.is_empty()


def test_waiters_of_an_agent_are_first_come_first_served(desk: Desk, way: Way) -> None:
    inside = hold_slot(way)
    callers = queue_callers(desk, way, "a", "a", "a", "a")
    for position, caller in enumerate(callers, start=1):
        assert inside.leave() is None
        inside = caller.inside()
        assert desk.counts == (1, len(callers) - position)
        assert not any(later.is_inside for later in callers[position:])
    assert inside.leave() is None


def test_waiters_under_fifo_are_first_come_first_served(desk: Desk, way: Way) -> None:
    loco_otel.configure(policy="fifo")
    inside = hold_slot(way)
    for caller in queue_callers(desk, way, "a", "b", "a", "c"):
        assert inside.leave() is None
        inside = caller.inside()
        assert desk.counts[0] == 1
    assert inside.leave() is None


def test_ways_of_waiting_share_one_queue(desk: Desk, loop: Loop) -> None:
    in_threads = Threads()
    inside = hold_slot(loop)
    (first,) = queue_callers(desk, in_threads, "a")
    (second,) = queue_callers(desk, loop, "a")
    (third,) = queue_callers(desk, in_threads, "a")
    for caller in (first, second, third):
        assert inside.leave() is None
        inside = caller.inside()
        assert desk.counts[0] == 1
    assert inside.leave() is None


def test_listeners_receive_every_event_of_a_call(desk: Desk, way: Way) -> None:
    listener = desk.record()
    holder = hold_slot(way)
    (waiter,) = queue_callers(desk, way, "waiter")
    holder.leave()
    waiter.leave()
    first, *rest = listener.events
    assert first == Limited(first.at, "llm_api", 1, 1)
    told = [(type(event), event.ticket.request.agent) for event in rest]  # type: ignore[union-attr]
    assert told == [
        (Submitted, "holder"),
        (Granted, "holder"),
        (Submitted, "waiter"),
        (Waiting, "waiter"),
        (Released, "holder"),
        (Granted, "waiter"),
        (Released, "waiter"),
    ]
    assert [event.reason for event in listener.of(Granted)] == [GrantReason.FREE, GrantReason.SCORE]


# -- time -------------------------------------------------------------------------------------------------------------


def test_timeout_error_names_agent_and_resource(desk: Desk, way: Way) -> None:
    holder = hold_slot(way)
    (caller,) = queue_callers(desk, way, "a", timeout=5)
    desk.advance(4.9)
    assert desk.counts == (1, 1)
    desk.advance(0.1)
    error = caller.end()
    assert isinstance(error, AcquireTimeoutError)
    assert isinstance(error, TimeoutError)
    assert (error.agent, error.resource, error.waited) == ("a", "llm_api", 5.0)
    assert pickle.loads(pickle.dumps(error)).waited == 5.0
    assert str(error) == "'a' timed out after 5 s waiting for a slot of 'llm_api' (LOCO_ACQUIRE_TIMEOUT or `timeout`)"
    assert desk.counts == (1, 0)
    holder.leave()
    assert desk.is_empty()


def test_waiter_timed_out_before_the_grant_does_not_get_it(desk: Desk, way: Way) -> None:
    in_threads = Threads()
    holder = hold_slot(in_threads)
    stop = desk.stop_next()
    first = way.call(partial(slot, "a", timeout=5))
    with stop:
        (second,) = queue_callers(desk, in_threads, "a")
        desk.advance(5)
        holder.leave()
        second.inside()
    assert isinstance(first.end(), AcquireTimeoutError)
    assert desk.counts == (1, 0)
    second.leave()
    assert desk.is_empty()


def test_waiter_granted_before_its_deadline_has_its_slot(desk: Desk, way: Way) -> None:
    in_threads = Threads()
    holder = hold_slot(in_threads)
    stop = desk.stop_next()
    first = way.call(partial(slot, "a", timeout=5))
    with stop:
        (second,) = queue_callers(desk, in_threads, "a")
        holder.leave()
        desk.advance(5)
        assert not second.is_inside
    assert first.leave() is None
    assert second.leave() is None
    assert desk.is_empty()


def test_body_is_never_timed_out(desk: Desk, way: Way) -> None:
    holder = hold_slot(way)
    (caller,) = queue_callers(desk, way, "a", timeout=5)
    holder.leave()
    caller.inside()
    desk.advance(60)
    assert desk.counts == (1, 0)
    assert caller.leave() is None


def test_timeout_of_zero_takes_only_a_free_slot(desk: Desk, way: Way) -> None:
    holder = way.call(partial(slot, "a", timeout=0)).inside()
    error = way.call(partial(slot, "a", timeout=0)).end()
    assert isinstance(error, AcquireTimeoutError)
    assert desk.counts == (1, 0)
    assert holder.leave() is None
    assert desk.is_empty()


def test_configured_timeout_applies_by_default(desk: Desk, way: Way) -> None:
    loco_otel.configure(acquire_timeout=3)
    holder = hold_slot(way)
    (impatient,) = queue_callers(desk, way, "a")
    (patient,) = queue_callers(desk, way, "b", timeout=10)
    desk.advance(3)
    assert isinstance(impatient.end(), AcquireTimeoutError)
    assert desk.counts == (1, 1)
    holder.leave()
    assert patient.leave() is None


# -- limits and the end -----------------------------------------------------------------------------------------------


def test_waiter_above_the_limit_is_rejected(desk: Desk, way: Way) -> None:
    loco_otel.configure(max_waiters=2)
    holder = hold_slot(way)
    waiters = queue_callers(desk, way, "a", "a")
    error = way.call(partial(slot, "b")).end()
    assert isinstance(error, BackpressureError)
    assert (error.agent, error.resource, error.waited) == ("b", "llm_api", 0.0)
    assert str(error) == "Too many waiters for 'llm_api': 'b' was rejected (LOCO_MAX_WAITERS)"
    assert desk.counts == (1, 2)
    holder.leave()
    assert [waiter.leave() for waiter in waiters] == [None, None]
    assert desk.is_empty()


def test_shutdown_wakes_all_waiters_and_runs_no_body(desk: Desk, way: Way) -> None:
    holder = hold_slot(way)
    waiters = queue_callers(desk, way, "a", "a", "b", "c")
    desk.engine.close()
    assert all(isinstance(waiter.end(), ShutdownError) for waiter in waiters)
    assert not any(waiter.is_inside for waiter in waiters)
    assert isinstance(way.call(partial(slot, "late")).end(), ShutdownError)
    assert desk.counts == (1, 0)
    assert holder.leave() is None
    assert desk.is_empty()


def test_raised_capacity_grants_to_as_many_as_fit(desk: Desk, way: Way) -> None:
    holder = hold_slot(way)
    waiters = queue_callers(desk, way, "a", "a", "a", "a")
    loco_otel.configure(capacity=4)
    inside = [waiter.inside() for waiter in waiters[:3]]
    assert desk.counts == (4, 1)
    assert not waiters[3].is_inside
    assert [caller.leave() for caller in (holder, *inside, waiters[3])] == [None] * 5
    assert desk.is_empty()


def test_lowered_capacity_revokes_nothing(desk: Desk, way: Way) -> None:
    loco_otel.configure(capacity=2)
    first, second = hold_slot(way), hold_slot(way)
    loco_otel.configure(capacity=1)
    (waiter,) = queue_callers(desk, way, "a")
    first.leave()
    assert desk.counts == (1, 1)
    second.leave()
    assert waiter.leave() is None
    assert desk.is_empty()


@pytest.mark.parametrize("desk", ["memory"], indirect=True)  # a shared engine has a capacity
def test_unlimited_capacity_blocks_no_caller(desk: Desk, way: Way) -> None:
    loco_otel.configure(capacity="auto")
    callers = [hold_slot(way) for _ in range(20)]
    assert desk.counts == (20, 0)
    assert all(caller.leave() is None for caller in callers)


# -- identity ---------------------------------------------------------------------------------------------------------


def test_caller_queues_under_the_name_of_its_context(desk: Desk, way: Way) -> None:
    def explicit() -> Slot:
        with as_agent("outer", tenant="acme"), as_agent("explicit"):
            return slot()

    def named() -> Slot:
        with as_agent("outer"):
            return slot("named")

    loco_otel.configure(capacity=3, agent_id="configured")
    callers = [way.call(make).inside() for make in (explicit, named, slot)]
    assert {standing.agent: standing.tenant for standing in desk.standing.agents} == {
        "configured": None,
        "explicit": "acme",
        "named": None,
    }
    for caller in callers:
        assert caller.leave() is None
