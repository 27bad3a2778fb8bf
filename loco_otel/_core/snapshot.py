"""Snapshots and dumps: the state of all resources, agents and requests at one moment."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import inf
from operator import itemgetter
from typing import NamedTuple

from loco_otel._core.fairness import jains_index
from loco_otel._core.policies.base import Key, agent_of, key_of, tenant_of
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Resources
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import AgentSnapshot, ResourceDump, ResourceSnapshot, Snapshot, TicketSnapshot

_STATES = {
    State.GRANTED: "holding",
    State.ADMITTING: "admitting",
    State.SUSPENDED: "paused",
    State.WAITING: "waiting",
}
_STATE_ORDER = {state: place for place, state in enumerate(_STATES)}


class _Placement(NamedTuple):
    """Score and rank of each agent that waits in a queue set."""

    scores: Mapping[Key, float]
    ranks: Mapping[Key, int]
    """Within the agent's tenant, from 1."""


class SnapshotBuilder:
    """Builds snapshots and dumps. Each score is computed once.

    Args:
        resources: all of them.
        now: the time.

    """

    def __init__(self, resources: Resources, now: float) -> None:
        self._resources = resources
        self._now = now
        self._placements = {id(queue_set): _rank_agents(queue_set) for queue_set in resources.queue_sets.values()}

    def build_snapshot(self) -> Snapshot:
        """Return the state of all resources and agents."""
        pools = self._resources.pools.values()
        return Snapshot(self._now, tuple(self._build_resource_snapshot(pool, with_ranks=False) for pool in pools))

    def build_dump(self, tickets: Collection[Ticket], most: int) -> tuple[ResourceDump, ...]:
        """Return the state of all resources, agents and requests: of each resource at most `most` requests."""
        by_resource: dict[str, list[Ticket]] = {name: [] for name in self._resources.pools}
        for ticket in tickets:
            for pool in self._find_queue_set(ticket).pools:
                by_resource[pool.name].append(ticket)
        pools = self._resources.pools.values()
        return tuple(self._build_resource_dump(pool, by_resource[pool.name], most) for pool in pools)

    def _build_resource_dump(self, pool: SlotPool, tickets: list[Ticket], most: int) -> ResourceDump:
        tickets.sort(key=self._sort_key)
        shown = tuple(self._build_ticket_snapshot(ticket, pool) for ticket in tickets[:most])
        return ResourceDump(self._build_resource_snapshot(pool, with_ranks=True), shown, max(0, len(tickets) - most))

    def _build_resource_snapshot(self, pool: SlotPool, *, with_ranks: bool) -> ResourceSnapshot:
        """Return the state of a resource.

        A request for several resources counts at each of them. Ticks and alpha are those of the requests for this
        resource alone; an agent's score and rank are its best in any queue set.
        """
        queue_sets = self._resources.list_queue_sets(pool)
        own = next((queue_set for queue_set in queue_sets if queue_set.single_pool is pool), queue_sets[0])
        return ResourceSnapshot(
            resource=pool.name,
            policy=own.policy.name,
            capacity=None if pool.capacity == inf else int(pool.capacity),
            active=len(pool.leases),
            waiting=sum(queue_set.waiting for queue_set in queue_sets),
            tick=own.tick,
            alpha=own.policy.alpha,
            fairness=_compute_fairness(pool, queue_sets),
            agents=tuple(self._iter_agent_snapshots(pool, queue_sets, with_ranks=with_ranks)),
            pause=max(0.0, pool.paused_until - self._now),
            pause_header=pool.pause_header if pool.paused_until > self._now else None,
        )

    def _iter_agent_snapshots(
        self, pool: SlotPool, queue_sets: Sequence[QueueSet], *, with_ranks: bool
    ) -> Iterator[AgentSnapshot]:
        active: dict[Key, int] = {}
        for ticket in pool.leases.values():
            key = key_of(ticket.request)
            active[key] = active.get(key, 0) + 1
        queued = {key for queue_set in queue_sets for key in queue_set.queues}
        queued |= {agent for queue_set in queue_sets for agent, backlog in queue_set.backlogs.items() if backlog}
        competing = [self._placements[id(queue_set)] for queue_set in queue_sets]
        for key in sorted(active.keys() | queued, key=lambda key: (tenant_of(key), agent_of(key))):
            queues = [(queue_set, queue_set.queues[key]) for queue_set in queue_sets if key in queue_set.queues]
            ages = [queue_set.tick - queue.find_birth_tick() for queue_set, queue in queues]
            weight = sum(queue.weight for _, queue in queues)
            for queue_set in queue_sets:
                backlog = queue_set.backlogs.get(agent_of(key))
                if backlog is None or key in queue_set.queues or tenant_of(key):
                    continue
                work = backlog.find_oldest_work()
                if work is not None:
                    # Work without a waiter.
                    ages.append(queue_set.tick - work.birth)
                    weight += backlog.weight
            waits = [self._now - head.waiting_since for _, queue in queues if (head := queue.find_head()) is not None]
            ranks = [placement.ranks[key] for placement in competing if key in placement.ranks] if with_ranks else []
            yield AgentSnapshot(
                agent=agent_of(key),
                waiting=sum(len(queue) for _, queue in queues),
                active=active.get(key, 0),
                queue_weight=weight,
                queue_age=max(ages, default=0),
                oldest_wait=max(waits, default=0.0),
                score=max((placement.scores[key] for placement in competing if key in placement.scores), default=None),
                tenant=tenant_of(key) or None,
                rank=min(ranks, default=None),
            )

    def _build_ticket_snapshot(self, ticket: Ticket, pool: SlotPool) -> TicketSnapshot:
        request, state, now = ticket.request, ticket.state, self._now
        queue_set = self._find_queue_set(ticket)
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
            seconds=now - since[state] if state in since else 0.0,
            ticks=queue_set.tick - ticket.waiting_tick if waits else ticket.waited_ticks,
            time_left=ticket.deadline - now if waits and ticket.deadline is not None else None,
            shares_with=None if lender is None or not state.is_holding else lender.id,
        )

    def _find_queue_set(self, ticket: Ticket) -> QueueSet:
        return self._resources.get_queue_set(ticket.request.resources)

    def _sort_key(self, ticket: Ticket) -> tuple[float, ...]:
        if ticket.state is not State.WAITING:
            return _STATE_ORDER[ticket.state], ticket.granted_at, ticket.seq
        queue_set = self._find_queue_set(ticket)
        overdue = 0 < queue_set.max_wait_ticks <= queue_set.tick - ticket.birth
        # Once the guard has fired the oldest ticket is next, whatever its agent's rank.
        rank = 0 if overdue else self._placements[id(queue_set)].ranks[key_of(ticket.request)]
        return _STATE_ORDER[State.WAITING], not overdue, rank, ticket.birth, ticket.seq


def _rank_agents(queue_set: QueueSet) -> _Placement:
    scores: dict[Key, float] = {}
    by_tenant: dict[str, list[tuple[float, int, int, Key]]] = {}
    for key, queue in queue_set.queues.items():
        head = queue.find_head()
        if head is not None:
            score = scores[key] = queue_set.policy.compute_score(key, queue_set.tick)
            by_tenant.setdefault(tenant_of(key), []).append((-score, head.birth, head.seq, key))
    for agents in by_tenant.values():
        agents.sort(key=itemgetter(0, 1, 2))
    ranks = {key: rank for agents in by_tenant.values() for rank, (*_, key) in enumerate(agents, 1)}
    return _Placement(scores, ranks)


def _compute_fairness(pool: SlotPool, queue_sets: Sequence[QueueSet]) -> float:
    served: dict[Key, int] = dict.fromkeys((key for queue_set in queue_sets for key in queue_set.queues), 0)
    for key, weight in pool.recently_served:
        served[key] = served.get(key, 0) + weight
    return jains_index(served.values())
