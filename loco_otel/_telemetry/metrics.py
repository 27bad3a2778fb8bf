"""Turns events into counters and histograms."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.metrics import Meter

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.call_trace import ROOT_CONTEXT, CallTrace, get_call_trace
from loco_otel._telemetry.histogram_buffer import BufferedHistogram, HistogramBuffer
from loco_otel._telemetry.inference_metrics import InferenceMetrics
from loco_otel._telemetry.instruments import CardinalityLimit, CounterSums, label_budget
from loco_otel._telemetry.metric_labels import MetricLabels
from loco_otel._telemetry.runs import FinishedRun
from loco_otel._telemetry.selective_listener import SelectiveListener
from loco_otel.events import (
    MILLI,
    THROTTLE_STATUSES,
    BudgetExceeded,
    Bypassed,
    BypassReason,
    Event,
    Granted,
    GrantReason,
    LimitAction,
    LimitDecided,
    LimitReason,
    Outcome,
    Rejected,
    Released,
    Request,
    RequestEvent,
    Spent,
    Submitted,
    Suspended,
    Throttled,
    ThrottleKind,
)
from loco_otel.money import ALL_KINDS, MICRO

_GRANTED = Outcome.GRANTED.value
_THROTTLE_POINTS = (
    *((str(status), ThrottleKind.LOAD.value) for status in sorted(THROTTLE_STATUSES)),
    (key.TIMEOUT, ThrottleKind.TIMEOUT.value),
    (key.SPEND_LIMIT, ThrottleKind.SPEND.value),
)
"""Each `error.type` of a throttle, with its kind."""
_LIMIT_OUTCOMES = frozenset({LimitReason.BACKPRESSURE, LimitReason.TIMEOUT, LimitReason.DEADLINE})
"""Outcomes that are decisions of limits without an event of their own."""
_MAX_REMEMBERED_REQUESTS = 10_000
"""Kinds of requests whose counters are remembered as started; above it all are started again, which changes nothing."""


class MetricListener(SelectiveListener):
    """Counts events and measures durations.

    Counters are `CounterSums`, read at collection: adding costs a tenth of an instrument's `add`. Measurements are
    recorded in batches, durations with the context of their request: without it the SDK would take exemplars from the
    recording thread, which is in the trace of another call.

    Args:
        meter: creates the histograms.
        fold: limits the values of attributes.
        resources: initially known resources; the counters of others start with their first event.

    """

    def __init__(self, meter: Meter, fold: CardinalityLimit, resources: Iterable[str] = ()) -> None:
        self._cardinality_limit = fold
        self._requests = CounterSums(catalogue.REQUESTS)
        self._grants = CounterSums(catalogue.GRANTS)
        self._leases_expired = CounterSums(catalogue.LEASES_EXPIRED)
        self._bypassed = CounterSums(catalogue.BYPASSED)
        self._throttles = CounterSums(catalogue.THROTTLES)
        self._tokens = CounterSums(catalogue.TOKENS)
        self._spent_weight = CounterSums(catalogue.SPENT_WEIGHT, MILLI)
        self._spent = CounterSums(catalogue.SPENT, MICRO)
        self._unpriced = CounterSums(catalogue.UNPRICED)
        self._exceeded_budgets = CounterSums(catalogue.BUDGET_DECISIONS)
        self._limit_decisions = CounterSums(catalogue.LIMIT_DECISIONS)
        self.counters = (
            self._requests, self._grants, self._leases_expired, self._bypassed, self._throttles, self._tokens,
            self._spent_weight, self._spent, self._unpriced, self._exceeded_budgets, self._limit_decisions,
        )  # fmt: skip
        """Read at collection."""
        self.histogram_buffer = HistogramBuffer()
        """Flushed at collection."""
        create = partial(BufferedHistogram, meter, buffer=self.histogram_buffer)
        self._wait_duration = create(catalogue.WAIT_DURATION)
        self._wait_ticks = create(catalogue.WAIT_TICKS)
        self._hold_duration = create(catalogue.HOLD_DURATION)
        self._run_duration = create(catalogue.RUN_DURATION)
        self._run_wait = create(catalogue.RUN_WAIT)
        self._run_slowdown = create(catalogue.RUN_SLOWDOWN)
        self._engine_duration = create(catalogue.ENGINE_DURATION)
        self._inference = InferenceMetrics(create, fold)
        self._labels = MetricLabels(fold, self._start_resource)
        self._started_resources: set[str] = set()
        self._started_requests: set[tuple[object, ...]] = set()
        handlers: dict[type[Event], Callable[[Any, CallTrace | None], None]] = {
            Submitted: self._handle_submitted,
            Granted: self._handle_granted,
            Rejected: self._handle_rejected,
            Throttled: self._handle_throttled,
            Suspended: self._record_hold,
            BudgetExceeded: self._handle_exceeded,
            LimitDecided: self._handle_limit,
            Spent: self._handle_spent,
            Released: self._handle_released,
        }
        self.event_handlers = {
            Bypassed: self._handle_bypassed,
            **{kind: partial(self._handle_event, handle) for kind, handle in handlers.items()},
        }
        for reason in BypassReason:
            self._bypassed.add_amount(0, reason.value)
        for limit in LimitReason:
            self._limit_decisions.add_amount(0, limit.value, LimitAction.REFUSED.value)
        for resource in resources:
            self._start_resource(fold(key.RESOURCE, resource))

    def _handle_event(self, handle: Callable[[Any, CallTrace | None], None], event: RequestEvent) -> None:
        trace = get_call_trace(event.ticket.request)
        if trace is None or not trace.is_suppressed:
            handle(event, trace)

    def _handle_bypassed(self, event: Bypassed) -> None:
        self._bypassed.add_amount(1, event.reason.value)

    def record_engine_calls(self, durations: Iterable[float]) -> None:
        """Record the seconds that calls of a shared engine took."""
        for seconds in durations:
            self._engine_duration.record_value(seconds, (), ROOT_CONTEXT)

    def _handle_submitted(self, event: Submitted, _: CallTrace | None) -> None:
        # As early as possible, so that a scrape reads the zeros before the first grant.
        request = event.ticket.request
        kind = request.agent, request.tenant, request.resources, request.provider, request.model
        if kind not in self._started_requests:
            if len(self._started_requests) >= _MAX_REMEMBERED_REQUESTS:
                self._started_requests.clear()
            self._started_requests.add(kind)
            self._start_request(request)

    def _handle_granted(self, event: Granted, trace: CallTrace | None) -> None:
        agent, resource = self._labels.get_place(event.ticket.request)
        self._record_outcome(event, agent, resource, _GRANTED, trace)
        # `_value_`, as each access to `value` is two calls in Python.
        # Not for rejections: the many zeros of a full queue would count as quick grants.
        priority = event.ticket.request.priority._value_
        self._wait_ticks.record_value(event.waited_ticks, (agent, resource, priority), ROOT_CONTEXT)
        self._grants.add_amount(1, resource, event.reason._value_)

    def _handle_rejected(self, event: Rejected, trace: CallTrace | None) -> None:
        agent, resource = self._labels.get_place(event.ticket.request)
        self._record_outcome(event, agent, resource, event.outcome.value, trace)
        if event.outcome.value in _LIMIT_OUTCOMES:  # the other refusals have events of their own
            self._limit_decisions.add_amount(1, event.outcome.value, LimitAction.REFUSED.value)
        if trace is not None:
            self._inference.record_end(trace, event.at)

    def _record_outcome(
        self, event: Granted | Rejected, agent: str, resource: str, outcome: str, trace: CallTrace | None
    ) -> None:
        if not event.repeated:
            self._requests.add_amount(1, agent, resource, outcome)
        priority = event.ticket.request.priority._value_
        self._wait_duration.record_value(event.waited, (agent, resource, outcome, priority), _get_context(trace))

    def _record_hold(self, event: Suspended | Released, trace: CallTrace | None) -> None:
        if event.held is not None:
            agent, resource = self._labels.get_place(event.ticket.request)
            self._hold_duration.record_value(event.held, (agent, resource), _get_context(trace))

    def _handle_released(self, event: Released, trace: CallTrace | None) -> None:
        self._record_hold(event, trace)
        if event.expired:
            self._leases_expired.add_amount(1, self._labels.get_resource(event.ticket.request))
        if trace is not None:
            self._inference.record_end(trace, event.at)

    def _handle_exceeded(self, event: BudgetExceeded, _: CallTrace | None) -> None:
        for standing in event.standings:
            account = standing.key
            name = label_budget(self._cardinality_limit, account)
            self._exceeded_budgets.add_amount(
                1, account.scope.value, name, account.period.value, account.unit.value, event.action.value
            )
        if event.model is not None:
            self._start_spending(event.ticket.request._replace(model=event.model))

    def _handle_limit(self, event: LimitDecided, _: CallTrace | None) -> None:
        self._limit_decisions.add_amount(1, event.reason.value, event.action.value)

    def record_run(self, run: FinishedRun) -> None:
        """Record a run that has ended."""
        point = self._cardinality_limit(key.WORKFLOW, run.workflow), run.priority
        self._run_duration.record_value(run.duration, point, ROOT_CONTEXT)
        self._run_wait.record_value(run.wait, point, ROOT_CONTEXT)
        if run.slowdown is not None:
            self._run_slowdown.record_value(run.slowdown, point, ROOT_CONTEXT)

    def _handle_spent(self, event: Spent, trace: CallTrace | None) -> None:
        request, spending = event.ticket.request, event.spending
        model_used = spending.sent_model or request.model or spending.model
        agent, tenant, provider, model = self._labels.get_spending(request, model_used)
        self._spent_weight.add_amount(spending.weight, agent, provider, model)
        usage = spending.usage
        if usage is not None:
            if spending.usd is None:
                self._unpriced.add_amount(1, provider, model, ALL_KINDS)
            else:
                self._spent.add_amount(spending.usd, agent, tenant, provider, model)
            for kind in spending.unpriced:
                self._unpriced.add_amount(1, provider, model, self._cardinality_limit(key.SPEND_KIND, kind))
            self._tokens.add_amount(usage.input_tokens, agent, provider, model, key.INPUT)
            self._tokens.add_amount(usage.output_tokens, agent, provider, model, key.OUTPUT)
        if trace is not None and trace.inference_span is not None and trace.inference_request is not None:
            self._inference.record_answer(spending, trace.inference_span, trace.inference_request)

    def _handle_throttled(self, event: Throttled, _: CallTrace | None) -> None:
        request = event.ticket.request
        self._throttles.add_amount(
            1,
            self._labels.get_resource(request),
            self._labels.limit_value(key.PROVIDER, request.provider),
            _get_throttle_error(event),
            event.kind.value,
        )

    def _start_resource(self, resource: str) -> None:
        """Start the counters of a resource at 0 if it is new."""
        if resource not in self._started_resources:
            self._started_resources.add(resource)
            self._leases_expired.add_amount(0, resource)
            for reason in GrantReason:
                self._grants.add_amount(0, resource, reason.value)

    def _start_request(self, request: Request) -> None:
        """Start all counters of such a request at 0.

        Prometheus' `increase()` misses the first value of a counter that did not start at 0, and there is one in each
        process.
        """
        agent, resource = self._labels.get_place(request)
        for outcome in Outcome:
            self._requests.start_at_zero(agent, resource, outcome.value)
        if request.provider is not None:
            provider = self._cardinality_limit(key.PROVIDER, request.provider)
            for error, kind in _THROTTLE_POINTS:
                self._throttles.start_at_zero(resource, provider, error, kind)
            self._start_spending(request)

    def _start_spending(self, request: Request) -> None:
        agent, tenant, provider, model = self._labels.get_spending(request, request.model)
        self._spent.start_at_zero(agent, tenant, provider, model)
        self._spent_weight.start_at_zero(agent, provider, model)
        for kind in (key.INPUT, key.OUTPUT):
            self._tokens.start_at_zero(agent, provider, model, kind)


def _get_throttle_error(event: Throttled) -> str:
    """Return the `error.type` of a throttle."""
    if event.kind is ThrottleKind.SPEND:
        return key.SPEND_LIMIT
    return key.TIMEOUT if event.status is None else str(event.status)


def _get_context(trace: CallTrace | None) -> Context:
    """Return the context of the call, never an empty one, which would mean the current context."""
    return ROOT_CONTEXT if trace is None else trace.otel_context
