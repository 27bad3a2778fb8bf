"""Work that an agent has queued apart from its waiters: a ticket that is granted takes the oldest.

Programs of loco-agent queue tasks first and request slots later, in any number. Such tasks count in the agent's load
(Q and D) while one of its waiters competes; which waiter gets which task is decided at the grant.
"""

from collections.abc import Iterable

from loco_otel._core.lazy_heap import LazyHeap
from loco_otel._core.ticket import Ticket, Work


class Backlog:
    """The work of one agent that no ticket has taken, by age. Changed under the engine's lock only.

    Args:
        pieces: all work of the agent, taken or not. The caller changes it; `rebuild_index` derives all else from it.

    """

    __slots__ = ("_by_age", "_pieces", "_stale", "count", "weight")

    def __init__(self, pieces: Iterable[Work]) -> None:
        self._pieces = pieces
        self._by_age = LazyHeap()
        self._stale = False
        self.count = 0
        self.weight = 0
        """Milli-weights of the work that no ticket has taken."""

    def __len__(self) -> int:
        return self.count

    def add_work(self, work: Work) -> None:
        """Add new work."""
        work.entry = self._by_age.push_entry(work.birth, item=work)
        self.count += 1
        self.weight += work.milli

    def remove_work(self, work: Work) -> None:
        """Remove work; no-op if it was not added or was taken."""
        entry, work.entry = work.entry, None
        if entry is not None:
            self._by_age.remove_entry(entry)
            self.count -= 1
            self.weight -= work.milli

    def update_weight(self, work: Work, before: int) -> None:
        """Update the total after the weight of work has changed from `before`."""
        if work.entry is not None:
            self.weight += work.milli - before

    def mark_stale(self) -> None:
        """Rebuild the index before its next use, as ages have changed."""
        self._stale = True

    def find_oldest_work(self) -> Work | None:
        """Return the oldest work, of equally old work the first in `pieces`; None if there is none."""
        if self._stale:
            self.rebuild_index()
        first = self._by_age.peek_entry()
        if first is None:
            return None
        work: Work = first[-1]
        return work

    def bind_oldest_work(self, ticket: Ticket) -> None:
        """Bind the oldest work to a ticket; no-op if there is none."""
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

    def return_work(self, ticket: Ticket) -> None:
        """Take back the work of a ticket that has not started it."""
        work, ticket.work = ticket.work, None
        if work is not None and work.holder is ticket:
            work.holder = None
            self.add_work(work)

    def rebuild_index(self) -> None:
        """Derive everything from `pieces`, after a change of their order or an interrupted operation."""
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
