"""Turns events into spans.

The scheduler's clock is not the wall clock, and an event is delivered some time after it happened. So the acquire span
is created when the wait is over, and its times are computed from the event and the offset between the clocks.
"""

import time
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.call_trace import ROOT_CONTEXT, CallTrace, format_resource_name, get_call_trace
from loco_otel._telemetry.catalogue import (
    EVENT_BUDGET,
    EVENT_GRANT,
    EVENT_SPEND,
    EVENT_THRESHOLD,
    EVENT_THROTTLE,
    EVENT_WAIT,
)
from loco_otel.events import (
    MILLI,
    BudgetExceeded,
    BudgetReached,
    Bypassed,
    Event,
    Gated,
    Granted,
    Limited,
    Outcome,
    Rejected,
    Released,
    Request,
    Spent,
    Suspended,
    Throttled,
    Waiting,
    WaitReason,
)
from loco_otel.money import MICRO, Action, BudgetStatus

MAX_LINKS = 16

_NANOSECONDS_PER_SECOND = 1_000_000_000


class SpanListener:
    """Creates an acquire span for every wait.

    It stores no state of requests: that is in each request's `CallTrace`. A request without one gets a span without
    parent, links and settlement.

    Args:
        tracer: creates the spans.
        clock: the scheduler's clock, in seconds.
        wall: nanoseconds since the epoch.

    """

    def __init__(
        self,
        tracer: Tracer,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._tracer = tracer
        self._clock = clock
        self._wall = wall
        self._handlers: dict[type[Event], Callable[[Any, CallTrace | None], None]] = {
            Waiting: _handle_waiting,
            Granted: self._handle_granted,
            Rejected: self._handle_rejected,
            Throttled: self._handle_throttled,
            Spent: self._handle_spent,
            BudgetExceeded: _handle_exceeded,
            BudgetReached: self._handle_threshold,
            Suspended: _handle_suspended,
            Released: self._handle_released,
        }

    def __call__(self, event: Event, /) -> None:
        """Handle one event."""
        tell = self._handlers.get(type(event))
        if tell is not None and not isinstance(event, (Bypassed, Gated, Limited)):
            trace = get_call_trace(event.ticket.request)
            if trace is None or not trace.is_suppressed:
                tell(event, trace)

    def _handle_granted(self, event: Granted, trace: CallTrace | None) -> None:
        offset = self._compute_clock_offset()
        span = self._start_acquire_span(event, Outcome.GRANTED, trace, offset)
        ends_at = offset + _convert_to_nanoseconds(event.at)
        recording = span.is_recording()
        if recording:
            span.add_event(
                EVENT_GRANT.name,
                {
                    key.SCORE: event.score,
                    key.ALPHA: event.alpha,
                    key.QUEUE_WEIGHT: event.queue_weight / MILLI,
                    key.QUEUE_AGE: event.queue_age,
                    key.TICK: event.tick,
                    key.GRANT_REASON: event.reason.value,
                },
                ends_at,
            )
        if trace is not None:
            trace.resend_count += event.repeated
            if recording and event.ticket.request.settles and not trace.owns_inference_span:
                trace.acquire_span, trace.acquire_span_end = span, ends_at
                return
        span.end(ends_at)

    def _handle_rejected(self, event: Rejected, trace: CallTrace | None) -> None:
        offset = self._compute_clock_offset()
        span = self._start_acquire_span(event, event.outcome, trace, offset)
        if span.is_recording():
            # A cancelled wait got no slot either: ERROR too, distinguished by its outcome.
            span.set_attribute(key.ERROR_TYPE, event.outcome.value)
            span.set_status(Status(StatusCode.ERROR))
        span.end(offset + _convert_to_nanoseconds(event.at))
        if trace is not None:
            trace.error_type = trace.error_type or event.outcome.value
            self._end_spans(trace, event.at)

    def _start_acquire_span(
        self, event: Granted | Rejected, outcome: Outcome, trace: CallTrace | None, offset: int
    ) -> Span:
        """Start the span of an ended wait, with the attributes that do not depend on its outcome."""
        request = event.ticket.request
        _end_acquire_span(trace)
        waiting, links = _take_wait(trace)
        resource = format_resource_name(request)
        span = self._tracer.start_span(
            f"acquire {resource}",
            _find_parent(trace, repeated=event.repeated),
            SpanKind.INTERNAL,
            None,  # attributes, which are made for a sampled span only
            links,
            offset + _convert_to_nanoseconds(event.at - event.waited),
        )
        if trace is not None:
            trace.acquire_span_context = span.get_span_context()
        if not span.is_recording():
            return span
        span.set_attributes(_build_acquire_attributes(event, request, resource, outcome))
        if waiting is not None:
            reason = WaitReason.BUDGET if outcome is Outcome.BUDGET else waiting.reason
            span.set_attribute(key.WAIT_REASON, reason.value)
            span.add_event(
                EVENT_WAIT.name, _build_wait_attributes(waiting), offset + _convert_to_nanoseconds(waiting.at)
            )
        if trace is not None and trace.exceeded_event is not None:
            exceeded, trace.exceeded_event = trace.exceeded_event, None
            for standing in exceeded.standings:
                attributes = {**_build_budget_attributes(standing), key.BUDGET_ACTION: exceeded.action.value}
                if exceeded.action is Action.DOWNGRADE and exceeded.model is not None:
                    attributes[key.BUDGET_MODEL] = exceeded.model
                span.add_event(EVENT_BUDGET.name, attributes, offset + _convert_to_nanoseconds(exceeded.at))
        return span

    def _handle_throttled(self, event: Throttled, trace: CallTrace | None) -> None:
        span = _find_open_span(trace)
        if span is None:
            return
        attributes: dict[str, AttributeValue] = {key.THROTTLE_KIND: event.kind.value}
        if event.status is not None:
            attributes[key.STATUS_CODE] = event.status
        if event.retry_after is not None:
            attributes[key.RETRY_AFTER] = float(event.retry_after)
        span.add_event(
            EVENT_THROTTLE.name, attributes, self._compute_clock_offset() + _convert_to_nanoseconds(event.at)
        )

    def _handle_spent(self, event: Spent, trace: CallTrace | None) -> None:
        span = _find_open_span(trace)
        if span is None:
            return
        spending = event.spending
        usage = spending.usage
        attributes: dict[str, AttributeValue] = {
            key.SPENT_WEIGHT: spending.weight / MILLI,
            key.SPEND_ESTIMATED: usage is None or usage.estimated,
        }
        if usage is not None:
            attributes[key.SPENT_INPUT] = usage.input_tokens
            attributes[key.SPENT_OUTPUT] = usage.output_tokens
        if spending.usd is not None:
            attributes[key.SPENT_USD] = spending.usd / MICRO
        if spending.unpriced:
            attributes[key.SPEND_UNPRICED] = spending.unpriced
        if spending.remaining is not None:
            attributes[key.BUDGET_REMAINING] = spending.remaining / MICRO
        if spending.action is not None:
            attributes[key.BUDGET_ACTION] = spending.action.value
        if spending.sent_model is not None:
            attributes[key.BUDGET_MODEL] = spending.sent_model
        span.add_event(EVENT_SPEND.name, attributes, self._compute_clock_offset() + _convert_to_nanoseconds(event.at))
        if trace is not None and trace.inference_span is not None:
            trace.inference_span.record_response(spending)
        _end_acquire_span(trace)

    def _handle_threshold(self, event: BudgetReached, trace: CallTrace | None) -> None:
        span = _find_open_span(trace)
        if span is not None:
            attributes = {**_build_budget_attributes(event.standing), key.BUDGET_THRESHOLD: event.percent}
            span.add_event(
                EVENT_THRESHOLD.name, attributes, self._compute_clock_offset() + _convert_to_nanoseconds(event.at)
            )

    def _handle_released(self, event: Released, trace: CallTrace | None) -> None:
        if trace is not None:
            self._end_spans(trace, event.at)

    def _end_spans(self, trace: CallTrace, at: float) -> None:
        """End all open spans of a request that ended or was rejected."""
        _end_acquire_span(trace)
        ended_at = self._compute_clock_offset() + _convert_to_nanoseconds(at)
        if trace.inference_span is not None:
            trace.inference_span.end_span(trace.error_type, trace.resend_count, ended_at)
        if trace.call_span is not None:
            trace.call_span.end_span(trace.error_type, ended_at)

    def _compute_clock_offset(self) -> int:
        """Return the nanoseconds from the scheduler's clock to the wall clock, which may be adjusted."""
        return self._wall() - _convert_to_nanoseconds(self._clock())


def _handle_waiting(event: Waiting, trace: CallTrace | None) -> None:
    if trace is None:
        return
    trace.waiting_event = event
    # Now, because a holder that pauses and returns has another acquire span by then.
    holders = (get_call_trace(holder.request) for holder in event.holders[:MAX_LINKS])
    trace.links = tuple(
        Link(holder.acquire_span_context)
        for holder in holders
        if holder is not None
        and holder.acquire_span_context is not None
        and holder.acquire_span_context.trace_flags.sampled
    )


def _handle_exceeded(event: BudgetExceeded, trace: CallTrace | None) -> None:
    if trace is not None:
        trace.exceeded_event = event


def _build_budget_attributes(standing: BudgetStatus) -> dict[str, AttributeValue]:
    scope, name, unit, period = standing.key
    return {
        key.BUDGET_SCOPE: scope.value,
        key.BUDGET_KEY: name,
        key.BUDGET_PERIOD: period.value,
        key.BUDGET_UNIT: unit.value,
        key.BUDGET_LIMIT: unit.amount(standing.limit),
        key.BUDGET_SPENT: unit.amount(standing.spent),
        key.BUDGET_RESERVED: unit.amount(standing.reserved),
    }


def _handle_suspended(_: Suspended, trace: CallTrace | None) -> None:
    _end_acquire_span(trace)


def _take_wait(trace: CallTrace | None) -> tuple[Waiting | None, tuple[Link, ...]]:
    """Return and clear the stored wait, as a back-off may be followed by another wait."""
    if trace is None:
        return None, ()
    waiting, links = trace.waiting_event, trace.links
    if waiting is not None:
        trace.waiting_event, trace.links = None, ()
    return waiting, links


def _find_parent(trace: CallTrace | None, *, repeated: bool) -> Context:
    """Return the parent of an acquire span: the caller's context, but after a back-off the inference span's."""
    if trace is None:
        return ROOT_CONTEXT
    # The inference span may exist before this event is delivered, so its presence is no sign of a repeated wait.
    return trace.inference_span.context if repeated and trace.inference_span is not None else trace.otel_context


def _find_open_span(trace: CallTrace | None) -> Span | None:
    """Return the span that records the rest of the call: the inference span, or the acquire span if that is foreign."""
    if trace is None:
        return None
    span = trace.acquire_span if trace.inference_span is None else trace.inference_span.span
    return span if span is not None and span.is_recording() else None


def _end_acquire_span(trace: CallTrace | None) -> None:
    """End the acquire span that was kept open, if any, at the time of its grant."""
    if trace is not None and trace.acquire_span is not None:
        span, trace.acquire_span = trace.acquire_span, None
        span.end(trace.acquire_span_end)


def _build_acquire_attributes(
    event: Granted | Rejected, request: Request, resource: str, outcome: Outcome
) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        key.AGENT: request.agent,
        key.RESOURCE: resource,
        key.TASK_WEIGHT: request.weight / MILLI,
        key.TASK_TYPE: request.task_type,
        key.POLICY: event.policy,
        key.OUTCOME: outcome.value,
        key.WAIT_DURATION: event.waited,
        key.WAIT_TICKS: event.waited_ticks,
        key.AGENT_NAME: request.agent,
    }
    if request.provider is not None:
        attributes[key.PROVIDER] = request.provider
    if request.model is not None:
        attributes[key.MODEL] = request.model
    return attributes


def _build_wait_attributes(waiting: Waiting) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        key.QUEUE_WEIGHT: waiting.queue_weight / MILLI,
        key.QUEUE_POSITION: waiting.position,
        key.WAITING: waiting.waiting,
        key.WAIT_REASON: waiting.reason.value,
    }
    if waiting.capacity is not None:
        attributes[key.CAPACITY] = waiting.capacity
    return attributes


def _convert_to_nanoseconds(seconds: float) -> int:
    return round(seconds * _NANOSECONDS_PER_SECOND)
