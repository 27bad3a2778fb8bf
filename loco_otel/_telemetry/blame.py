"""The blame for waits: what each second of waiting was spent on, and whose calls held the slots meanwhile.

While a gate is closed (a provider's pause, a rate limit) all of a waiter's time goes to the gate's cause. Else the time
is divided by the slots of the resource: one part for each slot to the agent that holds it (`self` if that is the
waiter's own), the parts of slots that an adaptive limit withholds to `ramp`, and that of a free slot which is reserved
for other requests to `reserved`. A shared slot counts once, for its host. Of several resources those without room share
the time equally. Once a request has its slots, the check of its budgets is `budget`. So the parts of a wait sum to it.

Blame is computed from events and their times, see `wait_integrals.py`.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, NamedTuple, TypeAlias

from loco_otel import _fork
from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.call_trace import is_request_suppressed
from loco_otel._telemetry.selective_listener import SelectiveListener
from loco_otel._telemetry.wait_integrals import (
    BACKOFF,
    BITS,
    BUDGET,
    FIELDS,
    REQUESTS,
    TOKENS,
    UNIT,
    UNKNOWN,
    AgentKey,
    Fields,
    HolderPool,
    WaitQueue,
    copy_queue,
    get_agent_key,
    get_agent_name,
    iter_parts,
    sum_open_waits,
)
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

_Point: TypeAlias = tuple[str, str, str, str | None]
"""Agent, resource, cause and holder."""

_MAX_HOLDERS = 16
"""`Waiting.holders` may lack some from this number on."""
_GATE_PLACES = {GateCause.BACKOFF: BACKOFF, GateCause.REQUESTS: REQUESTS, GateCause.TOKENS: TOKENS}


class Blame(NamedTuple):
    """The parts of one wait, in seconds; they sum to it."""

    causes: dict[str, float]
    """By cause; all slots of other agents together are `slot`."""
    agents: list[tuple[str, float]]
    """The other agents that held slots, by seconds, the longest first."""


class _CheckedWait(NamedTuple):
    """A wait that got its slots, while its budgets are checked."""

    queue: WaitQueue
    parts: Fields
    place: int | None
    """The place of its agent."""
    slot_at: float


class BlameListener(SelectiveListener):
    """Computes the blame for each wait from events. Thread-safe.

    Args:
        fold: limits the values of attributes.

    """

    def __init__(self, fold: Callable[[str, str], str] = lambda _, value: value) -> None:
        self._fold = fold
        # Not a `ForkSafeLock`: that has two calls in Python for each event.
        self._lock = threading.Lock()
        self._pools: dict[str, HolderPool] = {}
        self._queues: dict[tuple[str, ...], WaitQueue] = {}
        """By their resources, in any order."""
        self._checked: dict[TicketView, _CheckedWait] = {}
        self._labels: dict[AgentKey, str] = {}
        """Agents' names on metrics, but for those that are `other`."""
        self._reported: dict[_Point, int] = {}
        self._events_dropped = 0
        self._last: tuple[WaitQueue, Fields, int | None] | None = None
        """The wait that the last event ended: its queue, its parts, and the place of its agent."""
        handlers: dict[type[Event], Callable[[Any], None]] = {
            Waiting: self._handle_waiting,
            SlotTaken: self._handle_slot_taken,
            Granted: self._handle_granted,
            Rejected: self._handle_rejected,
            Suspended: self._end_lease,
            Released: self._end_lease,
            Limited: self._handle_limited,
            Gated: self._handle_gated,
        }
        self.event_handlers = {kind: partial(self._handle_event, handle) for kind, handle in handlers.items()}
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def _handle_event(self, handle: Callable[[Any], None], event: Event) -> None:
        with self._lock:
            handle(event)

    def after_fork(self) -> None:
        """Start without waits, slots and sums in a forked child: those of its parent are not its own."""
        self._lock = threading.Lock()
        self._forget_requests()
        for queue in self._queues.values():
            queue.rows = {}
        self._reported, self._last, self._events_dropped = {}, None, 0

    def get_last_blame(self) -> Blame | None:
        """Return the parts of the wait that the last grant or rejection ended; None if it ended at once."""
        if self._last is None:
            return None
        queue, parts, own = self._last
        causes: dict[str, float] = {}
        agents: dict[str, float] = {}
        for cause, holder, part in iter_parts(queue, parts, own):
            causes[cause] = causes.get(cause, 0) + part / UNIT
            if holder is not None:
                agents[holder] = agents.get(holder, 0) + part / UNIT
        return Blame(causes, sorted(agents.items(), key=lambda item: item[1], reverse=True))

    def read_seconds(self, now: float, events_dropped: int = 0) -> dict[_Point, float]:
        """Return all seconds waited, by agent, resource, cause and holder, those of open waits up to `now`.

        No value is lower than one that was returned before.

        Args:
            now: the time.
            events_dropped: number of events so far that no listener received.

        """
        return {point: units / UNIT for point, units in self._read_units(now, events_dropped).items()}

    def _read_units(self, now: float, events_dropped: int = 0) -> Mapping[_Point, int]:
        with self._lock:
            if events_dropped > self._events_dropped:
                self._events_dropped = events_dropped
                self._forget_requests()
            copies = [copy_queue(queue, now) for queue in dict.fromkeys(self._queues.values())]
            checked = list(self._checked.items())
        units: dict[_Point, int] = {}
        for copy in copies:
            rows = dict(copy.rows)
            # Whole sums are added, as agents may be many, and their names on metrics are few.
            for agent, parts, own in sum_open_waits(copy):
                row = self._fold(key.AGENT, get_agent_name(agent)), own
                rows[row] = rows.get(row, 0) + parts
            for (label, own), parts in rows.items():
                self._add_points(units, copy.queue, label, parts, own)
        for ticket, wait in checked:
            if not is_request_suppressed(ticket.request):
                check = round(max(0, now - wait.slot_at) * UNIT) << BUDGET * BITS
                self._add_points(units, wait.queue, self._fold(key.AGENT, ticket.request.agent), check, None)
        # An event of a moment before `now` may have come after an earlier call of this method.
        for point, before in self._reported.items():
            if units.get(point, 0) < before:
                units[point] = before
        self._reported = units
        return units

    def _add_points(
        self, units: dict[_Point, int], queue: WaitQueue, label: str, parts: Fields, own: int | None
    ) -> None:
        resource = self._fold(key.RESOURCE, queue.name)
        for cause, holder, part in iter_parts(queue, parts, own):
            point = label, resource, cause, None if holder is None else self._fold(key.AGENT, holder)
            units[point] = units.get(point, 0) + part

    def _forget_requests(self) -> None:
        """Forget open waits and leases: the events that end them may be missing."""
        self._checked.clear()
        for pool in self._pools.values():
            pool.clear()
        for queue in dict.fromkeys(self._queues.values()):
            queue.forget_requests()

    # -- events of requests -----------------------------------------------------------------------------------------

    def _handle_waiting(self, event: Waiting) -> None:
        now, ticket = event.at, event.ticket
        request = ticket.request
        queue = self._queues.get(request.resources) or self._add_queue(request.resources)
        if now > queue.at:
            queue.advance(now)
        holders, leases = event.holders, queue.pools[0].leases
        if holders and len(holders) != len(leases) and len(holders) < _MAX_HOLDERS and len(queue.pools) == 1:
            self._correct_leases(queue.pools[0], holders, now)
        if ticket not in queue.waits and not is_request_suppressed(request):
            queue.begin_wait(ticket, (request.tenant, request.agent) if request.tenant else request.agent)

    def _handle_slot_taken(self, event: SlotTaken) -> None:
        ticket = event.ticket
        queue, parts, own = self._end_wait(ticket, event.at) or (self._get_queue(ticket.request), 0, None)
        self._checked[ticket] = _CheckedWait(queue, parts, own, event.at)
        self._start_lease(ticket, event.hosts, event.at)

    def _handle_granted(self, event: Granted) -> None:
        ticket = event.ticket
        if self._checked and ticket in self._checked:
            self._end_check(ticket, event.at)
            return
        slot_at = event.slot_at
        if slot_at is None:
            slot_at = event.at
        self._last = self._end_wait(ticket, slot_at)
        if self._last is None and event.waited:
            self._add_unknown(event, slot_at)
        self._start_lease(ticket, event.hosts, slot_at)

    def _handle_rejected(self, event: Rejected) -> None:
        if self._checked and event.ticket in self._checked:
            self._end_check(event.ticket, event.at)
            self._end_lease(event)
            return
        self._last = self._end_wait(event.ticket, event.at)
        if event.waited and self._last is None:
            self._add_unknown(event, event.at)

    def _end_wait(self, ticket: TicketView, now: float) -> tuple[WaitQueue, Fields, int | None] | None:
        """Return the queue of a ticket, the parts of its wait, and its agent's place; None if it did not wait."""
        queue = self._queues.get(ticket.request.resources)
        if queue is None or ticket not in queue.waits:
            return None
        if now > queue.at:
            queue.advance(now)
        wait = queue.waits.pop(ticket)
        agent = wait[0]
        parts, place = queue.end_wait(wait, self._labels.get(agent) or self._find_label(agent))
        return queue, parts, place

    def _add_unknown(self, event: Granted | Rejected, slot_at: float) -> None:
        """Account for a wait whose begin is not known: telemetry began later, or its events were dropped."""
        queue, request = self._get_queue(event.ticket.request), event.ticket.request
        check = round((event.at - slot_at) * UNIT)
        parts = (check << BUDGET * BITS) + (max(0, round(event.waited * UNIT) - check) << UNKNOWN * BITS)
        self._last = queue, parts, None
        if not is_request_suppressed(request):
            row = self._find_label(get_agent_key(request)), None
            queue.rows[row] = queue.rows.get(row, 0) + parts

    def _end_check(self, ticket: TicketView, now: float) -> None:
        """Account for the check of budgets that follows a wait."""
        queue, parts, own, slot_at = self._checked.pop(ticket)
        check = round((now - slot_at) * UNIT) << BUDGET * BITS
        if check and not is_request_suppressed(ticket.request):
            row = self._find_label(get_agent_key(ticket.request)), None
            queue.rows[row] = queue.rows.get(row, 0) + check
        self._last = (queue, parts + check, own) if parts or check else None

    def _find_label(self, agent: AgentKey) -> str:
        """Return an agent's name on metrics."""
        label = self._fold(key.AGENT, get_agent_name(agent))
        if label != key.OTHER:
            self._labels[agent] = label
        return label

    def _get_queue(self, request: Request) -> WaitQueue:
        return self._queues.get(request.resources) or self._add_queue(request.resources)

    # -- slots ------------------------------------------------------------------------------------------------------

    def _start_lease(self, ticket: TicketView, hosts: Mapping[str, TicketView], now: float) -> None:
        request = ticket.request
        agent = (request.tenant, request.agent) if request.tenant else request.agent
        for name in request.resources:
            pool = self._pools.get(name) or self._get_pool(name)
            leases = pool.leases
            if ticket in leases:
                continue
            if hosts and (host := hosts.get(name)) is not None and host in leases:
                leases[ticket] = host
            else:
                leases[ticket] = None
                pool.add_slot(agent, now)

    def _end_lease(self, event: Suspended | Released | Rejected) -> None:
        ticket = event.ticket
        for name in ticket.request.resources:
            pool = self._pools.get(name)
            if pool is not None and ticket in pool.leases:
                _remove_lease(pool, ticket, event.at)

    def _correct_leases(self, pool: HolderPool, holders: Sequence[TicketView], now: float) -> None:
        """Replace the leases of a pool: telemetry began after their grants, or events of some are missing."""
        for lease in [lease for lease in pool.leases if lease not in holders]:
            _remove_lease(pool, lease, now)
        for holder in holders:
            if holder not in pool.leases:
                pool.leases[holder] = None
                pool.add_slot(get_agent_key(holder.request), now)

    # -- events of resources ----------------------------------------------------------------------------------------

    def _handle_limited(self, event: Limited) -> None:
        pool = self._get_pool(event.resource)
        for queue, _ in pool.queues:
            if event.at > queue.at:
                queue.advance(event.at)
        pool.slots = inf if event.slots is None else event.slots
        pool.reference = inf if event.reference is None else event.reference
        pool.reserved_for = event.reserved_for

    def _handle_gated(self, event: Gated) -> None:
        place = _GATE_PLACES[event.cause]
        if event.queue is None:
            pool = self._get_pool(event.resource)
            for queue, _ in pool.queues:
                if event.at > queue.at:
                    queue.advance(event.at)
                queue.gate = place
            pool.paused_until = event.until
        else:
            queue = self._queues.get(event.queue) or self._add_queue(event.queue)
            if event.at > queue.at:
                queue.advance(event.at)
            queue.gate = queue.rate_limit = place
            queue.gated_until = event.until

    def _get_pool(self, name: str) -> HolderPool:
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = HolderPool()
        return pool

    def _add_queue(self, resources: tuple[str, ...]) -> WaitQueue:
        """Add the queue of a set of resources, or that of the same set in another order."""
        names = tuple(sorted(resources))
        queue = self._queues.get(names)
        if queue is None:
            pools = [self._get_pool(name) for name in names]
            queue = self._queues[names] = WaitQueue(names, pools)
            if any(pool.paused_until for pool in pools):
                queue.gate = BACKOFF
            for position, pool in enumerate(pools):
                pool.queues.append((queue, position))
                for agent, count in pool.held.items():
                    place = queue.places.get(agent)
                    if place is None:
                        place = queue.add_holder(position, agent, count)
                    queue.parts[position] += FIELDS[place] * count
        self._queues[resources] = queue
        return queue


def _remove_lease(pool: HolderPool, ticket: TicketView, now: float) -> None:
    leases = pool.leases
    if leases.pop(ticket) is not None:
        return
    pool.remove_slot(get_agent_key(ticket.request), now)
    if pool.used < len(leases):
        # As in the core: a shared slot passes to the first lease that shares it.
        sharers = [lease for lease, host in leases.items() if host is ticket]
        for sharer in sharers:
            leases[sharer] = None if sharer is sharers[0] else sharers[0]
        if sharers:
            pool.add_slot(get_agent_key(sharers[0].request), now)
