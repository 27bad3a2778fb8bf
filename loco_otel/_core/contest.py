"""The queue sets that compete for the same pools: their order, and those whose guard fires.

There may be a thousand, of which each release changes one or two. So their order is kept, and the guards are checked
only once enough releases have occurred for one of them to fire.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import chain
from math import inf
from typing import NamedTuple

from loco_otel._core.queue_set import QueueSet
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import Ticket


class Rank(NamedTuple):
    """The order among queue sets: by the time since which their oldest ticket has waited."""

    waiting_since: float
    seq: int
    queue_set: QueueSet
    oldest: Ticket


class Contest:
    """The queue sets of each pool, and the order of those that have a waiter."""

    __slots__ = ("_by_rank", "_changed", "_guard_checks", "_queue_sets", "_ranks", "_releases")

    def __init__(self) -> None:
        self._queue_sets: defaultdict[str, list[QueueSet]] = defaultdict(list)
        """By resource; each has at least one."""
        self._by_rank: defaultdict[str, list[Rank]] = defaultdict(list)
        """By resource: of the queue sets with a waiter that did not change since, in order."""
        self._ranks: dict[QueueSet, Rank] = {}
        """Those that are listed there."""
        self._changed: dict[QueueSet, None] = {}
        """The queue sets of which a waiter came or left since their rank was computed."""
        self._releases = 0
        """All releases: of them each queue set has counted at most as many ticks."""
        self._guard_checks: dict[str, float] = {}
        """By resource: the number of releases before which no guard of its queue sets can fire."""

    def list_queue_sets(self, pools: Sequence[SlotPool]) -> Sequence[QueueSet]:
        """Return the queue sets that compete for any of these pools, each once, in no order."""
        if len(pools) <= 1:
            return self._queue_sets[pools[0].name] if pools else ()
        # Hundreds may compete for one pool, and few for the others: only those few are compared.
        busiest = max(pools, key=lambda pool: len(self._queue_sets[pool.name]))
        few = chain.from_iterable(self._queue_sets[pool.name] for pool in pools if pool is not busiest)
        return [*self._queue_sets[busiest.name], *dict.fromkeys([each for each in few if busiest not in each.pools])]

    def add_queue_set(self, queue_set: QueueSet) -> None:
        """Add a new queue set to its pools."""
        for pool in queue_set.pools:
            competing = self._queue_sets[pool.name]
            competing.append(queue_set)
            pool.is_contested = len(competing) > 1
            # While one competed alone its waiters were not recorded.
            self._changed.update({each: None for each in competing if each.waiting})
        self._guard_checks.clear()

    def remove_queue_set(self, queue_set: QueueSet) -> None:
        """Remove a queue set without waiters from its pools."""
        self._drop_rank(queue_set)
        for pool in queue_set.pools:
            competing = self._queue_sets[pool.name]
            if queue_set in competing:
                competing.remove(queue_set)
            pool.is_contested = len(competing) > 1
            if len(competing) == 1 and competing[0].single_pool is not None:
                # Alone, its waiters are not recorded.
                self._drop_rank(competing[0])
                self._changed.pop(competing[0], None)

    def remove_pool(self, name: str) -> None:
        """Remove what is kept of a pool without queue sets."""
        del self._queue_sets[name]
        self._by_rank.pop(name, None)
        self._guard_checks.pop(name, None)

    def record_arrival(self, queue_set: QueueSet, ticket: Ticket) -> None:
        """Record that a ticket waits."""
        pool = queue_set.single_pool
        if pool is None or pool.is_contested:
            self._changed[queue_set] = None
            check = self._releases + _count_ticks_to_guard(queue_set, ticket)
            for pool in queue_set.pools:
                self._guard_checks[pool.name] = min(check, self._guard_checks.get(pool.name, 0))

    def record_departure(self, queue_set: QueueSet) -> None:
        """Record that a ticket waits no longer."""
        pool = queue_set.single_pool
        if pool is None or pool.is_contested:
            self._changed[queue_set] = None

    def count_release(self) -> None:
        """Record that queue sets have counted a tick."""
        self._releases += 1

    def recheck_guards(self) -> None:
        """Check all guards with the next grants, as limits of ticks or the ticks themselves have changed."""
        self._guard_checks.clear()

    def iter_ranks(self, pools: Sequence[SlotPool]) -> Iterator[Rank]:
        """Yield the ranks of the queue sets with a waiter that compete for any of these pools, in order."""
        self._update_ranks()
        last: Rank | None = None
        for rank in merge(*[self._by_rank[pool.name] for pool in pools]):
            if rank is not last:
                yield rank
            last = rank

    def list_overdue(self, pools: Sequence[SlotPool]) -> list[Rank]:
        """Return the ranks of the queue sets whose guard fires, in order; reservations of the others are removed."""
        pools = [pool for pool in pools if self._guard_checks.get(pool.name, 0) <= self._releases]
        if not pools:
            return []
        self._update_ranks()
        overdue: list[Rank] = []
        ticks = inf
        for queue_set in self.list_queue_sets(pools):
            if queue_set.waiting:
                rank = self._ranks[queue_set]
                remaining = _count_ticks_to_guard(queue_set, rank.oldest)
                ticks = min(ticks, remaining)
                if remaining <= 0 and (turn := queue_set.select_next()) is not None:
                    # Of several classes not the one of the oldest need be next.
                    overdue.append(rank._replace(oldest=turn[0]))
                elif queue_set.has_reservation:
                    queue_set.unreserve_all()
        for pool in pools:
            self._guard_checks[pool.name] = self._releases + ticks
        overdue.sort()
        return overdue

    def clear_waiters(self) -> None:
        """Remove all ranks, as all queues are empty."""
        self._by_rank.clear()
        self._ranks = {}
        self._changed = {}
        self._guard_checks = {}

    def _update_ranks(self) -> None:
        while self._changed:
            queue_set, _ = self._changed.popitem()
            oldest = queue_set.find_oldest_waiter()
            rank = None if oldest is None else Rank(oldest.waiting_since, oldest.seq, queue_set, oldest)
            if rank != self._ranks.get(queue_set):
                self._drop_rank(queue_set)
                if rank is not None:
                    self._ranks[queue_set] = rank
                    for pool in queue_set.pools:
                        insort(self._by_rank[pool.name], rank)

    def _drop_rank(self, queue_set: QueueSet) -> None:
        rank = self._ranks.pop(queue_set, None)
        if rank is not None:
            for pool in queue_set.pools:
                ranks = self._by_rank[pool.name]
                del ranks[bisect_left(ranks, rank)]


def _count_ticks_to_guard(queue_set: QueueSet, ticket: Ticket) -> float:
    """Return the number of ticks until the guard fires for a waiting ticket; inf without a guard."""
    guard = queue_set.max_wait_ticks
    return guard - (queue_set.tick - ticket.birth) if guard else inf
