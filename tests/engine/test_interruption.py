"""A KeyboardInterrupt, or the garbage collector's finalisers, may come in the midst of any operation.

Whatever the point: no slot is lost, no waiter sleeps on a grant, and nothing deadlocks.
"""

import asyncio
import random
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress

import pytest
from effort import EFFORT
from interruption_points import Bench, Host, at_point

from loco_otel import Task
from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.reconfiguration import set_resource
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._waiting.slot import Slot
from loco_otel.events import DEFAULT_RESOURCE, Request, ThrottleKind

Operation = Callable[[], object]


def submit_free(bench: Bench) -> Operation:
    ticket = bench.ticket("holder")
    return lambda: bench.engine.submit(ticket)


def submit_contended(bench: Bench) -> Operation:
    bench.hold()
    ticket = bench.ticket("waiter", timeout=5.0)
    return lambda: bench.engine.submit(ticket)


def park(bench: Bench) -> Operation:
    bench.hold()
    ticket = bench.submit("waiter")
    return lambda: bench.park(ticket, "holder")


def park_and_share(bench: Bench) -> Operation:
    bench.hold()
    bench.wait()
    ticket = bench.submit("within")
    return lambda: bench.park(ticket, *bench.within_all())


def move_and_share(bench: Bench) -> Operation:
    holder = bench.hold()
    ticket = bench.submit("within")
    bench.park(ticket, *bench.within_all()[:-1])
    return lambda: bench.engine.set_scopes(holder, ("spare",))


def admit(bench: Bench) -> Operation:
    holder = bench.hold()
    ticket = bench.ticket("admitted", admission=True)
    bench.engine.submit(ticket)
    bench.park(ticket)
    bench.engine.release(holder)
    assert ticket.state is State.ADMITTING
    return lambda: bench.engine.admit_ticket(ticket)


def grant_with_work(bench: Bench) -> Operation:
    ticket = bench.ask_for_work()
    return lambda: bench.engine.submit(ticket)


def release_with_a_waiter_for_work(bench: Bench) -> Operation:
    holder = bench.hold()
    for _ in range(2):
        waiter = bench.ask_for_work()
        bench.engine.submit(waiter)
        bench.park(waiter)
    return lambda: bench.engine.release(holder)


def cancel_what_has_work(bench: Bench) -> Operation:
    ticket = bench.ask_for_work()
    bench.engine.submit(ticket)
    assert ticket.work is not None
    return lambda: bench.engine.cancel(ticket)


def queue_work(bench: Bench) -> Operation:
    bench.hold()
    waiter = bench.ask_for_work()
    bench.engine.submit(waiter)
    bench.park(waiter)
    task = Task(weight=5.0, age=7)
    return lambda: bench.worker.tasks.append(task)


def serve_work(bench: Bench) -> Operation:
    return bench.worker.serve_oldest_task


def change_the_list(bench: Bench) -> Operation:
    return lambda: bench.worker.tasks.pop(0)


def release_with_a_waiter(bench: Bench) -> Operation:
    holder = bench.hold()
    bench.wait()
    return lambda: bench.engine.release(holder)


def release_a_shared_slot(bench: Bench) -> Operation:
    holder = bench.hold()
    for _ in range(2):
        within = bench.submit("within")
        bench.park(within, *bench.within_all())
        assert within.state is State.GRANTED
    bench.wait()
    return lambda: bench.engine.release(holder)


def release_alone(bench: Bench) -> Operation:
    holder = bench.hold()
    return lambda: bench.engine.release(holder)


def cancel_the_waiter(bench: Bench) -> Operation:
    bench.hold()
    waiter = bench.wait(timeout=5.0)
    return lambda: bench.engine.cancel(waiter)


def suspend_with_a_waiter(bench: Bench) -> Operation:
    holder = bench.hold()
    bench.wait()
    return lambda: bench.engine.suspend_ticket(holder)


