"""A KeyboardInterrupt, or the garbage collector's finalisers, may come in the midst of any operation.

Python checks for signals where a function begins, after each call and at each jump backward; finalisers run at any
bytecode. Each operation is run once for every third such point that it passes in the engine, the core and the shells
(for every one at night), and is broken off, or interrupted by a finaliser, there. Whatever the point: no slot is lost,
no waiter sleeps on a grant, and nothing deadlocks.
"""

import asyncio
import dis
import gc
import random
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import pytest
from effort import EFFORT

import loco_otel
from loco_otel import Agent, Task
from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.policies.tenants import TenantPolicy
from loco_otel._core.reconfiguration import set_resource
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._waiting.slot import Slot
from loco_otel.compat.queue_binding import QueueBinding
from loco_otel.events import DEFAULT_RESOURCE, Request, ThrottleKind
from loco_otel.testing import ManualClock

_HERE = Path(loco_otel.__file__).parent
_WATCHED = tuple(str(_HERE / part) for part in ("_engine", "_core", "_waiting", "compat/agent.py"))


class Bench:
    """An engine with two slots, one of them held all the time, and a record of the tickets that were woken.

    With `fair` it goes by service, and each agent works for a tenant.
    """

    def __init__(self, *, observed: bool = False, fair: bool = False) -> None:
        self.clock = ManualClock()
        self.tenanted = fair
        self.core = Scheduler(
            {DEFAULT_RESOURCE: 2},
            lambda: FairPolicy({}) if fair else LoadPolicy(0.25, lambda: 0.5),
            max_hold=900.0,
        )
        self.engine = InProcessEngine(self.core, clock=self.clock, timer=False, admission=lambda _: True)
        if observed:
            self.engine.add_listener(lambda _: None)
        self.woken: set[Ticket] = set()
        self.tickets: list[Ticket] = []
        self.spare = self.submit("spare")
        self.worker = Agent("worker", tasks=[Task(weight=2.0, age=1), Task(weight=3.0)])
        resource = self.engine.get_resource(DEFAULT_RESOURCE)
        self.worker.tasks.join(QueueBinding(self.engine, resource, "worker", admission=False))

    def ticket(self, agent: str, timeout: float | None = None, *, admission: bool = False) -> Ticket:
        tenant = f"tenant of {agent}" if self.tenanted else None
        ticket = self.engine.create_ticket(Request(agent, timeout=timeout, admission=admission, tenant=tenant))
        ticket.scopes = (agent,)
        self.tickets.append(ticket)
        return ticket

    def submit(self, agent: str, timeout: float | None = None) -> Ticket:
        ticket = self.ticket(agent, timeout)
        self.engine.submit(ticket)
        return ticket

    def ask_for_work(self) -> Ticket:
        """Make a ticket that takes the worker's oldest task at its grant."""
        binding = self.worker.tasks.binding
        assert binding is not None
        ticket = Ticket(binding.plain_request)
        ticket.scopes = ("worker",)
        ticket.backlog = self.worker.tasks.backlog
        self.tickets.append(ticket)
        return ticket

    def hold(self) -> Ticket:
        ticket = self.submit("holder")
        assert ticket.state is State.GRANTED
        return ticket

    def wait(self, timeout: float | None = None) -> Ticket:
        ticket = self.submit("waiter", timeout)
        self.park(ticket)
        assert ticket.state is State.WAITING
        return ticket

    def park(self, ticket: Ticket, *blocks: Hashable) -> None:
        self.engine.park_ticket(ticket, lambda: self.woken.add(ticket), blocks)

    def within_all(self) -> tuple[Hashable, ...]:
        """Name a place of each lease: a waiter that blocks them all must share."""
        pool = self.core.resources.pools[DEFAULT_RESOURCE]
        return tuple(lease.scopes[0] for lease in pool.leases.values())

    def go_on(self, afterwards: str) -> None:
        """Do one operation more, and see that it puts right what the last one left undone."""
        if afterwards == "advance":
            self.engine.run_due_actions()
        else:
            self.engine.release(self.spare)
        for ticket in self.tickets:
            if ticket.wake is not None and ticket.state is not State.WAITING:
                assert ticket in self.woken, f"{ticket} was decided and sleeps on"

    def check(self, afterwards: str = "advance") -> None:
        """See that nothing is lost, and that nothing is there twice."""
        self.go_on(afterwards)
        self.check_the_account()
        for ticket in self.tickets:
            self.engine.cancel(ticket)
        if self.counts != (0, 0):
            gc.collect()  # a task and the exception that it ended with keep each other, and a slot, alive
        assert self.counts == (0, 0)
        self.check_that_nobody_owes()
        set_resource(self.core, DEFAULT_RESOURCE, 2, 0.0)
        again = [self.submit(f"again-{number}") for number in range(3)]
        assert [ticket.state for ticket in again] == [State.GRANTED, State.GRANTED, State.WAITING]

    def check_that_nobody_owes(self) -> None:
        """See that a policy that goes by service has nobody in its books, since nobody is there."""
        for line in self.core.resources.queue_sets.values():
            policy = line.policy
            if isinstance(policy, TenantPolicy):
                assert policy._tenants == {}
                policy = policy._tenant_order
            if isinstance(policy, FairPolicy):
                assert (policy._accounts, policy._open_calls, len(policy._competing)) == ({}, 0, 0)

    def check_the_account(self) -> None:
        """See that slots, leases and waiters are those of the tickets' states."""
        pool = self.core.resources.pools[DEFAULT_RESOURCE]
        leases = {ticket for ticket in self.tickets if ticket.state.is_holding}
        waiters = {ticket for ticket in self.tickets if ticket.state is State.WAITING}
        assert set(pool.leases.values()) >= leases
        slots = {lease.lender or lease for lease in pool.leases.values()}
        assert slots <= set(pool.leases.values())
        assert (pool.used, pool.sharer_count) == (len(slots), len(pool.leases) - len(slots))
        assert pool.used >= pool.capacity or not waiters
        assert pool.adaptive_limit is None or pool.capacity == pool.adaptive_limit.limit
        assert self.counts == (len(pool.leases), len(waiters))
        tasks, backlog = self.worker.tasks, self.worker.tasks.backlog
        queued = [task for task in tasks if task.holder is None]
        assert (backlog.count, backlog.weight) == (len(queued), sum(task.milli for task in queued))
        assert backlog.find_oldest_work() is (max(queued, key=lambda task: task.age) if queued else None)
        for lease in leases:
            if lease.work is not None:
                assert lease.work.holder is lease
                assert lease.request.weight == lease.work.milli

    @property
    def counts(self) -> tuple[int, int]:
        """Leases and waiters."""
        (resource,) = self.engine.take_snapshot().resources
        assert sum(one.active for one in resource.agents) == resource.active
        assert sum(one.waiting for one in resource.agents) == resource.waiting
        return resource.active, resource.waiting


