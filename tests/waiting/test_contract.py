"""What every way of waiting owes its callers, each behaviour written once: see `conftest.py` for the ways.

The test moves the clock and no timer runs, so each order of events is the one that the test brings about: a waiter is
stopped before it parks or after, is granted or rejected meanwhile, and then resumes or is interrupted.
"""

import asyncio
import gc
import pickle
import threading
from functools import partial

import pytest
from callers import Caller, Desk, Loop, Threads, Way, happens

import loco_otel
from loco_otel import (
    AcquireTimeoutError,
    BackpressureError,
    ShutdownError,
    as_agent,
    slot,
)
from loco_otel._core.ticket import State
from loco_otel._waiting import aio, threads
from loco_otel._waiting.slot import Slot
from loco_otel.events import Granted, GrantReason, Limited, Outcome, Rejected, Released, Request, Submitted, Waiting


def queue(desk: Desk, way: Way, *agents: str, timeout: float | None = None) -> list[Caller]:
    """Let callers come one after the other, each when the one before it waits."""
    waiting = desk.counts[1]
    callers = []
    for agent in agents:
        callers.append(way.call(partial(slot, agent, timeout=timeout)))
        waiting += 1
        desk.waiters(waiting)
    return callers


def hold(way: Way, agent: str = "holder") -> Caller:
    return way.call(partial(slot, agent)).inside()


# -- the plain way ---------------------------------------------------------------------------------------------------


def test_free_slot_is_granted_at_once(desk: Desk, way: Way) -> None:
    caller = hold(way)
    assert desk.counts == (1, 0)
    assert caller.leave() is None
    assert desk.is_empty()


def test_waiter_gets_the_slot_at_its_release(desk: Desk, way: Way) -> None:
    holder = hold(way)
    (waiter,) = queue(desk, way, "waiter")
    assert not waiter.is_inside
    assert holder.leave() is None
    waiter.inside()
    assert desk.counts == (1, 0)
    assert waiter.leave() is None
    assert desk.is_empty()


def test_waiters_of_an_agent_are_first_come_first_served(desk: Desk, way: Way) -> None:
    inside = hold(way)
    callers = queue(desk, way, "a", "a", "a", "a")
    for position, caller in enumerate(callers, start=1):
        assert inside.leave() is None
        inside = caller.inside()
        assert desk.counts == (1, len(callers) - position)
        assert not any(later.is_inside for later in callers[position:])
    assert inside.leave() is None


def test_waiters_under_fifo_are_first_come_first_served(desk: Desk, way: Way) -> None:
    loco_otel.configure(policy="fifo")
    inside = hold(way)
    for caller in queue(desk, way, "a", "b", "a", "c"):
        assert inside.leave() is None
        inside = caller.inside()
        assert desk.counts[0] == 1
    assert inside.leave() is None


def test_ways_of_waiting_share_one_queue(desk: Desk, loop: Loop) -> None:
    in_threads = Threads()
    inside = hold(loop)
    (first,) = queue(desk, in_threads, "a")
    (second,) = queue(desk, loop, "a")
    (third,) = queue(desk, in_threads, "a")
    for caller in (first, second, third):
        assert inside.leave() is None
        inside = caller.inside()
        assert desk.counts[0] == 1
    assert inside.leave() is None


def test_listeners_receive_every_event_of_a_call(desk: Desk, way: Way) -> None:
    listener = desk.record()
    holder = hold(way)
    (waiter,) = queue(desk, way, "waiter")
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


# -- interrupted: before the grant, at it, after it ------------------------------------------------------------------


def test_waiter_interrupted_before_it_parks_leaves_no_trace(desk: Desk, way: Way) -> None:
    holder = hold(way)
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
    holder = hold(way)
    error = way.interruption()
    stop = desk.stop_next()
    first = way.call(partial(slot, "a"))
    with stop:
        stop.interrupt(error)
    assert first.end() is error
    (second,) = queue(desk, way, "a")
    holder.leave()
    assert second.leave() is None
    assert not first.is_inside
    assert desk.is_empty()


def test_waiter_interrupted_at_its_grant_passes_the_slot_on(desk: Desk, way: Way) -> None:
    # The lost grant: the slot is its own already when it learns that it shall not have it.
    in_threads = Threads()
    holder = hold(in_threads)
    error = way.interruption()
    stop = desk.stop_next()
    first = way.call(partial(slot, "a"))
    with stop:
        (second,) = queue(desk, in_threads, "a")
        holder.leave()
        assert desk.counts == (1, 1)
        assert not second.is_inside
        stop.interrupt(error)
    assert first.end() is error
    assert not first.is_inside
    assert second.leave() is None
    assert desk.is_empty()