def suspend_a_sharer(bench: Bench) -> Operation:
    bench.hold()
    within = bench.submit("within")
    bench.park(within, *bench.within_all())
    assert within.lender is not None
    return lambda: bench.engine.suspend_ticket(within)


def resume(bench: Bench) -> Operation:
    holder = bench.hold()
    bench.engine.suspend_ticket(holder)
    return lambda: bench.engine.resume_ticket(holder)


def resume_contended(bench: Bench) -> Operation:
    holder = bench.hold()
    bench.wait()
    bench.engine.suspend_ticket(holder)
    return lambda: bench.engine.resume_ticket(holder)


def raise_the_capacity(bench: Bench) -> Operation:
    bench.hold()
    bench.wait()

    def change(core: Scheduler, now: float) -> None:
        core.set_capacity(DEFAULT_RESOURCE, 3, now)
        core.set_capacity(DEFAULT_RESOURCE, 2, now)

    return lambda: bench.engine.update_core(change)


def push_back(bench: Bench) -> Operation:
    bench.core.set_capacity(DEFAULT_RESOURCE, AdaptiveLimit(), 0.0)
    holder = bench.hold()
    return lambda: bench.engine.record_throttling(holder, 429, ThrottleKind.LOAD, 5.0, None)


def end_of_a_pause(bench: Bench) -> Operation:
    bench.core.set_capacity(DEFAULT_RESOURCE, AdaptiveLimit(), 0.0)
    holders = [bench.hold() for _ in range(3)]
    bench.engine.record_throttling(holders[0], 429, ThrottleKind.LOAD, 5.0, None)
    for holder in holders:
        bench.engine.cancel(holder)
    bench.wait()
    bench.clock.advance(5.0)
    return bench.engine.run_due_actions


def learn_from_a_success(bench: Bench) -> Operation:
    bench.core.set_capacity(DEFAULT_RESOURCE, AdaptiveLimit(), 0.0)
    holder = bench.hold()
    bench.engine.record_throttling(holder, 429, ThrottleKind.LOAD, None, None)
    bench.wait()
    return lambda: bench.engine.release(bench.spare)


def wait_for_the_minute(bench: Bench) -> Operation:
    set_resource(bench.core, DEFAULT_RESOURCE, 4, 0.0, requests_per_minute=2, tokens_per_minute=100)
    bench.hold()
    holder = bench.hold()
    ticket = bench.ticket("waiter")

    def submit_and_come_back() -> None:
        try:
            bench.engine.submit(ticket)
            bench.park(ticket)
            bench.engine.release(holder)
        finally:
            bench.clock.advance(30.0)

    return submit_and_come_back


def expire(bench: Bench) -> Operation:
    bench.hold()
    bench.wait(timeout=5.0)
    bench.wait()
    bench.clock.advance(1000.0)
    return bench.engine.run_due_actions


def shut_down(bench: Bench) -> Operation:
    bench.hold()
    bench.wait()
    bench.wait()

    def shut_down_and_open_again() -> None:
        try:
            bench.engine.close()
        finally:
            bench.core.closed = False

    return shut_down_and_open_again


def whole_slot(bench: Bench) -> Operation:
    def body() -> None:
        with Slot(Host(bench.engine), Request("slot")):
            pass

    return body


def released_once_parked(bench: Bench) -> None:
    """Let a thread release the holder as soon as somebody has parked."""
    holder = bench.hold()
    real = bench.engine.park_ticket

    def park(ticket: Ticket, wake: Callable[[], None], blocks: tuple[Hashable, ...]) -> None:
        real(ticket, wake, blocks)
        thread = threading.Thread(target=bench.engine.release, args=(holder,))
        thread.start()
        thread.join()

    bench.engine.park_ticket = park  # type: ignore[method-assign]


def whole_slot_contended(bench: Bench) -> Operation:
    released_once_parked(bench)
    return whole_slot(bench)


