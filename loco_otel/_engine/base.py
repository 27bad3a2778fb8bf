"""What a shell needs of an engine.

Operations never block on anything but a short lock, are harmless when repeated for the same ticket, and answer
through the ticket's state; `park` says whom to call when it is decided. Nothing here assumes that the queue is in
this process: ticks, ages and the expiry of leases are the engine's, ticket ids are unique among processes.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Protocol

from loco_otel._core.ticket import Ticket
from loco_otel.events import (
    BypassReason,
    Event,
    Listener,
    RateLimits,
    Request,
    ResourceDump,
    Snapshot,
    Spending,
    ThrottleKind,
)


class Admission(Protocol):
    """Whoever keeps the budgets: asked outside the lock, after the slot and before the call."""

    def __call__(self, ticket: Ticket, /) -> bool:
        """Reserve what the ticket's request will cost; False refuses it.

        Raises:
            AcquireRejectedError: it is refused, and this is why.

        """


class SlotSource(Protocol):
    """Where one call asks for its slot, and gives it back."""

    @property
    def observed(self) -> bool:
        """Whether somebody listens: then facts for telemetry are worth making."""

    def create_ticket(self, request: Request) -> Ticket:
        """Make a ticket, not submitted yet."""

    def submit(self, ticket: Ticket) -> None:
        """Ask for what the ticket's request says."""

    def park_ticket(self, ticket: Ticket, wake: Callable[[], None], blocks: tuple[Hashable, ...]) -> None:
        """Call `wake`, at least once, when the ticket no longer waits; at once if it does not.

        Until then the caller stands still, and so does every lease that has one of `blocks` among its places.
        """

    def admit_ticket(self, ticket: Ticket) -> None:
        """Ask whoever keeps the budgets about an ADMITTING ticket; it ends up GRANTED or REJECTED."""

    def release(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """End a lease, and note what the call took; harmless when it has ended already."""

    def cancel(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """End a ticket wherever it is, and note what was spent though nothing came of it."""

    def abandon_ticket(self, ticket: Ticket, spending: Spending | None = None) -> None:
        """Settle and cancel a ticket that was dropped. For finalisers: takes no lock, wakes nobody, logs nothing."""

    def touch_lease(self, ticket: Ticket) -> None:
        """Note a sign of life of a lease."""

    def read_clock(self) -> float:
        """Return the time by the scheduler's clock, in seconds."""

    def set_scopes(self, ticket: Ticket, places: tuple[Hashable, ...]) -> None:
        """Note that a lease lives elsewhere now."""

    def record_throttling(
        self,
        ticket: Ticket,
        status: int | None,
        kind: ThrottleKind,
        retry_after: float | None,
        limits: RateLimits | None,
    ) -> None:
        """Note that the provider pushed back."""


class Engine(SlotSource, Protocol):
    """Hosts the scheduler."""

    def reject(self, ticket: Ticket) -> None:
        """Turn a new ticket away that its budget has no room for."""

    def reject_waiting(self, tickets: Iterable[Ticket]) -> int:
        """Turn those of the tickets away that wait, as their budget has been used up; return how many."""

    def suspend_ticket(self, ticket: Ticket) -> None:
        """Give the slot back for the length of a retry's pause."""

    def resume_ticket(self, ticket: Ticket) -> None:
        """Ask for the slot again."""

    def record_rate_limits(self, ticket: Ticket, limits: RateLimits) -> None:
        """Note what the provider says is left."""

    def record_bypass(self, reason: BypassReason) -> None:
        """Note that a call went out unscheduled."""

    def emit(self, make: Callable[[float], Event]) -> None:
        """Tell an event that is none of the scheduler's, made from the time, in its place among the others."""

    def add_listener(self, listener: Listener) -> None:
        """Tell a listener every event from now on."""

    def set_batch_size(self, events: int) -> None:
        """Tell listeners many events at a time, where none is kept for long."""

    def flush(self) -> bool:
        """Deliver all events to the listeners; return False if another thread still delivers after 1 s."""

    def take_snapshot(self) -> Snapshot:
        """Tell how everything stands."""

    def take_dump(self, most: int) -> tuple[ResourceDump, ...]:
        """Tell how everything stands, request by request: so many of each resource."""

    def close(self) -> None:
        """Turn away all who wait and all who come."""
