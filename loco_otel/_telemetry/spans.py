"""Turns events into spans.

The scheduler's clock is not the wall clock, and an event is delivered some time after it happened. So the acquire span
is created when the wait is over, and its times are computed from the event and the offset between the clocks.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.blame import BlameListener
from loco_otel._telemetry.call_trace import ROOT_CONTEXT, CallTrace, format_resource_name, get_call_trace
from loco_otel._telemetry.catalogue import EVENT_BUDGET, EVENT_LIMIT, EVENT_THRESHOLD, EVENT_THROTTLE
from loco_otel._telemetry.hold_log import HoldLog
from loco_otel._telemetry.runs import RunListener
from loco_otel._telemetry.selective_listener import SelectiveListener
from loco_otel._telemetry.span_attributes import (
    build_acquire_attributes,
    build_blame_attributes,
    build_budget_attributes,
    build_grant_attributes,
    build_spend_attributes,
    build_wait_attributes,
)
from loco_otel._telemetry.span_starter import SpanStarter
from loco_otel.events import (
    BudgetExceeded,
    BudgetReached,
    Event,
    Granted,
    LimitDecided,
    Outcome,
    Rejected,
    Released,
    Request,
    RequestEvent,
    SlotTaken,
    Spent,
    Suspended,
    Throttled,
    Waiting,
)
from loco_otel.money import Action

_logger = logging.getLogger("loco_otel")

MAX_LINKS = 16

_FAILURE = (
    "a span could not be made, or a span processor raised: the span may be missing; calls and other spans are not "
    "affected (logged once)"
)

_NANOSECONDS_PER_SECOND = 1_000_000_000


class SpanListener(SelectiveListener):
    """Creates an acquire span for every wait.

    The state of a request is in its `CallTrace`. A request without one gets a span without parent and settlement.

    Args:
        tracer: creates the spans.
        blame_listener: has received each event before this listener.
        runs: has too.
        clock: the scheduler's clock, in seconds.
        wall: nanoseconds since the epoch.

    """

    def __init__(
        self,
        tracer: SpanStarter,
        blame_listener: BlameListener,
        runs: RunListener,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
        shows_costs: bool = False,
    ) -> None:
        self._tracer = tracer
        self._shows_costs = shows_costs
        self._blame_listener = blame_listener
        self._runs = runs
        self._holds = HoldLog()
        self._clock = clock
        self._wall = wall
        self._has_failed = False
        handlers: dict[type[Event], Callable[[Any, CallTrace | None], None]] = {
            Waiting: _handle_waiting,
            SlotTaken: self._handle_slot_taken,
            Granted: self._handle_granted,
            Rejected: self._handle_rejected,
            Throttled: self._handle_throttled,
            Spent: self._handle_spent,
            BudgetExceeded: _handle_exceeded,
            LimitDecided: _handle_limit,
            BudgetReached: self._handle_threshold,
            Suspended: self._handle_suspended,
            Released: self._handle_released,
        }
        self.event_handlers = {kind: partial(self._handle_event, handle) for kind, handle in handlers.items()}

    def _handle_event(self, handle: Callable[[Any, CallTrace | None], None], event: RequestEvent) -> None:
        trace = get_call_trace(event.ticket.request)
        if trace is None or not trace.is_suppressed:
            try:
                handle(event, trace)
            except Exception:
                # A sampler or a processor of the program's. The outbox would remove this listener for good.
                if not self._has_failed:
                    self._has_failed = True
                    _logger.exception(_FAILURE)

    def _handle_slot_taken(self, event: SlotTaken, _: CallTrace | None) -> None:
        self._holds.start_lease(event.ticket, event.at)

    def _handle_granted(self, event: Granted, trace: CallTrace | None) -> None:
        offset = self._compute_clock_offset()
        run = event.ticket.request.run
        attained = None if run is None else self._runs.get_attained_weight(run)
        grant = build_grant_attributes(event, attained)
        span = self._start_acquire_span(event, Outcome.GRANTED, trace, offset, grant)
        slot_at = event.at if event.slot_at is None else event.slot_at
        self._holds.start_lease(event.ticket, slot_at)
        ends_at = offset + _convert_to_nanoseconds(event.at)
        if trace is not None:
            trace.resend_count += event.repeated
            if event.ticket.request.settles and not trace.owns_inference_span and span.is_recording():
                trace.acquire_span, trace.acquire_span_end = span, ends_at
                return
        span.end(ends_at)

    def _handle_rejected(self, event: Rejected, trace: CallTrace | None) -> None:
        if event.slot_at is not None:
            self._holds.end_lease(event.ticket, None, event.at)
        offset = self._compute_clock_offset()
        span = self._start_acquire_span(event, event.outcome, trace, offset, {})
        if span.is_recording():
            # A cancelled wait got no slot either: ERROR too, distinguished by its outcome.
            span.set_attribute(key.ERROR_TYPE, event.outcome.value)
            span.set_status(Status(StatusCode.ERROR))
        try:
            span.end(offset + _convert_to_nanoseconds(event.at))
        finally:
            if trace is not None:
                trace.error_type = trace.error_type or event.outcome.value
                self._end_spans(trace, event.at)

    def _start_acquire_span(
        self,
        event: Granted | Rejected,
        outcome: Outcome,
        trace: CallTrace | None,
        offset: int,
        last_attributes: Mapping[str, AttributeValue],
    ) -> Span:
        """Start the span of an ended wait, with all its attributes so far."""
        request = event.ticket.request
        _end_acquire_span(trace)
        resource = format_resource_name(request)
        began = event.at - event.waited
        attributes = build_acquire_attributes(event, request, resource, outcome, trace)
        waiting = None
        if trace is not None:
            waiting, trace.waiting_event = trace.waiting_event, None
        if waiting is not None:
            attributes.update(build_wait_attributes(waiting, outcome))
        blame = self._blame_listener.get_last_blame()
        if blame is not None:
            attributes.update(build_blame_attributes(blame))
        attributes.update(last_attributes)
        span = self._tracer.start_span(
            f"acquire {resource}",
            _find_parent(trace, repeated=event.repeated),
            SpanKind.INTERNAL,
            attributes,
            self._build_links(request, began, event.at) if event.waited else (),
            offset + _convert_to_nanoseconds(began),
        )
        if trace is not None:
            trace.acquire_span_context = span.get_span_context()
            if (trace.exceeded_event is not None or trace.limit_events) and span.is_recording():
                _add_decisions(span, trace, offset)
        return span

    def _build_links(self, request: Request, began: float, ended: float) -> tuple[Link, ...]:
        """Return links to the calls that held slots during a wait."""
        return tuple(
            [
                Link(hold.context, {key.AGENT: hold.agent, key.BLAME_DURATION: hold.seconds})
                for hold in self._holds.list_holders(request, began, ended, MAX_LINKS)
            ]
        )

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
        usage = event.spending.usage
        inference = None if trace is None else trace.inference_span
        has_usage = inference is not None and usage is not None and not usage.estimated
        attributes = build_spend_attributes(event.spending, has_usage=has_usage)
        if inference is not None:
            attributes.update(inference.build_response_attributes(event.spending, shows_cost=self._shows_costs))
        span.set_attributes(attributes)
        _end_acquire_span(trace)

    def _handle_threshold(self, event: BudgetReached, trace: CallTrace | None) -> None:
        span = _find_open_span(trace)
        if span is not None:
            attributes = {**build_budget_attributes(event.standing), key.BUDGET_THRESHOLD: event.percent}
            span.add_event(
                EVENT_THRESHOLD.name, attributes, self._compute_clock_offset() + _convert_to_nanoseconds(event.at)
            )

    def _handle_suspended(self, event: Suspended, trace: CallTrace | None) -> None:
        self._holds.end_lease(event.ticket, trace, event.at)
        _end_acquire_span(trace)

    def _handle_released(self, event: Released, trace: CallTrace | None) -> None:
        self._holds.end_lease(event.ticket, trace, event.at)
        if trace is not None:
            self._end_spans(trace, event.at)

    def _end_spans(self, trace: CallTrace, at: float) -> None:
        """End all open spans of a request that ended or was rejected, also if a processor raises for one of them."""
        ended_at = self._compute_clock_offset() + _convert_to_nanoseconds(at)
        try:
            _end_acquire_span(trace)
        finally:
            try:
                if trace.inference_span is not None:
                    trace.inference_span.end_span(trace.error_type, trace.resend_count, ended_at)
            finally:
                if trace.call_span is not None:
                    trace.call_span.end_span(trace.error_type, ended_at)

    def _compute_clock_offset(self) -> int:
        """Return the nanoseconds from the scheduler's clock to the wall clock, which may be adjusted."""
        return self._wall() - _convert_to_nanoseconds(self._clock())


