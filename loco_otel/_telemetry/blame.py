"""The account of waits: what each second of waiting was spent on, and whose calls held the slots meanwhile.

While a gate is closed (a provider's pause, a rate limit) all of a waiter's time goes to the gate's cause. Else the time
is divided by the slots of the resource: one part for each slot to the agent that holds it (`self` if that is the
waiter's own), the parts of slots that an adaptive limit withholds to `ramp`, and that of a free slot which is reserved
for other requests to `reserved`. A shared slot counts once, for its host. Of several resources those without room share
the time equally. Once a request has its slots, the check of its budgets is `budget`. So the parts of a wait sum to it.

The account is computed from events and their times. Each queue keeps integrals: the seconds for which one waiter would
have waited for each cause or holder so far. The parts of a wait are the differences between its end and its begin, so
an event costs the same for one waiter as for a thousand. A queue without waiters is not integrated.
"""

from collections.abc import Callable, Iterable, Mapping
from math import inf
from operator import add, sub
from typing import Any, NamedTuple, TypeAlias

from loco_otel._fork import ForkSafeLock
from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.call_trace import get_call_trace
from loco_otel.events import (
    Event,
    GateCause,
    Gated,
    Granted,
    Limited,
    Rejected,
    Released,
    Request,
    SlotTaken,
    Suspended,
    TicketView,
    Waiting,
)

MAX_HOLDERS = 20
"""Agents that the account of a queue distinguishes as holders: the first ones. The rest are `other`."""

_AgentKey: TypeAlias = str | tuple[str, str]
"""An agent, or a tenant and its agent."""
_Seconds: TypeAlias = list[float]
"""By position: causes, then holders."""
_Cause: TypeAlias = tuple[str, str | None]
"""A cause, and the holder if it is `slot`."""

_Point: TypeAlias = tuple[str, str, str, str | None]
"""Agent, resource, cause and holder."""

_CAUSES: tuple[_Cause, ...] = (
    (GateCause.BACKOFF.value, None),
    (GateCause.REQUESTS.value, None),
    (GateCause.TOKENS.value, None),
    (key.RAMP, None),
    (key.RESERVED, None),
    (key.BUDGET, None),
    (key.UNKNOWN, None),
    (key.SELF, None),
    (key.SLOT, key.OTHER),
)
_BACKOFF, _REQUESTS, _TOKENS, _RAMP, _RESERVED, _BUDGET, _UNKNOWN, _SELF, _OTHER = range(len(_CAUSES))
_GATE_PLACES = {GateCause.BACKOFF: _BACKOFF, GateCause.REQUESTS: _REQUESTS, GateCause.TOKENS: _TOKENS}


class Blame(NamedTuple):
    """The parts of one wait, in seconds; they sum to it."""

    causes: dict[str, float]
    """By cause; all slots of other agents together are `slot`."""
    agents: list[tuple[str, float]]
    """The other agents that held slots, by seconds, the longest first."""


class _Pool:
    """One resource: its slots, and the leases that hold or share them."""

    __slots__ = ("leases", "paused_until", "queues", "reference", "reserved_for", "slots", "used")

    def __init__(self) -> None:
        self.slots = self.reference = inf
        self.reserved_for: tuple[str, ...] | None = None
        self.paused_until: float = 0
        self.used = 0
        self.leases: dict[TicketView, TicketView | None] = {}
        """In the order of their grants, each with the host whose slot it shares."""
        self.queues: list[tuple[_Queue, int]] = []
        """Queues that wait for it, each with the position of this pool."""

    def has_room(self, names: tuple[str, ...]) -> bool:
        """Return whether a slot is free for a queue, not counting one that is reserved for another."""
        reserved = self.reserved_for is not None and self.reserved_for != names
        return self.used + reserved < self.slots


class _Own:
    """The seconds of an agent that is beyond the first holders: its part of `other` is `self` in its own waits."""

    __slots__ = ("counts", "marks", "seconds")

    def __init__(self, shares: Iterable[float]) -> None:
        self.marks = list(shares)
        self.counts = [0] * len(self.marks)
        """Its slots, by pool."""
        self.seconds: float = 0

    def compute_seconds(self, shares: Iterable[float]) -> float:
        """Return its seconds up to these integrals."""
        parts = zip(self.counts, shares, self.marks, strict=True)
        return self.seconds + sum([count * (share - mark) for count, share, mark in parts])

    def settle(self, shares: Iterable[float]) -> None:
        """Move the marks to these integrals."""
        self.seconds = self.compute_seconds(shares)
        self.marks = list(shares)


