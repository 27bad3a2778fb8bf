"""Seconds of slots, capacity and pauses, and changes of limits, from the events of requests and resources.

A histogram counts a hold when it ends. The seconds here are integrals: a collection reads them with what is under way,
so the increase between two collections is what happened between them.
"""

from collections.abc import Callable, Mapping

from loco_otel import _fork
from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.call_trace import is_request_suppressed
from loco_otel._telemetry.catalogue import MetricDefinition
from loco_otel._telemetry.instruments import CardinalityLimit, CounterSums, PointLimit, PointValues
from loco_otel._telemetry.selective_listener import SelectiveListener
from loco_otel.events import (
    Granted,
    Limited,
    Rejected,
    Released,
    Request,
    SlotTaken,
    Submitted,
    Suspended,
    Waiting,
)

_MAX_REMEMBERED = 10_000
"""Agents whose points are remembered; above it all are found again."""


class TimeIntegral:
    """Integrates levels over time, in seconds, by point.

    One thread at a time may change a level; any thread may read.

    Args:
        row: the metric.

    """

    def __init__(self, row: MetricDefinition) -> None:
        self._limit = PointLimit(row)
        self._points: dict[PointValues, tuple[float, float, float]] = {}
        """Level, the time of its last change, and the integral until then. One value: all change in one assignment."""
        self._reported: dict[PointValues, float] = {}

    def start_point(self, values: PointValues, at: float) -> PointValues:
        """Return the point to which these values belong, started at 0 if it is new."""
        point = self._limit.limit_values(values)
        self._points.setdefault(point, (0, at, 0.0))
        return point

    def add_level(self, point: PointValues, change: float, at: float) -> None:
        """Change the level of a point that was started by an amount."""
        level, since, total = self._points[point]
        # An event may be some microseconds older than the one before.
        passed = at - since if at > since else 0.0
        self._points[point] = level + change, since + passed, total + level * passed

    def read_totals(self, now: float) -> list[tuple[float, Mapping[str, str | int]]]:
        """Return the integrals until `now` with their attributes. None of them is less than before."""
        totals = []
        for point, (level, since, total) in self._points.copy().items():
            # An event that is delivered after this may have an earlier time.
            seconds = max(self._reported.get(point, 0.0), total + level * max(0.0, now - since))
            self._reported[point] = seconds
            totals.append((seconds, self._limit.get_attributes(point)))
        return totals

    def clear_levels(self) -> None:
        """Set all levels to 0, without counting the time since their last change."""
        for point, (_, since, total) in self._points.items():
            self._points[point] = 0, since, total

    def restart(self, at: float) -> None:
        """Set all integrals to 0 at a time; the levels stay."""
        self._points = {point: (level, at, 0.0) for point, (level, _, _) in self._points.items()}
        self._reported = {}


