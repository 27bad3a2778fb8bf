"""The engine of a program that shares nothing with others: the core behind one lock."""

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from math import inf
from typing import Any, TypeVar

from loco_otel import _fork
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.stall_detector import Stall
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Admission
from loco_otel._engine.outbox import Outbox
from loco_otel._engine.timer import Timer
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
"""Seconds between two looks of the timer while someone waits or is to be woken or told: the most that a lost wake can
cost, and the longest that an event is kept."""

_REENTRANT_ERROR = "a finaliser asked the scheduler in the midst of an operation"

_MANY_WAITERS = 1000
_MANY_WAITERS_WARNING = (
    f"{_MANY_WAITERS:,} calls or more wait for a slot, and no bound is set: set LOCO_MAX_WAITERS to reject calls "
    "beyond a number with BackpressureError, or raise LOCO_CAPACITY (logged once)"
)
_RECOVERY_WARNING = (
    "an operation of the scheduler was interrupted by an exception; its state was rebuilt from the calls that wait and "
    "hold, and policy fair counts what agents were served from zero (logged once)"
)
_TIMER_ERROR = (
    "the scheduler's timer thread could not be started: timeouts, LOCO_MAX_HOLD and rates per minute take effect only "
    "with the next call; every call tries again, so raise the limit on threads (logged once)"
)

_Result = TypeVar("_Result")