class _Wait(NamedTuple):
    """An open wait: the integrals of its queue at its begin."""

    began: _Seconds
    own_began: float


class _OpenWaits(NamedTuple):
    """The open waits of one agent: their number, and the sums of what they began with."""

    number: int
    began: _Seconds
    own_began: float


class _Queue:
    """The waiters for one set of resources, and their integrals."""

    __slots__ = (
        "at", "causes", "gate", "gated_until", "holders", "label", "names", "open", "own", "parts", "places", "pools",
        "rate_limit", "seconds", "shares", "waits",
    )  # fmt: skip

    def __init__(self, names: tuple[str, ...], pools: list[_Pool], label: str) -> None:
        self.names = names
        self.pools = pools
        self.label = label
        self.at: float = 0
        """The time up to which it is integrated."""
        self.gate = _UNKNOWN
        """The place of the gate that was closed last."""
        self.gated_until: float = 0
        """When the rate limit of its next request allows that request."""
        self.rate_limit = _REQUESTS
        """The place of that rate limit."""
        self.seconds: _Seconds = [0] * (len(_CAUSES) + MAX_HOLDERS)
        self.shares: _Seconds = [0] * len(pools)
        """By pool, the seconds of one slot."""
        self.causes: list[_Cause] = list(_CAUSES)
        """By place, with the holders' labels."""
        self.holders: list[str] = []
        """By place after the causes, the agents' own names."""
        self.places: dict[_AgentKey, int] = {}
        self.parts: list[dict[int, int]] = [{} for _ in pools]
        """By pool, the slots of each place."""
        self.own: dict[_AgentKey, _Own] = {}
        self.waits: dict[TicketView, _Wait] = {}
        self.open: dict[_AgentKey, _OpenWaits] = {}

    def advance(self, now: float) -> None:
        """Integrate up to a time."""
        if now > self.at:
            if self.waits:
                self.integrate(self.seconds, self.shares, now)
            self.at = now

    def integrate(self, seconds: _Seconds, shares: _Seconds, now: float) -> None:
        """Add the time since `at` to integrals, which are those of the queue or a copy."""
        at, pools = self.at, self.pools
        paused_until = pools[0].paused_until if len(pools) == 1 else max(pool.paused_until for pool in pools)
        if paused_until > at:
            end = min(now, paused_until)
            seconds[_BACKOFF] += end - at
            at = end
        if self.gated_until > at and now > at:
            end = min(now, self.gated_until)
            seconds[self.rate_limit] += end - at
            at = end
        if at >= now:
            return
        full = [place for place, pool in enumerate(pools) if not pool.has_room(self.names)]
        if not full:
            # The gate is open, and the grant about to be delivered.
            seconds[self.gate] += now - at
        for place in full:
            pool = pools[place]
            used, slots = pool.used, pool.slots
            total = max(pool.reference, used, 1)
            share = (now - at) / (total * len(full))
            shares[place] += share
            for part, count in self.parts[place].items():
                seconds[part] += count * share
            if used < slots:
                seconds[_RESERVED] += (slots - used) * share
                used = int(slots)
            if used < total:
                seconds[_RAMP] += (total - used) * share

    def change_slots(self, pool: int, agent: _AgentKey, change: int, fold: Callable[[str, str], str]) -> None:
        """Change the number of slots that an agent holds of a pool."""
        place = self.places.get(agent)
        if place is None:
            if len(self.places) < MAX_HOLDERS:
                name = _get_name(agent)
                place = self.places[agent] = len(self.causes)
                self.causes.append((key.SLOT, fold(key.AGENT, name)))
                self.holders.append(name)
            else:
                place = _OTHER
                self._change_own(pool, agent, change)
        parts = self.parts[pool]
        count = parts.get(place, 0) + change
        if count:
            parts[place] = count
        else:
            del parts[place]

    def _change_own(self, pool: int, agent: _AgentKey, change: int) -> None:
        own = self.own.get(agent)
        if own is None:
            own = self.own[agent] = _Own(self.shares)
        own.settle(self.shares)
        own.counts[pool] += change
        self.drop_own(agent, own)

    def drop_own(self, agent: _AgentKey, own: _Own) -> None:
        """Forget the seconds of an agent that neither holds nor waits."""
        if agent not in self.open and not any(own.counts):
            del self.own[agent]

    def begin_wait(self, ticket: TicketView, agent: _AgentKey) -> None:
        """Store where a wait begins."""
        own = self.own.get(agent)
        began, own_began = self.seconds.copy(), 0 if own is None else own.compute_seconds(self.shares)
        self.waits[ticket] = _Wait(began, own_began)
        others = self.open.get(agent)
        if others is None:
            self.open[agent] = _OpenWaits(1, began, own_began)
        else:
            sums = list(map(add, others.began, began))
            self.open[agent] = _OpenWaits(others.number + 1, sums, others.own_began + own_began)

    def end_wait(self, ticket: TicketView, agent: _AgentKey) -> dict[int, float]:
        """Return the parts of a wait, by place."""
        wait, others = self.waits.pop(ticket), self.open[agent]
        if others.number == 1:
            del self.open[agent]
        else:
            sums = list(map(sub, others.began, wait.began))
            self.open[agent] = _OpenWaits(others.number - 1, sums, others.own_began - wait.own_began)
        parts = {place: part for place, part in enumerate(map(sub, self.seconds, wait.began)) if part}
        own = self.own.get(agent)
        if own is not None:
            self.drop_own(agent, own)
        self.split_self(parts, agent, 0 if own is None else own.compute_seconds(self.shares) - wait.own_began)
        return parts

    def forget_requests(self) -> None:
        """Forget all waits and slots; the integrals stay."""
        self.parts = [{} for _ in self.pools]
        self.own, self.waits, self.open = {}, {}, {}

    def split_self(self, parts: dict[int, float], agent: _AgentKey, own: float) -> None:
        """Move the agent's own slots from the holders to `self`."""
        place = self.places.get(agent)
        if place is not None:
            if place in parts:
                parts[_SELF] = parts.pop(place)
        elif own:
            parts[_SELF] = own
            parts[_OTHER] = max(0, parts.get(_OTHER, 0) - own)


