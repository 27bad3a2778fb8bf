"""Fast access to the current context and what is in one, for each call and each chunk of a stream.

`opentelemetry.context` reaches its `ContextVar` through two functions. This module uses the variable directly if the
context implementation has one, and the keys of span and baggage; the effect is the same as with the API.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any

from opentelemetry import baggage, context, trace
from opentelemetry.context import _RUNTIME_CONTEXT, Context
from opentelemetry.trace import Span, propagation

_context_variable: object = getattr(_RUNTIME_CONTEXT, "_current_context", None)


_SPAN_KEY: str = getattr(propagation, "_SPAN_KEY", "")
_BAGGAGE_KEY: str = getattr(baggage, "_BAGGAGE_KEY", "")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_span_types: set[type] = set()
"""Classes of spans that were seen: a check of an ABC takes longer than all else here."""


def get_span(context: Context) -> Span:
    """Do what `trace.get_current_span` does."""
    span: object = context.get(_SPAN_KEY)
    if type(span) in _span_types:
        return span  # type: ignore[return-value] # of a class that was checked
    if isinstance(span, Span):
        _span_types.add(type(span))
    return trace.get_current_span(context)


def read_attributes(span: Span) -> Mapping[str, Any]:
    """Return the attributes of a span, of any class; none if it has none, or does not show them.

    They are copied to a dict where they can be, as here: each key that the SDK's own mapping lacks costs an exception.
    """
    attributes: Any = getattr(span, "attributes", None)
    if not attributes:
        return _NOTHING
    try:
        copied: Mapping[str, Any] = attributes.copy()
    except AttributeError:  # a mapping of another kind
        return attributes  # type: ignore[no-any-return] # by the API
    return copied


def get_baggage(context: Context) -> Mapping[str, object]:
    """Do what `baggage.get_all` does."""
    return baggage.get_all(context) if not _BAGGAGE_KEY or _BAGGAGE_KEY in context else _NOTHING


def _detach_if_attached(token: Token[Context]) -> None:
    try:  # noqa: SIM105 - `suppress` is an object and two calls more, for each chunk
        _reset(token)
    except ValueError:
        pass  # the token is of another context: nothing to detach


if isinstance(_context_variable, ContextVar):
    get_current: Callable[[], Context] = _context_variable.get
    attach = _context_variable.set
    _reset = _context_variable.reset
    detach = _detach_if_attached
else:  # another implementation, named by OTEL_PYTHON_CONTEXT
    get_current = context.get_current
    attach = context.attach
    detach = context.detach
