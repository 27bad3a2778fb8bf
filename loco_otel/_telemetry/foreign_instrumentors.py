"""Who else tells of a call: another instrumentor, the SDK itself, or the program.

One call has one inference span. Where somebody above us has begun it, ours would be a second one, with the same
tokens counted again. There are four signs, looked for in the order of what they cost:

- OpenTelemetry's own instrumentors of GenAI leave a mark in the context, which says just that;
- the current span is one, by its attributes;
- OpenLLMetry's instrumentors of frameworks leave a mark too, but the span is not always the current one;
- a wrapper that makes its span current only later, or never, is on the call stack.

What tells of the call further down is known by the SDK's adapter, and by the wrapped method, see `wraps_theirs`.
"""

import sys
from collections.abc import Mapping
from types import CodeType, FrameType, MethodType
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, ProxyTracer, Span

from loco_otel._telemetry import attributes as key

_GENAI_CONTEXT_KEYS = ("opentelemetry.genai.client.inference.context", "opentelemetry.genai.client.embedding.context")
"""Keys of the context under which opentelemetry-util-genai 1.3b0 keeps the call that it tells of."""
_OPENLLMETRY_CONTEXT_KEY = "suppress_language_model_instrumentation"
"""Key of the context in which OpenLLMetry's instrumentors of frameworks have told of it already."""

_OPENINFERENCE_KIND = "openinference.span.kind"
_OPENINFERENCE_KINDS = frozenset({"LLM", "EMBEDDING"})
_INFERENCE_OPERATIONS = frozenset(key.OPERATIONS)

_WRAPPER_PACKAGES = (
    "opentelemetry.util.genai",
    "opentelemetry.instrumentation.openai",
    "opentelemetry.instrumentation.anthropic",
    "openinference.instrumentation",
)
"""Packages whose frames are on the stack while they make an inference span. Those of the official instrumentors are
not among them: theirs stay on the stack when they are switched off, and leave a mark when they are not."""

_MAX_FRAMES = 24
"""Between a wrapper around an SDK's method and our own below it."""

_foreign_by_code: dict[CodeType, bool] = {}
"""Whose code it is, by code: there are few on the way of a call."""


class OuterSpan(NamedTuple):
    """What is known of those above us."""

    is_present: bool
    """Somebody makes the inference span of the call that begins here."""
    span: Span | None
    """Theirs, where it can be known."""


_NO_OUTER_SPAN = OuterSpan(False, None)


def find_outer_span(span: Span, context: Context) -> OuterSpan:
    """Find out whether somebody above us tells of the call that begins here.

    Args:
        span: the current one.
        context: the current one.

    """
    if context.get(_GENAI_CONTEXT_KEYS[0]) or context.get(_GENAI_CONTEXT_KEYS[1]) or is_inference_span(span):
        return OuterSpan(True, span)
    if context.get(_OPENLLMETRY_CONTEXT_KEY) or _has_wrapper_frame():
        return OuterSpan(True, None)
    return _NO_OUTER_SPAN


def is_inference_span(span: Span) -> bool:
    """Tell an inference span by its attributes."""
    attributes: Mapping[str, Any] | None = getattr(span, "attributes", None)
    if not attributes:
        return False
    return (
        attributes.get(key.OPERATION) in _INFERENCE_OPERATIONS
        or attributes.get(_OPENINFERENCE_KIND) in _OPENINFERENCE_KINDS
    )


def is_live_tracer(tracer: object) -> bool:
    """Tell whether a tracer makes spans, rather than waiting for an SDK that nobody has set up."""
    if isinstance(tracer, ProxyTracer):
        tracer = tracer._tracer
    return tracer is not None and not isinstance(tracer, NoOpTracer)


def has_foreign_wrapper(function: Any) -> bool:
    """Tell whether a wrapper of somebody who makes inference spans is around a function."""
    if type(function) is MethodType:
        return False
    while function is not None:
        wrapper = getattr(function, "_self_wrapper", None)
        if wrapper is not None and is_foreign(getattr(wrapper, "__module__", None) or ""):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def is_foreign(module: str) -> bool:
    """Tell whether a module belongs to somebody who makes inference spans."""
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
