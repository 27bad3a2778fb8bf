"""All resources: the pool of each, the lines before them, and whose turn it is.

A request may ask for several resources, and gets a slot of each in one step or none at all: nobody holds one while
waiting for another, so no two can wait for each other. Requests for the same set stand in one line, which its policy
orders. Where several lines want the same pool, the turn is that of the line whose oldest waiter has waited longest, of
those for which there is room: a line that does not fit now holds nobody up. So that one which needs much is not passed
for ever, a line whose guard has fired keeps a slot in each of its pools from then on: no other line takes the last one
there. Lines keep all their pools or none, one line at a time for each pool, so they never wait for each other either.
From then on a wide request waits until one lease in each of its pools has ended, after those that kept a slot before.
"""

from collections.abc import Callable, Iterable, Mapping
from math import inf
from operator import itemgetter
from typing import TypeAlias

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.policies.base import Policy
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import Ticket

Capacity: TypeAlias = int | AdaptiveLimit | None
"""Slots: so many, any number, or what turns out."""

_MAX_QUEUE_SETS = 1000
"""Kept at once, and as many pools that were made when asked for; beyond, those are forgotten that nobody uses."""


class Resources:
    """Pools by name, and lines by what they ask for, made when first asked for.

    Args:
        capacities: slots by resource.
        policy: makes the policy of a line.
        max_wait_ticks: the guard, see `Line`.
        unknown: makes a resource that is asked for and not known; without it that is an error.
        tenant_shares: in thousandths, by tenant; others have 1.
        tuner: makes what finds alpha for a line; None leaves it as it is.

    """

    def __init__(
        self,
        capacities: Mapping[str, Capacity],
        policy: Callable[[], Policy],
        max_wait_ticks: int,
        unknown: Callable[[str], SlotPool] | None = None,
        *,
        tenant_shares: Mapping[str, int],
        tuner: Callable[[], AlphaTuner | None] = lambda: None,
    ) -> None:
        self.opens_at = inf
        """When somebody may go who has room but must wait for the time, as far as `next` has seen."""
        self._make_unknown_pool = unknown
        self.pools: dict[str, SlotPool] = {}
        self.queue_sets: dict[tuple[str, ...], QueueSet] = {}
        """By what they ask for, in the order of the names."""
        self._other_orders: dict[tuple[str, ...], QueueSet] = {}
        self._configured_names = set(capacities)
        self._make_tuner = tuner
        self._make_policy = policy
        self._max_wait_ticks = max_wait_ticks
        self._tenant_shares = tenant_shares
        for name, capacity in capacities.items():
            self.add_resource(name, capacity)

    def add_resource(self, name: str, capacity: Capacity) -> None:
        """Add a resource that is not known yet."""
        self._configured_names.add(name)
        self.pools[name] = SlotPool(name, capacity)
        self.get_queue_set((name,))

    def get_queue_set(self, names: tuple[str, ...]) -> QueueSet:
        """Return the line of those who ask for these resources.

        Raises:
            KeyError: one of them is not known.
            ValueError: none is named, or one twice.

        """
        line = self.queue_sets.get(names) or self._other_orders.get(names)
        return self._make_queue_set(names) if line is None else line

    def select_next_grant(self, pools: tuple[SlotPool, ...], now: float) -> tuple[Ticket, bool] | None:
        """Return the waiter to be granted next of those who ask for these pools, and whether a guard chose it.

        None when there is no room for any, or it is not the time yet.
        """
        if len(pools) == 1 and len(pools[0].queue_sets) == 1:
            (pool,), (line,) = pools, pools[0].queue_sets
            if not line.waiting or pool.used >= pool.capacity:
                return None
            turn = line.select_next()
            return turn if not pool.is_gated or self.is_ready(line, turn[0], now) else None
        turns: list[tuple[bool, float, int, QueueSet, Ticket]] = []
        for line in dict.fromkeys(line for pool in pools for line in pool.queue_sets):
            oldest = line.find_oldest_waiter()
            if oldest is not None:
                ticket, guarded = line.select_next()
                if not guarded:
                    self.unreserve_slots(line)
                turns.append((not guarded, oldest.waiting_since, oldest.seq, line, ticket))
        turns.sort(key=itemgetter(0, 1, 2))
        for by_policy, *_, line, _ in turns:
            if not by_policy and line.single_pool is None:
                self._reserve_slots(line)
        for by_policy, *_, line, ticket in turns:
            if all(pool.has_room(line) for pool in line.pools) and self.is_ready(line, ticket, now):
                return ticket, not by_policy
        return None

    def can_grant_now(self, line: QueueSet, ticket: Ticket, now: float) -> bool:
        """Tell whether a newcomer may go at once: there is room, it is the time, and nobody waits in its line."""
        # Somebody may wait whose time has just come: the newcomer queues behind.
        return (
            not line.waiting
            and all(pool.has_room(line) for pool in line.pools)
            and all(not pool.is_gated or pool.compute_open_time(ticket, now) <= now for pool in line.pools)
        )

    def is_ready(self, line: QueueSet, ticket: Ticket, now: float) -> bool:
        """Tell whether a ticket may go as far as time is concerned; if not, note when it may."""
        at = max(pool.compute_open_time(ticket, now) if pool.is_gated else now for pool in line.pools)
        if at > now:
            self.opens_at = min(self.opens_at, at)
        return at <= now

    def set_resource(self, name: str, capacity: Capacity, requests: float | None, tokens: float | None) -> SlotPool:
        """Make a resource, or change its limits: an adaptive one keeps what it has learnt."""
        pool = self.pools.get(name)
        if pool is None:
            self._configured_names.add(name)
            pool = self.pools[name] = SlotPool(name, capacity)
            self.get_queue_set((name,))
        elif pool.adaptive_limit is not None and isinstance(capacity, AdaptiveLimit):
            pool.adaptive_limit.set_ceiling(capacity.ceiling)
            pool.capacity = pool.adaptive_limit.limit
        else:
            pool.set_capacity(capacity)
        pool.set_rate_limits(requests, tokens)
        return pool

    def list_created(self) -> list[str]:
        """Return the names of the resources that were made because they were asked for."""
        return [name for name in self.pools if name not in self._configured_names]

    def unreserve_slots(self, line: QueueSet) -> None:
        """Note that one of a line waits no more: what was kept for it is free."""
        for pool in line.pools:
            if pool.reserved_for is line:
                pool.reserved_for = None

    def advance_ticks(self, pools: Iterable[SlotPool]) -> None:
        """Let time go on for all who ask for these pools, of which one has a slot more."""
        for line in dict.fromkeys(line for pool in pools for line in pool.queue_sets):
            line.tick += 1
            if line.tuner is not None and line.tuner.is_due(line.tick, len(line.queues) + len(line.backlogs)):
                line.tune_alpha(line.tuner)

    def count_waiting(self) -> int:
        """Count those that wait."""
        return sum(line.waiting for line in self.queue_sets.values())

    def replace_policies(
        self,
        policy: Callable[[], Policy],
        max_wait_ticks: int,
        tenant_shares: Mapping[str, int],
        tuner: Callable[[], AlphaTuner | None],
    ) -> None:
        """Go on under another policy, guard and shares; nobody loses their place in their queue."""
        self._make_policy = policy
        self._make_tuner = tuner
        self._max_wait_ticks = max_wait_ticks
        self._tenant_shares = tenant_shares
        for line in self.queue_sets.values():
            line.max_wait_ticks = max_wait_ticks
            line.tuner = tuner()
            line.replace_policy(policy, tenant_shares)

    def clear_state(self) -> None:
        """Forget holders and waiters, keeping the clocks; the tickets are untouched."""
        for pool in self.pools.values():
            pool.clear_leases()
        for line in self.queue_sets.values():
            line.clear_queues()

    def _reserve_slots(self, line: QueueSet) -> None:
        """Keep a slot in each of a line's pools, unless one is kept there for another already."""
        if all(pool.reserved_for is None for pool in line.pools):
            for pool in line.pools:
                pool.reserved_for = line

    def _make_queue_set(self, names: tuple[str, ...]) -> QueueSet:
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a request names one or more resources, each once, not {names!r}")
        ordered = tuple(sorted(names))
        if ordered != names:
            line = self._other_orders[names] = self.get_queue_set(ordered)
        else:
            if len(self.queue_sets) >= _MAX_QUEUE_SETS or len(self.pools) >= _MAX_QUEUE_SETS:
                self._forget_idle()
            for name in names:
                if name not in self.pools:
                    self.pools[name] = self._make_pool(name)
            wanted = tuple(self.pools[name] for name in names)
            line = QueueSet(self._make_policy, self._max_wait_ticks, wanted, tenant_shares=self._tenant_shares)
            line.tuner = self._make_tuner()
            for pool in line.pools:
                pool.queue_sets.append(line)
            self.queue_sets[names] = line
        return line

    def _make_pool(self, name: str) -> SlotPool:
        if self._make_unknown_pool is None:
            raise KeyError(f"{name!r} is no resource; there are {', '.join(map(repr, self.pools))}")
        return self._make_unknown_pool(name)

    def _forget_idle(self) -> None:
        """Forget lines in which nobody is queued, and pools of which nothing is held or known; they are made again."""
        made = {
            pool.name
            for pool in self.pools.values()
            if pool.name not in self._configured_names and not pool.leases and not pool.has_learnt
        }
        self._other_orders = {}
        for names, line in list(self.queue_sets.items()):
            if not line.queues and (len(names) > 1 or names[0] in made):
                del self.queue_sets[names]
                for pool in line.pools:
                    if line in pool.queue_sets:
                        pool.queue_sets.remove(line)
        for name in made:
            if not self.pools[name].queue_sets:
                del self.pools[name]
