"""Detection of other instrumentations that create the inference span of a call.

A call has one inference span. If an outer instrumentation has started it, a second one would count its tokens twice.
There are four signs, checked in the order of their cost:

- OpenTelemetry's own GenAI instrumentors set a key in the context;
- the current span has the attributes of an inference span;
- OpenLLMetry's framework instrumentors set a key too, but their span is not always the current one;
- a wrapper whose span becomes current later, or never, is on the call stack.

Inner instrumentations are found by the SDK's adapter and by the wrapped method, see `has_foreign_wrapper`.
"""

import sys
from collections.abc import Mapping
from types import CodeType, FrameType, MethodType
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, ProxyTracer, Span

from loco_otel._telemetry import attributes as key

_GENAI_CONTEXT_KEYS = ("opentelemetry.genai.client.inference.context", "opentelemetry.genai.client.embedding.context")
"""Context keys of the call that opentelemetry-util-genai 1.3b0 is tracing."""
_OPENLLMETRY_CONTEXT_KEY = "suppress_language_model_instrumentation"
"""Context key that OpenLLMetry's framework instrumentors set for a call that they trace."""

_OPENINFERENCE_KIND = "openinference.span.kind"
_OPENINFERENCE_KINDS = frozenset({"LLM", "EMBEDDING"})
_INFERENCE_OPERATIONS = frozenset(key.OPERATIONS)

_WRAPPER_PACKAGES = (
    "opentelemetry.util.genai",
    "opentelemetry.instrumentation.openai",
    "opentelemetry.instrumentation.anthropic",
    "openinference.instrumentation",
)
"""Packages that create inference spans while their frames are on the stack. The official instrumentors are omitted:
their frames stay on the stack when disabled, and they set a context key when enabled.
"""

_MAX_FRAMES = 24
"""The most frames between a wrapper around an SDK's method and our own below it."""

_foreign_by_code: dict[CodeType, bool] = {}
"""Cache: whether code belongs to such a package. Few code objects are on the path of a call."""


class OuterSpan(NamedTuple):
    """The outer instrumentation of a call."""

    is_present: bool
    """True if an outer instrumentation creates the inference span of the call."""
    span: Span | None
    """Its span, if it can be found."""


_NO_OUTER_SPAN = OuterSpan(False, None)


def find_outer_span(span: Span, context: Context) -> OuterSpan:
    """Detect an outer instrumentation that creates the inference span of the call.

    Args:
        span: the current span.
        context: the current context.

    """
    if context.get(_GENAI_CONTEXT_KEYS[0]) or context.get(_GENAI_CONTEXT_KEYS[1]) or is_inference_span(span):
        return OuterSpan(True, span)
    if context.get(_OPENLLMETRY_CONTEXT_KEY) or _has_wrapper_frame():
        return OuterSpan(True, None)
    return _NO_OUTER_SPAN


def is_inference_span(span: Span) -> bool:
    """Return whether a span is an inference span, by its attributes."""
    attributes: Mapping[str, Any] | None = getattr(span, "attributes", None)
    if not attributes:
        return False
    return (
        attributes.get(key.OPERATION) in _INFERENCE_OPERATIONS
        or attributes.get(_OPENINFERENCE_KIND) in _OPENINFERENCE_KINDS
    )


def is_live_tracer(tracer: object) -> bool:
    """Return whether a tracer creates spans; False for a proxy without an SDK."""
    if isinstance(tracer, ProxyTracer):
        tracer = tracer._tracer
    return tracer is not None and not isinstance(tracer, NoOpTracer)


def has_foreign_wrapper(function: Any) -> bool:
    """Return whether a function is wrapped by an instrumentation that creates inference spans."""
    if type(function) is MethodType:
        return False
    while function is not None:
        wrapper = getattr(function, "_self_wrapper", None)
        if wrapper is not None and is_foreign(getattr(wrapper, "__module__", None) or ""):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def is_foreign(module: str) -> bool:
    """Return whether a module belongs to an instrumentation that creates inference spans."""
    return any(module == package or module.startswith(f"{package}.") for package in _WRAPPER_PACKAGES)


def _has_wrapper_frame() -> bool:
    if not any(package in sys.modules for package in _WRAPPER_PACKAGES):
        return False
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_MAX_FRAMES):
        if frame is None:
            return False
        code = frame.f_code
        theirs = _foreign_by_code.get(code)
        if theirs is None:
            theirs = _foreign_by_code[code] = is_foreign(frame.f_globals.get("__name__") or "")
        if theirs:
            return True
        frame = frame.f_back
    return False
