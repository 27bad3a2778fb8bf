"""Telling late, many events at a time, without anybody seeing less.

In the midst of a call the SDK's code is cold and takes twice as long as in a row, see docs/decisions/0006. Where the
program's spans wait for a batch to be exported, ours may as well be made a little later, with the times that are in
their events. What is made late must still be there when the program flushes or shuts down its provider: who does so
has us flush first.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.trace import TracerProvider

_BATCH, _SIMPLE = "BatchSpanProcessor", "SimpleSpanProcessor"

_flushers: WeakKeyDictionary[TracerProvider, list[Callable[[], object]]] = WeakKeyDictionary()
"""By provider: who is to flush before it does."""


def is_batch_exporting(provider: TracerProvider) -> bool:
    """Tell whether nobody sees a span before it is exported with others.

    The SDK lets nobody ask, and we do not import it: so by the names of the classes of its processors.
    """
    processors = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    names = {kind.__name__ for processor in processors for kind in type(processor).__mro__}
    return _BATCH in names and _SIMPLE not in names


def register_flush(provider: TracerProvider, flush: Callable[[], object]) -> None:
    """Have a provider call `flush` before it flushes or shuts down."""
    flushers = _flushers.get(provider)
    if flushers is None:
        flushers = _flushers[provider] = []
        for name in ("force_flush", "shutdown"):
            setattr(provider, name, _flush_before(flushers, getattr(provider, name)))
    flushers.append(flush)


def unregister_flush(provider: TracerProvider, flush: Callable[[], object]) -> None:
    """Have it call that no more."""
    flushers = _flushers.get(provider, [])
    if flush in flushers:
        flushers.remove(flush)


def _flush_before(flushers: list[Callable[[], object]], method: Callable[..., Any]) -> Callable[..., Any]:
    def flushing(*args: Any, **kwargs: Any) -> Any:
        for flush in tuple(flushers):
            flush()
        return method(*args, **kwargs)

    return flushing
