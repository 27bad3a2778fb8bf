"""The wrappers around a method that decides whether a request is sent again, and pauses before it is.

The slot is given back between the decision and the pause. If the request is not sent again, the call fails with its
slot, as an only attempt does.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from loco_otel._core.ticket import Ticket
from loco_otel._runtime import faults
from loco_otel._waiting import ownership
from loco_otel.patching.adapter import Adapter
from loco_otel.patching.wrappers import Wrapper, resume_slot, resume_slot_async, suspend_slot

FindFailure: TypeAlias = Callable[[tuple[Any, ...], Mapping[str, Any]], BaseException | None]
"""Returns what an attempt failed with, from the arguments of the method; None if it did not fail."""

WatchDecision: TypeAlias = Callable[[Callable[..., Any], Any, Callable[[], None]], Callable[..., Any]]
"""`watch(wrapped, instance, on_retry)` returns a method to call in place of `wrapped`: it calls `on_retry` before its
pause."""


def wrap_decision(adapter: Adapter, find_failure: FindFailure, watch: WatchDecision) -> Wrapper:
    """Give the slot back for the pause of a sync method."""

    def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pause = _Pause(adapter)
        decision = pause.watch_decision(wrapped, instance, find_failure(args, kwargs), watch)(*args, **kwargs)
        if pause.suspended is not None:
            resume_slot(pause.suspended)
        return decision

    return wrapper


def wrap_async_decision(adapter: Adapter, find_failure: FindFailure, watch: WatchDecision) -> Wrapper:
    """Give the slot back for the pause of an async method."""

    async def wrapper(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pause = _Pause(adapter)
        decision = await pause.watch_decision(wrapped, instance, find_failure(args, kwargs), watch)(*args, **kwargs)
        if pause.suspended is not None:
            await resume_slot_async(pause.suspended)
        return decision

    return wrapper


class _Pause:
    """The pause before one retry, if there is one."""

    __slots__ = ("_adapter", "_failure", "suspended")

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._failure: BaseException | None = None
        self.suspended: Ticket | None = None
        """What gave its slot back for the pause."""

    def watch_decision(
        self, wrapped: Callable[..., Any], instance: Any, failure: BaseException | None, watch: WatchDecision
    ) -> Callable[..., Any]:
        """Return the method to call: the wrapped one if the attempt did not fail, or is none of our calls'."""
        if failure is None or ownership.current_ticket() is None:
            return wrapped
        self._failure = failure
        try:
            return watch(wrapped, instance, self._begin)
        except Exception:
            faults.log_fault("watching the decision on a retry")
            return wrapped

    def _begin(self) -> None:
        self.suspended = suspend_slot(self._adapter, None, self._failure)
