"""Looks after our wrappers: whenever another instrumentor has come or gone, and when a call slipped by."""

import logging
from collections.abc import Callable
from typing import Any

import wrapt
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined] # it opts out of type checking
    BaseInstrumentor,
)

_logger = logging.getLogger("loco_otel")

_INSTRUMENTOR_METHODS = ("instrument", "uninstrument")

_callbacks: list[Callable[[], None]] = []
_proxies: list[tuple[str, Any]] = []


def register_reapply(heal: Callable[[], None]) -> None:
    """Call `heal` after each instrumentor's `instrument` and `uninstrument`."""
    if heal not in _callbacks:
        _callbacks.append(heal)
    if not _proxies:
        for method in _INSTRUMENTOR_METHODS:
            _proxies.append((method, wrapt.wrap_function_wrapper(BaseInstrumentor, method, _reapply_after)))  # noqa: PERF401 - each as soon as it is there


def unregister_reapply(heal: Callable[[], None]) -> None:
    """Do so no more."""
    if heal in _callbacks:
        _callbacks.remove(heal)
    if not _callbacks:
        while _proxies:
            method, proxy = _proxies.pop()
            try:
                wrapt.unwrap_object(BaseInstrumentor, method, proxy, missing_ok=True)
            except wrapt.WrapperNotOutermostError:
                _logger.debug("BaseInstrumentor.%s keeps a wrapper that now does nothing", method)


def reapply_all() -> None:
    """Heal now."""
    for heal in tuple(_callbacks):
        try:
            heal()
        except Exception:
            _logger.exception("putting wrappers back failed")


def _reapply_after(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return wrapped(*args, **kwargs)
    finally:
        reapply_all()