class TimeSums(SelectiveListener):
    """Sums the seconds of slots, capacity and pauses. A listener.

    Args:
        fold: limits the values of attributes.
        clock: the time of the events.

    """

    def __init__(self, fold: CardinalityLimit, clock: Callable[[], float]) -> None:
        self._cardinality_limit = fold
        self._clock = clock
        self._slots = TimeIntegral(catalogue.SLOT_TIME)
        self._pauses = TimeIntegral(catalogue.PAUSE_TIME)
        self._capacity = TimeIntegral(catalogue.CAPACITY_TIME)
        self.integrals = {
            catalogue.SLOT_TIME: self._slots,
            catalogue.PAUSE_TIME: self._pauses,
            catalogue.CAPACITY_TIME: self._capacity,
        }
        self.limit_changes = CounterSums(catalogue.LIMIT_CHANGES)
        self._holds: dict[str, Request] = {}
        """The request of each ticket that holds or shares slots."""
        self._hosts: dict[tuple[str, str], str] = {}
        """By ticket and resource: the ticket whose slot it shares."""
        self._sharers: dict[tuple[str, str], list[str]] = {}
        """By ticket and resource: the tickets that share its slot, in the order of their grants."""
        self._paused: dict[str, Request] = {}
        self._points: dict[tuple[str, tuple[str, ...]], Mapping[str, tuple[PointValues, PointValues]]] = {}
        """By agent and resources; remembered, as finding them costs more than all else."""
        self._limits: dict[str, Limited] = {}
        """The last limit of each resource."""
        self.event_handlers = {
            Submitted: self._handle_submitted,
            Waiting: self._handle_next_attempt,
            SlotTaken: self._handle_slot,
            Granted: self._handle_slot,
            Rejected: self._handle_end,
            Suspended: self._handle_suspended,
            Released: self._handle_end,
            Limited: self._handle_limited,
        }
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def forget_open(self) -> None:
        """Forget what is under way, because events of its end may be missing."""
        for open_requests in (self._holds, self._hosts, self._sharers, self._paused):
            open_requests.clear()
        self._slots.clear_levels()
        self._pauses.clear_levels()

    def after_fork(self) -> None:
        """Start at 0 in a forked child, with the same capacities: all else, open or ended, is the parent's."""
        self.forget_open()
        now = self._clock()
        for integral in self.integrals.values():
            integral.restart(now)

    def _handle_submitted(self, event: Submitted) -> None:
        """Start the points of an agent at 0, so that `increase()` sees its first hold and its first pause."""
        request = event.ticket.request
        if (request.agent, request.resources) not in self._points and not is_request_suppressed(request):
            self._find_points(request, event.at)

    def _find_points(self, request: Request, at: float) -> Mapping[str, tuple[PointValues, PointValues]]:
        """Return the points of a request's slots and pauses by resource."""
        kind = request.agent, request.resources
        points = self._points.get(kind)
        if points is None:
            if len(self._points) >= _MAX_REMEMBERED:
                self._points.clear()
            agent = self._cardinality_limit(key.AGENT, request.agent)
            points = {}
            for resource in request.resources:
                values = agent, self._cardinality_limit(key.RESOURCE, resource)
                points[resource] = self._slots.start_point(values, at), self._pauses.start_point(values, at)
            self._points[kind] = points
        return points

    # -- slots ------------------------------------------------------------------------------------------------------

    def _handle_slot(self, event: SlotTaken | Granted) -> None:
        ticket, request = event.ticket.id, event.ticket.request
        if self._paused:
            self._handle_next_attempt(event)
        # A grant that follows the check of its budgets is no second hold.
        if ticket in self._holds or is_request_suppressed(request):
            return
        self._holds[ticket] = request
        for resource, (point, _) in self._find_points(request, event.at).items():
            host = event.hosts.get(resource)
            if host is None or host.id not in self._holds:
                self._slots.add_level(point, 1, event.at)
            else:
                # A sharer lends no slot: its own host does.
                owner = self._hosts.get((host.id, resource), host.id)
                self._hosts[ticket, resource] = owner
                self._sharers.setdefault((owner, resource), []).append(ticket)

    def _handle_end(self, event: Rejected | Released) -> None:
        if self._paused:
            self._handle_next_attempt(event)
        self._end_hold(event.ticket.id, event.at)

    def _end_hold(self, ticket: str, at: float) -> None:
        request = self._holds.pop(ticket, None)
        if request is None:
            return
        for resource, (point, _) in self._find_points(request, at).items():
            host = self._hosts.pop((ticket, resource), None) if self._hosts else None
            if host is not None:
                self._sharers[host, resource].remove(ticket)
                continue
            self._slots.add_level(point, -1, at)
            sharers = self._sharers.pop((ticket, resource), None) if self._sharers else None
            if sharers:
                self._pass_slot(sharers, resource, at)

    def _pass_slot(self, sharers: list[str], resource: str, at: float) -> None:
        """Give a slot to the first of those that shared it; the others share it with that one."""
        heir, *others = sharers
        del self._hosts[heir, resource]
        self._sharers[heir, resource] = others
        for other in others:
            self._hosts[other, resource] = heir
        self._slots.add_level(self._find_points(self._holds[heir], at)[resource][0], 1, at)

    # -- pauses and limits ------------------------------------------------------------------------------------------

    def _handle_suspended(self, event: Suspended) -> None:
        ticket, request = event.ticket.id, event.ticket.request
        if ticket in self._holds:
            self._end_hold(ticket, event.at)
            self._paused[ticket] = request
            self._change_pauses(request, 1, event.at)

    def _handle_next_attempt(self, event: Waiting | SlotTaken | Granted | Rejected | Released) -> None:
        request = self._paused.pop(event.ticket.id, None)
        if request is not None:
            self._change_pauses(request, -1, event.at)

    def _handle_limited(self, event: Limited) -> None:
        resource = self._cardinality_limit(key.RESOURCE, event.resource)
        last = self._limits.get(event.resource)
        self._limits[event.resource] = event
        slots, before = event.slots, None if last is None else last.slots
        if slots is not None or before is not None:
            point = self._capacity.start_point((resource,), event.at)
            self._capacity.add_level(point, _count_own_slots(event) - _count_own_slots(last), event.at)
        if last is None:
            for direction in (key.UP, key.DOWN):
                self.limit_changes.start_at_zero(resource, direction)
        elif slots != before:
            is_lower = before is None or (slots is not None and slots < before)
            self.limit_changes.add_amount(1, resource, key.DOWN if is_lower else key.UP)

    def _change_pauses(self, request: Request, change: int, at: float) -> None:
        for _, point in self._find_points(request, at).values():
            self._pauses.add_level(point, change, at)


def _count_own_slots(event: Limited | None) -> float:
    """Return the slots of this process: of those of a shared engine, an equal part, so that all parts add up."""
    return 0.0 if event is None else (event.slots or 0) / event.processes
