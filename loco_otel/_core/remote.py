"""Pools whose slots are granted by another place, which all processes share.

The core keeps every ticket and its state, and the other place decides which ticket is granted next. A remote pool has
no capacity of its own, so nothing is granted here. Operations leave a note for each ticket that requests a slot,
suspends or ends; the engine sends the notes and empties the list. `remote_grants.py` applies what the other place
decides.
"""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from loco_otel._core.ticket import State, Ticket
from loco_otel.events import GrantReason


class RemoteChange(Enum):
    """What has happened to a ticket of a remote pool."""

    REQUESTED = "submit"
    SUSPENDED = "suspend"
    ENDED = "end"
    """Whatever its state: a waiter leaves its queue, a lease frees its slot."""
    REFUSED = "refuse"
    """The provider has refused its call."""
    PAUSED = "pause"
    """The provider has stated that another call like its own would be refused."""


class RemoteNote(NamedTuple):
    """One change, in the order of the operations."""

    change: RemoteChange
    ticket: Ticket
    pause: float = 0.0
    """Seconds for which the provider asks."""
    header: str | None = None
    """The header that states them."""


class RemoteState:
    """What the core keeps for the other place."""

    __slots__ = ("is_away", "is_deciding", "notes", "patience", "unanswered")

    def __init__(self) -> None:
        self.notes: list[RemoteNote] = []
        """Emptied by the engine."""
        self.is_deciding = False
        """Whether the other place decides grants, also which waiter of a deadlock shares a slot."""
        self.is_away = False
        """Whether it answers nothing, so that a request can only wait."""
        self.patience = 0.0
        """Seconds for the answer to a request that may not wait."""
        self.unanswered: set[int] = set()
        """Those WAITING tickets with `Ticket.is_unanswered`, by sequence number."""

    def add_note(self, change: RemoteChange, ticket: Ticket) -> None:
        """Leave a note for the other place."""
        self.notes.append(RemoteNote(change, ticket))

    def add_report(self, change: RemoteChange, ticket: Ticket, pause: float, header: str | None) -> None:
        """Leave a note of what the provider has reported."""
        self.notes.append(RemoteNote(change, ticket, pause, header))

    def add_request(self, ticket: Ticket, now: float) -> None:
        """Let a ticket wait, and leave a note that it requests a slot. The caller adds it to its queue."""
        timeout, deadline = ticket.request.timeout, ticket.request.deadline
        end = None if timeout is None else now + (timeout if timeout > 0 else self.patience)
        ticket.deadline = min((at for at in (end, deadline) if at is not None), default=None)
        ticket.is_unanswered = True
        self.unanswered.add(ticket.seq)
        # What its grant takes, in case it ends before this process receives the grant.
        ticket.rate_correction = -1, -ticket.request.tokens
        ticket.state = State.WAITING
        self.add_note(RemoteChange.REQUESTED, ticket)

    def record_answer(self, ticket: Ticket) -> None:
        """Record that the other place has answered a request, or that its wait has ended without an answer."""
        ticket.is_unanswered = False
        self.unanswered.discard(ticket.seq)

    def restore_unanswered(self, tickets: Iterable[Ticket]) -> None:
        """Derive from all tickets again which are not answered."""
        self.unanswered = {it.seq for it in tickets if it.is_unanswered and it.state is State.WAITING}


class RemoteGrant(NamedTuple):
    """A grant that another place decided, with what its policy compared."""

    reason: GrantReason
    tick: int
    """Releases of the resource in all processes."""
    waited_ticks: int
    """Ticks of this wait."""
    total_waited_ticks: int
    """Ticks of all waits of the ticket."""
    score: float
    alpha: float
    queue_weight: int
    queue_age: int
    policy: str
