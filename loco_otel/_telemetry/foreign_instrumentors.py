"""Detection of other instrumentations that create the inference span of a call.

A call has one inference span. If an outer instrumentation has started it, a second one would count its tokens twice.
There are four signs, checked in the order of their cost:

- OpenTelemetry's own GenAI instrumentors set a key in the context;
- the current span has the attributes of an inference span;
- OpenLLMetry's framework instrumentors set a key too, but their span is not always the current one;
- a wrapper whose span becomes current later, or never, is on the call stack. If such a wrapper may create no span, its
  span is read from its frame.

Inner instrumentations are found by the SDK's adapter and by the wrapped method, see `has_foreign_wrapper`.
"""

import sys
from types import CodeType, FrameType, MethodType
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, ProxyTracer, Span

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.current_context import read_attributes

_GENAI_CONTEXT_KEYS = ("opentelemetry.genai.client.inference.context", "opentelemetry.genai.client.embedding.context")
"""Context keys of the call that opentelemetry-util-genai 1.3b0 is tracing."""
_OPENLLMETRY_CONTEXT_KEY = "suppress_language_model_instrumentation"
"""Context key that OpenLLMetry's framework instrumentors set for a call that they trace."""

_OPENINFERENCE_KIND = "openinference.span.kind"
_OPENINFERENCE_KINDS = frozenset({"LLM", "EMBEDDING"})
_LANGFUSE_TYPE = "langfuse.observation.type"
_LANGFUSE_TYPES = frozenset({"generation", "embedding"})
_INFERENCE_OPERATIONS = frozenset(key.OPERATIONS)

_OPENLLMETRY_SDKS = (
    "anthropic",
    "bedrock",
    "cohere",
    "google_generativeai",
    "groq",
    "mistralai",
    "ollama",
    "openai",
    "together",
    "vertexai",
)
_WRAPPER_PACKAGES = (
    "opentelemetry.util.genai",
    "openinference.instrumentation",
    *[f"opentelemetry.instrumentation.{sdk}" for sdk in _OPENLLMETRY_SDKS],
)
"""Packages that create inference spans while their frames are on the stack. The official instrumentors are omitted:
their frames stay on the stack when disabled, and they set a context key when enabled.
"""
_SAME_METHOD_PACKAGES = (
    "logfire",
    "opentelemetry.instrumentation.botocore",
    "opentelemetry.instrumentation.genai.bedrock",
)
"""Packages that wrap the method that we wrap. Outside of our wrapper their span is the current one; inside it begins
after the decision which span the call gets.
"""
_SPAN_VARIABLES = {"langfuse.openai": ("generation", "_otel_span")}
"""Modules whose wrappers create a span only if they are configured, and never make it the current one.

By module: the wrapper's local variable, and its attribute that is the OpenTelemetry span.
"""
_WRAPPER_MODULES = (*_WRAPPER_PACKAGES, *_SPAN_VARIABLES)

_MAX_FRAMES = 24
"""The most frames between a wrapper around an SDK's method and our own below it."""

_module_by_code: dict[CodeType, str] = {}
"""Cache: the module of code that belongs to such a package, else "". Few code objects are on the path of a call."""


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
    if context.get(_OPENLLMETRY_CONTEXT_KEY):
        return OuterSpan(True, None)
    return _find_wrapper_span()


def is_inference_span(span: Span) -> bool:
    """Return whether a span is an inference span, by its attributes."""
    attributes = read_attributes(span)
    if not attributes:
        return False
    operation = attributes.get(key.OPERATION)
    return (
        operation in _INFERENCE_OPERATIONS
        # The span of an agent or a tool has an operation; our own call span has `loco.agent.id`.
        or (operation is None and key.MODEL in attributes and key.AGENT not in attributes)
        or attributes.get(_OPENINFERENCE_KIND) in _OPENINFERENCE_KINDS
        or attributes.get(_LANGFUSE_TYPE) in _LANGFUSE_TYPES
    )


def is_live_tracer(tracer: object) -> bool:
    """Return whether a tracer creates spans; False for a proxy without an SDK."""
    if isinstance(tracer, ProxyTracer):
        tracer = tracer._tracer
    return tracer is not None and not isinstance(tracer, NoOpTracer)


def has_foreign_wrapper(function: Any) -> bool:
    """Return whether a function is wrapped by an instrumentation that creates inference spans."""
    if type(function) is MethodType:
        function = function.__func__
        # Fast path: the SDK's own method.
        if not getattr(function, "__dict__", True):
            return False
    while function is not None:
        module = _find_module(getattr(function, "_self_wrapper", None) or function)
        if is_foreign(module) or _is_of_package(module, _SAME_METHOD_PACKAGES):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def _find_module(function: Any) -> str:
    """Return the module that defines a function, of which `functools.wraps` hides the name."""
    found = getattr(function, "__globals__", {}).get("__name__") or getattr(function, "__module__", None)
    return found if isinstance(found, str) else ""


def is_foreign(module: str) -> bool:
    """Return whether a module belongs to an instrumentation that creates inference spans."""
    return _is_of_package(module, _WRAPPER_MODULES)


def _is_of_package(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _find_wrapper_span() -> OuterSpan:
    if not any(map(sys.modules.__contains__, _WRAPPER_MODULES)):
        return _NO_OUTER_SPAN
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_MAX_FRAMES):
        if frame is None:
            break
        code = frame.f_code
        module = _module_by_code.get(code)
        if module is None:
            name = frame.f_globals.get("__name__") or ""
            module = _module_by_code[code] = name if is_foreign(name) else ""
        if module in _SPAN_VARIABLES:
            span = _read_span_variable(frame, *_SPAN_VARIABLES[module])
            if span is not None:
                return OuterSpan(True, span)
        elif module:
            return OuterSpan(True, None)
        frame = frame.f_back
    return _NO_OUTER_SPAN


def _read_span_variable(frame: FrameType, variable: str, attribute: str) -> Span | None:
    span = getattr(frame.f_locals.get(variable), attribute, None)
    return span if isinstance(span, Span) and span.is_recording() else None
