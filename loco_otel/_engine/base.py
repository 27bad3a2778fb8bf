"""The interface between engines and their callers.

Operations block on nothing but a short lock, are idempotent for a ticket, and change the ticket's state; `park_ticket`
registers a callback for its decision. The interface does not require that the queue is in this process: the engine owns
ticks, ages and the expiry of leases, and ticket ids are unique among processes.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

from loco_otel._core.ticket import Ticket
from loco_otel.events import (
    BypassReason,
    Event,
    Listener,
    Outcome,
    RateLimits,
    Request,
    ResourceDump,
    Snapshot,
    Spending,
    ThrottleKind,
)


class Admission(Protocol):
    """Checks budgets. Called outside the lock, after the slot is taken and before the call is sent."""

    def __call__(self, ticket: Ticket, /) -> bool:
        """Reserve the estimated cost of a ticket's request, and return whether its budgets admit it.

        Raises:
            AcquireRejectedError: its budgets refuse it; the error has the reason.

        """


class SlotSource(Protocol):
    """Grants one call its slot, and takes it back."""

    @property
    def observed(self) -> bool:
        """Whether there are listeners; without any, callers skip the preparation of telemetry."""

    def create_ticket(self, request: Request) -> Ticket:
        """Return a new ticket, not submitted yet."""

    def submit(self, ticket: Ticket) -> None:
        """Request the slots that the ticket's request names."""

    def park_ticket(self, ticket: Ticket, wake: Callable[[], None], blocks: tuple[Hashable, ...]) -> None:
        """Call `wake`, at least once, when the ticket no longer waits; at once if it does not.

        Until then the caller is blocked, and so is every lease that is used in one of the scopes `blocks`.
        """

    def reject(self, ticket: Ticket, outcome: Outcome = Outcome.BUDGET) -> None:
        """Reject a new ticket, by default as its budget is exhausted."""

    def admit_ticket(self, ticket: Ticket) -> None:
        """Run the budget check of an ADMITTING ticket, which is then GRANTED or REJECTED."""

    def release(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """End a lease, and record its usage; no-op if it has ended."""

    def cancel(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """End a ticket in any state, and record what was spent nevertheless. Idempotent."""

    def abandon_ticket(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """Cancel a ticket later. For finalizers: acquires no lock, calls no foreign code, logs nothing."""

    def touch_lease(self, ticket: Ticket) -> None:
        """Record a sign of life of a lease."""

    def read_clock(self) -> float:
        """Return the time of the scheduler's clock, in seconds."""

    def set_scopes(self, ticket: Ticket, scopes: tuple[Hashable, ...]) -> None:
        """Change the scopes in which a lease is used."""

    def record_throttling(
        self,
        ticket: Ticket,
        status: int | None,
        kind: ThrottleKind,
        retry_after: float | None,
        limits: RateLimits | None,
    ) -> None:
        """Record that the provider throttled a call."""


class Engine(SlotSource, Protocol):
    """Hosts the scheduler."""

    def reject_waiting(self, tickets: Iterable[Ticket], outcome: Outcome = Outcome.BUDGET) -> int:
        """Reject those of the tickets that wait, and return their number."""

    def list_tickets(self) -> tuple[Ticket, ...]:
        """Return all tickets that have not ended."""

    def suspend_ticket(self, ticket: Ticket) -> None:
        """Free the slot for the pause before a retry."""

    def resume_ticket(self, ticket: Ticket) -> None:
        """Request the slot again."""

    def record_rate_limits(self, ticket: Ticket, limits: RateLimits) -> None:
        """Record the remaining limits that the provider reported."""

    def record_bypass(self, reason: BypassReason) -> None:
        """Record that a call was sent unscheduled."""

    def emit(self, make: Callable[[float], Event]) -> None:
        """Emit an event from outside the scheduler, made from the current time, in order with the others."""

    def add_listener(self, listener: Listener) -> None:
        """Call a listener with every event from now on."""

    def set_batch_size(self, events: int) -> None:
        """Deliver events to listeners in batches of this size, and the rest after a heartbeat or at a flush."""

    def flush(self) -> bool:
        """Deliver all events to the listeners; return False if another thread still delivers after 1 s."""

    def take_snapshot(self) -> Snapshot:
        """Return the state of all resources and agents."""

    def take_dump(self, most: int) -> tuple[ResourceDump, ...]:
        """Return the state of all resources, agents and requests: of each resource at most `most` requests."""

    def close(self) -> None:
        """Reject all waiters and all later requests."""
