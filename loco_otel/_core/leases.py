"""The times at which waiters time out, and leases expire or become idle."""

from collections.abc import Iterable, Iterator
from math import inf

from loco_otel._core.lazy_heap import LazyHeap
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import Ticket


class Deadlines:
    """Deadlines of waiters, and the next time at which leases are checked for expiry.

    A lease expires `max_hold` seconds after its last sign of life.
    """

    __slots__ = ("_waiters", "idle_check_at", "lease_check_at", "max_hold")

    def __init__(self, max_hold: float) -> None:
        self.max_hold = max_hold
        self.lease_check_at = inf
        """Never later than the first time at which a lease can expire."""
        self.idle_check_at = inf
        """When all leases of a resource that a ticket waits for become idle, as far as the last check could see."""
        self._waiters = LazyHeap()

    def __len__(self) -> int:
        return len(self._waiters)

    def add_waiter(self, ticket: Ticket) -> None:
        """Add a waiter, if it has a deadline."""
        if ticket.deadline is not None:
            ticket.deadline_entry = self._waiters.push_entry(ticket.deadline, item=ticket)

    def remove_waiter(self, ticket: Ticket) -> None:
        """Remove a waiter; no-op if it has no deadline."""
        entry, ticket.deadline_entry = ticket.deadline_entry, None
        if entry is not None:
            self._waiters.remove_entry(entry)

    def find_timed_out(self, now: float) -> Ticket | None:
        """Return the waiter whose deadline has passed first; None if no deadline has passed."""
        first = self._waiters.peek_entry()
        if first is None or first[0] > now:
            return None
        ticket: Ticket = first[-1]
        return ticket

    def iter_expired_leases(self, pools: Iterable[SlotPool], now: float) -> Iterator[Ticket]:
        """Yield each lease that has expired, and set the time of the next check.

        The caller ends each lease before it takes the next one.
        """
        self.lease_check_at = inf
        for pool in tuple(pools):
            for ticket in tuple(pool.leases.values()):
                if not ticket.state.is_holding:
                    continue  # a lease of several pools, which was ended at another pool
                due = ticket.touched_at + self.max_hold
                if due > now:
                    self.lease_check_at = min(self.lease_check_at, due)
                else:
                    yield ticket

    def compute_next(self) -> float:
        """Return the earliest time at which a waiter or a lease is due; inf if never."""
        first = self._waiters.peek_entry()
        check_at = min(self.lease_check_at, self.idle_check_at)
        return check_at if first is None else min(check_at, float(first[0]))

    def is_due_before(self, at: float) -> bool:
        """Return whether `compute_next` returns an earlier time."""
        if self.lease_check_at < at or self.idle_check_at < at:
            return True
        first = self._waiters.peek_entry()
        return first is not None and first[0] < at

    def clear_entries(self) -> None:
        """Remove all waiters, and make the next checks of the leases due at once."""
        self._waiters = LazyHeap()
        self.lease_check_at = self.idle_check_at = -inf