def test_holder_interrupted_in_its_body_passes_the_slot_on(desk: Desk, way: Way) -> None:
    holder = hold(way)
    (waiter,) = queue(desk, way, "a")
    error = way.interruption()
    assert holder.leave(error) is error
    assert waiter.leave() is None
    assert desk.is_empty()


def test_rejected_waiter_raises_its_interruption(desk: Desk, way: Way) -> None:
    holder = hold(way)
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


# -- asyncio's own cancellation, against the wake that is under way ---------------------------------------------------


def test_cancelled_task_leaves_the_queue(desk: Desk, loop: Loop) -> None:
    holder = hold(loop)
    first, second = queue(desk, loop, "a", "a")
    loop.cancel(first)
    assert isinstance(first.end(), asyncio.CancelledError)
    assert desk.counts == (1, 1)
    holder.leave()
    assert second.leave() is None
    assert desk.is_empty()


@pytest.mark.parametrize("first_comes", ["grant", "cancellation"])
def test_task_cancelled_at_its_grant_passes_the_slot_on(desk: Desk, loop: Loop, first_comes: str) -> None:
    holder = hold(Threads())
    first, second = queue(desk, loop, "a", "a")
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
    holder = hold(Threads())
    callers = queue(desk, loop, "a", "b", "a", "c")
    with loop.frozen():
        holder.leave()
        for caller in callers:
            loop.cancel(caller)
    assert all(isinstance(caller.end(), asyncio.CancelledError) for caller in callers)
    assert not any(caller.is_inside for caller in callers)
    assert desk.is_empty()


def test_task_cancelled_at_its_deadline_is_cancelled(desk: Desk, loop: Loop) -> None:
    holder = hold(loop)
    (caller,) = queue(desk, loop, "a", timeout=5)
    with loop.frozen():
        desk.advance(5)
        loop.cancel(caller)
    assert isinstance(caller.end(), asyncio.CancelledError)
    holder.leave()
    assert desk.is_empty()


def test_task_cancelled_in_its_body_frees_its_slot(desk: Desk, loop: Loop) -> None:
    holder = hold(loop)
    (waiter,) = queue(desk, loop, "a")
    loop.cancel(holder)
    assert isinstance(holder.end(), asyncio.CancelledError)
    assert waiter.leave() is None
    assert desk.is_empty()


def test_collected_waiter_calls_no_listener_in_its_finaliser(desk: Desk, loop: Loop) -> None:
    # A finaliser runs in the midst of anything, so it may not lock, wake or deliver: another thread does.
    holder = hold(loop)
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
    (waiter,) = queue(desk, Threads(), "a")
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


# -- time ------------------------------------------------------------------------------------------------------------


def test_timeout_error_names_agent_and_resource(desk: Desk, way: Way) -> None:
    holder = hold(way)
    (caller,) = queue(desk, way, "a", timeout=5)
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
    holder = hold(in_threads)
    stop = desk.stop_next()
    first = way.call(partial(slot, "a", timeout=5))
    with stop:
        (second,) = queue(desk, in_threads, "a")
        desk.advance(5)
        holder.leave()
        second.inside()
    assert isinstance(first.end(), AcquireTimeoutError)
    assert desk.counts == (1, 0)
    second.leave()
    assert desk.is_empty()


def test_waiter_granted_before_its_deadline_has_its_slot(desk: Desk, way: Way) -> None:
    in_threads = Threads()
    holder = hold(in_threads)
    stop = desk.stop_next()
    first = way.call(partial(slot, "a", timeout=5))
    with stop:
        (second,) = queue(desk, in_threads, "a")
        holder.leave()
        desk.advance(5)
        assert not second.is_inside
    assert first.leave() is None
    assert second.leave() is None
    assert desk.is_empty()


def test_body_is_never_timed_out(desk: Desk, way: Way) -> None:
    holder = hold(way)
    (caller,) = queue(desk, way, "a", timeout=5)
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
    holder = hold(way)
    (impatient,) = queue(desk, way, "a")
    (patient,) = queue(desk, way, "b", timeout=10)
    desk.advance(3)
    assert isinstance(impatient.end(), AcquireTimeoutError)
    assert desk.counts == (1, 1)
    holder.leave()
    assert patient.leave() is None


