"""The integrals of a queue: the seconds for which one waiter would have waited for each cause or holder so far.

The parts of a wait are the differences between its end and its begin, so an event costs the same for one waiter as for
a thousand. A queue without waiters is not integrated.

The integrals of a queue are the fields of one long integer, 96 bits for each cause and holder. So the time since the
last event is added to all holders in one multiplication, a wait begins with one assignment and ends with one
subtraction: a vector of floats takes twenty times as long. Fields are in units of 1.4e-15 s, and never negative.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple, TypeAlias

from loco_otel._telemetry import attributes as key
from loco_otel.events import GateCause, Request, TicketView

MAX_HOLDERS = 20
"""Agents that the integrals of a queue distinguish as holders: the first ones. The rest are `other`."""

AgentKey: TypeAlias = str | tuple[str, str]
"""An agent, or a tenant and its agent."""
Fields: TypeAlias = int
"""Integrals or their differences: by place, causes, then holders."""
CAUSES = (
    GateCause.BACKOFF.value, GateCause.REQUESTS.value, GateCause.TOKENS.value, key.RAMP, key.RESERVED, key.BUDGET,
    key.UNKNOWN, key.SELF, key.SLOT,
)  # fmt: skip
"""By place; the last one is the slots of `other`."""
BACKOFF, REQUESTS, TOKENS, RAMP, RESERVED, BUDGET, UNKNOWN, SELF, OTHER = range(len(CAUSES))
BITS = 96
_MASK = (1 << BITS) - 1
FIELDS = tuple(1 << place * BITS for place in range(len(CAUSES) + MAX_HOLDERS))
"""By place, its field with 1 in it."""
UNIT = 1_000_000 * 720_720 << 10
"""Units in a second: parts of a microsecond are exact for up to sixteen slots."""


class HolderPool:
    """One resource: its slots, and the leases that hold or share them."""

    __slots__ = ("held", "leases", "paused_until", "queues", "reference", "reserved_for", "slots", "used")

    def __init__(self) -> None:
        self.slots = self.reference = inf
        self.reserved_for: tuple[str, ...] | None = None
        self.paused_until: float = 0
        self.used = 0
        self.held: dict[AgentKey, int] = {}
        """The slots that each agent holds."""
        self.leases: dict[TicketView, TicketView | None] = {}
        """In the order of their grants, each with the host whose slot it shares."""
        self.queues: list[tuple[WaitQueue, int]] = []
        """Queues that wait for it, each with the position of this pool."""

    def has_room(self, names: tuple[str, ...]) -> bool:
        """Return whether a slot is free for a queue, not counting one that is reserved for another."""
        reserved = self.reserved_for is not None and self.reserved_for != names
        return self.used + reserved < self.slots

    def add_slot(self, agent: AgentKey, now: float) -> None:
        """Count one more slot that an agent holds."""
        for queue, position in self.queues:
            if now > queue.at:
                queue.advance(now)
            place = queue.places.get(agent)
            if place is None:
                is_other = len(queue.places) >= MAX_HOLDERS and agent not in queue.open
                place = OTHER if is_other else queue.add_holder(position, agent, 1)
            queue.parts[position] += FIELDS[place]
        self.used += 1
        self.held[agent] = self.held.get(agent, 0) + 1

    def remove_slot(self, agent: AgentKey, now: float) -> None:
        """Count one slot less that an agent holds."""
        for queue, position in self.queues:
            if now > queue.at:
                queue.advance(now)
            place = queue.places.get(agent)
            if place is None:
                place = queue.add_holder(position, agent, -1) if agent in queue.open else OTHER
            queue.parts[position] -= FIELDS[place]
        self.used -= 1
        count = self.held[agent] - 1
        if count:
            self.held[agent] = count
        else:
            del self.held[agent]

    def clear(self) -> None:
        """Forget all leases."""
        self.held, self.leases, self.used = {}, {}, 0


class _Own:
    """The integral of an agent that is beyond the first holders: its part of `other` is `self` in its own waits."""

    __slots__ = ("counts", "marks", "share")

    def __init__(self, counts: list[int], shares: Iterable[int]) -> None:
        self.marks = list(shares)
        self.counts = counts
        """Its slots, by pool."""
        self.share = 0

    def compute_share(self, shares: Iterable[int]) -> int:
        """Return its integral up to these integrals of one slot."""
        parts = zip(self.counts, shares, self.marks, strict=True)
        return self.share + sum([count * (share - mark) for count, share, mark in parts])

    def change_slots(self, position: int, change: int, share: int) -> None:
        """Change its slots of a pool, and integrate them up to then."""
        self.share += self.counts[position] * (share - self.marks[position])
        self.marks[position] = share
        self.counts[position] += change


OpenWait: TypeAlias = tuple[AgentKey, Fields, int]
"""Its agent, and the integrals of its queue and of the agent at its begin. No NamedTuple, which takes ten times as long
to make.
"""


class WaitQueue:
    """The waiters for one set of resources, and their integrals."""

    __slots__ = (
        "at", "fields", "gate", "gated_until", "holders", "name", "names", "open", "own", "parts", "places", "pools",
        "rate_limit", "rows", "shares", "waits",
    )  # fmt: skip

    def __init__(self, names: tuple[str, ...], pools: list[HolderPool]) -> None:
        self.names = names
        self.name = "+".join(names)
        self.pools = pools
        self.at: float = 0
        """The time up to which it is integrated."""
        self.gate = UNKNOWN
        """The place of the gate that was closed last."""
        self.gated_until: float = 0
        """When the rate limit of its next request allows that request."""
        self.rate_limit = REQUESTS
        """The place of that rate limit."""
        self.fields: Fields = 0
        self.shares = [0] * len(pools)
        """By pool, the integral of one slot."""
        self.holders: list[str] = []
        """By place after the causes, the agents' names."""
        self.places: dict[AgentKey, int] = {}
        """The place of each holder."""
        self.parts: list[Fields] = [0] * len(pools)
        """By pool, the slots of each holder."""
        self.open: dict[AgentKey, int] = {}
        """The number of open waits of each agent."""
        self.own: dict[AgentKey, _Own] = {}
        """Of agents without a place that wait and hold."""
        self.waits: dict[TicketView, OpenWait] = {}
        self.rows: dict[tuple[str, int | None], Fields] = {}
        """The sums of ended waits, by the agent's name on metrics and its own place."""

    def advance(self, now: float) -> None:
        """Integrate up to a later time."""
        if self.waits:
            pool = self.pools[0]
            used, at = pool.used, self.at
            if (
                len(self.pools) == 1
                and used >= pool.slots
                and pool.paused_until <= at
                and self.gated_until <= at
                and pool.reserved_for is None
            ):
                # What `integrate` does for one resource whose slots are all held, behind an open gate.
                total = pool.reference if pool.reference > used else used or 1
                share = round((now - at) * UNIT / total)
                self.shares[0] += share
                self.fields += self.parts[0] * share
                if used < total:
                    self.fields += int(total - used) * share << RAMP * BITS
            else:
                self.fields += self.integrate(self.shares, now)
        self.at = now

    def integrate(self, shares: list[int], now: float) -> Fields:
        """Return the integrals from `at` to a time, and add to those of one slot, the queue's own or a copy."""
        at, pools, fields = self.at, self.pools, 0
        paused_until = max(pool.paused_until for pool in pools)
        if paused_until > at:
            end = min(now, paused_until)
            fields += round((end - at) * UNIT) << BACKOFF * BITS
            at = end
        if self.gated_until > at and now > at:
            end = min(now, self.gated_until)
            fields += round((end - at) * UNIT) << self.rate_limit * BITS
            at = end
        if at >= now:
            return fields
        full = [position for position, pool in enumerate(pools) if not pool.has_room(self.names)]
        if not full:
            # The gate is open, and the grant about to be delivered.
            return fields + (round((now - at) * UNIT) << self.gate * BITS)
        for position in full:
            pool = pools[position]
            used, slots = pool.used, pool.slots
            total = max(pool.reference, used, 1)
            share = round((now - at) * UNIT / (total * len(full)))
            shares[position] += share
            fields += self.parts[position] * share
            if used < slots:
                fields += int(slots - used) * share << RESERVED * BITS
                used = int(slots)
            if used < total:
                fields += int(total - used) * share << RAMP * BITS
        return fields

    def add_holder(self, position: int, agent: AgentKey, change: int) -> int:
        """Return the place of an agent whose slots change and that has none yet."""
        if len(self.places) < MAX_HOLDERS:
            place = self.places[agent] = len(CAUSES) + len(self.holders)
            self.holders.append(get_agent_name(agent))
            return place
        if agent in self.open:
            own = self.own.get(agent)
            if own is None:
                own = self.own[agent] = _Own([0] * len(self.pools), self.shares)
            own.change_slots(position, change, self.shares[position])
        return OTHER

    def begin_wait(self, ticket: TicketView, agent: AgentKey) -> None:
        """Store where a wait begins."""
        own_began = 0
        if agent not in self.places:
            own = self.own.get(agent)
            if own is not None:
                own_began = own.compute_share(self.shares)
            else:
                for pool in self.pools:
                    if agent in pool.held:
                        self.own[agent] = _Own([pool.held.get(agent, 0) for pool in self.pools], self.shares)
                        break
        self.waits[ticket] = agent, self.fields, own_began
        self.open[agent] = self.open.get(agent, 0) + 1

    def end_wait(self, wait: OpenWait, label: str) -> tuple[Fields, int | None]:
        """Return the parts of a wait that was removed and its agent's place, and add them to the agent's sums."""
        agent, began, own_began = wait
        parts = self.fields - began
        place = self.places.get(agent)
        own = self.own.get(agent) if self.own else None
        if own is not None and place is None:
            parts = _split_self(parts, own.compute_share(self.shares) - own_began)
        count = self.open[agent] - 1
        if count:
            self.open[agent] = count
        else:
            del self.open[agent]
            if own is not None:
                del self.own[agent]
        row = label, place
        self.rows[row] = self.rows.get(row, 0) + parts
        return parts, place

    def forget_requests(self) -> None:
        """Forget all waits and slots; the integrals stay."""
        self.parts = [0] * len(self.pools)
        self.own, self.waits, self.open = {}, {}, {}

    def get_cause(self, place: int) -> tuple[str, str | None]:
        """Return the cause of a place, and the holder's name if it is `slot`."""
        if place < OTHER:
            return CAUSES[place], None
        return key.SLOT, key.OTHER if place == OTHER else self.holders[place - len(CAUSES)]


