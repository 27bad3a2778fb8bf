"""Everything at one moment, request by request."""

from collections.abc import Collection
from operator import itemgetter

from loco_otel._core.policies.base import Key, key_of, tenant_of
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Resources
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.snapshot import build_resource_snapshot
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import AgentSnapshot, ResourceDump, TicketSnapshot

_STATES = {
    State.GRANTED: "holding",
    State.ADMITTING: "admitting",
    State.SUSPENDED: "paused",
    State.WAITING: "waiting",
    State.QUEUED: "queued",
}
_STATE_ORDER = {state: place for place, state in enumerate(_STATES)}


def build_resource_dumps(
    resources: Resources, tickets: Collection[Ticket], most: int, now: float
) -> tuple[ResourceDump, ...]:
    """Tell how each resource stands, with at most so many of its requests."""
    return _DumpBuilder(resources, tickets, now).build_all(most)


class _DumpBuilder:
    def __init__(self, resources: Resources, tickets: Collection[Ticket], now: float) -> None:
        self._resources = resources
        self._now = now
        self._ranks_by_queue_set = {id(line): _rank_agents(line) for line in resources.queue_sets.values()}
        self._tickets: dict[str, list[Ticket]] = {name: [] for name in resources.pools}
        for ticket in tickets:
            for pool in self._find_queue_set(ticket).pools:
                self._tickets[pool.name].append(ticket)

    def build_all(self, most: int) -> tuple[ResourceDump, ...]:
        return tuple(self._build_resource_dump(pool, most) for pool in self._resources.pools.values())

    def _build_resource_dump(self, pool: SlotPool, most: int) -> ResourceDump:
        tickets = sorted(self._tickets[pool.name], key=self._sort_key)
        stands = build_resource_snapshot(pool, self._now)
        agents = tuple(agent._replace(rank=self._find_rank(pool, agent)) for agent in stands.agents)
        told = tuple(
            _build_ticket_snapshot(ticket, self._find_queue_set(ticket), pool, self._now) for ticket in tickets[:most]
        )
        return ResourceDump(stands._replace(agents=agents), told, max(0, len(tickets) - most))

    def _find_queue_set(self, ticket: Ticket) -> QueueSet:
        return self._resources.get_queue_set(ticket.request.resources)

    def _sort_key(self, ticket: Ticket) -> tuple[float, ...]:
        if ticket.state is not State.WAITING:
            return _STATE_ORDER[ticket.state], ticket.granted_at, ticket.seq
        line = self._find_queue_set(ticket)
        overdue = 0 < line.max_wait_ticks <= line.tick - ticket.birth
        # Beyond the guard the oldest goes first, whoever it belongs to.
        rank = 0 if overdue else self._ranks_by_queue_set[id(line)][key_of(ticket.request)]
        return _STATE_ORDER[State.WAITING], not overdue, rank, ticket.birth, ticket.seq

    def _find_rank(self, pool: SlotPool, agent: AgentSnapshot) -> int | None:
        key: Key = (agent.tenant, agent.agent) if agent.tenant else agent.agent
        places = (self._ranks_by_queue_set[id(line)].get(key) for line in pool.queue_sets)
        return min((place for place in places if place is not None), default=None)


def _rank_agents(line: QueueSet) -> dict[Key, int]:
    """Return the places of those that compete in a line; each tenant's agents have places of their own."""
    by_tenant: dict[str, list[tuple[float, int, int, Key]]] = {}
    for key, queue in line.queues.items():
        head = queue.find_head()
        if head is not None:
            score = line.policy.compute_score(key, line.tick)
            by_tenant.setdefault(tenant_of(key), []).append((-score, head.birth, head.seq, key))
    for agents in by_tenant.values():
        agents.sort(key=itemgetter(0, 1, 2))
    return {key: place for agents in by_tenant.values() for place, (*_, key) in enumerate(agents, 1)}


def _build_ticket_snapshot(ticket: Ticket, line: QueueSet, pool: SlotPool, now: float) -> TicketSnapshot:
    request, state = ticket.request, ticket.state
    since = {State.WAITING: ticket.waiting_since, State.GRANTED: ticket.granted_at, State.ADMITTING: ticket.granted_at}
    host = ticket.lenders.get(pool.name)
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
        ticks=line.tick - ticket.waiting_tick if waits else ticket.waited_ticks,
        time_left=ticket.deadline - now if waits and ticket.deadline is not None else None,
        shares_with=None if host is None or not state.is_holding else host.id,
    )