class Host:
    """What a slot needs, and nothing more."""

    governor = SimpleNamespace(is_active=False, has_stops=False)

    def __init__(self, engine: InProcessEngine) -> None:
        self.engine = engine

    def capture_trace(self) -> None:
        return None

    def record_unsupported(self, what: str) -> None:
        raise AssertionError(what)


_LOOKS_FOR_SIGNALS = ("CALL", "RESUME", "JUMP_BACKWARD")
"""What the bytecodes begin with after which the interpreter checks for signals."""


@cache
def _looks(code: CodeType) -> frozenset[int]:
    return frozenset(
        instruction.offset for instruction in dis.get_instructions(code) if instruction.opname in _LOOKS_FOR_SIGNALS
    )


def at_point(number: int, action: Callable[[], None], operation: Callable[[], None], *, signals: bool) -> int:
    """Run an operation, and the action at the point of that number; return how many there were."""
    count = 0
    last: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(_WATCHED):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            looked = last.get(frame) in _looks(frame.f_code)
            last[frame] = frame.f_lasti
            if looked or not signals:
                count += 1
                if count == number:
                    sys.settrace(None)
                    action()
        return trace

    before = sys.gettrace()
    gc.disable()  # Python swallows an interrupt in the finaliser of what an earlier test left
    sys.settrace(trace)
    try:
        operation()
    finally:
        sys.settrace(before)
        gc.enable()
        last.clear()  # frames keep alive what they refer to
    return count


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
