"""Events become counters and histograms."""

from collections.abc import Iterable

from opentelemetry.context import Context
from opentelemetry.metrics import Meter

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.calls import ROOT, resource_of, trace_of
from loco_otel._telemetry.instruments import Fold, counter, histogram
from loco_otel.events import (
    MILLI,
    Bypassed,
    BypassReason,
    Event,
    Granted,
    GrantReason,
    Outcome,
    Rejected,
    Released,
    Request,
    Spent,
    Submitted,
    Suspended,
    Throttled,
    ThrottleKind,
)


class MetricListener:
    """Counts and measures.

    Every measurement is given a context, the caller's where the request carries one: without it the SDK would
    take its exemplars from the thread that happens to tell the listeners, which is in another call's trace.

    Args:
        meter: makes the instruments.
        fold: bounds what the attributes can hold.
        resources: those known from the start; others get their zeros with their first event.

    """

    def __init__(self, meter: Meter, fold: Fold, resources: Iterable[str] = ()) -> None:
        self._fold = fold
        self._requests = counter(meter, catalogue.REQUESTS)
        self._grants = counter(meter, catalogue.GRANTS)
        self._wait_duration = histogram(meter, catalogue.WAIT_DURATION)
        self._wait_ticks = histogram(meter, catalogue.WAIT_TICKS)
        self._hold_duration = histogram(meter, catalogue.HOLD_DURATION)
        self._leases_expired = counter(meter, catalogue.LEASES_EXPIRED)
        self._bypassed = counter(meter, catalogue.BYPASSED)
        self._throttles = counter(meter, catalogue.THROTTLES)
        self._tokens = counter(meter, catalogue.TOKENS)
        self._spent_weight = counter(meter, catalogue.SPENT_WEIGHT)
        self._started: set[str] = set()
        for reason in BypassReason:
            self._bypassed.add(0, {key.BYPASS_REASON: reason.value}, ROOT)
        for resource in resources:
            self._resource(resource)

    def __call__(self, event: Event, /) -> None:
        """Take note of one event."""
        match event:
            case Granted():
                self._decided(event, Outcome.GRANTED)
            case Rejected():
                self._decided(event, event.outcome)
            case Suspended() | Released():
                self._held(event)
            case Spent():
                self._spent(event)
            case Throttled():
                self._throttled(event)
            case Bypassed():
                self._bypassed.add(1, {key.BYPASS_REASON: event.reason.value}, ROOT)
            case Submitted():
                # Zeros as early as can be, for a scrape to see them before the first grant.
                self._resource(resource_of(event.ticket.request))
            case _:
                pass

    def _decided(self, event: Granted | Rejected, outcome: Outcome) -> None:
        request = event.ticket.request
        context = _context(request)
        resource = self._resource(resource_of(request))
        place = {key.AGENT: self._fold(key.AGENT, request.agent), key.RESOURCE: resource}
        place_and_outcome = {**place, key.OUTCOME: outcome.value}
        if not event.repeated:
            self._requests.add(1, place_and_outcome, context)
        self._wait_duration.record(event.waited, place_and_outcome, context)
        if isinstance(event, Granted):
            # Not for rejections: the many zeros of a full queue would pass for quick grants.
            self._wait_ticks.record(event.waited_ticks, place, context)
            self._grants.add(1, {key.RESOURCE: resource, key.GRANT_REASON: event.reason.value}, context)

    def _held(self, event: Suspended | Released) -> None:
        request = event.ticket.request
        context = _context(request)
        resource = self._resource(resource_of(request))
        place = {key.AGENT: self._fold(key.AGENT, request.agent), key.RESOURCE: resource}
        if event.held is not None:
            self._hold_duration.record(event.held, place, context)
        if isinstance(event, Released) and event.expired:
            self._leases_expired.add(1, {key.RESOURCE: resource}, context)

    def _spent(self, event: Spent) -> None:
        request, spending = event.ticket.request, event.spending
        context = _context(request)
        attributes = {
            key.AGENT: self._fold(key.AGENT, request.agent),
            key.PROVIDER: self._known(key.PROVIDER, request.provider),
            key.MODEL: self._known(key.MODEL, request.model or spending.model),
        }
        self._spent_weight.add(spending.weight / MILLI, attributes, context)
        if spending.usage is not None:
            into = {**attributes, key.TYPE_OF_TOKENS: key.INPUT}
            out_of = {**attributes, key.TYPE_OF_TOKENS: key.OUTPUT}
            self._tokens.add(spending.usage.input_tokens, into, context)
            self._tokens.add(spending.usage.output_tokens, out_of, context)

    def _throttled(self, event: Throttled) -> None:
        request = event.ticket.request
        attributes = {
            key.RESOURCE: self._resource(resource_of(request)),
            key.PROVIDER: self._known(key.PROVIDER, request.provider),
            key.ERROR_TYPE: key.SPEND_LIMIT if event.kind is ThrottleKind.SPEND else str(event.status),
        }
        self._throttles.add(1, attributes, _context(request))

    def _known(self, name: str, value: str | None) -> str:
        return key.UNKNOWN if value is None else self._fold(name, value)

    def _resource(self, name: str) -> str:
        """Return the resource's name as metrics have it, and start its counters when it is new.

        Prometheus' `increase()` misses a counter's first value unless a 0 came before it.
        """
        resource = self._fold(key.RESOURCE, name)
        if resource not in self._started:
            self._started.add(resource)
            self._leases_expired.add(0, {key.RESOURCE: resource}, ROOT)
            for reason in GrantReason:
                self._grants.add(0, {key.RESOURCE: resource, key.GRANT_REASON: reason.value}, ROOT)
        return resource


def _context(request: Request) -> Context:
    """Return the context of the call, never an empty one, which would mean the current context."""
    trace = trace_of(request)
    return ROOT if trace is None else trace.otel_context
