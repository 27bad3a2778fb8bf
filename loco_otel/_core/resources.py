"""All resources: their pools, the queue sets that compete for them, and the selection of the next grant.

A request may name several resources, and gets a slot of each in one step or none at all: no request holds one resource
while it waits for another, so requests cannot deadlock over resources. Requests for the same set of resources share a
queue set, which its policy orders. If several queue sets compete for a pool, the next grant goes to the one whose
oldest waiter has waited longest, of those that have room: a queue set without room delays no other.

So that a request for many resources does not wait forever, a queue set whose guard has fired reserves a slot in each of
its pools: from then on no other queue set takes the last free slot there. A queue set reserves all its pools or none,
and each pool is reserved for one queue set at a time, so reservations cannot deadlock either. From then on the request
waits until one lease in each of its pools has ended, after the requests that reserved a slot before.

Rate limits are reserved likewise, first: what the request takes of them stays in the buckets, and other queue sets get
only what is above that. Slots are reserved once the rate limits and pauses allow the request: until then they would
stay free for up to a minute. A queue set that reserves slots can take its tokens, so no two wait for each other.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import TypeAlias

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.contest import Contest
from loco_otel._core.policies.base import Policy
from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityRules
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.remote import RemoteState
from loco_otel._core.slot_pool import Gate, SlotPool
from loco_otel._core.ticket import Ticket
from loco_otel.events import GateCause

Capacity: TypeAlias = int | AdaptiveLimit | None
"""Slots: a fixed number, adaptive, or unlimited."""

_MAX_QUEUE_SETS = 1000
"""Queue sets kept at once, and pools that were created on request. Above that, unused ones are removed."""


class Resources:
    """Pools by name, and queue sets by the resources that they name, created on their first request.

    Args:
        capacities: slots by resource.
        policy: creates the policy of a queue set.
        max_wait_ticks: the guard, see `QueueSet`.
        make_unknown_pool: creates the pool of an unknown resource; without it a request for one is an error.
        tenant_shares: in thousandths, by tenant; others have 1.
        tuner: creates what adapts alpha of a queue set; None keeps alpha constant.
        by_run: whether the policy orders runs, not agents.
        priorities: how the classes of urgency are served.

    """

    def __init__(
        self,
        capacities: Mapping[str, Capacity],
        policy: Callable[[], Policy],
        max_wait_ticks: int,
        make_unknown_pool: Callable[[str], SlotPool] | None = None,
        *,
        tenant_shares: Mapping[str, int],
        tuner: Callable[[], AlphaTuner | None] = lambda: None,
        by_run: bool = False,
        priorities: PriorityRules = DEFAULT_PRIORITY_RULES,
    ) -> None:
        self.opens_at = inf
        """When a pause or rate limit ends that delays a waiter with room, as far as `is_ready` has computed it."""
        self.waiting = 0
        """Waiting tickets of all queue sets."""
        self.remote = RemoteState()
        """For the queue sets of remote pools that are created later."""
        self.on_pool_created: Callable[[SlotPool], None] = lambda _: None
        """Called with each pool that is added or created on request later, before its queue set is."""
        self.waiting_queue_sets: dict[QueueSet, None] = {}
        """Those with a waiter, as there may be a thousand without."""
        self._contest = Contest()
        self._has_overdue = False
        """Whether the last selection found a queue set whose guard had fired."""
        self._make_unknown_pool = make_unknown_pool
        self.pools: dict[str, SlotPool] = {}
        self.queue_sets: dict[tuple[str, ...], QueueSet] = {}
        """By the names of their resources, in order."""
        self._other_orders: dict[tuple[str, ...], QueueSet] = {}
        self._configured_names = set(capacities)
        self._make_tuner = tuner
        self._make_policy = policy
        self._max_wait_ticks = max_wait_ticks
        self._tenant_shares = tenant_shares
        self._by_run = by_run
        self._priorities = priorities
        for name, capacity in capacities.items():
            self.add_resource(name, capacity)

    def add_resource(self, name: str, capacity: Capacity) -> SlotPool:
        """Add a new resource."""
        self._configured_names.add(name)
        pool = self.pools[name] = SlotPool(name, capacity)
        pool.set_priority_rules(self._priorities)
        self.on_pool_created(pool)
        self.get_queue_set((name,))
        return pool

    def get_queue_set(self, names: tuple[str, ...]) -> QueueSet:
        """Return the queue set of the requests for these resources.

        Raises:
            KeyError: a resource is unknown.
            ValueError: no resource is named, or one is named twice.

        """
        queue_set = self.queue_sets.get(names) or self._other_orders.get(names)
        return self._make_queue_set(names) if queue_set is None else queue_set

    def list_queue_sets(self, pool: SlotPool) -> Sequence[QueueSet]:
        """Return the queue sets that compete for a pool."""
        return self._contest.list_queue_sets((pool,))

    def select_next_grant(
        self, pools: tuple[SlotPool, ...], now: float, *, is_repeated: bool = False
    ) -> tuple[Ticket, bool] | None:
        """Return the waiter for one of these pools that is granted next, and whether a guard selected it.

        None if no waiter has room, or pauses and rate limits delay all that have.

        Args:
            pools: the pools.
            now: the time.
            is_repeated: whether only grants and rejections have occurred since the previous call, which was for the
                same pools: where no guard had fired then, none fires now, as no tick has passed.

        """
        competing = self._contest.list_queue_sets(pools) if len(pools) == 1 else ()
        if len(competing) == 1 and (pool := competing[0].single_pool) is not None:
            (queue_set,) = competing
            if not queue_set.waiting or pool.used >= pool.capacity:
                return None
            turn = queue_set.select_next()
            if turn is None:
                return None
            return turn if not pool.is_gated or self._is_next_ready(queue_set, turn[0], now) else None
        overdue = self._contest.list_overdue(pools) if self._has_overdue or not is_repeated else []
        self._has_overdue = bool(overdue)
        for rank in overdue:
            self._reserve(rank.queue_set, rank.oldest, now)
        for rank in overdue:
            if rank.queue_set.has_room() and self._is_next_ready(rank.queue_set, rank.oldest, now):
                return rank.oldest, True
        first = {rank.queue_set for rank in overdue}
        # Usually the first fits: there may be a thousand, and only its policy is consulted.
        for rank in self._contest.iter_ranks([pool for pool in pools if pool.used < pool.capacity]):
            queue_set = rank.queue_set
            if queue_set not in first and queue_set.has_room():
                turn = queue_set.select_next()
                if turn is not None and self._is_next_ready(queue_set, turn[0], now):
                    return turn[0], False
        return None

    def add_waiter(self, queue_set: QueueSet, ticket: Ticket) -> None:
        """Add a WAITING ticket to its queue."""
        queue_set.add_ticket(ticket)
        self._contest.record_arrival(queue_set, ticket)
        self.waiting += 1
        if queue_set.waiting == 1:
            self.waiting_queue_sets[queue_set] = None

    def remove_waiter(self, queue_set: QueueSet, ticket: Ticket) -> None:
        """Remove a ticket from its queue."""
        queue_set.remove_ticket(ticket)
        self._contest.record_departure(queue_set)
        if ticket.is_unanswered:
            self.remote.record_answer(ticket)
        self.waiting -= 1
        if not queue_set.waiting:
            del self.waiting_queue_sets[queue_set]

    def can_grant_now(self, queue_set: QueueSet, ticket: Ticket, now: float) -> bool:
        """Return whether a new ticket can be granted at once: a slot is free, no limit delays it, and none waits.

        A ticket queues behind waiters of its queue set also when the delay of those has just ended.
        """
        pool = queue_set.single_pool
        if pool is not None and pool.used >= pool.capacity:
            return False
        return (
            not queue_set.must_queue(ticket)
            and all(pool.has_room(queue_set) for pool in queue_set.pools)
            and all(
                not pool.is_gated or pool.compute_open_time(ticket, now, queue_set) <= now for pool in queue_set.pools
            )
        )

    def is_ready(self, queue_set: QueueSet, ticket: Ticket, now: float) -> bool:
        """Return whether pauses and rate limits allow a ticket; if not, record in `opens_at` when they will."""
        at = max(pool.compute_open_time(ticket, now, queue_set) if pool.is_gated else now for pool in queue_set.pools)
        if at > now:
            self.opens_at = min(self.opens_at, at)
        return at <= now

    def _is_next_ready(self, queue_set: QueueSet, ticket: Ticket, now: float) -> bool:
        """Return what `is_ready` does for the next ticket of a queue set, and store the rate limit that delays it."""
        if self.is_ready(queue_set, ticket, now):
            queue_set.gate = None
            return True
        at, closed = max(
            ((pool.compute_open_time(ticket, now, queue_set), pool) for pool in queue_set.pools if pool.is_gated),
            key=lambda gate: gate[0],
        )
        cause = closed.find_gate_cause(ticket, now, queue_set)
        # A pause delays all tickets of the pool, and is stored there.
        queue_set.gate = None if cause is GateCause.BACKOFF else Gate(closed.name, cause, at)
        return False

    def set_resource(self, name: str, capacity: Capacity, requests: float | None, tokens: float | None) -> SlotPool:
        """Add a resource, or change its limits; an adaptive limit stays at what it has learnt."""
        pool = self.pools.get(name)
        if pool is None:
            pool = self.add_resource(name, capacity)
        elif pool.is_shared:
            return pool
        elif pool.adaptive_limit is not None and isinstance(capacity, AdaptiveLimit):
            pool.adaptive_limit.set_ceiling(capacity.ceiling)
            pool.capacity = pool.total_capacity = pool.adaptive_limit.limit
        else:
            pool.set_capacity(capacity)
        pool.set_rate_limits(requests, tokens)
        if requests is None and tokens is None:
            for queue_set in self._contest.list_queue_sets((pool,)):
                queue_set.gate = None
        return pool

    def list_created(self) -> list[str]:
        """Return the names of the resources that were created on request."""
        return [name for name in self.pools if name not in self._configured_names]

    def adopt_tick(self, queue_set: QueueSet, tick: int) -> None:
        """Advance the clock of a queue set to what another place has counted."""
        if queue_set.tick < tick:
            queue_set.tick = tick
            self._contest.recheck_guards()

    def advance_ticks(self, pools: Sequence[SlotPool]) -> None:
        """Advance the clock of each queue set that competes for one of these pools, which have a slot more."""
        self._contest.count_release()
        for queue_set in self._contest.list_queue_sets(pools):
            queue_set.tick += 1
            tuner = queue_set.tuner
            # Of a remote pool the other place computes alpha, from the waiters of all processes.
            if (
                tuner is not None
                and queue_set.remote is None
                and tuner.is_due(queue_set.tick, len(queue_set.queues) + len(queue_set.backlogs))
            ):
                queue_set.tune_alpha(tuner)

    def count_waiting(self) -> int:
        """Return the number of waiting tickets."""
        return self.waiting

    def replace_policies(
        self,
        policy: Callable[[], Policy],
        max_wait_ticks: int,
        tenant_shares: Mapping[str, int],
        tuner: Callable[[], AlphaTuner | None],
        *,
        by_run: bool,
        priorities: PriorityRules,
    ) -> None:
        """Change policy, guard, shares, classes, and what is ordered; each ticket keeps its place in its queue."""
        self._by_run = by_run
        self._priorities = priorities
        for pool in self.pools.values():
            pool.set_priority_rules(priorities)
        self._make_policy = policy
        self._make_tuner = tuner
        self._max_wait_ticks = max_wait_ticks
        self._tenant_shares = tenant_shares
        self._contest.recheck_guards()
        for queue_set in self.queue_sets.values():
            queue_set.max_wait_ticks = max_wait_ticks
            queue_set.tuner = tuner()
            queue_set.replace_policy(policy, tenant_shares, by_run=by_run, rules=priorities)

    def clear_state(self, tickets: Iterable[Ticket]) -> None:
        """Remove all leases and waiters without changing the tickets; clocks and accounts of these tickets stay."""
        for pool in self.pools.values():
            pool.clear_leases()
        by_queue_set: defaultdict[QueueSet, list[Ticket]] = defaultdict(list)
        for ticket in tickets:
            by_queue_set[self.get_queue_set(ticket.request.resources)].append(ticket)
        for queue_set in self.queue_sets.values():
            queue_set.clear_queues(by_queue_set[queue_set])
        self._contest.clear_waiters()
        self.waiting = 0
        self.waiting_queue_sets = {}

    def _reserve(self, queue_set: QueueSet, ticket: Ticket, now: float) -> None:
        """Reserve tokens and, once pauses and rate limits allow the ticket, slots for a queue set whose guard fired."""
        is_ready = True
        if queue_set.is_gated():
            queue_set.reserve_tokens(ticket)
            is_ready = self.is_ready(queue_set, ticket, now)
        if queue_set.single_pool is None:
            if is_ready:
                queue_set.reserve_slots()
            else:
                queue_set.unreserve_slots()

    def _make_queue_set(self, names: tuple[str, ...]) -> QueueSet:
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a request must name at least one resource, and each once, not {names!r}")
        ordered = tuple(sorted(names))
        if ordered != names:
            queue_set = self._other_orders[names] = self.get_queue_set(ordered)
            return queue_set
        if len(self.queue_sets) >= _MAX_QUEUE_SETS or len(self.pools) >= _MAX_QUEUE_SETS:
            self._remove_unused()
        for name in names:
            if name not in self.pools:
                self.pools[name] = self._make_pool(name)
        pools = tuple(self.pools[name] for name in names)
        queue_set = QueueSet(
            self._make_policy,
            self._max_wait_ticks,
            pools,
            tenant_shares=self._tenant_shares,
            by_run=self._by_run,
            rules=self._priorities,
        )
        queue_set.tuner = self._make_tuner()
        if any(pool.is_remote for pool in pools):
            queue_set.remote = self.remote
        self._contest.add_queue_set(queue_set)
        self.queue_sets[names] = queue_set
        return queue_set

    def _make_pool(self, name: str) -> SlotPool:
        if self._make_unknown_pool is None:
            raise KeyError(f"{name!r} is no resource; there are {', '.join(map(repr, self.pools))}")
        pool = self._make_unknown_pool(name)
        pool.set_priority_rules(self._priorities)
        self.on_pool_created(pool)
        return pool

    def _remove_unused(self) -> None:
        """Remove queue sets without waiters, and pools without leases and learnt limits; requests recreate them."""
        unused = {
            pool.name
            for pool in self.pools.values()
            if pool.name not in self._configured_names and not pool.leases and not pool.has_learnt
        }
        self._other_orders = {}
        for names, queue_set in list(self.queue_sets.items()):
            if queue_set.queues or (len(names) == 1 and names[0] not in unused):
                continue
            if all(pool.name in unused or pool.is_contested for pool in queue_set.pools):
                del self.queue_sets[names]
                self._contest.remove_queue_set(queue_set)
        for name in unused:
            if not self._contest.list_queue_sets((self.pools[name],)):
                del self.pools[name]
                self._contest.remove_pool(name)
