"""Calls that run under a slot of the program's own: they never wait, and free no slot.

Their usage is recorded and charged as that of any call. They are in no queue, so the core only emits their end.
"""

from collections.abc import Callable, Hashable

from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Engine
from loco_otel.errors import AcquireRejectedError
from loco_otel.events import RateLimits, Released, Request, Spending, Spent, ThrottleKind


class NestedEngine:
    """Takes the place of the program's engine for a nested call.

    Args:
        engine: the program's.

    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.read_clock = engine.read_clock
        self.cancel = engine.cancel
        self.reject = engine.reject
        self.release = engine.cancel
        self.abandon_ticket = engine.abandon_ticket

    @property
    def observed(self) -> bool:
        """Whether there are listeners."""
        return self._engine.observed

    def create_ticket(self, request: Request) -> Ticket:
        """Return a new ticket."""
        ticket = self._engine.create_ticket(request)
        ticket.is_nested = True
        return ticket

    def submit(self, ticket: Ticket) -> None:
        """Grant a ticket at once, if its budgets admit it; leave it ADMITTING if that check waits for a server."""
        ticket.granted_at = ticket.touched_at = ticket.waiting_since = self.read_clock()
        ticket.state = State.ADMITTING
        if ticket.run_admission is None:
            self.admit_ticket(ticket)

    def admit_ticket(self, ticket: Ticket) -> None:
        """Run the budget check of an ADMITTING ticket, if it has one; no-op in any other state.

        Raises:
            AcquireRejectedError: raised by the check.

        """
        if ticket.state is not State.ADMITTING:
            return
        try:
            if ticket.admission is not None:
                ticket.admission(ticket)
        except AcquireRejectedError:
            ticket.state = State.NEW
            self._engine.reject(ticket)
            raise
        ticket.state = State.GRANTED

    def park_ticket(self, ticket: Ticket, wake: Callable[[], None], blocks: tuple[Hashable, ...]) -> None:  # noqa: ARG002 - the protocol's
        """Call `wake` at once: nested calls never wait."""
        wake()

    def touch_lease(self, ticket: Ticket) -> None:
        """Record a sign of life, from which the time of chunks is measured."""
        ticket.touched_at = self.read_clock()

    def set_scopes(self, ticket: Ticket, scopes: tuple[Hashable, ...]) -> None:
        """Do nothing: a nested call has no lease."""

    def record_throttling(
        self,
        ticket: Ticket,
        status: int | None,
        kind: ThrottleKind,
        retry_after: float | None,
        limits: RateLimits | None,
    ) -> None:
        """Do nothing: the slot around the call is not of the resource that the provider throttled."""


def cancel_ticket(core: Scheduler, ticket: Ticket, spending: Spending | None, now: float) -> None:
    """End a ticket in any state, that of a nested call too, and record what was spent nevertheless."""
    if ticket.is_nested:
        _end_nested_ticket(core, ticket, spending, now)
        if ticket.host is not None:
            core.release(ticket.host, now)
        return
    if spending is not None:
        core.record_spending(ticket, spending, now)
    core.cancel(ticket, now)


def _end_nested_ticket(core: Scheduler, ticket: Ticket, spending: Spending | None, now: float) -> None:
    """End the ticket of a nested call, and emit its usage and its end; no-op if it has ended."""
    if ticket.state.is_ended:
        return
    ticket.state = State.RELEASED
    if core.observed:
        if spending is not None:
            core.events.append(Spent(now, ticket, spending))
        core.events.append(Released(now, ticket, None, expired=False))
