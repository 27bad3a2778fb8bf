"""Checks that light spans equal those of the program's SDK and tracer."""

from functools import cache
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider, _Span
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, Tracer

from loco_otel._telemetry.light_spans import LightSpan, LightTracer

_MIN_ATTRIBUTES = 64
"""More than loco-otel sets on one span."""
_OWN_FIELDS = {"_plain", "_limits"}
"""What a light span adds, open or ended."""


def supports_tracer(tracer: Tracer) -> bool:
    """Return whether light spans equal the spans of a tracer."""
    if type(tracer) is not SdkTracer:
        return False
    limits = tracer._span_limits
    most = limits.max_span_attributes
    if limits.max_span_attribute_length is not None or (most is not None and most < _MIN_ATTRIBUTES):
        return False
    return is_supported()


@cache
def is_supported() -> bool:
    """Return whether light spans equal those of this SDK, field by field."""
    try:
        return _describe_checked(light=True) == _describe_checked(light=False)
    except Exception:  # a name that this SDK has not
        return False


class _FixedIds(IdGenerator):
    def __init__(self) -> None:
        self._last = 0

    def generate_span_id(self) -> int:
        self._last += 1
        return self._last

    def generate_trace_id(self) -> int:
        return self.generate_span_id()


class _Keeper(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        self.spans.append((span, parent_context is not None))

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def _describe_checked(*, light: bool) -> list[object]:
    """Return the fields of a few spans, and what a processor receives of them."""
    keeper = _Keeper()
    # Nothing of the environment: neither the program's limits, nor its global meter provider.
    provider = TracerProvider(
        ALWAYS_ON,
        Resource.get_empty(),
        False,
        id_generator=_FixedIds(),
        span_limits=SpanLimits(128, 128, 128, 128, 128, 128, SpanLimits.UNSET, SpanLimits.UNSET),
        meter_provider=NoOpMeterProvider(),
    )
    provider.add_span_processor(keeper)
    tracer: Any = provider.get_tracer(__name__, "1")
    if light:
        tracer = LightTracer(tracer)
    root = tracer.start_span("root", Context(), SpanKind.CLIENT, {"text": "a", "parts": ("b", "c")}, start_time=1)
    below = trace.set_span_in_context(root, Context())
    child = tracer.start_span("child", below, links=[Link(root.get_span_context(), {"n": 1})], start_time=2)
    child.set_attributes({"flag": True, "list": [1, 2]})
    child.set_attribute("number", 0.5)
    root.set_attributes({"text": "c", "last": 1})
    child.add_event("event", {"a": 1}, 3)
    child.set_status(Status(StatusCode.ERROR, "why"))
    child.end(4)
    root.end(5)
    (started, *of_root), (_, *of_child), *ended = keeper.spans
    return [
        isinstance(started, _Span),
        of_root,
        of_child,
        started.is_recording(),
        # First without the containers, which the next lines make.
        [(span.to_json(), span.context, span.parent, span.instrumentation_scope) for span in ended],
        [(span.dropped_attributes, span.dropped_events, span.dropped_links) for span in ended],
        [{(name, _get_sdk_type(getattr(span, name))) for name in _list_private_names(span)} for span in ended],
        [(span._attributes._immutable, span._attributes.maxlen, [*span._attributes.items()]) for span in ended],
        [(span.to_json(), span.resource == provider.resource, provider.resource == span.resource) for span in ended],
        [hash(span.resource) == hash(provider.resource) for span in ended],
        # Fields that this module does not set would be missing.
        {name for name in _list_private_names(started) if not hasattr(LightSpan, name)},
    ]


def _list_private_names(span: Any) -> set[str]:
    return {name for name in dir(span) if name.startswith("_") and not name.startswith("__")} - _OWN_FIELDS


def _get_sdk_type(value: object) -> type:
    """Return the type of a value, or that of the SDK which a class of loco-otel extends."""
    return next(kind for kind in type(value).__mro__ if not kind.__module__.startswith("loco_otel."))
