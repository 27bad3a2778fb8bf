"""Fast access to the current context, for each chunk of a stream.

`opentelemetry.context` reaches its `ContextVar` through two functions. This module uses the variable directly if the
context implementation has one; the effect is the same as with the API.
"""

from collections.abc import Callable
from contextvars import ContextVar, Token

from opentelemetry import context
from opentelemetry.context import _RUNTIME_CONTEXT, Context

_context_variable: object = getattr(_RUNTIME_CONTEXT, "_current_context", None)


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