def whole_async_slot(bench: Bench) -> Operation:
    async def body() -> None:
        async with Slot(Host(bench.engine), Request("slot")):
            pass

    def run() -> None:
        with asyncio.Runner() as runner:
            runner.run(body())

    return run


def whole_async_slot_contended(bench: Bench) -> Operation:
    released_once_parked(bench)
    return whole_async_slot(bench)


OPERATIONS = [
    grant_with_work,
    release_with_a_waiter_for_work,
    cancel_what_has_work,
    queue_work,
    serve_work,
    change_the_list,
    submit_free,
    submit_contended,
    park,
    park_and_share,
    move_and_share,
    admit,
    release_with_a_waiter,
    release_a_shared_slot,
    release_alone,
    cancel_the_waiter,
    suspend_with_a_waiter,
    suspend_a_sharer,
    resume,
    resume_contended,
    raise_the_capacity,
    push_back,
    end_of_a_pause,
    learn_from_a_success,
    wait_for_the_minute,
    expire,
    shut_down,
    whole_slot,
    whole_slot_contended,
    whole_async_slot,
    whole_async_slot_contended,
]


def iter_points(prepare: Callable[[Bench], Operation], *, signals: bool, **options: bool) -> Iterator[int]:
    """Yield numbers of points: of each three in a row one, drawn at random, and all of them with TEST_EFFORT."""
    total = at_point(0, lambda: None, prepare(Bench(**options)), signals=signals)
    assert total > 1
    step = max(1, round(3 / EFFORT))
    for first in range(1, total + 1, step):
        number = random.randrange(first, min(first + step, total + 1))
        sys.stdout.write(f"point {number} of {total}\n")  # the last one is that of the failure
        yield number


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # since it was broken off
@pytest.mark.parametrize(
    ("options", "afterwards"),
    [({}, "advance"), ({}, "release"), ({"observed": True}, "advance"), ({"fair": True}, "release")],
    ids=["advance", "release", "observed", "fair"],
)
@pytest.mark.parametrize("prepare", OPERATIONS)
def test_interrupt_loses_nothing(
    prepare: Callable[[Bench], Operation], options: dict[str, bool], afterwards: str
) -> None:
    for number in iter_points(prepare, signals=True, **options):
        bench = Bench(**options)
        operation = prepare(bench)
        with suppress(KeyboardInterrupt):
            at_point(number, interrupt, operation, signals=True)
        bench.check(afterwards)


@pytest.mark.parametrize("prepare", OPERATIONS)
def test_lease_dropped_during_an_operation_is_reclaimed(prepare: Callable[[Bench], Operation]) -> None:
    for number in iter_points(prepare, signals=False):
        bench = Bench()
        bench.core.set_capacity(DEFAULT_RESOURCE, 3, 0.0)
        dropped = [Slot(Host(bench.engine), Request("dropped"))]
        dropped[0].__enter__()
        operation = prepare(bench)
        at_point(number, dropped.clear, operation, signals=False)
        dropped.clear()  # where this path is shorter than the one that was counted
        bench.core.set_capacity(DEFAULT_RESOURCE, 2, 0.0)
        bench.check()


@pytest.mark.parametrize("prepare", OPERATIONS)
def test_finaliser_may_release_during_an_operation(prepare: Callable[[Bench], Operation]) -> None:
    for number in iter_points(prepare, signals=False):
        bench = Bench()
        bench.core.set_capacity(DEFAULT_RESOURCE, 3, 0.0)
        other = bench.submit("other")
        operation = prepare(bench)

        def finalise(bench: Bench = bench, other: Ticket = other) -> None:
            bench.engine.release(other)

        at_point(number, finalise, operation, signals=False)
        finalise()  # where this path is shorter than the one that was counted
        bench.core.set_capacity(DEFAULT_RESOURCE, 2, 0.0)
        bench.check()
        assert other.state is State.RELEASED