class InProcessEngine:
    """All threads and event loops of one process share it.

    The lock is held for one operation of the core, never over a wait or anybody else's code. `_busy` is set while an
    operation is under way. When an exception breaks one off it stays set, and the next operation recovers first.
    Garbage collection may run a finaliser in the midst of an operation, in the same thread: what ends a ticket there is
    put off, what would have to wait is refused.

    Args:
        scheduler: the core; nobody else may use it.
        clock: the time.
        timer: whether a thread watches the clock; without it somebody must call `advance`.
        admission: whoever keeps the budgets.

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
        self._abandoned: deque[tuple[Ticket, Spending | None]] = deque()
        self._timer = Timer(clock) if timer else None
        self._reset_lock()
        _fork.on_child(self, _fork.ForkPhase.ENGINES)

    def _reset_lock(self) -> None:
        # Never taken twice: it is one that can tell whether this thread has it.
        self._lock: Any = threading.RLock()
        self._owner = uuid.uuid4().hex[:12]
        self._busy = False
        self._timer_due = inf

    # -- the way of a ticket: `submit` and `release` are the hot path, so they spell out what `_do` does ---------

    @property
    def owner(self) -> str:
        """What the ids of this process's tickets begin with."""
        return self._owner

    def create_ticket(self, request: Request) -> Ticket:
        """Make a ticket, not submitted yet."""
        return Ticket(request, self._owner)

    def submit(self, ticket: Ticket) -> None:
        """Ask for what the ticket's request says.

        Raises:
            RuntimeError: called by a finaliser in the midst of another operation of this thread.

        """
        if self._lock._is_owned():
            raise RuntimeError(_REENTRANT_ERROR)
        core = self._core
        now = self._clock()
        with self._lock:
            if self._busy or self._abandoned:
                self._recover(now)
            self._busy = True
            quiet = core.try_submit_fast(ticket, now)
            if not quiet:
                core.submit(ticket, now)
                self._collect()
            if core.leases_due < self._timer_due or (not quiet and self._is_timer_late(now)):
                self._arm_timer(now)
                quiet = quiet and not self._outbox
            self._busy = False
        if not quiet or self._outbox.decided:
            self._outbox.deliver_due()

    def release(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """End a lease, and note what the call took; harmless when it has ended already."""
        if self._lock._is_owned():
            self.abandon_ticket(ticket, spending)
            return
        core = self._core
        with self._lock:
            if self._busy or self._abandoned:
                self._recover(self._clock())
            self._busy = True
            quiet = core.try_release_fast(ticket)
            if not quiet:
                now = self._clock()
                if spending is not None:
                    core.record_spending(ticket, spending, now)
                core.release(ticket, now)
                self._collect()
                if self._is_timer_late(now):
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
        """Ask whoever keeps the budgets about an ADMITTING ticket; it ends up GRANTED or REJECTED.

        Raises:
            AcquireRejectedError: they gave their reasons.

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
            self._complete_admission(ticket)
        else:
            self._locked(lambda core, now: core.refuse_admission(ticket, Outcome.BUDGET, now))

    def _complete_admission(self, ticket: Ticket) -> None:
        now = self._clock()
        with self._lock:
            if self._busy or self._abandoned:
                self._recover(now)
            self._busy = True
            self._core.admit_ticket(ticket, now)
            self._collect()
            self._busy = False
        self._outbox.deliver_due()

    def reject(self, ticket: Ticket) -> None:
        """Turn a new ticket away that its budget has no room for."""

        def operation(core: Scheduler, now: float) -> None:
            core.submit(ticket, now, wait=False)
            core.reject_waiting((ticket,), Outcome.BUDGET, now)

        self._locked(operation)

    def reject_waiting(self, tickets: Iterable[Ticket]) -> int:
        """Turn those of the tickets away that wait, as their budget has been used up; return how many."""
        return self._locked(lambda core, now: core.reject_waiting(tickets, Outcome.BUDGET, now))

    def cancel(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """End a ticket wherever it is, and note what was spent though nothing came of it."""
        if self._lock._is_owned():
            self.abandon_ticket(ticket, spending)
            return
        self._locked(lambda core, now: _cancel_ticket(core, ticket, spending, now))

    def abandon_ticket(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """Settle and cancel a ticket that was dropped.

        Finalisers run anywhere, in the midst of an operation too: this appends and pokes, both reentrant.
        """
        self._abandoned.append((ticket, spending))
        if self._timer is not None:
            self._timer.wake_timer()

    def suspend_ticket(self, ticket: Ticket) -> None:
        """Give the slot back for the length of a retry's pause."""
        self._locked(lambda core, now: core.suspend_ticket(ticket, now))

    def resume_ticket(self, ticket: Ticket) -> None:
        """Ask for the slot again."""
        self._locked(lambda core, now: core.resume_ticket(ticket, now))

    def touch_lease(self, ticket: Ticket) -> None:
        """Note a sign of life of a lease. One store, so it needs no lock."""
        ticket.touched_at = self._clock()

    def read_clock(self) -> float:
        """Return the time by the scheduler's clock, in seconds."""
        return self._clock()

    def set_scopes(self, ticket: Ticket, places: tuple[Hashable, ...]) -> None:
        """Note that a lease lives elsewhere now."""
        self._locked(lambda core, now: core.set_scopes(ticket, places, now))

    # -- what only listeners care about --------------------------------------------------------------------------

    def record_throttling(
        self,
        ticket: Ticket,
        status: int | None,
        kind: ThrottleKind,
        retry_after: float | None,
        limits: RateLimits | None,
    ) -> None:
        """Note that the provider pushed back."""
        self._locked(
            lambda core, now: core.record_throttling(Throttled(now, ticket, status, kind, retry_after, limits))
        )

    def record_rate_limits(self, ticket: Ticket, limits: RateLimits) -> None:
        """Note what the provider says is left."""
        self._locked(lambda core, now: core.record_rate_limits(ticket, limits, now))

    def record_bypass(self, reason: BypassReason) -> None:
        """Note that a call went out unscheduled."""
        self.emit(lambda now: Bypassed(now, reason))

    def emit(self, make: Callable[[float], Event]) -> None:
        """Tell an event that is none of the scheduler's, made from the time, in its place among the others."""
        if self.observed:
            self._locked(lambda core, now: core.events.append(make(now)))

    def add_listener(self, listener: Listener) -> None:
        """Tell a listener every event from now on."""
        with self._lock:
            self._outbox.listeners.append(listener)
            self.observed = self._core.observed = True

    def set_batch_size(self, events: int) -> None:
        """Tell listeners so many events at a time, or what there is a heartbeat later, or at a flush."""
        if self._timer is not None:  # else nobody would see to the last
            self._outbox.batch_size = events

    def flush(self) -> bool:
        """Deliver all events to the listeners; return False if another thread still delivers after 1 s."""
        return self._outbox.flush()

    def take_snapshot(self) -> Snapshot:
        """Tell how everything stands."""
        return self._locked(lambda core, now: core.take_snapshot(now))

    def take_dump(self, most: int) -> tuple[ResourceDump, ...]:
        """Tell how everything stands, request by request: so many of each resource."""
        return self._locked(lambda core, now: core.take_dump(most, now))

    # -- limits, time, the end -----------------------------------------------------------------------------------

    def update_core(self, change: Callable[[Scheduler, float], _Result]) -> _Result:
        """Change limits or policy, and return what that returns; whoever may go now is granted at once."""
        return self._locked(change)

    def update_loads(self, change: Callable[..., _Result], *args: object) -> _Result:
        """Change what the core derives loads from, as one operation that grants nobody. Cheaper than `configure`.

        Raises:
            RuntimeError: called by a finaliser in the midst of another operation of this thread.

        """
        if self._lock._is_owned():
            raise RuntimeError(_REENTRANT_ERROR)
        with self._lock:
            if self._busy or self._abandoned:
                self._recover(self._clock())
            self._busy = True
            result = change(*args)
            self._busy = False
        if self._outbox:
            self._outbox.deliver_due()
        return result

    def close(self) -> None:
        """Turn away all who wait and all who come; holders may finish."""
        self._locked(lambda core, now: core.close(now))

    def run_due_actions(self) -> float:
        """Do what the time demands, and return when to call again; the timer does."""
        stalls = self._locked(self._run_core_actions)
        self._outbox.deliver_events()
        for stall in stalls:
            _logger.warning("%s", stall)
        return self._timer_due

    def _run_core_actions(self, core: Scheduler, now: float) -> list[Stall]:
        if core.max_waiters is None and core.count_waiting() >= _MANY_WAITERS:
            self._outbox.add_fault(logging.WARNING, _MANY_WAITERS_WARNING)
        core.run_due_actions(now)
        self._timer_due = self._compute_next_due(now)
        return core.detect_stalls(now)

    def _locked(self, operation: Callable[[Scheduler, float], _Result]) -> _Result:
        now = self._clock()
        if self._lock._is_owned():
            raise RuntimeError(_REENTRANT_ERROR)
        with self._lock:
            if self._busy or self._abandoned:
                self._recover(now)
            self._busy = True
            result = operation(self._core, now)
            self._collect()
            self._arm_timer(now)
            self._busy = False
        self._outbox.deliver_due()
        return result

    def _recover(self, now: float) -> None:
        """Recover from an operation that was broken off, and cancel what was dropped."""
        core = self._core
        if self._busy:
            core.rebuild_state(now)
            self._outbox.add_fault(logging.WARNING, _RECOVERY_WARNING)
        self._busy = True
        while self._abandoned:
            ticket, spending = self._abandoned[0]
            _cancel_ticket(core, ticket, spending, now)
            self._abandoned.popleft()
        self._collect()

    def _collect(self) -> None:
        core = self._core
        if core.events or core.decided:
            self._outbox.add_batch(core.decided, core.events)
            core.decided = []
            core.events = []

    def _is_timer_late(self, now: float) -> bool:
        """Tell whether the timer may have to look earlier than it will; under load it does so at each heartbeat."""
        return self._timer_due > now + _HEARTBEAT or self._core.compute_next_wakeup() < self._timer_due

    def _arm_timer(self, now: float) -> None:
        due = self._compute_next_due(now)
        if due >= self._timer_due:
            return
        timer = self._timer
        if timer is None or timer.start_watching(self.run_due_actions):
            self._timer_due = due
        elif timer.failure is not None:
            # `_timer_due` stays late, so the next operation tries again.
            self._outbox.add_fault(logging.ERROR, _TIMER_ERROR, timer.failure)

    def _compute_next_due(self, now: float) -> float:
        due = self._core.compute_next_wakeup()
        return min(due, now + _HEARTBEAT) if self._outbox or self._core.count_waiting() else due

    def after_fork(self) -> None:
        """Start afresh in the child: its parent's leases and waiters are not its own."""
        self._reset_lock()
        self._outbox = self._outbox.create_child_outbox()
        self._abandoned.clear()
        if self._timer is not None:
            self._timer = self._timer.create_child_timer()
        self._core.end_all_tickets()


def _cancel_ticket(core: Scheduler, ticket: Ticket, spending: Spending | None, now: float) -> None:
    if ticket.is_nested:
        core.end_nested(ticket, spending, now)
        return
    if spending is not None:
        core.record_spending(ticket, spending, now)
    core.cancel(ticket, now)
