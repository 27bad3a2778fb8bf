"""Operations of an engine that are broken off, or interrupted by a finaliser, at each point where that can happen.

Python checks for signals where a function begins, after each call and at each jump backward; finalisers run at any
bytecode. Each operation is run once for every third such point that it passes in the engine, the core and the shells
(for every one at night).
"""

import dis
import gc
import sys
from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import loco_otel
from loco_otel import Agent, Task
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.policies.tenants import TenantPolicy
from loco_otel._core.reconfiguration import set_resource
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.compat.queue_binding import QueueBinding
from loco_otel.events import DEFAULT_RESOURCE, Request
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
