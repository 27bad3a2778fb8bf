"""The desk of calls that run under a slot of the program's own: they wait for nothing, and give nothing back.

What they take is told and paid for as any call's is. They are in no queue, so the core only tells of their end.
"""

from collections.abc import Callable, Hashable

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Engine
from loco_otel.errors import AcquireRejectedError
from loco_otel.events import RateLimits, Request, ThrottleKind


class NestedEngine:
    """Stands in for a program's engine.

    Args:
        engine: that one.

    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.read_clock = engine.read_clock
        self.cancel = engine.cancel
        self.release = engine.cancel
        self.abandon_ticket = engine.abandon_ticket

    @property
    def observed(self) -> bool:
        """Whether somebody listens."""
        return self._engine.observed

    def create_ticket(self, request: Request) -> Ticket:
        """Make a ticket."""
        ticket = self._engine.create_ticket(request)
        ticket.is_nested = True
        return ticket

    def submit(self, ticket: Ticket) -> None:
        """Let it go at once, if whoever keeps its budgets does."""
        ticket.granted_at = ticket.touched_at = ticket.waiting_since = self.read_clock()
        ticket.state = State.ADMITTING
        self.admit_ticket(ticket)

    def admit_ticket(self, ticket: Ticket) -> None:
        """Ask whoever keeps its budgets.

        Raises:
            AcquireRejectedError: they gave their reasons.

        """
        try:
            if ticket.admission is not None:
                ticket.admission(ticket)
        except AcquireRejectedError:
            ticket.state = State.NEW
            self._engine.reject(ticket)
            raise
        ticket.state = State.GRANTED

    def park_ticket(self, ticket: Ticket, wake: Callable[[], None], blocks: tuple[Hashable, ...]) -> None:  # noqa: ARG002 - the protocol's
        """Wake at once: none of them waits."""
        wake()

    def touch_lease(self, ticket: Ticket) -> None:
        """Note a sign of life, by which chunks are timed."""
        ticket.touched_at = self.read_clock()

    def set_scopes(self, ticket: Ticket, places: tuple[Hashable, ...]) -> None:
        """Note nothing: it holds nothing."""

    def record_throttling(
        self,
        ticket: Ticket,
        status: int | None,
        kind: ThrottleKind,
        retry_after: float | None,
        limits: RateLimits | None,
    ) -> None:
        """Note nothing: the slot around it is not of the resource that the provider speaks of."""
