"""When a holder has to lend a slot to its own descendant.

A holder may need a second call before it can end the first: it reads a stream and asks again. At capacity 1 both would
wait for ever. Each lease lists the `places` it lives in (a thread, the contexts that inherited it), and each waiter the
places that it `blocks` while it waits. A lease is stuck while a waiter blocks one of its places.

A lease can end when every waiter that blocks it can go on; a waiter can go on when in each resource that it asks for a
slot is free or some lease can end, and when nobody blocks it who can't go on. Those who can are found from the leases
that nobody blocks, step by step. As long as that reaches everyone all wait: it is only a matter of time. Those whom it
does not reach would wait for one another for ever, so the best placed of them shares a slot in each resource that has
none free. Its lease is not stuck, hence only one at a time is let in this way.
"""

from collections.abc import Collection, Hashable, Iterator

from loco_otel._core.policies.base import key_of
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Resources
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import Ticket


class DeadlockDetector:
    """Which waiters block which places."""

    __slots__ = ("_blocked_counts", "_waiters")

    def __init__(self) -> None:
        self._blocked_counts: dict[Hashable, int] = {}
        """How many block a place."""
        self._waiters: dict[int, Ticket] = {}

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def add_waiter(self, ticket: Ticket) -> None:
        """Note which places a new waiter blocks."""
        if ticket.blocked_scopes:
            self._waiters[ticket.seq] = ticket
            for place in ticket.blocked_scopes:
                self._blocked_counts[place] = self._blocked_counts.get(place, 0) + 1

    def remove_waiter(self, ticket: Ticket) -> None:
        """Note that it blocks them no more."""
        if self._waiters.pop(ticket.seq, None) is None:
            return
        for place in ticket.blocked_scopes:
            left = self._blocked_counts[place] - 1
            if left:
                self._blocked_counts[place] = left
            else:
                del self._blocked_counts[place]

    def find_sharer(self, resources: Resources) -> tuple[Ticket, dict[str, Ticket]] | None:
        """Return the waiter that must share now, and the holders that lend; None while all can go on."""
        # Whoever can't go on asks for a resource with nothing but stuck leases: mostly there is none.
        if not self._waiters or not any(self._is_pool_blocked(pool) for pool in resources.pools.values()):
            return None
        going = _ProgressAnalysis(self._waiters.values(), resources).find_progressing()
        best: tuple[float, int, int] | None = None
        chosen: Ticket | None = None
        for waiter in self._waiters.values():
            if waiter.seq in going or not self._can_end(waiter) or not _blocks_any_lease(waiter, resources):
                continue
            line = resources.get_queue_set(waiter.request.resources)
            rank = (-line.policy.compute_score(key_of(waiter.request), line.tick), waiter.birth, waiter.seq)
            if best is None or rank < best:
                best, chosen = rank, waiter
        if chosen is None:
            return None
        return chosen, dict(_choose_lenders(chosen, resources.get_queue_set(chosen.request.resources)))

    def _is_pool_blocked(self, pool: SlotPool) -> bool:
        """Tell whether it has leases, and none that nobody blocks."""
        leases = pool.leases.values()
        return bool(leases) and all(self.is_blocked(lease) for lease in leases)

    def is_blocked(self, lease: Ticket) -> bool:
        """Tell whether a waiter blocks one of the places that a lease lives in."""
        return any(place in self._blocked_counts for place in lease.scopes)

    def _can_end(self, waiter: Ticket) -> bool:
        # A waiter on a loop that another waiter blocks could not run if it were granted.
        stuck, own = self._blocked_counts, waiter.blocked_scopes
        return all(stuck.get(place, 0) <= own.count(place) for place in waiter.scopes)


class _ProgressAnalysis:
    """Finds out who can go on, in the end."""

    def __init__(self, waiters: Collection[Ticket], resources: Resources) -> None:
        self._waiters = waiters
        self._resources = resources
        self._blockers: dict[Hashable, list[int]] = {}
        for waiter in waiters:
            for place in waiter.blocked_scopes:
                self._blockers.setdefault(place, []).append(waiter.seq)
        self._progressing: set[int] = set()
        self._served_queue_sets: set[QueueSet] = set()
        """Lines for which a slot is kept, and whose turn will come."""

    def find_progressing(self) -> set[int]:
        """Return the waiters that can go on."""
        kept = {pool.reserved_for for pool in self._resources.pools.values() if pool.reserved_for is not None}
        found = True
        while found:
            found = False
            for line in kept - self._served_queue_sets:
                if self._can_get_slots(line):
                    self._served_queue_sets.add(line)
                    found = True
            for waiter in self._waiters:
                if waiter.seq not in self._progressing and self._is_unblocked(waiter):
                    line = self._resources.get_queue_set(waiter.request.resources)
                    if self._can_get_slots(line):
                        self._progressing.add(waiter.seq)
                        found = True
        return self._progressing

    def _is_unblocked(self, ticket: Ticket) -> bool:
        """Tell whether nobody blocks it who can't go on."""
        blockers = (seq for place in ticket.scopes for seq in self._blockers.get(place, ()))
        return all(seq in self._progressing or seq == ticket.seq for seq in blockers)

    def _can_get_slots(self, line: QueueSet) -> bool:
        """Tell whether in each of its pools a slot is free, or will be."""
        return all(
            pool.has_room(line)
            or (pool.used < pool.capacity and pool.reserved_for in self._served_queue_sets)
            or any(self._is_unblocked(lease) for lease in pool.leases.values())
            for pool in line.pools
        )


def _choose_lenders(waiter: Ticket, line: QueueSet) -> Iterator[tuple[str, Ticket]]:
    for pool in line.pools:
        if not pool.has_room(line) and pool.leases:
            host = _find_blocked_lease(pool, waiter) or next(iter(pool.leases.values()))
            # A sharer's own host is the one that owns the slot.
            yield pool.name, host.lenders.get(pool.name, host)


def _blocks_any_lease(waiter: Ticket, resources: Resources) -> bool:
    return any(_find_blocked_lease(pool, waiter) for pool in resources.pools.values())


def _find_blocked_lease(pool: SlotPool, waiter: Ticket) -> Ticket | None:
    """Return a holder that cannot end while this one waits."""
    blocks = waiter.blocked_scopes
    for lease in pool.leases.values():
        if any(place in blocks for place in lease.scopes):
            return lease
    return None
