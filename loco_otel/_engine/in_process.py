"""The engine of a program that shares no queue with other processes: the core behind one lock."""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from math import inf
from typing import Any, TypeVar

from loco_otel import _fork
from loco_otel._core.fast_paths import try_hand_over, try_release_fast, try_submit_fast
from loco_otel._core.limit_events import repeat_limit_events
from loco_otel._core.provider_pause import record_rate_limits, record_throttling
from loco_otel._core.recovery import end_all_tickets, rebuild_state
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.snapshot import SnapshotBuilder
from loco_otel._core.stall_detector import Stall, detect_stalls
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Admission
from loco_otel._engine.messages import (
    MANY_WAITERS,
    MANY_WAITERS_WARNING,
    RECOVERY_WARNING,
    REENTRANT_ERROR,
    TIMER_ERROR,
)
from loco_otel._engine.nested import cancel_ticket
from loco_otel._engine.outbox import Outbox
from loco_otel._engine.resource_view import ResourceView
from loco_otel._engine.timer import Timer
from loco_otel._engine.unshared import UnsharedEngine
from loco_otel.clock import Clock, monotonic
from loco_otel.errors import AcquireRejectedError
from loco_otel.events import (
    Bypassed,
    BypassReason,
    Event,
    Listener,
    Outcome,
    RateLimits,
    Request,
    ResourceDump,
    Snapshot,
    Spending,
    Throttled,
    ThrottleKind,
)

_logger = logging.getLogger("loco_otel")

_HEARTBEAT = 1.0
"""Maximal seconds between two runs of the timer while a ticket waits, or a wake or event is undelivered: the longest
that a lost wake delays a caller, and that an event is kept."""

_Result = TypeVar("_Result")


