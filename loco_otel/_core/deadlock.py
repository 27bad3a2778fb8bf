"""Detection of deadlocks: a lease that cannot end before its own descendant is granted.

The code that holds a lease may need a second call before it can end the first: it reads a stream and sends another
request. At capacity 1 both would wait forever. Each lease lists the scopes that it is used in (a thread, the contexts
that inherited it), and each waiter the scopes that it blocks while it waits. A lease is blocked while a waiter blocks
one of its scopes.

Contexts inherit the claim of a lease, also those of tasks and jobs that its code does not wait for. So while the body
of a call is being read, or was until just now, waiters in other threads and tasks do not block it: it progresses.

A lease can end once every waiter that blocks it can progress. A waiter can progress if in each of its resources a slot
is free or some lease can end, and if every waiter that blocks it can progress. Those that can are found step by step,
from the leases that no waiter blocks. If that reaches all waiters, all are granted in time. Those that it does not
reach would wait for each other forever, so the best placed of them shares a slot in each resource without a free one.
Its lease is not blocked, hence only one at a time is granted in this way.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import chain
from math import inf
from typing import Any, NamedTuple

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policies.base import Key, key_of
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Resources
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import READING, Ticket

READING_GRACE = 0.05
"""Seconds after a chunk for which its reader counts as reading. Waiters are checked again after somewhat more."""


class _Group(NamedTuple):
    """Waiters that differ in nothing that decides which of them can progress: of these only the first may share."""

    resources: tuple[str, ...]
    agent: Key
    blocked_scopes: tuple[Hashable, ...]
    scopes: tuple[Hashable, ...]
    """Without the claim and the task of its own, which no other waiter blocks."""


class DeadlockDetector:
    """Records which waiters block which scopes. Waiters are grouped only once all leases of a resource are blocked."""

    __slots__ = ("_blocked_counts", "_grouped", "_groups", "_resource_counts", "_ungrouped")

    def __init__(self) -> None:
        self._blocked_counts: dict[Hashable, int] = {}
        """Number of waiters that block a scope."""
        self._resource_counts: dict[tuple[str, ...], int] = {}
        """Number of waiters that block a scope, by the resources that they request."""
        self._groups: dict[_Group, LazyHeap] = {}
        """Waiters of each group, the oldest first."""
        self._grouped: dict[int, tuple[_Group, Entry]] = {}
        """By sequence number."""
        self._ungrouped: dict[int, Ticket] = {}
        """The waiters that came since the groups were read, by sequence number."""

    def __bool__(self) -> bool:
        return bool(self._resource_counts)

    def add_waiter(self, ticket: Ticket) -> None:
        """Record the scopes that a new waiter blocks."""
        if ticket.blocked_scopes:
            self._ungrouped[ticket.seq] = ticket
            names, blocked = ticket.request.resources, self._blocked_counts
            self._resource_counts[names] = self._resource_counts.get(names, 0) + 1
            for scope in ticket.blocked_scopes:
                blocked[scope] = blocked.get(scope, 0) + 1

    def remove_waiter(self, ticket: Ticket) -> None:
        """Remove a waiter, which no longer blocks its scopes."""
        if not ticket.blocked_scopes:
            return
        if self._ungrouped.pop(ticket.seq, None) is None:
            group, entry = self._grouped.pop(ticket.seq)
            waiters = self._groups[group]
            waiters.remove_entry(entry)
            if not waiters:
                del self._groups[group]
        _decrement(self._resource_counts, ticket.request.resources)
        for scope in ticket.blocked_scopes:
            _decrement(self._blocked_counts, scope)

    def update_waiter(self, ticket: Ticket, blocks: tuple[Hashable, ...]) -> None:
        """Change the scopes that a waiter blocks."""
        if ticket.blocked_scopes:
            self.remove_waiter(ticket)
        ticket.blocked_scopes = blocks
        self.add_waiter(ticket)

    def find_borrower(self, resources: Resources, now: float) -> tuple[Ticket, dict[str, Ticket]] | None:
        """Return the waiter that must share slots now, and the lender by resource.

        None if all waiters can progress, or if a pause or rate limit delays the one that must share.
        """
        # A waiter that cannot progress requests a resource with blocked leases only: usually there is none.
        if not self._has_blocked_pool(resources, now):
            return None
        requested = [resources.get_queue_set(names) for names in self._resource_counts]
        self._group_waiters()
        progressing = _ProgressAnalysis(self._groups, resources, requested, now).find_progressing()
        best: tuple[float, int, int] | None = None
        chosen: Ticket | None = None
        for group, waiters in self._groups.items():
            first = waiters.peek_entry()
            if group in progressing or first is None:
                continue
            waiter: Ticket = first[-1]
            queue_set = resources.get_queue_set(group.resources)
            if not self._can_end(waiter) or not _blocks_any_lease(waiter, queue_set, resources, now):
                continue
            rank = (-queue_set.compute_score(waiter), waiter.birth, waiter.seq)
            if best is None or rank < best:
                best, chosen = rank, waiter
        if chosen is None:
            return None
        queue_set = resources.get_queue_set(chosen.request.resources)
        if not resources.is_ready(queue_set, chosen, now):
            return None
        return chosen, dict(_iter_lenders(chosen, queue_set, now))

    def _group_waiters(self) -> None:
        """Add the waiters that came since the last call to their groups."""
        for seq, ticket in self._ungrouped.items():
            group = _find_group(ticket)
            waiters = self._groups.get(group)
            if waiters is None:
                waiters = self._groups[group] = LazyHeap()
            self._grouped[seq] = group, waiters.push_entry(ticket.birth, seq, item=ticket)
        self._ungrouped.clear()

    def _has_blocked_pool(self, resources: Resources, now: float) -> bool:
        """Return whether a resource that a waiter requests has leases, all of them blocked."""
        blocked = self._blocked_counts.keys()
        for names in self._resource_counts:
            queue_set = resources.queue_sets.get(names) or resources.get_queue_set(names)
            for pool in queue_set.pools:
                for lease in pool.leases.values():
                    if blocked.isdisjoint(lease.scopes) or blocked.isdisjoint(_list_scopes(lease, now)):
                        break
                else:
                    if pool.leases:
                        return True
        return False

    def is_blocked(self, lease: Ticket, now: float) -> bool:
        """Return whether a waiter blocks one of the scopes of a lease."""
        return not self._blocked_counts.keys().isdisjoint(_list_scopes(lease, now))

    def _can_end(self, waiter: Ticket) -> bool:
        # A waiter on an event loop that another waiter blocks could not run if it were granted.
        counts, own = self._blocked_counts, waiter.blocked_scopes
        return all(counts.get(scope, 0) <= own.count(scope) for scope in waiter.scopes)


class _ProgressAnalysis:
    """Computes which groups of waiters can progress.

    Args:
        groups: all of them.
        resources: all of them.
        requested: the queue sets of the waiters.
        now: the time.

    """

    def __init__(
        self, groups: Mapping[_Group, LazyHeap], resources: Resources, requested: Iterable[QueueSet], now: float
    ) -> None:
        self._now = now
        self._groups = groups
        self._resources = resources
        self._reserving = {pool.reserved_for for queue_set in requested for pool in queue_set.pools}
        self._blockers: dict[Hashable, list[_Group]] = {}
        for group in groups:
            for scope in group.blocked_scopes:
                self._blockers.setdefault(scope, []).append(group)
        self._progressing: set[_Group] = set()
        self._served_queue_sets: set[object] = set()
        """Queue sets with a reservation that will be granted."""

    def find_progressing(self) -> set[_Group]:
        """Return the groups whose waiters can progress."""
        found = True
        while found:
            found = False
            for queue_set in self._reserving:
                if (
                    isinstance(queue_set, QueueSet)
                    and queue_set not in self._served_queue_sets
                    and self._can_get_slots(queue_set)
                ):
                    self._served_queue_sets.add(queue_set)
                    found = True
            for group in self._groups:
                if (
                    group not in self._progressing
                    and self._is_group_unblocked(group)
                    and self._can_get_slots(self._resources.get_queue_set(group.resources))
                ):
                    self._progressing.add(group)
                    found = True
        return self._progressing

    def _is_group_unblocked(self, group: _Group) -> bool:
        """Return whether every other waiter that blocks a waiter of a group can progress."""
        blockers = (blocker for scope in group.scopes for blocker in self._blockers.get(scope, ()))
        is_alone = len(self._groups[group]) == 1
        return all(blocker in self._progressing or (blocker is group and is_alone) for blocker in blockers)

    def _is_lease_unblocked(self, lease: Ticket) -> bool:
        """Return whether every waiter that blocks a lease can progress."""
        blockers = (blocker for scope in _list_scopes(lease, self._now) for blocker in self._blockers.get(scope, ()))
        return all(blocker in self._progressing for blocker in blockers)

    def _can_get_slots(self, queue_set: QueueSet) -> bool:
        """Return whether in each of its pools a slot is free, or will be."""
        return all(
            pool.has_room(queue_set)
            or (pool.used < pool.capacity and pool.reserved_for in self._served_queue_sets)
            or any(self._is_lease_unblocked(lease) for lease in pool.leases.values())
            for pool in queue_set.pools
        )


def _find_group(ticket: Ticket) -> _Group:
    scopes = tuple([scope for scope in ticket.scopes[:2] if scope is not ticket])
    return _Group(ticket.request.resources, key_of(ticket.request), ticket.blocked_scopes, scopes)


def _decrement(counts: dict[Any, int], key: Hashable) -> None:
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1


def _list_scopes(lease: Ticket, now: float) -> tuple[Hashable, ...]:
    """Return the scopes that a waiter can block now: while its body is read, not the claim that contexts inherit."""
    idle_after = lease.idle_after
    if idle_after == READING or (idle_after != inf and now < lease.touched_at + READING_GRACE):
        return lease.scopes[:1] + lease.scopes[2:]
    return lease.scopes


def _iter_lenders(waiter: Ticket, queue_set: QueueSet, now: float) -> Iterator[tuple[str, Ticket]]:
    for pool in queue_set.pools:
        if not pool.has_room(queue_set) and pool.leases:
            lender = _find_blocked_lease(pool, waiter, now) or next(iter(pool.leases.values()))
            # The lender of a lease that shares is the lease that owns the slot.
            yield pool.name, lender.lenders.get(pool.name, lender)


def _blocks_any_lease(waiter: Ticket, queue_set: QueueSet, resources: Resources, now: float) -> bool:
    # Usually a lease of what it requests: then not all pools are searched, of which there may be a thousand.
    pools = chain(queue_set.pools, resources.pools.values())
    return any(_find_blocked_lease(pool, waiter, now) for pool in pools)


def _find_blocked_lease(pool: SlotPool, waiter: Ticket, now: float) -> Ticket | None:
    """Return a lease that cannot end while a waiter waits; None if there is none."""
    blocks = waiter.blocked_scopes
    for lease in pool.leases.values():
        if any(scope in blocks for scope in _list_scopes(lease, now)):
            return lease
    return None
