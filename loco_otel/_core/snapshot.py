"""Snapshots and dumps: the state of all resources, agents and requests at one moment.

With many agents the reading would delay every caller, so the engine reads in steps, each of a bounded number of agents
or requests, and releases its lock between two. A small program is read in the first step. Each agent's values are from
one moment; those of agents that were read in different steps are some milliseconds apart. All else is computed after
the last step, outside the lock.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from math import inf
from operator import itemgetter
from typing import NamedTuple

from loco_otel._core.fairness import jains_index
from loco_otel._core.lazy_heap import Entry
from loco_otel._core.policies.base import Key, Policy, key_of, tenant_of
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Resources
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel.snapshots import (
    AgentSnapshot,
    CapacityMode,
    ReportedLimit,
    ResourceDump,
    ResourceSnapshot,
    Snapshot,
    TicketSnapshot,
)

_STATES = {
    State.GRANTED: "holding",
    State.ADMITTING: "admitting",
    State.SUSPENDED: "paused",
    State.WAITING: "waiting",
}
_STATE_ORDER = {state: place for place, state in enumerate(_STATES)}

_TURNS = 2
"""Releases for each agent that fairness compares: with fewer not each can have had its turn."""

_STEP = 500
"""Agents and requests that one step reads: about a millisecond."""


_new = tuple.__new__
"""Creates a named tuple in half the time, as there may be thousands."""


class _AgentState(NamedTuple):
    """One agent in one queue set."""

    waiting: int
    weight: int
    age: int
    oldest_wait: float
    score: float | None
    """None if it has no waiter: it does not compete."""
    head: Entry
    """Of its oldest waiter: it begins with birth and sequence number."""
    ticks: int
    """Ticks during which it had a waiter without interruption."""


class _PoolState(NamedTuple):
    """One resource, without its agents."""

    pool: SlotPool
    queue_sets: Sequence[QueueSet]
    leases: Sequence[Ticket]
    served: Sequence[tuple[Key, int]]
    snapshot: ResourceSnapshot


class _TicketState(NamedTuple):
    ticket: Ticket
    state: State
    queue_set: QueueSet


class SnapshotBuilder:
    """Builds a snapshot, or a dump. Each score is computed once, all of them in time that grows with the agents.

    The constructor reads the first step. While it `is_unfinished`, `read_step` must be called, both under the engine's
    lock; then one of the two `build` methods, which need no lock.

    Args:
        resources: all of them.
        now: the time.
        tickets: for a dump.

    """

    def __init__(self, resources: Resources, now: float, tickets: Iterable[Ticket] = ()) -> None:
        self._resources = resources
        self._now = now
        self._pools = [self._read_pool(pool) for pool in resources.pools.values()]
        self._agents: dict[QueueSet, dict[Key, _AgentState]] = {
            queue_set: {} for queue_set in resources.queue_sets.values()
        }
        unread = [(queue_set, keys) for queue_set in self._agents if (keys := _list_agents(queue_set))]
        self._unread_agents = [(queue_set, iter(keys)) for queue_set, keys in unread]
        unread_tickets = tuple(tickets)
        self._unread_tickets = iter(unread_tickets)
        self._unread_count = sum(len(keys) for _, keys in unread) + len(unread_tickets)
        self._tickets: list[_TicketState] = []
        self._scorers: dict[Policy, Callable[[Key], float]] = {}
        self.read_step()

    @property
    def is_unfinished(self) -> bool:
        """Whether agents or requests are left to be read."""
        return self._unread_count > 0

    def read_step(self) -> None:
        """Read the next agents and requests."""
        room = _STEP
        # What has ended since the first step counts too: a step of those is not the end.
        self._unread_count -= room
        while room and self._unread_agents:
            queue_set, keys = self._unread_agents[-1]
            step = tuple(islice(keys, room))
            self._read_agents(queue_set, step)
            if len(step) < room:
                self._unread_agents.pop()
                self._scorers = {}
            room -= len(step)
        self._read_tickets(islice(self._unread_tickets, room))

    def build_snapshot(self) -> Snapshot:
        """Return the state of all resources and agents."""
        while self.is_unfinished:
            self.read_step()
        return Snapshot(self._now, tuple(self._build_resource_snapshot(state, {}) for state in self._pools))

    def build_dump(self, most: int) -> tuple[ResourceDump, ...]:
        """Return the state of all resources, agents and requests: of each resource at most `most` requests."""
        while self.is_unfinished:
            self.read_step()
        ranks = {queue_set: _rank_agents(agents) for queue_set, agents in self._agents.items()}
        by_pool: dict[SlotPool, list[_TicketState]] = {state.pool: [] for state in self._pools}
        for ticket in self._tickets:
            for pool in ticket.queue_set.pools:
                by_pool.setdefault(pool, []).append(ticket)
        return tuple(self._build_resource_dump(state, by_pool[state.pool], ranks, most) for state in self._pools)

    # -- steps under the lock -----------------------------------------------------------------------------------

    def _read_pool(self, pool: SlotPool) -> _PoolState:
        """Return the state of a resource.

        A request for several resources counts at each of them. Ticks and alpha are those of the requests for this
        resource alone.
        """
        queue_sets = tuple(self._resources.list_queue_sets(pool))
        own = next((queue_set for queue_set in queue_sets if queue_set.single_pool is pool), queue_sets[0])
        is_paused = pool.paused_until > self._now
        snapshot = ResourceSnapshot(
            resource=pool.name,
            policy=own.policy.name,
            capacity=None if pool.total_capacity == inf else int(pool.total_capacity),
            active=len(pool.leases),
            waiting=sum(queue_set.waiting for queue_set in queue_sets),
            tick=own.tick,
            alpha=own.policy.alpha,
            fairness=None,
            agents=(),
            pause=pool.paused_until - self._now if is_paused else 0.0,
            pause_header=pool.pause_header if is_paused else None,
            used=pool.used,
            mode=_find_mode(pool),
            reference=None if pool.reference == inf else int(pool.reference),
            gates=_list_gates(pool, queue_sets, self._now),
            rate_limits=_list_rate_limits(pool),
        )
        return _PoolState(pool, queue_sets, tuple(pool.leases.values()), tuple(pool.recently_served), snapshot)

    def _read_agents(self, queue_set: QueueSet, keys: Iterable[Key]) -> None:
        known = self._agents[queue_set]
        tick, now, queues, backlogs = queue_set.tick, self._now, queue_set.queues, queue_set.backlogs
        has_levels = queue_set.order is not None
        level = queue_set.normal
        scorer = self._find_scorer(level.policy, tick)
        for key in keys:
            queue = queues.get(key)
            if queue is not None and (state := queue.read_state()) is not None:
                waiting, weight, birth, entry = state
                head: Ticket = entry[-1]
                wait = now - head.waiting_since
                if has_levels:
                    level = queue_set.find_level(head)
                    scorer = self._find_scorer(level.policy, tick)
                score = scorer(level.find_key(head.request) if level.owns_lines else key)
                known[key] = _new(
                    _AgentState,
                    (
                        waiting,
                        weight,
                        tick - birth,
                        wait if wait > 0 else 0.0,
                        score,
                        entry,
                        tick - queue.since_tick,
                    ),
                )
            elif isinstance(key, str) and (backlog := backlogs.get(key)) is not None:
                work = backlog.find_oldest_work()
                if work is not None:
                    # Work without a waiter.
                    known[key] = _AgentState(0, backlog.weight, tick - work.birth, 0.0, None, _NO_HEAD, 0)

    def _find_scorer(self, policy: Policy, tick: int) -> Callable[[Key], float]:
        scorer = self._scorers.get(policy)
        if scorer is None:
            scorer = self._scorers[policy] = policy.create_scorer(tick)
        return scorer

    def _read_tickets(self, tickets: Iterable[Ticket]) -> None:
        find = self._resources.get_queue_set
        for ticket in tickets:
            state = ticket.state
            if state in _STATES:
                self._tickets.append(_TicketState(ticket, state, find(ticket.request.resources)))

    # -- after the last step ------------------------------------------------------------------------------------

    def _build_resource_snapshot(
        self, state: _PoolState, ranks: Mapping[QueueSet, Mapping[Key, int]]
    ) -> ResourceSnapshot:
        active: dict[Key, int] = {}
        for ticket in state.leases:
            key = key_of(ticket.request)
            active[key] = active.get(key, 0) + 1
        agents = self._merge_agents(state)
        best = _find_best_ranks([ranks[queue_set] for queue_set in state.queue_sets if queue_set in ranks])
        snapshots = []
        for key in _sort_keys([*agents, *(key for key in active if key not in agents)]):
            tenant, name = (None, key) if isinstance(key, str) else key[:2]
            waiting, weight, age, wait, score, _, _ = agents.get(key, _ABSENT)
            snapshots.append(
                _new(
                    AgentSnapshot,
                    (name, waiting, active.get(key, 0), weight, age, wait, score, tenant, best.get(key)),
                )
            )
        return state.snapshot._replace(fairness=_compute_fairness(agents, state.served), agents=tuple(snapshots))

    def _merge_agents(self, state: _PoolState) -> Mapping[Key, _AgentState]:
        """Return the agents of a resource: an agent's score is its best in any queue set."""
        parts = [agents for queue_set in state.queue_sets if (agents := self._agents.get(queue_set))]
        if len(parts) == 1:
            return parts[0]
        merged: dict[Key, _AgentState] = {}
        for part in parts:
            for key, agent in part.items():
                other = merged.get(key)
                merged[key] = agent if other is None else _merge_states(other, agent)
        return merged

    def _build_resource_dump(
        self,
        state: _PoolState,
        tickets: list[_TicketState],
        ranks: Mapping[QueueSet, Mapping[Key, int]],
        most: int,
    ) -> ResourceDump:
        tickets.sort(key=lambda ticket: _get_sort_key(ticket, ranks))
        shown = tuple(self._build_ticket_snapshot(ticket, state.pool) for ticket in tickets[:most])
        return ResourceDump(self._build_resource_snapshot(state, ranks), shown, max(0, len(tickets) - most))

    def _build_ticket_snapshot(self, read: _TicketState, pool: SlotPool) -> TicketSnapshot:
        ticket, state, queue_set = read
        request, now = ticket.request, self._now
        since = {
            State.WAITING: ticket.waiting_since,
            State.GRANTED: ticket.granted_at,
            State.ADMITTING: ticket.granted_at,
        }
        lender = ticket.lenders.get(pool.name)
        waits = state is State.WAITING
        return TicketSnapshot(
            id=ticket.id,
            agent=request.agent,
            tenant=request.tenant,
            state=_STATES[state],
            resources=request.resources,
            weight=request.weight,
            provider=request.provider,
            model=request.model,
            seconds=max(0.0, now - since[state]) if state in since else 0.0,
            ticks=queue_set.tick - ticket.waiting_tick if waits else ticket.waited_ticks,
            time_left=ticket.deadline - now if waits and ticket.deadline is not None else None,
            shares_with=None if lender is None or not state.is_holding else lender.id,
        )