def _handle_waiting(event: Waiting, trace: CallTrace | None) -> None:
    if trace is not None:
        trace.waiting_event = event


def _handle_exceeded(event: BudgetExceeded, trace: CallTrace | None) -> None:
    if trace is not None:
        trace.exceeded_event = event


def _handle_limit(event: LimitDecided, trace: CallTrace | None) -> None:
    if trace is not None:
        trace.limit_events = (*trace.limit_events, event)


def _find_parent(trace: CallTrace | None, *, repeated: bool) -> Context:
    """Return the parent of an acquire span: the caller's context, but after a back-off the inference span's."""
    if trace is None:
        return ROOT_CONTEXT
    # The inference span may exist before this event is delivered, so its presence is no sign of a repeated wait.
    return trace.inference_span.context if repeated and trace.inference_span is not None else trace.otel_context


def _add_decisions(span: Span, trace: CallTrace, offset: int) -> None:
    """Add the decisions of budgets and limits before the end of a wait as events of its span."""
    exceeded, trace.exceeded_event = trace.exceeded_event, None
    if exceeded is not None:
        for standing in exceeded.standings:
            attributes = {**build_budget_attributes(standing), key.BUDGET_ACTION: exceeded.action.value}
            if exceeded.action is Action.DOWNGRADE and exceeded.model is not None:
                attributes[key.BUDGET_MODEL] = exceeded.model
            span.add_event(EVENT_BUDGET.name, attributes, offset + _convert_to_nanoseconds(exceeded.at))
    decided, trace.limit_events = trace.limit_events, ()
    for decision in decided:
        attributes = {key.LIMIT_REASON: decision.reason.value, key.LIMIT_ACTION: decision.action.value}
        span.add_event(EVENT_LIMIT.name, attributes, offset + _convert_to_nanoseconds(decision.at))


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


def _convert_to_nanoseconds(seconds: float) -> int:
    return round(seconds * _NANOSECONDS_PER_SECOND)
