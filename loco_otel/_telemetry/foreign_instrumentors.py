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

_OFFICIAL = ("opentelemetry.genai.client.inference.context", "opentelemetry.genai.client.embedding.context")
"""Keys of the context under which opentelemetry-util-genai 1.3b0 keeps the call that it tells of."""
_OPENLLMETRY = "suppress_language_model_instrumentation"
"""Key of the context in which OpenLLMetry's instrumentors of frameworks have told of it already."""

_OPENINFERENCE_KIND = "openinference.span.kind"
_OPENINFERENCE_KINDS = frozenset({"LLM", "EMBEDDING"})
_INFERENCE = frozenset(key.OPERATIONS)

_WRAPPERS = (
    "opentelemetry.util.genai",
    "opentelemetry.instrumentation.openai",
    "opentelemetry.instrumentation.anthropic",
    "openinference.instrumentation",
)
"""Packages whose frames are on the stack while they make an inference span. Those of the official instrumentors are
not among them: theirs stay on the stack when they are switched off, and leave a mark when they are not."""

_MOST_FRAMES = 24
"""Between a wrapper around an SDK's method and our own below it."""

_known: dict[CodeType, bool] = {}
"""Whose code it is, by code: there are few on the way of a call."""


class Above(NamedTuple):
    """What is known of those above us."""

    tell: bool
    """Somebody makes the inference span of the call that begins here."""
    span: Span | None
    """Theirs, where it can be known."""


_NOBODY = Above(False, None)


def above(span: Span, context: Context) -> Above:
    """Find out whether somebody above us tells of the call that begins here.

    Args:
        span: the current one.
        context: the current one.

    """
    if context.get(_OFFICIAL[0]) or context.get(_OFFICIAL[1]) or is_inference(span):
        return Above(True, span)
    if context.get(_OPENLLMETRY) or _is_on_the_stack():
        return Above(True, None)
    return _NOBODY


def is_inference(span: Span) -> bool:
    """Tell an inference span by its attributes."""
    attributes: Mapping[str, Any] | None = getattr(span, "attributes", None)
    if not attributes:
        return False
    return attributes.get(key.OPERATION) in _INFERENCE or attributes.get(_OPENINFERENCE_KIND) in _OPENINFERENCE_KINDS


def is_live(tracer: object) -> bool:
    """Tell whether a tracer makes spans, rather than waiting for an SDK that nobody has set up."""
    if isinstance(tracer, ProxyTracer):
        tracer = tracer._tracer
    return tracer is not None and not isinstance(tracer, NoOpTracer)


def wraps_theirs(function: Any) -> bool:
    """Tell whether a wrapper of somebody who makes inference spans is around a function."""
    if type(function) is MethodType:
        return False
    while function is not None:
        wrapper = getattr(function, "_self_wrapper", None)
        if wrapper is not None and is_theirs(getattr(wrapper, "__module__", None) or ""):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def is_theirs(module: str) -> bool:
    """Tell whether a module belongs to somebody who makes inference spans."""
    return any(module == package or module.startswith(f"{package}.") for package in _WRAPPERS)


def _is_on_the_stack() -> bool:
    if not any(package in sys.modules for package in _WRAPPERS):
        return False
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return False
        code = frame.f_code
        theirs = _known.get(code)
        if theirs is None:
            theirs = _known[code] = is_theirs(frame.f_globals.get("__name__") or "")
        if theirs:
            return True
        frame = frame.f_back
    return False
