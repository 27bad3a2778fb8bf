"""Selects what starts the spans of loco-otel."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Tracer
from opentelemetry.util.types import AttributeValue


class SpanStarter(Protocol):
    """A tracer, as far as loco-otel uses it."""

    def start_span(  # noqa: PLR0917 - as the API has it
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, AttributeValue] | None = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
    ) -> Span:
        """Start a span."""


def create_span_starter(tracer: Tracer) -> SpanStarter:
    """Return what starts light spans for a tracer; the tracer itself where they would differ from its own."""
    try:
        # Not imported above: it imports the SDK, which only programs with a provider have imported.
        from loco_otel._telemetry.light_span_check import supports_tracer  # noqa: PLC0415
        from loco_otel._telemetry.light_spans import LightTracer  # noqa: PLC0415
    except ImportError:  # a name that this SDK has not
        return tracer
    return LightTracer(tracer) if supports_tracer(tracer) else tracer