_NO_HEAD: Entry = [0, 0]

_ABSENT = _AgentState(0, 0, 0, 0.0, None, _NO_HEAD, 0)
"""An agent that only holds slots."""


def _find_mode(pool: SlotPool) -> CapacityMode:
    if pool.adaptive_limit is not None:
        return CapacityMode.AUTO
    return CapacityMode.UNLIMITED if pool.total_capacity == inf else CapacityMode.FIXED


def _list_gates(pool: SlotPool, queue_sets: Iterable[QueueSet], now: float) -> tuple[tuple[str, float], ...]:
    """Return the causes of gates that are closed by a rate per minute, and the seconds left."""
    gates: dict[str, float] = {}
    for queue_set in queue_sets:
        gate = queue_set.gate
        if gate is not None and gate.resource == pool.name and gate.until > now:
            gates[gate.cause.value] = max(gate.until - now, gates.get(gate.cause.value, 0.0))
    return tuple(gates.items())


def _list_rate_limits(pool: SlotPool) -> tuple[ReportedLimit, ...]:
    rates = pool.reported_rates
    if rates is None:
        return ()
    limits = (
        ReportedLimit("requests", rates.requests_limit, rates.remaining_requests),
        ReportedLimit("tokens", rates.tokens_limit, rates.remaining_tokens),
    )
    return tuple(limit for limit in limits if limit.limit is not None or limit.remaining is not None)