# -- limits and the end ----------------------------------------------------------------------------------------------


def test_waiter_above_the_limit_is_rejected(desk: Desk, way: Way) -> None:
    loco_otel.configure(max_waiters=2)
    holder = hold(way)
    waiters = queue(desk, way, "a", "a")
    error = way.call(partial(slot, "b")).end()
    assert isinstance(error, BackpressureError)
    assert (error.agent, error.resource, error.waited) == ("b", "llm_api", 0.0)
    assert str(error) == "Too many waiters for 'llm_api': 'b' was rejected (LOCO_MAX_WAITERS)"
    assert desk.counts == (1, 2)
    holder.leave()
    assert [waiter.leave() for waiter in waiters] == [None, None]
    assert desk.is_empty()


def test_shutdown_wakes_all_waiters_and_runs_no_body(desk: Desk, way: Way) -> None:
    holder = hold(way)
    waiters = queue(desk, way, "a", "a", "b", "c")
    desk.engine.close()
    assert all(isinstance(waiter.end(), ShutdownError) for waiter in waiters)
    assert not any(waiter.is_inside for waiter in waiters)
    assert isinstance(way.call(partial(slot, "late")).end(), ShutdownError)
    assert desk.counts == (1, 0)
    assert holder.leave() is None
    assert desk.is_empty()


def test_raised_capacity_grants_to_as_many_as_fit(desk: Desk, way: Way) -> None:
    holder = hold(way)
    waiters = queue(desk, way, "a", "a", "a", "a")
    loco_otel.configure(capacity=4)
    inside = [waiter.inside() for waiter in waiters[:3]]
    assert desk.counts == (4, 1)
    assert not waiters[3].is_inside
    assert [caller.leave() for caller in (holder, *inside, waiters[3])] == [None] * 5
    assert desk.is_empty()


def test_lowered_capacity_revokes_nothing(desk: Desk, way: Way) -> None:
    loco_otel.configure(capacity=2)
    first, second = hold(way), hold(way)
    loco_otel.configure(capacity=1)
    (waiter,) = queue(desk, way, "a")
    first.leave()
    assert desk.counts == (1, 1)
    second.leave()
    assert waiter.leave() is None
    assert desk.is_empty()


@pytest.mark.parametrize("desk", ["memory"], indirect=True)  # a shared engine has a capacity
def test_unlimited_capacity_blocks_no_caller(desk: Desk, way: Way) -> None:
    loco_otel.configure(capacity="auto")
    callers = [hold(way) for _ in range(20)]
    assert desk.counts == (20, 0)
    assert all(caller.leave() is None for caller in callers)


# -- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [RuntimeError("broken"), asyncio.CancelledError(), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_failing_body_passes_the_slot_on(desk: Desk, way: Way, error: BaseException) -> None:
    holder = hold(way)
    first, second = queue(desk, way, "a", "a")
    assert holder.leave(error) is error
    assert first.leave(error) is error
    assert second.leave() is None
    assert desk.is_empty()
    assert desk.standing.tick == 3


def test_closed_generator_body_passes_the_slot_on(desk: Desk, way: Way) -> None:
    # Perhaps by the garbage collector, so it is done by the next operation, or by the timer.
    holder = hold(way)
    (waiter,) = queue(desk, way, "a")
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
    holder = hold(way)
    (waiter,) = queue(desk, way, "flaky", timeout=5)
    assert isinstance(way.call(partial(slot, "flaky")).end(), BackpressureError)
    assert isinstance(way.call(partial(slot, "flaky", timeout=0)).end(), AcquireTimeoutError)
    desk.advance(5)
    assert isinstance(waiter.end(), AcquireTimeoutError)
    assert [standing.agent for standing in desk.standing.agents] == ["holder"]
    assert isinstance(holder.leave(RuntimeError()), RuntimeError)
    assert desk.is_empty()


# -- slots as objects ------------------------------------------------------------------------------------------------


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
    holder = hold(way)
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
    holder = hold(way)
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
    (waiter,) = queue(desk, way, "a")
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
    (waiter,) = queue(desk, way, "b")
    assert caller.leave() is None
    assert waiter.leave() is None
    assert desk.is_empty()


# -- identity --------------------------------------------------------------------------------------------------------


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
