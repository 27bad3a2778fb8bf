"""The calls that held slots during a wait, for links to their acquire spans."""

from collections import deque
from collections.abc import Iterator
from heapq import heappush, heapreplace, nlargest
from itertools import count, islice
from typing import NamedTuple

from opentelemetry.trace import SpanContext

from loco_otel import _fork
from loco_otel._telemetry.call_trace import CallTrace
from loco_otel.events import Request, TicketView

_MAX_LEASES = 64
"""Open leases of a resource that are compared, the oldest; ended leases that are stored, the latest; and of those
before them the longest. So a wait's end costs the same however many calls ended during the wait.
"""


class Hold(NamedTuple):
    """A call that held a slot during a wait."""

    context: SpanContext
    """Its acquire span."""
    agent: str
    seconds: float
    """How long it held the slot during the wait."""


class _EndedLease(NamedTuple):
    began: float
    ended: float
    context: SpanContext
    agent: str


class _ResourceLog:
    """The leases of one resource."""

    __slots__ = ("latest", "longest", "open")

    def __init__(self) -> None:
        self.open: dict[TicketView, float] = {}
        """The time of the grant of each."""
        self.latest: deque[_EndedLease] = deque()
        self.longest: list[tuple[float, int, _EndedLease]] = []
        """A heap by seconds held, of leases that ended before `latest`."""


class HoldLog:
    """Stores which calls hold slots, and which held them lately. One thread at a time may use it."""

    def __init__(self) -> None:
        self._resources: dict[str, _ResourceLog] = {}
        self._numbers = count()
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def after_fork(self) -> None:
        """Forget all leases in a forked child: they are the parent's."""
        self._resources.clear()

    def start_lease(self, ticket: TicketView, at: float) -> None:
        """Store that a request got its slots."""
        for name in ticket.request.resources:
            log = self._resources.get(name)
            if log is None:
                log = self._resources[name] = _ResourceLog()
            log.open[ticket] = at

    def end_lease(self, ticket: TicketView, trace: CallTrace | None, at: float) -> None:
        """Store that a request no longer holds its slots; no-op if it held none."""
        for name in ticket.request.resources:
            log = self._resources.get(name)
            began = None if log is None else log.open.pop(ticket, None)
            if log is not None and began is not None and (context := _get_context(trace)) is not None:
                self._add_ended(log, _EndedLease(began, at, context, ticket.request.agent))

    def list_holders(self, request: Request, began: float, ended: float, most: int) -> list[Hold]:
        """Return the calls that held slots of a request's resources during its wait, at most so many: the longest."""
        holds: dict[int, Hold] = {}
        for name in request.resources:
            log = self._resources.get(name)
            for hold in () if log is None else _iter_holds(log, began, ended):
                known = holds.get(hold.context.span_id)
                if known is None or known.seconds < hold.seconds:
                    holds[hold.context.span_id] = hold
        return nlargest(most, holds.values(), key=lambda hold: hold.seconds)

    def _add_ended(self, log: _ResourceLog, lease: _EndedLease) -> None:
        log.latest.append(lease)
        if len(log.latest) <= _MAX_LEASES:
            return
        oldest = log.latest.popleft()
        entry = oldest.ended - oldest.began, next(self._numbers), oldest
        if len(log.longest) < _MAX_LEASES:
            heappush(log.longest, entry)
        elif entry > log.longest[0]:
            heapreplace(log.longest, entry)


def _iter_holds(log: _ResourceLog, began: float, ended: float) -> Iterator[Hold]:
    for ticket, at in islice(log.open.items(), _MAX_LEASES):
        context = _get_context(ticket.request.context)
        if context is not None and at < ended:
            yield Hold(context, ticket.request.agent, ended - max(at, began))
    for lease in reversed(log.latest):
        if lease.ended <= began:
            # Those before it ended earlier.
            return
        yield Hold(lease.context, lease.agent, lease.ended - max(lease.began, began))
    for _, _, lease in log.longest:
        if lease.ended > began:
            yield Hold(lease.context, lease.agent, lease.ended - max(lease.began, began))


def _get_context(trace: object) -> SpanContext | None:
    """Return the acquire span of a call, if it is sampled."""
    context = trace.acquire_span_context if isinstance(trace, CallTrace) else None
    return context if context is not None and context.trace_flags.sampled else None
