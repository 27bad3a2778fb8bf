"""The wrappers around an SDK's request and its pause before a retry, once for each colour.

In short: describe, acquire, call, hand over. What goes wrong in our part is logged, and the call goes on; only a
decided rejection reaches the program.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from opentelemetry import trace

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Engine
from loco_otel._runtime import faults, process
from loco_otel._waiting import aio, ownership, threads
from loco_otel.errors import LocoError, StoppedError
from loco_otel.patching import repatching
from loco_otel.patching.adapter import Adapter
from loco_otel.patching.arguments import STAINLESS_OPTIONS, Arguments, CallArguments, SingleArgument
from loco_otel.patching.call import Call
from loco_otel.patching.call_setup import record_retry_wait, set_wait_on_inner_span, start_call
from loco_otel.patching.dialects.rate_limit_headers import read_rate_limits
from loco_otel.patching.response_body import follow_answer
from loco_otel.patching.throttling import read_throttle_signal

Wrapper: TypeAlias = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""As wrapt calls it: the wrapped method, its instance, and the arguments."""

Follow: TypeAlias = Callable[[Call, Any], Any]
"""Ends a call with its answer; returns what the program reads in its place, None for the answer itself."""

_BUILD_OPTIONS = SingleArgument("options", 0)
"""The request of `_build_request(options, ...)`."""


