"""Making a context current, as often as for each chunk of a stream.

`opentelemetry.context` goes through two functions to a `ContextVar`, each way. Here is that variable itself, where it
is one; `get_current` sees no difference.
"""

import logging
from contextvars import ContextVar, Token

from opentelemetry import context
from opentelemetry.context import _RUNTIME_CONTEXT, Context

_logger = logging.getLogger("loco_otel")

_current: object = getattr(_RUNTIME_CONTEXT, "_current_context", None)


def _detach(token: Token[Context]) -> None:
    try:
        _reset(token)
    except ValueError:
        # Read on in another context: the one it was attached to is not here to be mended.
        _logger.debug("a context was detached elsewhere", exc_info=True)


if isinstance(_current, ContextVar):
    attach = _current.set
    _reset = _current.reset
    detach = _detach
else:  # another implementation, named by OTEL_PYTHON_CONTEXT
    attach = context.attach
    detach = context.detach
