"""Events become counters and histograms."""

from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.metrics import Meter

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.call_trace import ROOT, CallTrace, resource_of, trace_of
from loco_otel._telemetry.inference import Inference, Subject
from loco_otel._telemetry.instruments import Fold, Recorder, Tally, histogram
from loco_otel.events import (
    MILLI,
    BudgetExceeded,
    Bypassed,
    BypassReason,
    Event,
    Granted,
    GrantReason,
    Outcome,
    Rejected,
    Released,
    Request,
    Spending,
    Spent,
    Submitted,
    Suspended,
    Throttled,
    ThrottleKind,
)
from loco_otel.money import MICRO

_GRANTED = Outcome.GRANTED.value


class MetricListener:
    """Counts and measures.

    Counters are tallies, read at collection: adding to one costs a tenth of what an instrument takes. Measurements are
    recorded many at a time, durations with the caller's context, where the request carries one: without it the SDK
    would take its exemplars from the thread that records, which is in another call's trace.

    Args:
        meter: makes the histograms.
        fold: bounds what the attributes can hold.
        resources: those known from the start; others get their zeros with their first event.

    """

    def __init__(self, meter: Meter, fold: Fold, resources: Iterable[str] = ()) -> None:
        self._fold = fold
        self._requests = Tally(catalogue.REQUESTS)
        self._grants = Tally(catalogue.GRANTS)
        self._leases_expired = Tally(catalogue.LEASES_EXPIRED)
        self._bypassed = Tally(catalogue.BYPASSED)
        self._throttles = Tally(catalogue.THROTTLES)
        self._tokens = Tally(catalogue.TOKENS)
        self._spent_weight = Tally(catalogue.SPENT_WEIGHT, MILLI)
        self._spent = Tally(catalogue.SPENT, MICRO)
        self._unpriced = Tally(catalogue.UNPRICED)
        self._exceeded_budgets = Tally(catalogue.BUDGET_DECISIONS)
        self.tallies = (
            self._requests, self._grants, self._leases_expired, self._bypassed, self._throttles, self._tokens,
            self._spent_weight, self._spent, self._unpriced, self._exceeded_budgets,
        )  # fmt: skip
        """To be read at collection."""
        self.recorder = Recorder()
        """To be flushed at collection."""
        self._record = self.recorder.record
        self._wait_duration = histogram(meter, catalogue.WAIT_DURATION)
        self._wait_ticks = histogram(meter, catalogue.WAIT_TICKS)
        self._hold_duration = histogram(meter, catalogue.HOLD_DURATION)
        self._duration = histogram(meter, catalogue.DURATION)
        self._time_to_first_chunk = histogram(meter, catalogue.TIME_TO_FIRST_CHUNK)
        self._token_usage = histogram(meter, catalogue.TOKEN_USAGE)
        self._started: set[str] = set()
        self._counted_by: dict[type[Event], Callable[[Any, CallTrace | None], None]] = {
            Submitted: self._submitted,
            Granted: self._granted,
            Rejected: self._rejected,
            Throttled: self._throttled,
            Suspended: self._held,
            BudgetExceeded: self._exceeded,
            Spent: self._settled,
            Released: self._released,
        }
        for reason in BypassReason:
            self._bypassed.add(0, reason.value)
        for resource in resources:
            self._resource(resource)

    def __call__(self, event: Event, /) -> None:
        """Take note of one event."""
        if isinstance(event, Bypassed):
            self._bypassed.add(1, event.reason.value)
            return
        count = self._counted_by.get(type(event))
        if count is not None:
            trace = trace_of(event.ticket.request)
            if trace is None or not trace.silent:
                count(event, trace)

    def _submitted(self, event: Submitted, _: CallTrace | None) -> None:
        # Zeros as early as can be, for a scrape to see them before the first grant.
        self._resource(resource_of(event.ticket.request))

    def _granted(self, event: Granted, trace: CallTrace | None) -> None:
        agent, resource = self._place(event.ticket.request)
        self._decided(event, agent, resource, _GRANTED, trace)
        # Not for rejections: the many zeros of a full queue would pass for quick grants.
        self._record(self._wait_ticks, event.waited_ticks, {key.AGENT: agent, key.RESOURCE: resource}, ROOT)
        self._grants.add(1, resource, event.reason.value)

    def _rejected(self, event: Rejected, trace: CallTrace | None) -> None:
        agent, resource = self._place(event.ticket.request)
        self._decided(event, agent, resource, event.outcome.value, trace)
        if trace is not None and trace.inference is not None:
            self._ended(trace.inference, trace, event.at)

    def _decided(
        self, event: Granted | Rejected, agent: str, resource: str, outcome: str, trace: CallTrace | None
    ) -> None:
        if not event.repeated:
            self._requests.add(1, agent, resource, outcome)
        self._record(
            self._wait_duration,
            event.waited,
            {key.AGENT: agent, key.RESOURCE: resource, key.OUTCOME: outcome},
            _context(trace),
        )

    def _held(self, event: Suspended | Released, trace: CallTrace | None) -> None:
        if event.held is not None:
            agent, resource = self._place(event.ticket.request)
            self._record(self._hold_duration, event.held, {key.AGENT: agent, key.RESOURCE: resource}, _context(trace))

    def _released(self, event: Released, trace: CallTrace | None) -> None:
        self._held(event, trace)
        if event.expired:
            self._leases_expired.add(1, self._resource(resource_of(event.ticket.request)))
        if trace is not None and trace.inference is not None:
            self._ended(trace.inference, trace, event.at)

    def _exceeded(self, event: BudgetExceeded, _: CallTrace | None) -> None:
        for standing in event.standings:
            scope, name = standing.key.scope.value, self._fold(key.BUDGET_KEY, standing.key.key)
            self._exceeded_budgets.add(1, scope, name, event.action.value)

    def _settled(self, event: Spent, trace: CallTrace | None) -> None:
        request, spending = event.ticket.request, event.spending
        agent = self._fold(key.AGENT, request.agent)
        provider = self._known(key.PROVIDER, request.provider)
        model = self._known(key.MODEL, spending.sent_model or request.model or spending.model)
        self._spent_weight.add(spending.weight, agent, provider, model)
        usage = spending.usage
        if usage is not None:
            if spending.usd is None:
                self._unpriced.add(1, provider, model)
            else:
                tenant = self._known(key.TENANT, request.tenant)
                self._spent.add(spending.usd, agent, tenant, provider, model)
            self._tokens.add(usage.input_tokens, agent, provider, model, key.INPUT)
            self._tokens.add(usage.output_tokens, agent, provider, model, key.OUTPUT)
        if trace is not None and trace.inference is not None and trace.subject is not None:
            self._answered(spending, trace.inference, trace.subject)

    def _answered(self, spending: Spending, inference: Inference, subject: Subject) -> None:
        attributes = inference.labels = self._labels(subject, spending.model)
        usage = spending.usage
        if usage is not None and not usage.estimated:
            self._record(self._token_usage, usage.input_tokens, {**attributes, key.TYPE_OF_TOKENS: key.INPUT}, ROOT)
            self._record(self._token_usage, usage.output_tokens, {**attributes, key.TYPE_OF_TOKENS: key.OUTPUT}, ROOT)
        if inference.first_chunk_at is not None:
            self._record(
                self._time_to_first_chunk,
                inference.first_chunk_at - inference.started_at,
                attributes,
                inference.context,
            )

    def _ended(self, inference: Inference, trace: CallTrace, at: float) -> None:
        if trace.subject is None:
            return
        attributes = inference.labels or self._labels(trace.subject, None)
        if trace.error_type is not None:
            attributes = {**attributes, key.ERROR_TYPE: self._fold(key.ERROR_TYPE, trace.error_type)}
        self._record(self._duration, at - inference.started_at, attributes, inference.context)

    def _labels(self, subject: Subject, answered_model: str | None) -> dict[str, str | int]:
        labels: dict[str, str | int] = {
            key.OPERATION: subject.operation,
            key.PROVIDER: self._fold(key.PROVIDER, subject.provider),
            key.MODEL: self._known(key.MODEL, subject.model),
        }
        if answered_model is not None:
            labels[key.RESPONSE_MODEL] = self._fold(key.RESPONSE_MODEL, answered_model)
        server = subject.server
        if server is not None:
            host, port = server
            labels[key.SERVER_ADDRESS] = known = self._fold(key.SERVER_ADDRESS, host)
            if port is not None and known == host:
                labels[key.SERVER_PORT] = port
        return labels

    def _throttled(self, event: Throttled, _: CallTrace | None) -> None:
        request = event.ticket.request
        self._throttles.add(
            1,
            self._resource(resource_of(request)),
            self._known(key.PROVIDER, request.provider),
            _refusal(event),
        )

    def _known(self, name: str, value: str | None) -> str:
        return key.UNKNOWN if value is None else self._fold(name, value)

    def _place(self, request: Request) -> tuple[str, str]:
        return self._fold(key.AGENT, request.agent), self._resource(resource_of(request))

    def _resource(self, name: str) -> str:
        """Return the resource's name as metrics have it, and start its counters when it is new.

        Prometheus' `increase()` misses a counter's first value unless a 0 came before it.
        """
        resource = self._fold(key.RESOURCE, name)
        if resource not in self._started:
            self._started.add(resource)
            self._leases_expired.add(0, resource)
            for reason in GrantReason:
                self._grants.add(0, resource, reason.value)
        return resource


def _refusal(event: Throttled) -> str:
    """`error.type` of a push-back."""
    if event.kind is ThrottleKind.SPEND:
        return key.SPEND_LIMIT
    return key.TIMEOUT if event.status is None else str(event.status)


def _context(trace: CallTrace | None) -> Context:
    """Return the context of the call, never an empty one, which would mean the current context."""
    return ROOT if trace is None else trace.otel_context