class InProcessEngine(UnsharedEngine):
    """Hosts the scheduler for all threads and event loops of one process. Thread-safe.

    The lock is held for one operation of the core, never while a caller waits or foreign code runs. `_busy` is set
    during an operation. If an exception interrupts it, `_busy` stays set and the next operation recovers first. Garbage
    collection may run a finalizer inside an operation, in the same thread: there the end of a ticket is deferred, and
    any other operation raises.

    Args:
        scheduler: the core; only the engine may use it.
        clock: the time.
        timer: whether a thread calls `run_due_actions`; without it the caller must.
        admission: checks budgets.

    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        clock: Clock = monotonic,
        timer: bool = True,
        admission: Admission | None = None,
    ) -> None:
        self.observed = False
        self._core = scheduler
        self._clock = clock
        self._admission = admission
        self._outbox = Outbox(Timer(clock) if timer else None)
        self._recoveries = 0
        self._abandoned: deque[tuple[Ticket, Spending | None]] = deque()
        self._timer = Timer(clock) if timer else None
        self._reset_lock()
        _fork.on_child(self, _fork.ForkPhase.ENGINES)

    def _reset_lock(self) -> None:
        # Never acquired twice: it is an RLock because that can report whether this thread holds it.
        self._lock: Any = threading.RLock()
        self.owner = uuid.uuid4().hex[:12]
        """The prefix of the ids of this process's tickets."""
        self._busy = False
        self._timer_due = inf

    # -- calls: `submit` and `release` are the hot path, so they repeat what `_locked` does ---------------------------

    def create_ticket(self, request: Request) -> Ticket:
        """Return a new ticket, not submitted yet."""
        return Ticket(request, self.owner)

    def submit(self, ticket: Ticket) -> None:
        """Request the slots that the ticket's request names.

        Raises:
            RuntimeError: called by a finalizer inside another operation of this thread.

        """
        if self._lock._is_owned():
            raise RuntimeError(REENTRANT_ERROR)
        core = self._core
        with self._lock:
            # Read under the lock, so that events are in the order of their times.
            now = self._clock()
            if self._busy or self._abandoned:
                self._recover(now)
            self._busy = True
            is_fast = try_submit_fast(core, ticket, now)
            if not is_fast:
                core.submit(ticket, now)
            quiet = is_fast and not core.observed
            if not quiet:
                self._collect()
            if core.deadlines.lease_check_at < self._timer_due or (not quiet and self._is_timer_late(now, is_fast)):
                self._arm_timer(now)
                quiet = quiet and not self._outbox
            self._busy = False
        if not quiet or self._outbox.decided:
            self._outbox.deliver_due()

    def release(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """End a lease, and record its usage; no-op if it has ended."""
        if self._lock._is_owned():
            self.abandon_ticket(ticket, spending)
            return
        core = self._core
        with self._lock:
            if self._busy or self._abandoned:
                self._recover(self._clock())
            self._busy = True
            now = self._clock() if core.observed else 0.0
            is_fast = try_release_fast(core, ticket, now, spending)
            if not is_fast:
                now = now or self._clock()
                if spending is not None:
                    core.record_spending(ticket, spending, now)
                if not try_hand_over(core, ticket, now):
                    core.release(ticket, now)
            quiet = is_fast and not core.observed
            if not quiet:
                self._collect()
                if self._is_timer_late(now, is_fast):
                    self._arm_timer(now)
            self._busy = False
        if not quiet or self._outbox.decided:
            self._outbox.deliver_due()

    def park_ticket(self, ticket: Ticket, wake: Callable[[], None], blocks: tuple[Hashable, ...]) -> None:
        """Call `wake`, at least once, when the ticket no longer waits; at once if it does not."""

        def operation(core: Scheduler, now: float) -> bool:
            ticket.wake = wake
            core.park_ticket(ticket, blocks, now)
            return ticket.state is State.WAITING

        if not self._locked(operation):
            wake()

    def admit_ticket(self, ticket: Ticket) -> None:
        """Run the budget check of an ADMITTING ticket, which is then GRANTED or REJECTED.

        Raises:
            AcquireRejectedError: raised by the check.

        """
        if ticket.state is not State.ADMITTING:
            return
        admission = ticket.admission or self._admission
        try:
            admitted = admission is None or admission(ticket)
        except AcquireRejectedError as error:
            self._locked(lambda core, now: core.refuse_admission(ticket, Outcome.BUDGET, now))
            error.waited = ticket.waited_seconds
            raise
        if admitted:
            self._locked(lambda core, now: core.admit_ticket(ticket, now), is_timed=False)
        else:
            self._locked(lambda core, now: core.refuse_admission(ticket, Outcome.BUDGET, now))

    def reject(self, ticket: Ticket, outcome: Outcome = Outcome.BUDGET) -> None:
        """Reject a new ticket, by default as its budget is exhausted."""
        self._locked(lambda core, now: core.reject_new(ticket, outcome, now))

    def reject_waiting(self, tickets: Iterable[Ticket], outcome: Outcome = Outcome.BUDGET) -> int:
        """Reject those of the tickets that wait, and return their number."""
        return self._locked(lambda core, now: core.reject_waiting(tickets, outcome, now))

    def cancel(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """End a ticket in any state, and record what was spent nevertheless. Idempotent."""
        if self._lock._is_owned():
            self.abandon_ticket(ticket, spending)
            return
        self._locked(lambda core, now: cancel_ticket(core, ticket, spending, now))

    def abandon_ticket(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """Cancel a ticket later, with the next operation or run of the timer. For finalizers.

        A finalizer may run inside an operation: this only appends to a deque and wakes the timer, both reentrant.
        """
        self._abandoned.append((ticket, spending))
        if self._timer is not None:
            self._timer.wake_timer()

    def suspend_ticket(self, ticket: Ticket) -> None:
        """Free the slot for the pause before a retry."""
        self._locked(lambda core, now: core.suspend_ticket(ticket, now))

    def resume_ticket(self, ticket: Ticket) -> None:
        """Request the slot again."""
        self._locked(lambda core, now: core.resume_ticket(ticket, now))

    def touch_lease(self, ticket: Ticket) -> None:
        """Record a sign of life of a lease. One store, so it needs no lock."""
        ticket.touched_at = self._clock()

    def read_clock(self) -> float:
        """Return the time of the scheduler's clock, in seconds."""
        return self._clock()

    def set_scopes(self, ticket: Ticket, scopes: tuple[Hashable, ...]) -> None:
        """Change the scopes in which a lease is used."""
        self._locked(lambda core, now: core.set_scopes(ticket, scopes, now))

    def list_tickets(self) -> tuple[Ticket, ...]:
        """Return all tickets that have not ended."""
        return self._locked(lambda core, _: tuple(core.tickets.values()))

    # -- reports of the provider, and events --------------------------------------------------------------------------

    def record_throttling(
        self,
        ticket: Ticket,
        status: int | None,
        kind: ThrottleKind,
        retry_after: float | None,
        limits: RateLimits | None,
    ) -> None:
        """Record that the provider throttled a call."""
        self._locked(
            lambda core, now: record_throttling(core, Throttled(now, ticket, status, kind, retry_after, limits))
        )

    def record_rate_limits(self, ticket: Ticket, limits: RateLimits) -> None:
        """Record the remaining limits that the provider reported."""
        self._locked(lambda core, now: record_rate_limits(core, ticket, limits, now))

    def record_bypass(self, reason: BypassReason) -> None:
        """Record that a call was sent unscheduled."""
        self.emit(lambda now: Bypassed(now, reason))

    def emit(self, make: Callable[[float], Event]) -> None:
        """Emit an event from outside the scheduler, made from the current time, in order with the others."""
        if self.observed:
            self._locked(lambda core, now: core.events.append(make(now)))

    def add_listener(self, listener: Listener) -> None:
        """Call a listener with every event from now on."""
        with self._lock:
            self._outbox.listeners.append(listener)
            self.observed = self._core.observed = True
            repeat_limit_events(self._core.resources)

    def set_batch_size(self, events: int) -> None:
        """Deliver events to listeners in batches of this size, and the rest after a heartbeat or at a flush."""
        if self._timer is not None:  # without it the last events would never be delivered
            self._outbox.batch_size = events

    def flush(self) -> bool:
        """Deliver all events to the listeners; return False if another thread still delivers after 1 s."""
        return self._outbox.flush()

    def take_snapshot(self) -> Snapshot:
        """Return the state of all resources and agents."""
        snapshot = self._read_state(with_tickets=False).build_snapshot()
        return snapshot._replace(
            events_dropped=self._outbox.dropped, recoveries=self._recoveries, max_waiting=self.max_waiters
        )

    def take_dump(self, most: int) -> tuple[ResourceDump, ...]:
        """Return the state of all resources, agents and requests: of each resource at most `most` requests."""
        return self._read_state(with_tickets=True).build_dump(most)

    def _read_state(self, *, with_tickets: bool) -> SnapshotBuilder:
        """Read the state in steps, between which other threads may take the lock."""
        builder = self._locked(lambda core, now: core.start_snapshot(now, with_tickets=with_tickets))
        while builder.is_unfinished:
            # A thread that waits for the lock does not get it from one that takes it again at once.
            time.sleep(0.0001)
            self._locked(lambda *_: builder.read_step(), is_timed=False)
        return builder

    # -- limits, time, the end ----------------------------------------------------------------------------------------

    @property
    def max_waiters(self) -> int | None:
        """The maximum of waiting tickets, all resources together; None is no maximum."""
        return self._core.max_waiters

    def add_resource(self, name: str, capacity: int | None) -> None:
        """Add a new resource; None is unlimited."""
        self._locked(lambda core, _: core.resources.add_resource(name, capacity))

    def get_resource(self, name: str) -> ResourceView:
        """Return a view of a resource, which reads its state and changes its limits and policy.

        Raises:
            KeyError: there is no such resource.

        """
        return self._locked(lambda core, _: ResourceView(self, core, name))

    def update_core(self, change: Callable[[Scheduler, float], _Result]) -> _Result:
        """Run a change of limits or policy as one operation, and return its result; `change` must not keep the core."""
        return self._locked(change)

    def update_loads(self, change: Callable[..., _Result], *args: object) -> _Result:
        """Run a change of what loads are derived from (backlogs) as one operation, and return its result."""
        # On the hot path: as it grants no ticket and emits no event, it skips what `_locked` does for these.
        if self._lock._is_owned():
            raise RuntimeError(REENTRANT_ERROR)
        with self._lock:
            must_recover = self._busy or self._abandoned
            if must_recover:
                self._recover(self._clock())
            self._busy = True
            result = change(*args)
            self._busy = False
        if must_recover:
            self._outbox.deliver_due()
        return result

    def close(self) -> None:
        """Reject all waiters and all later requests; leases stay until their release."""
        self._locked(lambda core, now: core.close(now))

    def run_due_actions(self) -> float:
        """Run what is due, and return when to call this again. Called by the timer."""
        stalls = self._locked(self._run_core_actions)
        self._outbox.deliver_events()
        for stall in stalls:
            _logger.warning("%s", stall)
        return self._timer_due

    def _run_core_actions(self, core: Scheduler, now: float) -> list[Stall]:
        if core.max_waiters is None and core.count_waiting() >= MANY_WAITERS:
            self._outbox.add_fault(logging.WARNING, MANY_WAITERS_WARNING)
        core.run_due_actions(now)
        self._timer_due = self._compute_next_due(now)
        return detect_stalls(core.resources, now)

    def _locked(self, operation: Callable[[Scheduler, float], _Result], *, is_timed: bool = True) -> _Result:
        """Run one operation of the core under the lock, deliver what it caused, and return its result.

        With `is_timed` False the operation does not change when the timer is due, which is then not computed.

        A function and not a context manager: an exception between two frames of one could leave the lock held.

        Raises:
            RuntimeError: called by a finalizer inside another operation of this thread.

        """
        if self._lock._is_owned():
            raise RuntimeError(REENTRANT_ERROR)
        with self._lock:
            now = self._clock()
            if self._busy or self._abandoned:
                self._recover(now)
            self._busy = True
            result = operation(self._core, now)
            self._collect()
            if is_timed and self._is_timer_late(now):
                self._arm_timer(now)
            self._busy = False
        if is_timed or self._outbox:
            self._outbox.deliver_due()
        return result

    def _recover(self, now: float) -> None:
        """Rebuild the state after an interrupted operation, and cancel abandoned tickets."""
        core = self._core
        if self._busy:
            rebuild_state(core, now)
            self._recoveries += 1
            self._outbox.dropped += self.observed  # events of that operation may be lost
            self._outbox.add_fault(logging.WARNING, RECOVERY_WARNING)
        self._busy = True
        while self._abandoned:
            ticket, spending = self._abandoned[0]
            cancel_ticket(core, ticket, spending, now)
            self._abandoned.popleft()
        self._collect()

    def _collect(self) -> None:
        core = self._core
        if core.events or core.decided:
            self._outbox.add_batch(core.decided, core.events)
            core.decided = []
            core.events = []

    def _is_timer_late(self, now: float, is_fast: bool = False) -> bool:  # noqa: FBT001, FBT002 - on the hot path
        """Return whether the timer may have to run earlier than planned: after a fast operation only for its events."""
        due, core = self._timer_due, self._core
        is_early = not is_fast and (core.resources.opens_at < due or core.deadlines.is_due_before(due))
        return is_early or due > now + _HEARTBEAT

    def _arm_timer(self, now: float) -> None:
        if (due := self._compute_next_due(now)) >= self._timer_due:
            return
        if (timer := self._timer) is None or timer.start_watching(self.run_due_actions):
            self._timer_due = due
        elif timer.failure is not None:
            # `_timer_due` stays late, so the next operation tries again.
            self._outbox.add_fault(logging.ERROR, TIMER_ERROR, timer.failure)

    def _compute_next_due(self, now: float) -> float:
        due = self._core.compute_next_wakeup()
        return min(due, now + _HEARTBEAT) if self._outbox or self._core.count_waiting() else due

    def after_fork(self) -> None:
        """Start empty in a forked child, which has no part in the leases and waiters of its parent."""
        self._reset_lock()
        self._recoveries = 0
        self._outbox = self._outbox.create_child_outbox()
        self._abandoned.clear()
        if self._timer is not None:
            self._timer = self._timer.create_child_timer()
        end_all_tickets(self._core)