def _compute_fairness(agents: Mapping[Key, _AgentState], served: Sequence[tuple[Key, int]]) -> float | None:
    """Return Jain's index of what was served to the agents that had a waiter throughout.

    The window is as long as two agents have had one. What others were served says nothing about how they were treated:
    they received all that they asked for.
    """
    ticks = sorted((agent.ticks for agent in agents.values() if agent.waiting), reverse=True)
    if len(ticks) < 2:  # noqa: PLR2004 - an index compares at least two
        return None
    window = min(ticks[1], len(served))
    shares: dict[Key, int] = {key: 0 for key, agent in agents.items() if agent.waiting and agent.ticks >= window}
    if window < _TURNS * len(shares):
        return None
    for key, weight in served[len(served) - window :]:
        if key in shares:
            shares[key] += weight
    return jains_index(shares.values())


def _list_agents(queue_set: QueueSet) -> list[Key]:
    keys = list(queue_set.queues)
    keys += [agent for agent, backlog in queue_set.backlogs.items() if backlog and agent not in queue_set.queues]
    return keys


def _merge_states(one: _AgentState, other: _AgentState) -> _AgentState:
    scores = [score for score in (one.score, other.score) if score is not None]
    return _AgentState(
        one.waiting + other.waiting,
        one.weight + other.weight,
        max(one.age, other.age),
        max(one.oldest_wait, other.oldest_wait),
        max(scores, default=None),
        min(one.head, other.head),
        max(one.ticks, other.ticks),
    )