class QueueCopy(NamedTuple):
    """What a reader needs of a queue, up to a time."""

    queue: WaitQueue
    rows: Mapping[tuple[str, int | None], Fields]
    waits: Sequence[OpenWait]
    fields: Fields
    own: Mapping[AgentKey, int]


def copy_queue(queue: WaitQueue, now: float) -> QueueCopy:
    """Copy what a reader needs, integrated up to a time; the queue stays as it is."""
    fields, shares = queue.fields, queue.shares.copy()
    if queue.waits and now > queue.at:
        fields += queue.integrate(shares, now)
    own = {agent: own.compute_share(shares) for agent, own in queue.own.items()}
    return QueueCopy(queue, queue.rows.copy(), list(queue.waits.values()), fields, own)


def sum_open_waits(copy: QueueCopy) -> Iterable[tuple[AgentKey, Fields, int | None]]:
    """Yield each agent with the sums of the parts of its open waits, and its place."""
    by_agent: dict[AgentKey, list[OpenWait]] = {}
    for wait in copy.waits:
        by_agent.setdefault(wait[0], []).append(wait)
    for agent, waits in by_agent.items():
        parts = len(waits) * copy.fields - sum([began for _, began, _ in waits])
        place = copy.queue.places.get(agent)
        if place is None and agent in copy.own:
            parts = _split_self(parts, len(waits) * copy.own[agent] - sum([own_began for _, _, own_began in waits]))
        yield agent, parts, place


def iter_parts(queue: WaitQueue, fields: Fields, own: int | None) -> Iterable[tuple[str, str | None, int]]:
    """Yield cause, holder and units of each part; that of the agent's own place is `self`."""
    place = 0
    while fields:
        part = fields & _MASK
        if part:
            cause, holder = (key.SELF, None) if place == own else queue.get_cause(place)
            yield cause, holder, part
        fields >>= BITS
        place += 1


def _split_self(parts: Fields, own: int) -> Fields:
    """Move an agent's own part from the other holders to `self`."""
    return parts + (own << SELF * BITS) - (own << OTHER * BITS)


def get_agent_key(request: Request) -> AgentKey:
    return (request.tenant, request.agent) if request.tenant else request.agent


def get_agent_name(agent: AgentKey) -> str:
    return agent if isinstance(agent, str) else agent[1]
