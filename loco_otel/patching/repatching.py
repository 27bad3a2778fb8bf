"""Reapplies our wrappers after another instrumentor was enabled or disabled, and after a call that bypassed them."""

import logging
from collections.abc import Callable
from typing import Any

import wrapt
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined] # it opts out of type checking
    BaseInstrumentor,
)

from loco_otel.patching.unwrapping import remove_wrapper

_logger = logging.getLogger("loco_otel")

_INSTRUMENTOR_METHODS = ("instrument", "uninstrument")

_callbacks: list[Callable[[], None]] = []
_proxies: list[tuple[str, Any]] = []


def register_reapply(reapply: Callable[[], None]) -> None:
    """Call `reapply` after each instrumentor's `instrument` and `uninstrument`. Idempotent."""
    if reapply not in _callbacks:
        _callbacks.append(reapply)
    if not _proxies:
        for method in _INSTRUMENTOR_METHODS:
            _proxies.append((method, wrapt.wrap_function_wrapper(BaseInstrumentor, method, _reapply_after)))  # noqa: PERF401 - if the second fails, the first is still removed


def unregister_reapply(reapply: Callable[[], None]) -> None:
    """Undo `register_reapply`. No-op without one."""
    if reapply in _callbacks:
        _callbacks.remove(reapply)
    if not _callbacks:
        while _proxies:
            method, proxy = _proxies.pop()
            if not remove_wrapper(BaseInstrumentor, method, proxy):
                _logger.debug("BaseInstrumentor.%s keeps a wrapper that has no effect now", method)


def reapply_all() -> None:
    """Call all that is registered. Never raises."""
    for reapply in tuple(_callbacks):
        try:
            reapply()
        except Exception:
            _logger.exception("putting wrappers back failed")


def _reapply_after(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return wrapped(*args, **kwargs)
    finally:
        reapply_all()
