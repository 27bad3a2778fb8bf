"""Batched delivery of events, invisible to every reader of the spans.

During a call the SDK's code is cold and takes twice as long as in a batch, see docs/decisions/0006. If the program's
spans wait for a batch export, ours may be created later too, with the times of their events. With any processor a
background thread creates some of them. They must exist before the program flushes or shuts down its provider, so both
of these flush our events first.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.trace import TracerProvider

_BATCH, _SIMPLE = "BatchSpanProcessor", "SimpleSpanProcessor"

_flushers: WeakKeyDictionary[TracerProvider, list[Callable[[], object]]] = WeakKeyDictionary()
"""Callbacks to run before a provider flushes, by provider."""


def is_flushable(provider: TracerProvider) -> bool:
    """Return whether a provider is the SDK's, which can be flushed."""
    return hasattr(provider, "_active_span_processor")


def is_batch_exporting(provider: TracerProvider) -> bool:
    """Return whether every span of a provider is exported in batches.

    The SDK has no public query for it and is not imported here, so the class names of its processors are compared.
    """
    processors = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    names = {kind.__name__ for processor in processors for kind in type(processor).__mro__}
    return _BATCH in names and _SIMPLE not in names


def register_flush(provider: TracerProvider, flush: Callable[[], object]) -> None:
    """Make a provider call `flush` before it flushes or shuts down."""
    flushers = _flushers.get(provider)
    if flushers is None:
        flushers = _flushers[provider] = []
        for name in ("force_flush", "shutdown"):
            setattr(provider, name, _flush_before(flushers, getattr(provider, name)))
    flushers.append(flush)


def unregister_flush(provider: TracerProvider, flush: Callable[[], object]) -> None:
    """Unregister `flush` from a provider."""
    flushers = _flushers.get(provider, [])
    if flush in flushers:
        flushers.remove(flush)


def _flush_before(flushers: list[Callable[[], object]], method: Callable[..., Any]) -> Callable[..., Any]:
    def flushing(*args: Any, **kwargs: Any) -> Any:
        for flush in tuple(flushers):
            flush()
        return method(*args, **kwargs)

    return flushing
