"""Looks after our wrappers: whenever another instrumentor has come or gone, and when a call slipped by."""

import logging
from collections.abc import Callable
from typing import Any

import wrapt
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined] # it opts out of type checking
    BaseInstrumentor,
)

_logger = logging.getLogger("loco_otel")

_METHODS = ("instrument", "uninstrument")

_heals: list[Callable[[], None]] = []
_proxies: list[tuple[str, Any]] = []


def look_after(heal: Callable[[], None]) -> None:
    """Call `heal` after each instrumentor's `instrument` and `uninstrument`."""
    if heal not in _heals:
        _heals.append(heal)
    if not _proxies:
        for method in _METHODS:
            _proxies.append((method, wrapt.wrap_function_wrapper(BaseInstrumentor, method, _and_heal)))  # noqa: PERF401 - each as soon as it is there


def leave_alone(heal: Callable[[], None]) -> None:
    """Do so no more."""
    if heal in _heals:
        _heals.remove(heal)
    if not _heals:
        while _proxies:
            method, proxy = _proxies.pop()
            try:
                wrapt.unwrap_object(BaseInstrumentor, method, proxy, missing_ok=True)
            except wrapt.WrapperNotOutermostError:
                _logger.debug("BaseInstrumentor.%s keeps a wrapper that now does nothing", method)


def look() -> None:
    """Heal now."""
    for heal in tuple(_heals):
        try:
            heal()
        except Exception:
            _logger.exception("putting wrappers back failed")


def _and_heal(wrapped: Any, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return wrapped(*args, **kwargs)
    finally:
        look()