class _CheckedWait(NamedTuple):
    """A wait that got its slots, while its budgets are checked."""

    queue: _Queue
    parts: dict[int, float]
    slot_at: float


class BlameAccount:
    """Listens to events, and accounts for each wait. Thread-safe.

    Args:
        fold: limits the values of attributes.

    """

    def __init__(self, fold: Callable[[str, str], str] = lambda _, value: value) -> None:
        self._fold = fold
        self._lock = ForkSafeLock()
        self._pools: dict[str, _Pool] = {}
        self._queues: dict[tuple[str, ...], _Queue] = {}
        """By their resources, in any order."""
        self._checked: dict[TicketView, _CheckedWait] = {}
        self._totals: dict[tuple[str, str], dict[_Cause, float]] = {}
        """Seconds of ended waits, by agent and resource."""
        self._reported: dict[_Point, float] = {}
        self._events_dropped = 0
        self._last: tuple[_Queue, dict[int, float]] | None = None
        """The wait that the last event ended."""
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            Waiting: self._handle_waiting,
            SlotTaken: self._handle_slot_taken,
            Granted: self._handle_granted,
            Rejected: self._handle_rejected,
            Suspended: self._handle_lease_end,
            Released: self._handle_lease_end,
            Limited: self._handle_limited,
            Gated: self._handle_gated,
        }

    def __call__(self, event: Event, /) -> None:
        """Handle one event."""
        handle = self._handlers.get(type(event))
        if handle is not None:
            with self._lock:
                handle(event)

    def get_last_blame(self) -> Blame | None:
        """Return the parts of the wait that the last grant or rejection ended; None if it ended at once."""
        if self._last is None:
            return None
        queue, parts = self._last
        causes: dict[str, float] = {}
        agents: dict[str, float] = {}
        for place, part in parts.items():
            cause, holder = queue.causes[place]
            causes[cause] = causes.get(cause, 0) + part
            if holder is not None:
                name = holder if place == _OTHER else queue.holders[place - len(_CAUSES)]
                agents[name] = agents.get(name, 0) + part
        return Blame(causes, sorted(agents.items(), key=lambda item: item[1], reverse=True))

    def read_seconds(self, now: float, events_dropped: int = 0) -> dict[_Point, float]:
        """Return all seconds waited, by agent, resource, cause and holder, those of open waits up to `now`.

        No value is lower than one that was returned before.

        Args:
            now: the time.
            events_dropped: number of events so far that no listener received.

        """
        seconds: dict[_Point, float] = {}
        with self._lock:
            if events_dropped > self._events_dropped:
                self._events_dropped = events_dropped
                self._forget_requests()
            for labels, causes in self._totals.items():
                for cause, amount in causes.items():
                    seconds[*labels, *cause] = amount
            opened = [
                (queue, agent, parts)
                for queue in dict.fromkeys(self._queues.values())
                for agent, parts in _list_open(queue, now)
            ]
            opened += [
                (wait.queue, _get_key(ticket.request), {_BUDGET: max(0, now - wait.slot_at)})
                for ticket, wait in self._checked.items()
                if not _is_suppressed(ticket.request)
            ]
        for queue, agent, parts in opened:
            label = self._fold(key.AGENT, _get_name(agent))
            for place, part in parts.items():
                point = (label, queue.label, *queue.causes[place])
                seconds[point] = seconds.get(point, 0) + part
        # An event of a moment before `now` may have come after an earlier call of this method.
        for point, before in self._reported.items():
            if seconds.get(point, 0) < before:
                seconds[point] = before
        self._reported = seconds
        return seconds

    def _forget_requests(self) -> None:
        """Forget open waits and leases: the events that end them may be missing."""
        self._checked.clear()
        for pool in self._pools.values():
            pool.leases.clear()
            pool.used = 0
        for queue in dict.fromkeys(self._queues.values()):
            queue.forget_requests()

    # -- events of requests -----------------------------------------------------------------------------------------

    def _handle_waiting(self, event: Waiting) -> None:
        request = event.ticket.request
        queue = self._get_queue(request.resources)
        queue.advance(event.at)
        if event.ticket not in queue.waits and not _is_suppressed(request):
            queue.begin_wait(event.ticket, _get_key(request))

    def _handle_slot_taken(self, event: SlotTaken) -> None:
        queue, parts = self._end_wait(event.ticket, event.at)
        self._checked[event.ticket] = _CheckedWait(queue, parts, event.at)
        self._add_to_totals(event.ticket.request, queue, parts)
        self._start_lease(event.ticket, event.hosts, event.at)

    def _handle_granted(self, event: Granted) -> None:
        ticket = event.ticket
        checked = self._checked.pop(ticket, None)
        if checked is not None:
            self._end_check(ticket, checked, event.at)
            return
        slot_at = event.at if event.slot_at is None else event.slot_at
        if event.waited:
            self._account_wait(event, slot_at)
        else:
            self._forget_wait(ticket)
        self._start_lease(ticket, event.hosts, slot_at)

    def _handle_rejected(self, event: Rejected) -> None:
        ticket = event.ticket
        checked = self._checked.pop(ticket, None)
        if checked is not None:
            self._end_check(ticket, checked, event.at)
            self._end_lease(ticket, event.at)
        elif event.waited:
            self._account_wait(event, event.at)
        else:
            self._forget_wait(ticket)

    def _handle_lease_end(self, event: Suspended | Released) -> None:
        self._end_lease(event.ticket, event.at)

    def _account_wait(self, event: Granted | Rejected, ended_at: float) -> None:
        """Account for a wait that ends, at the grant of its slots or the rejection."""
        ticket = event.ticket
        queue, parts = self._end_wait(ticket, ended_at)
        if not parts:
            # Its begin is not known: telemetry began later, or its events were dropped.
            parts[_UNKNOWN] = event.waited - (event.at - ended_at)
        if event.at > ended_at:
            parts[_BUDGET] = event.at - ended_at
        self._add_to_totals(ticket.request, queue, parts)
        self._last = queue, parts

    def _end_wait(self, ticket: TicketView, now: float) -> tuple[_Queue, dict[int, float]]:
        """Return the queue of a ticket, and the parts of its wait; none if it did not wait."""
        queue = self._get_queue(ticket.request.resources)
        if ticket not in queue.waits:
            return queue, {}
        queue.advance(now)
        return queue, queue.end_wait(ticket, _get_key(ticket.request))

    def _forget_wait(self, ticket: TicketView) -> None:
        """Remove a wait that ends at the time of its begin, if there is one."""
        self._last = None
        queue = self._queues.get(ticket.request.resources)
        if queue is not None and ticket in queue.waits:
            queue.end_wait(ticket, _get_key(ticket.request))

    def _end_check(self, ticket: TicketView, checked: _CheckedWait, now: float) -> None:
        queue, parts, slot_at = checked
        if now > slot_at:
            check = {_BUDGET: now - slot_at}
            self._add_to_totals(ticket.request, queue, check)
            parts.update(check)
        self._last = (queue, parts) if parts else None

    def _add_to_totals(self, request: Request, queue: _Queue, parts: Mapping[int, float]) -> None:
        if not parts or _is_suppressed(request):
            return
        labels = self._fold(key.AGENT, request.agent), queue.label
        totals = self._totals.get(labels)
        if totals is None:
            totals = self._totals[labels] = {}
        causes = queue.causes
        for place, part in parts.items():
            cause = causes[place]
            totals[cause] = totals.get(cause, 0) + part

    # -- slots ------------------------------------------------------------------------------------------------------

    def _start_lease(self, ticket: TicketView, hosts: Mapping[str, TicketView], now: float) -> None:
        for name in ticket.request.resources:
            pool = self._get_pool(name)
            host = hosts.get(name)
            if ticket in pool.leases:
                continue
            pool.leases[ticket] = host if host in pool.leases else None
            if pool.leases[ticket] is None:
                self._change_slots(pool, ticket, 1, now)

    def _end_lease(self, ticket: TicketView, now: float) -> None:
        for name in ticket.request.resources:
            pool = self._pools.get(name)
            if pool is None or ticket not in pool.leases:
                continue
            if pool.leases.pop(ticket) is not None:
                continue
            self._change_slots(pool, ticket, -1, now)
            # As in the core: a shared slot passes to the first lease that shares it.
            sharers = (
                [lease for lease, host in pool.leases.items() if host is ticket] if pool.used < len(pool.leases) else []
            )
            for sharer in sharers:
                pool.leases[sharer] = None if sharer is sharers[0] else sharers[0]
            if sharers:
                self._change_slots(pool, sharers[0], 1, now)

    def _change_slots(self, pool: _Pool, ticket: TicketView, change: int, now: float) -> None:
        for queue, place in pool.queues:
            queue.advance(now)
            queue.change_slots(place, _get_key(ticket.request), change, self._fold)
        pool.used += change

    # -- events of resources ----------------------------------------------------------------------------------------

    def _handle_limited(self, event: Limited) -> None:
        pool = self._get_pool(event.resource)
        for queue, _ in pool.queues:
            queue.advance(event.at)
        pool.slots = inf if event.slots is None else event.slots
        pool.reference = inf if event.reference is None else event.reference
        pool.reserved_for = event.reserved_for

    def _handle_gated(self, event: Gated) -> None:
        if event.queue is None:
            pool = self._get_pool(event.resource)
            for queue, _ in pool.queues:
                queue.advance(event.at)
                queue.gate = _GATE_PLACES[event.cause]
            pool.paused_until = event.until
        else:
            queue = self._get_queue(event.queue)
            queue.advance(event.at)
            queue.gate = queue.rate_limit = _GATE_PLACES[event.cause]
            queue.gated_until = event.until

    def _get_pool(self, name: str) -> _Pool:
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = _Pool()
        return pool

    def _get_queue(self, resources: tuple[str, ...]) -> _Queue:
        queue = self._queues.get(resources)
        if queue is not None:
            return queue
        names = tuple(sorted(resources))
        queue = self._queues.get(names)
        if queue is None:
            pools = [self._get_pool(name) for name in names]
            queue = self._queues[names] = _Queue(names, pools, self._fold(key.RESOURCE, "+".join(names)))
            if any(pool.paused_until for pool in pools):
                queue.gate = _BACKOFF
            for place, pool in enumerate(pools):
                pool.queues.append((queue, place))
                for lease, host in pool.leases.items():
                    if host is None:
                        queue.change_slots(place, _get_key(lease.request), 1, self._fold)
        self._queues[resources] = queue
        return queue


def _list_open(queue: _Queue, now: float) -> list[tuple[_AgentKey, dict[int, float]]]:
    """Return the parts of the open waits of a queue up to a time, by agent, and leave the queue as it is."""
    seconds, shares = queue.seconds.copy(), queue.shares.copy()
    if queue.waits and now > queue.at:
        queue.integrate(seconds, shares, now)
    listed = []
    for agent, waits in queue.open.items():
        parts = {
            place: part
            for place, (total, began) in enumerate(zip(seconds, waits.began, strict=True))
            if (part := waits.number * total - began)
        }
        own = queue.own.get(agent)
        mine = 0 if own is None else waits.number * own.compute_seconds(shares) - waits.own_began
        queue.split_self(parts, agent, mine)
        listed.append((agent, parts))
    return listed


def _get_key(request: Request) -> _AgentKey:
    return (request.tenant, request.agent) if request.tenant else request.agent


def _get_name(agent: _AgentKey) -> str:
    return agent if isinstance(agent, str) else agent[1]


def _is_suppressed(request: Request) -> bool:
    trace = get_call_trace(request)
    return trace is not None and trace.is_suppressed