def _sort_keys(keys: Collection[Key]) -> list[Key]:
    """Return keys by tenant and agent, those without a tenant first."""
    names: list[Key] = sorted([key for key in keys if isinstance(key, str)])
    return names if len(names) == len(keys) else names + sorted(key for key in keys if not isinstance(key, str))


def _find_best_ranks(ranks: Sequence[Mapping[Key, int]]) -> Mapping[Key, int]:
    """Return the best rank of each agent in any queue set."""
    best: dict[Key, int] = {}
    for part in ranks:
        for key, rank in part.items():
            best[key] = min(rank, best.get(key, rank))
    return best


def _rank_agents(agents: Mapping[Key, _AgentState]) -> dict[Key, int]:
    """Return the rank of each agent that competes, within its tenant and from 1."""
    by_tenant: dict[str, list[tuple[float, Entry, Key]]] = {}
    for key, agent in agents.items():
        if agent.score is not None:
            by_tenant.setdefault(tenant_of(key), []).append((-agent.score, agent.head, key))
    for competing in by_tenant.values():
        competing.sort(key=itemgetter(0, 1))
    return {key: rank for competing in by_tenant.values() for rank, (*_, key) in enumerate(competing, 1)}


def _get_sort_key(read: _TicketState, ranks: Mapping[QueueSet, Mapping[Key, int]]) -> tuple[float, ...]:
    ticket, state, queue_set = read
    if state is not State.WAITING:
        return _STATE_ORDER[state], ticket.granted_at, ticket.seq
    overdue = 0 < queue_set.max_wait_ticks <= queue_set.tick - ticket.birth
    # Once the guard has fired the oldest ticket is next, whatever its agent's rank.
    rank: float = 0 if overdue else ranks.get(queue_set, {}).get(key_of(ticket.request), inf)
    return _STATE_ORDER[State.WAITING], not overdue, rank, ticket.birth, ticket.seq
