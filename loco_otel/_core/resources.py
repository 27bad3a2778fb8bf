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
from loco_otel._core.alpha_tuner import AdaptiveAlpha
from loco_otel._core.policies.base import Policy
from loco_otel._core.queue_set import Line
from loco_otel._core.slot_pool import Pool
from loco_otel._core.ticket import Ticket

Capacity: TypeAlias = int | AdaptiveLimit | None
"""Slots: so many, any number, or what turns out."""

_MOST_LINES = 1000
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
        unknown: Callable[[str], Pool] | None = None,
        *,
        tenant_shares: Mapping[str, int],
        tuner: Callable[[], AdaptiveAlpha | None] = lambda: None,
    ) -> None:
        self.opens_at = inf
        """When somebody may go who has room but must wait for the time, as far as `next` has seen."""
        self._unknown = unknown
        self.pools: dict[str, Pool] = {}
        self.lines: dict[tuple[str, ...], Line] = {}
        """By what they ask for, in the order of the names."""
        self._other_orders: dict[tuple[str, ...], Line] = {}
        self._stated = set(capacities)
        self._tuner = tuner
        self._policy = policy
        self._max_wait_ticks = max_wait_ticks
        self._tenant_shares = tenant_shares
        for name, capacity in capacities.items():
            self.add(name, capacity)

    def add(self, name: str, capacity: Capacity) -> None:
        """Add a resource that is not known yet."""
        self._stated.add(name)
        self.pools[name] = Pool(name, capacity)
        self.line((name,))

    def line(self, names: tuple[str, ...]) -> Line:
        """Return the line of those who ask for these resources.

        Raises:
            KeyError: one of them is not known.
            ValueError: none is named, or one twice.

        """
        line = self.lines.get(names) or self._other_orders.get(names)
        return self._make_line(names) if line is None else line

    def next(self, pools: tuple[Pool, ...], now: float) -> tuple[Ticket, bool] | None:
        """Return the waiter to be granted next of those who ask for these pools, and whether a guard chose it.

        None when there is no room for any, or it is not the time yet.
        """
        if len(pools) == 1 and len(pools[0].lines) == 1:
            (pool,), (line,) = pools, pools[0].lines
            if not line.waiting or pool.used >= pool.capacity:
                return None
            turn = line.next()
            return turn if not pool.gated or self.is_time(line, turn[0], now) else None
        turns: list[tuple[bool, float, int, Line, Ticket]] = []
        for line in dict.fromkeys(line for pool in pools for line in pool.lines):
            oldest = line.oldest()
            if oldest is not None:
                ticket, guarded = line.next()
                if not guarded:
                    self.leave(line)
                turns.append((not guarded, oldest.waiting_since, oldest.seq, line, ticket))
        turns.sort(key=itemgetter(0, 1, 2))
        for by_policy, *_, line, _ in turns:
            if not by_policy and line.only is None:
                self._keep(line)
        for by_policy, *_, line, ticket in turns:
            if all(pool.has_room(line) for pool in line.pools) and self.is_time(line, ticket, now):
                return ticket, not by_policy
        return None

    def has_room(self, line: Line, ticket: Ticket, now: float) -> bool:
        """Tell whether a newcomer may go at once: there is room, it is the time, and nobody waits in its line."""
        # Somebody may wait whose time has just come: the newcomer queues behind.
        return (
            not line.waiting
            and all(pool.has_room(line) for pool in line.pools)
            and all(not pool.gated or pool.opens_at(ticket, now) <= now for pool in line.pools)
        )

    def is_time(self, line: Line, ticket: Ticket, now: float) -> bool:
        """Tell whether a ticket may go as far as time is concerned; if not, note when it may."""
        at = max(pool.opens_at(ticket, now) if pool.gated else now for pool in line.pools)
        if at > now:
            self.opens_at = min(self.opens_at, at)
        return at <= now

    def set(self, name: str, capacity: Capacity, requests: float | None, tokens: float | None) -> Pool:
        """Make a resource, or change its limits: an adaptive one keeps what it has learnt."""
        pool = self.pools.get(name)
        if pool is None:
            self._stated.add(name)
            pool = self.pools[name] = Pool(name, capacity)
            self.line((name,))
        elif pool.adaptive is not None and isinstance(capacity, AdaptiveLimit):
            pool.adaptive.set_ceiling(capacity.ceiling)
            pool.capacity = pool.adaptive.limit
        else:
            pool.limit(capacity)
        pool.limit_rates(requests, tokens)
        return pool

    def made(self) -> list[str]:
        """Return the names of the resources that were made because they were asked for."""
        return [name for name in self.pools if name not in self._stated]

    def leave(self, line: Line) -> None:
        """Note that one of a line waits no more: what was kept for it is free."""
        for pool in line.pools:
            if pool.reserved is line:
                pool.reserved = None

    def tick(self, pools: Iterable[Pool]) -> None:
        """Let time go on for all who ask for these pools, of which one has a slot more."""
        for line in dict.fromkeys(line for pool in pools for line in pool.lines):
            line.tick += 1
            if line.tuner is not None and line.tuner.due(line.tick, len(line.queues) + len(line.backlogs)):
                line.tune(line.tuner)

    def waiting(self) -> int:
        """Count those that wait."""
        return sum(line.waiting for line in self.lines.values())

    def use(
        self,
        policy: Callable[[], Policy],
        max_wait_ticks: int,
        tenant_shares: Mapping[str, int],
        tuner: Callable[[], AdaptiveAlpha | None],
    ) -> None:
        """Go on under another policy, guard and shares; nobody loses their place in their queue."""
        self._policy = policy
        self._tuner = tuner
        self._max_wait_ticks = max_wait_ticks
        self._tenant_shares = tenant_shares
        for line in self.lines.values():
            line.max_wait_ticks = max_wait_ticks
            line.tuner = tuner()
            line.use(policy, tenant_shares)

    def clear(self) -> None:
        """Forget holders and waiters, keeping the clocks; the tickets are untouched."""
        for pool in self.pools.values():
            pool.clear()
        for line in self.lines.values():
            line.clear()

    def _keep(self, line: Line) -> None:
        """Keep a slot in each of a line's pools, unless one is kept there for another already."""
        if all(pool.reserved is None for pool in line.pools):
            for pool in line.pools:
                pool.reserved = line

    def _make_line(self, names: tuple[str, ...]) -> Line:
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a request names one or more resources, each once, not {names!r}")
        ordered = tuple(sorted(names))
        if ordered != names:
            line = self._other_orders[names] = self.line(ordered)
        else:
            if len(self.lines) >= _MOST_LINES or len(self.pools) >= _MOST_LINES:
                self._forget_idle()
            for name in names:
                if name not in self.pools:
                    self.pools[name] = self._make_pool(name)
            wanted = tuple(self.pools[name] for name in names)
            line = Line(self._policy, self._max_wait_ticks, wanted, tenant_shares=self._tenant_shares)
            line.tuner = self._tuner()
            for pool in line.pools:
                pool.lines.append(line)
            self.lines[names] = line
        return line

    def _make_pool(self, name: str) -> Pool:
        if self._unknown is None:
            raise KeyError(f"{name!r} is no resource; there are {', '.join(map(repr, self.pools))}")
        return self._unknown(name)

    def _forget_idle(self) -> None:
        """Forget lines in which nobody is queued, and pools of which nothing is held or known; they are made again."""
        made = {
            pool.name
            for pool in self.pools.values()
            if pool.name not in self._stated and not pool.leases and not pool.has_learnt
        }
        self._other_orders = {}
        for names, line in list(self.lines.items()):
            if not line.queues and (len(names) > 1 or names[0] in made):
                del self.lines[names]
                for pool in line.pools:
                    if line in pool.lines:
                        pool.lines.remove(line)
        for name in made:
            if not self.pools[name].lines:
                del self.pools[name]
