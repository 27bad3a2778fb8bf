"""Work that an agent has queued apart from its waiters: whoever is granted takes the oldest piece.

The seed's programs queue tasks first and ask for slots later, any number of each. Such tasks weigh on the agent's load
(Q and D) while one of its waiters competes; which waiter gets which task is decided at the grant.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel.events import Request

if TYPE_CHECKING:
    from loco_otel._core.ticket import Ticket


class Work(Protocol):
    """One piece."""

    birth: int
    """The tick at which its age was 0."""
    holder: "Ticket | None"
    """The ticket that took it. It is the truth of what is bound, and changes in one assignment."""
    entry: Entry | None
    """The backlog's own."""

    @property
    def milli(self) -> int:
        """Its weight in milli-weights."""

    @property
    def request(self) -> Request:
        """What the ticket that takes it asks for from then on."""


class Backlog:
    """The pieces of one agent that nobody has taken yet, by age. Changed under the engine's lock only.

    Args:
        pieces: all of the agent's, taken or not; others keep it, and `rebuild` derives everything from it.

    """

    __slots__ = ("_by_age", "_pieces", "_stale", "count", "weight")

    def __init__(self, pieces: Iterable[Work]) -> None:
        self._pieces = pieces
        self._by_age = LazyHeap()
        self._stale = False
        self.count = 0
        self.weight = 0
        """Milli-weights of what nobody has taken."""

    def __len__(self) -> int:
        return self.count

    def add_work(self, work: Work) -> None:
        """Count a new piece."""
        work.entry = self._by_age.push_entry(work.birth, item=work)
        self.count += 1
        self.weight += work.milli

    def remove_work(self, work: Work) -> None:
        """Count it no more; harmless when it was not counted."""
        entry, work.entry = work.entry, None
        if entry is not None:
            self._by_age.remove_entry(entry)
            self.count -= 1
            self.weight -= work.milli

    def update_weight(self, work: Work, before: int) -> None:
        """Note that the weight of a piece was another."""
        if work.entry is not None:
            self.weight += work.milli - before

    def mark_stale(self) -> None:
        """Note that ages have changed; they are looked at when it matters."""
        self._stale = True

    def find_oldest_work(self) -> Work | None:
        """Return the oldest piece; of equally old ones that which comes first among the pieces."""
        if self._stale:
            self.rebuild_index()
        first = self._by_age.peek_entry()
        if first is None:
            return None
        work: Work = first[-1]
        return work

    def bind_oldest_work(self, ticket: "Ticket") -> None:
        """Let a ticket take the oldest piece, if there is one."""
        if not self.count:
            return
        if self._stale:
            self.rebuild_index()
        first = self._by_age.pop_entry()
        if first is not None:
            work: Work = first[-1]
            work.holder = ticket
            ticket.work = work
            work.entry = None
            self.count -= 1
            self.weight -= work.milli

    def return_work(self, ticket: "Ticket") -> None:
        """Put the piece of a ticket back that has not begun with it."""
        work, ticket.work = ticket.work, None
        if work is not None and work.holder is ticket:
            work.holder = None
            self.add_work(work)

    def rebuild_index(self) -> None:
        """Derive everything from the pieces: after another order of them, or an operation that was broken off."""
        self._by_age = LazyHeap()
        self._stale = False
        self.count = self.weight = 0
        for work in self._pieces:
            work.entry = None
            holder = work.holder
            if holder is not None and holder.backlog is not None and holder.state.is_unheld:
                work.holder = holder = None
            if holder is None:
                self.add_work(work)
            elif holder.state.is_holding:
                holder.work = work
