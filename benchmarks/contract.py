"""The least that the spans and measurements of docs/telemetry.md can cost: made by hand, and nothing scheduled.

A call in a span of the program emits an inference span, an acquire span and six measurements. All values are
constants, and all but the inference span is made for sixteen calls in a row, as loco-otel does; counters are free, as
they are read at collection. It uses OpenTelemetry's API alone, without what decisions 0012 and 0013 save.
"""

import time
from collections.abc import Callable
from typing import Any

import wrapt
from opentelemetry import context, metrics, trace
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Span, SpanKind

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import batched_delivery, catalogue
from loco_otel._telemetry.instruments import create_histogram

_CALLS = 16
"""Calls whose spans and measurements are made together: those of about 64 events of loco-otel."""

_ASKED: dict[str, Any] = {
    key.OPERATION: "chat",
    key.PROVIDER: "openai",
    key.AGENT: "unknown",
    key.MODEL: "gpt-4o-mini",
    key.SERVER_ADDRESS: "api.openai.com",
    key.SERVER_PORT: 443,
}
_ANSWERED: dict[str, Any] = {
    key.RESPONSE_MODEL: "gpt-4o-mini",
    key.RESPONSE_ID: "1",
    key.FINISH_REASONS: ("stop",),
    key.INPUT_TOKENS: 9,
    key.OUTPUT_TOKENS: 3,
}
_SPENT: dict[str, Any] = {
    key.SPENT_WEIGHT: 1.0,
    key.SPEND_ESTIMATED: False,
    key.SPENT_USD: 0.000004,
}
_ACQUIRED: dict[str, Any] = {
    key.AGENT: "unknown",
    key.RESOURCE: "openai/api.openai.com",
    key.TASK_WEIGHT: 1.0,
    key.TASK_TYPE: "chat",
    key.POLICY: "load",
    key.OUTCOME: "granted",
    key.WAIT_DURATION: 0.0,
    key.WAIT_TICKS: 0,
    key.PROVIDER: "openai",
    key.MODEL: "gpt-4o-mini",
    key.PRIORITY: "normal",
}
_GRANTED: dict[str, Any] = {
    key.QUEUE_WEIGHT: 1.0,
    key.QUEUE_AGE: 0,
    key.TICK: 1,
    key.GRANT_REASON: "free",
}
_PLACE = {key.AGENT: "unknown", key.RESOURCE: "openai/api.openai.com"}
_TICKED = {**_PLACE, key.PRIORITY: "normal"}
_DECIDED = {**_TICKED, key.OUTCOME: "granted"}
_LABELS: dict[str, Any] = {
    key.OPERATION: "chat",
    key.PROVIDER: "openai",
    key.MODEL: "gpt-4o-mini",
    key.RESPONSE_MODEL: "gpt-4o-mini",
    key.SERVER_ADDRESS: "api.openai.com",
    key.SERVER_PORT: 443,
}
_INPUT, _OUTPUT = ({**_LABELS, key.TOKEN_TYPE: kind} for kind in (key.INPUT, key.OUTPUT))


def instrument() -> None:
    """Make each call of `chat.completions.create` with a whole answer emit what it emits with loco-otel."""
    from openai import _base_client  # noqa: PLC0415 - as the other instrumentors, once it is asked for

    contract = _Contract()
    batched_delivery.register_flush(trace.get_tracer_provider(), contract.emit_spans)
    wrapt.wrap_function_wrapper(_base_client.SyncAPIClient, "request", contract.request)
    wrapt.wrap_function_wrapper(_base_client.AsyncAPIClient, "request", contract.async_request)


class _Contract:
    def __init__(self) -> None:
        self._tracer = trace.get_tracer("contract")
        meter = metrics.get_meter("contract")
        self._wait, self._ticks, self._hold, self._duration, self._tokens = (
            create_histogram(meter, row)
            for row in (
                catalogue.WAIT_DURATION,
                catalogue.WAIT_TICKS,
                catalogue.HOLD_DURATION,
                catalogue.DURATION,
                catalogue.TOKEN_USAGE,
            )
        )
        self._kept: list[tuple[Span, context.Context, int, int]] = []

    def request(self, wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        span, parent, started_at, token = self._start_call()
        try:
            return wrapped(*args, **kwargs)
        finally:
            self._end_call(span, parent, started_at, token)

    async def async_request(
        self, wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        span, parent, started_at, token = self._start_call()
        try:
            return await wrapped(*args, **kwargs)
        finally:
            self._end_call(span, parent, started_at, token)

    def _start_call(self) -> tuple[Span, context.Context, int, Any]:
        parent = context.get_current()
        span = self._tracer.start_span("chat gpt-4o-mini", parent, SpanKind.CLIENT, _ASKED)
        return span, parent, time.time_ns(), context.attach(trace.set_span_in_context(span, parent))

    def _end_call(self, span: Span, parent: context.Context, started_at: int, token: Any) -> None:
        context.detach(token)
        self._kept.append((span, parent, started_at, time.time_ns()))
        if len(self._kept) >= _CALLS:
            self.emit_spans()

    def emit_spans(self) -> None:
        kept, self._kept = self._kept, []
        for each in kept:
            self._emit_call(*each)

    def _emit_call(self, span: Span, parent: context.Context, started_at: int, ended_at: int) -> None:
        acquired = self._tracer.start_span(
            "acquire openai/api.openai.com", parent, SpanKind.INTERNAL, _ACQUIRED, start_time=started_at
        )
        acquired.set_attributes(_GRANTED)
        acquired.end(started_at)
        span.set_attributes(_SPENT)
        span.set_attributes(_ANSWERED)
        span.end(ended_at)
        within = trace.set_span_in_context(span, parent)
        measurements: tuple[tuple[Histogram, float, dict[str, Any], context.Context], ...] = (
            (self._wait, 0.0, _DECIDED, parent),
            (self._ticks, 0, _TICKED, parent),
            (self._hold, 0.01, _PLACE, parent),
            (self._tokens, 9, _INPUT, within),
            (self._tokens, 3, _OUTPUT, within),
            (self._duration, 0.01, _LABELS, within),
        )
        for instrument_, value, attributes, around in measurements:
            instrument_.record(value, attributes, around)
