"""Inference spans as tests read them."""

from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode
from sdk_scheduling import Scheduling


def find_inference_span(scheduling: Scheduling) -> ReadableSpan:
    """Return the only inference span."""
    (span,) = (span for span in scheduling.spans() if span.kind is SpanKind.CLIENT)
    return span


def read_attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def read_status(span: ReadableSpan) -> tuple[StatusCode, object]:
    return span.status.status_code, read_attributes(span).get("error.type")


def read_current_span_id() -> int:
    span_id: int = trace.get_current_span().get_span_context().span_id
    return span_id


def read_span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    span_id: int = span.context.span_id
    return span_id


def read_times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


PROGRAM = TracerProvider(shutdown_on_exit=False).get_tracer("program")
