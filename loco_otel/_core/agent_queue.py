"""The waiting tickets of one agent, or of one run."""

from loco_otel._core.backlog import Backlog
from loco_otel._core.lazy_heap import Entry, LazyHeap, serials
from loco_otel._core.policies.base import Candidate, Key
from loco_otel._core.ticket import Ticket


class AgentQueue(LazyHeap):
    """One agent's waiting tickets, oldest first. Weight and age include those of the agent's backlog.

    The entries are the `age_entry` of the tickets, which other heaps share.
    """

    __slots__ = ("_own_weight", "backlog", "key", "since_tick")

    def __init__(self, key: Key, backlog: Backlog | None = None, since_tick: int = 0) -> None:
        self._heap: list[Entry] = []  # as the base does, without a call: made for each waiter of an idle agent
        self._removed = 0
        self.key = key
        self.since_tick = since_tick
        """The tick since which a ticket has been in the queue without interruption."""
        self._own_weight = 0
        self.backlog = backlog
        """Counted with the waiters."""

    @property
    def weight(self) -> int:
        """Qi in milli-weights."""
        return self._own_weight if self.backlog is None else self._own_weight + self.backlog.weight

    def count_queued(self) -> int:
        """Return the number of queued requests; waiters that only take work from the backlog are not counted twice."""
        return len(self) if self.backlog is None else max(len(self), len(self.backlog))

    def add_ticket(self, ticket: Ticket, entry: Entry) -> None:
        """Add a waiting ticket, by its entry in another heap."""
        self._own_weight += ticket.request.weight
        self.share_entry(entry)

    def push_ticket(self, ticket: Ticket) -> Entry:
        """Add a waiting ticket, and return its entry."""
        self._own_weight += ticket.request.weight
        entry: Entry = [ticket.birth, ticket.seq, next(serials), ticket]
        self.share_entry(entry)
        return entry

    def remove_ticket(self, ticket: Ticket, entry: Entry) -> None:
        """Remove a ticket by its entry."""
        self.remove_entry(entry)
        self._own_weight -= ticket.request.weight

    def list_tickets(self) -> list[Ticket]:
        """Return the waiting tickets, in no order."""
        return self.list_items()

    def find_head(self) -> Ticket | None:
        """Return the oldest ticket; None if the queue is empty."""
        first = self.peek_entry()
        if first is None:
            return None
        ticket: Ticket = first[-1]
        return ticket

    def find_birth_tick(self) -> int:
        """Return the tick at which the oldest ticket or work was queued; the queue must not be empty.

        Tickets that only take work from the backlog are as old as the work.
        """
        work = None if self.backlog is None else self.backlog.find_oldest_work()
        if work is not None and not self._own_weight:
            return work.birth
        first = self.peek_entry()
        assert first is not None  # noqa: S101 - invariant: an empty queue is removed
        birth = int(first[0])
        return birth if work is None else min(birth, work.birth)

    def read_state(self) -> tuple[int, int, int, Entry] | None:
        """Return the number of waiters, Qi, `find_birth_tick()` and the oldest's entry; None if the queue is empty.

        In one call, as a snapshot reads thousands of queues.
        """
        first = self.peek_entry()
        if first is None:
            return None
        if self.backlog is None:
            return len(self), self._own_weight, first[0], first
        return len(self), self.weight, self.find_birth_tick(), first

    def build_candidate(self) -> Candidate | None:
        """Return what the policy compares; None if the queue is empty."""
        first = self.peek_entry()
        if first is None:
            return None
        birth, seq = first[0], first[1]
        if self.backlog is None:
            return Candidate(self._own_weight, birth, (birth, seq))
        return Candidate(self.weight, self.find_birth_tick(), (birth, seq))
