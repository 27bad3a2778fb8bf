"""Everything at one moment, request by request."""

from collections.abc import Collection
from operator import itemgetter

from loco_otel._core.policies.base import Key, key_of, tenant_of
from loco_otel._core.queue_set import Line
from loco_otel._core.resources import Resources
from loco_otel._core.slot_pool import Pool
from loco_otel._core.snapshot import standing
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import AgentStanding, ResourceDump, TicketStanding

_STATES = {
    State.GRANTED: "holding",
    State.ADMITTING: "admitting",
    State.SUSPENDED: "paused",
    State.WAITING: "waiting",
    State.QUEUED: "queued",
}
_ORDER = {state: place for place, state in enumerate(_STATES)}


def dump(resources: Resources, tickets: Collection[Ticket], most: int, now: float) -> tuple[ResourceDump, ...]:
    """Tell how each resource stands, with at most so many of its requests."""
    return _Dump(resources, tickets, now).of_all(most)


class _Dump:
    def __init__(self, resources: Resources, tickets: Collection[Ticket], now: float) -> None:
        self._resources = resources
        self._now = now
        self._ranks = {id(line): _ranks(line) for line in resources.lines.values()}
        self._tickets: dict[str, list[Ticket]] = {name: [] for name in resources.pools}
        for ticket in tickets:
            for pool in self._line(ticket).pools:
                self._tickets[pool.name].append(ticket)

    def of_all(self, most: int) -> tuple[ResourceDump, ...]:
        return tuple(self._of(pool, most) for pool in self._resources.pools.values())

    def _of(self, pool: Pool, most: int) -> ResourceDump:
        tickets = sorted(self._tickets[pool.name], key=self._place)
        stands = standing(pool, self._now)
        agents = tuple(agent._replace(rank=self._rank(pool, agent)) for agent in stands.agents)
        told = tuple(_ticket(ticket, self._line(ticket), pool, self._now) for ticket in tickets[:most])
        return ResourceDump(stands._replace(agents=agents), told, max(0, len(tickets) - most))

    def _line(self, ticket: Ticket) -> Line:
        return self._resources.line(ticket.request.resources)

    def _place(self, ticket: Ticket) -> tuple[float, ...]:
        if ticket.state is not State.WAITING:
            return _ORDER[ticket.state], ticket.granted_at, ticket.seq
        line = self._line(ticket)
        overdue = 0 < line.max_wait_ticks <= line.tick - ticket.birth
        # Beyond the guard the oldest goes first, whoever it belongs to.
        rank = 0 if overdue else self._ranks[id(line)][key_of(ticket.request)]
        return _ORDER[State.WAITING], not overdue, rank, ticket.birth, ticket.seq

    def _rank(self, pool: Pool, agent: AgentStanding) -> int | None:
        key: Key = (agent.tenant, agent.agent) if agent.tenant else agent.agent
        places = (self._ranks[id(line)].get(key) for line in pool.lines)
        return min((place for place in places if place is not None), default=None)


def _ranks(line: Line) -> dict[Key, int]:
    """Return the places of those that compete in a line; each tenant's agents have places of their own."""
    by_tenant: dict[str, list[tuple[float, int, int, Key]]] = {}
    for key, queue in line.queues.items():
        head = queue.head()
        if head is not None:
            score = line.policy.score(key, line.tick)
            by_tenant.setdefault(tenant_of(key), []).append((-score, head.birth, head.seq, key))
    for agents in by_tenant.values():
        agents.sort(key=itemgetter(0, 1, 2))
    return {key: place for agents in by_tenant.values() for place, (*_, key) in enumerate(agents, 1)}


def _ticket(ticket: Ticket, line: Line, pool: Pool, now: float) -> TicketStanding:
    request, state = ticket.request, ticket.state
    since = {State.WAITING: ticket.waiting_since, State.GRANTED: ticket.granted_at, State.ADMITTING: ticket.granted_at}
    host = ticket.hosts.get(pool.name)
    waits = state is State.WAITING
    return TicketStanding(
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
        shares_with=None if host is None or not state.holds else host.id,
    )