def wrap_call(adapter: Adapter, arguments: Arguments = STAINLESS_OPTIONS, follow: Follow = follow_answer) -> Wrapper:
    """Schedule a sync method that makes a call."""

    def wrapper(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = arguments.read_request(args, kwargs)
        call = start_call(adapter, client, given, wrapped)
        if call is None or not acquire_slot(call):
            return wrapped(*args, **kwargs)
        args, kwargs = replace_request(call, arguments, given, args, kwargs)
        call.enter_sdk_call()
        try:
            answer = wrapped(*args, **kwargs)
        except BaseException as error:
            try_fail_call(call, error)
            raise
        finally:
            call.exit_sdk_call()
        return try_follow_answer(call, answer, follow)

    return wrapper


def wrap_async_call(
    adapter: Adapter, arguments: Arguments = STAINLESS_OPTIONS, follow: Follow = follow_answer
) -> Wrapper:
    """Schedule an async method that makes a call."""

    async def wrapper(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = arguments.read_request(args, kwargs)
        call = start_call(adapter, client, given, wrapped)
        if call is None or not await acquire_slot_async(call):
            return await wrapped(*args, **kwargs)
        args, kwargs = replace_request(call, arguments, given, args, kwargs)
        call.enter_sdk_call()
        try:
            answer = await wrapped(*args, **kwargs)
        except BaseException as error:
            try_fail_call(call, error)
            raise
        finally:
            call.exit_sdk_call()
        return try_follow_answer(call, answer, follow)

    return wrapper


def wrap_pause(adapter: Adapter) -> Wrapper:
    """Give the slot back for the length of a sync `_sleep_for_retry(*, response, ...)`."""

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ticket = suspend_slot(adapter, kwargs.get("response"), sys.exception())
        wrapped(*args, **kwargs)
        if ticket is not None:
            resume_slot(ticket)

    return wrapper


def wrap_async_pause(adapter: Adapter) -> Wrapper:
    """Give the slot back for the length of an async `_sleep_for_retry(*, response, ...)`."""

    async def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ticket = suspend_slot(adapter, kwargs.get("response"), sys.exception())
        await wrapped(*args, **kwargs)
        if ticket is not None:
            await resume_slot_async(ticket)

    return wrapper


def observe_attempt(adapter: Adapter, arguments: Arguments = _BUILD_OPTIONS) -> Wrapper:
    """See an attempt go out, in `_build_request`, which has one colour and is further down than others.

    Here the inference span of the SDK itself, or of an instrumentation below ours, is the current one. A call that
    arrives here without a slot has bypassed our wrappers, so they are reapplied.
    """

    def wrapper(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            ticket = ownership.current_ticket()
            if ticket is None:
                if _is_model_call(adapter, client, arguments.read_request(args, kwargs)):
                    repatching.reapply_all()
            elif ticket.request.settles:
                set_wait_on_inner_span(ticket)
        except Exception:
            faults.log_fault("seeing an attempt go out")
        return wrapped(*args, **kwargs)

    return wrapper


def observe_made_span(find_span: Callable[[Any], Any]) -> Wrapper:
    """Set the call's wait on an inference span that a method of the SDK makes, and leaves to be current later.

    Args:
        find_span: returns the span from what the method returned, or None.

    """

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        answer = wrapped(*args, **kwargs)
        try:
            ticket = ownership.current_ticket()
            span = find_span(answer)
            if span is not None and ticket is not None and ticket.request.settles:
                with trace.use_span(span):
                    set_wait_on_inner_span(ticket)
        except Exception:
            faults.log_fault("seeing a span begin")
        return answer

    return wrapper


def observe_response(_: Adapter) -> Wrapper:
    """Read from the headers of an answer what is left, in `_process_response(*, response, ...)` of either colour.

    Nothing is read until a provider has pushed back, unless metrics show it.
    """

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            runtime = process.get_existing_runtime()
            if runtime is not None and (runtime.has_learnt or runtime.has_metrics):
                ticket = ownership.current_ticket()
                if ticket is not None and ticket.request.settles:
                    limits = read_rate_limits(kwargs["response"].headers)
                    # The slot around a nested call is not of the provider's resource.
                    if limits is None or ticket.is_nested:
                        pass
                    elif runtime.has_learnt:
                        ticket.engine.record_rate_limits(ticket, limits)
                    else:
                        runtime.store_rate_limits(ticket, limits)
        except Exception:
            faults.log_fault("reading what a provider says is left")
        return wrapped(*args, **kwargs)

    return wrapper


def _is_model_call(adapter: Adapter, client: Any, options: Any) -> bool:
    try:
        return adapter.describe_call(client, options) is not None
    except Exception:  # which was logged, and counted, when the call was to be scheduled
        return False


def replace_request(
    call: Call, arguments: Arguments, given: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> CallArguments:
    """Return the arguments with what is sent instead of what the program asked for.

    Args:
        call: decides what is sent.
        arguments: how the request is read and written.
        given: the request that was read from the arguments.
        args: the arguments by position.
        kwargs: the arguments by name.

    """
    request = call.prepare_options(given)
    return (args, kwargs) if request is given else arguments.replace_request(request, args, kwargs)


def acquire_slot(call: Call) -> bool:
    """Wait for the slot; False when it could not be had for a fault of ours."""
    try:
        call.submit()
        if call.ticket.state is not State.GRANTED:
            threads.wait_until_decided(call.engine, call.ticket)
        call.raise_if_stopped()
    except LocoError as error:
        call.fail_call(error)
        raise
    except Exception:
        call.bypass_after_fault("acquiring a slot")
        return False
    finally:
        call.end_wait()
    return True


async def acquire_slot_async(call: Call) -> bool:
    """Wait for the slot; False when it could not be had: for a fault of ours, or because this is not asyncio."""
    if not aio.is_supported():
        call.bypass_unsupported(aio.UNSUPPORTED_LOOP)
        return False
    try:
        call.submit()
        if call.ticket.state is not State.GRANTED:
            await aio.wait_until_decided(call.engine, call.ticket)
        call.raise_if_stopped()
    except LocoError as error:
        call.fail_call(error)
        raise
    except Exception:
        call.bypass_after_fault("acquiring a slot")
        return False
    except BaseException:
        call.drop_reservation()
        raise
    finally:
        call.end_wait()
    return True


def try_fail_call(call: Call, error: BaseException) -> None:
    """Give the slot back after a call that brought no body; a fault of ours in that is logged."""
    try:
        call.fail_call(error)
    except Exception:
        faults.log_fault("noting a failed call")


def try_follow_answer(call: Call, answer: Any, follow: Follow) -> Any:
    """Return what the program reads: the answer, or what follows its body."""
    try:
        followed = follow(call, answer)
    except Exception:
        faults.log_fault("following an answer")
        call.cancel_after_fault()
        return answer
    return answer if followed is None else followed


def suspend_slot(adapter: Adapter, response: Any, error: BaseException | None) -> Ticket | None:
    """Suspend the slot of the call that runs here and record why it failed. Return its ticket; None if it is not ours.

    The ticket's own engine is used: the runtime may have been replaced since it was granted.

    Args:
        adapter: reads the refusal.
        response: the provider's response; None if there was none.
        error: the exception that the SDK handles while it pauses.

    """
    ticket = ownership.current_ticket()
    if ticket is None or not ticket.request.settles or ticket.state is not State.GRANTED:
        return None
    try:
        engine: Engine = ticket.engine
        signal = read_throttle_signal(adapter, response, error=error)
        if signal is not None:
            engine.record_throttling(ticket, *signal)
        engine.suspend_ticket(ticket)
    except Exception:
        faults.log_fault("giving a slot back for a pause")
        return None
    return ticket


def _raise_if_stopped(engine: Engine, ticket: Ticket) -> None:
    """Raise if the call was stopped during its pause or its wait; it then ends."""
    runtime = process.get_existing_runtime()
    if runtime is not None and runtime.governor.has_stops:
        try:
            runtime.governor.raise_if_stopped(ticket)
        except StoppedError:
            engine.cancel(ticket)
            raise


def _resubmit_ticket(engine: Engine, ticket: Ticket) -> None:
    """Request the slot of a suspended ticket, unless it is stopped."""
    _raise_if_stopped(engine, ticket)
    engine.resume_ticket(ticket)
    runtime = process.get_existing_runtime()
    if runtime is not None:
        runtime.governor.recheck_waiter(ticket)


def resume_slot(ticket: Ticket) -> None:
    """Wait for the slot of a call that was suspended.

    Raises:
        LocoError: the call was rejected.

    """
    try:
        engine: Engine = ticket.engine
        _resubmit_ticket(engine, ticket)
        if ticket.state is not State.GRANTED:
            threads.wait_until_decided(engine, ticket)
        _raise_if_stopped(engine, ticket)
        record_retry_wait(ticket)
    except LocoError:
        raise
    except Exception:
        process.record_fault("queueing again after a pause")


async def resume_slot_async(ticket: Ticket) -> None:
    """Wait for the slot of a call that was suspended.

    Raises:
        LocoError: the call was rejected.

    """
    try:
        engine: Engine = ticket.engine
        _resubmit_ticket(engine, ticket)
        if ticket.state is not State.GRANTED:
            await aio.wait_until_decided(engine, ticket)
        _raise_if_stopped(engine, ticket)
        record_retry_wait(ticket)
    except LocoError:
        raise
    except Exception:
        process.record_fault("queueing again after a pause")
