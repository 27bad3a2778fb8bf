"""The current context, read and changed as often as for each chunk of a stream.

`opentelemetry.context` goes through two functions to a `ContextVar`. Here is that variable itself, where it is one;
whoever asks the API sees no difference.
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
        pass  # read on in another context, where this one was never attached: there is nothing to take off


if isinstance(_context_variable, ContextVar):
    get_current: Callable[[], Context] = _context_variable.get
    attach = _context_variable.set
    _reset = _context_variable.reset
    detach = _detach_if_attached
else:  # another implementation, named by OTEL_PYTHON_CONTEXT
    get_current = context.get_current
    attach = context.attach
    detach = context.detach
