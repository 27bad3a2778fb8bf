"""The wrappers around one attempt of a call, for SDKs whose pause between two attempts is no method of their own.

An attempt that failed gives the slot back, and the next one of the same call asks for it again.
"""

import sys
from collections.abc import Callable
from typing import Any

from loco_otel._core.ticket import State, Ticket
from loco_otel._runtime import faults
from loco_otel._waiting import ownership
from loco_otel.patching.adapter import Adapter
from loco_otel.patching.throttling import is_caller_gone
from loco_otel.patching.wrappers import Wrapper, resume_slot, resume_slot_async, suspend_slot


def wrap_attempt(adapter: Adapter) -> Wrapper:
    """Hold the slot for the length of a sync attempt, and of the body that it opens."""

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        resume_suspended_call()
        try:
            return wrapped(*args, **kwargs)
        except Exception as error:
            _suspend_after(adapter, error)
            raise

    return wrapper


def wrap_async_attempt(adapter: Adapter, prepare_answer: Callable[[Any], None] | None = None) -> Wrapper:
    """Hold the slot for the length of an async attempt, and of the body that it opens.

    Args:
        adapter: reads what the attempt failed with.
        prepare_answer: is given the answer before the SDK reads it; None for nothing.

    """

    async def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        await resume_suspended_call_async()
        try:
            answer = await wrapped(*args, **kwargs)
        except Exception as error:
            _suspend_after(adapter, error)
            raise
        try:
            if prepare_answer is not None:
                prepare_answer(answer)
        except Exception:
            faults.log_fault("preparing an answer")
        return answer

    return wrapper


def wrap_recursive_call(call: Wrapper) -> Wrapper:
    """Schedule a sync method that calls itself for the next attempt.

    Args:
        call: schedules the first attempt.

    """

    def wrapper(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        resume_suspended_call()
        return call(wrapped, client, args, kwargs)

    return wrapper


def wrap_async_recursive_call(call: Wrapper) -> Wrapper:
    """Do as `wrap_recursive_call`, for an async method."""

    async def wrapper(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        await resume_suspended_call_async()
        return await call(wrapped, client, args, kwargs)

    return wrapper


def resume_suspended_call() -> None:
    """Wait for the slot of the call under way here, if a failed attempt has given it back."""
    ticket = _get_suspended_ticket()
    if ticket is not None:
        resume_slot(ticket)


async def resume_suspended_call_async() -> None:
    """Wait for the slot of the call under way here, if a failed attempt has given it back."""
    ticket = _get_suspended_ticket()
    if ticket is not None:
        await resume_slot_async(ticket)


def _get_suspended_ticket() -> Ticket | None:
    ticket = ownership.current_ticket()
    return ticket if ticket is not None and ticket.state is State.SUSPENDED else None


def suspend_failed_call(adapter: Adapter) -> bool:
    """Give the slot of the call under way here back, for what is being handled; return False if there is no such call.

    For methods that a first attempt calls after it has failed, to try again.
    """
    error = sys.exception()
    if not isinstance(error, Exception) or is_caller_gone(error):
        return False
    return suspend_slot(adapter, None, error) is not None


def _suspend_after(adapter: Adapter, error: Exception) -> None:
    # A request that timed out is not sent again, and is charged as one in flight.
    if not is_caller_gone(error):
        suspend_slot(adapter, None, error)
