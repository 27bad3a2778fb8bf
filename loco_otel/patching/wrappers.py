"""The wrappers around an SDK's request and its pause before a retry, once for each colour.

In short: describe, acquire, call, hand over. What goes wrong in our part is logged, and the call goes on; only a
decided rejection reaches the program.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Engine
from loco_otel._runtime import process
from loco_otel._waiting import aio, ownership, threads
from loco_otel.errors import LocoError
from loco_otel.patching import repatching
from loco_otel.patching.adapter import Adapter
from loco_otel.patching.call import Call
from loco_otel.patching.call_setup import find_below, let_in_again, prepare
from loco_otel.patching.response_body import hand_over
from loco_otel.patching.throttling import read_limits, read_pushback

Wrapper: TypeAlias = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""As wrapt calls it: the wrapped method, its instance, and the arguments."""


def request(adapter: Adapter) -> Wrapper:
    """Schedule a sync `request(cast_to, options, ...)`."""

    def wrapper(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = prepare(adapter, client, _options(args, kwargs), wrapped)
        if call is None or not _acquired(call):
            return wrapped(*args, **kwargs)
        args, kwargs = _asking(call, args, kwargs)
        call.enter()
        try:
            answer = wrapped(*args, **kwargs)
        except BaseException as error:
            _fail(call, error)
            raise
        finally:
            call.leave()
        _hand_over(call, answer)
        return answer

    return wrapper


def async_request(adapter: Adapter) -> Wrapper:
    """Schedule an async `request(cast_to, options, ...)`."""

    async def wrapper(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = prepare(adapter, client, _options(args, kwargs), wrapped)
        if call is None or not await _async_acquired(call):
            return await wrapped(*args, **kwargs)
        args, kwargs = _asking(call, args, kwargs)
        call.enter()
        try:
            answer = await wrapped(*args, **kwargs)
        except BaseException as error:
            _fail(call, error)
            raise
        finally:
            call.leave()
        _hand_over(call, answer)
        return answer

    return wrapper


def pause(adapter: Adapter) -> Wrapper:
    """Give the slot back for the length of a sync `_sleep_for_retry(*, response, ...)`."""

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        paused = _suspended(adapter, kwargs)
        wrapped(*args, **kwargs)
        if paused is not None:
            engine, ticket = paused
            try:
                engine.resume(ticket)
                if ticket.state is not State.GRANTED:
                    threads.decided(engine, ticket)
                let_in_again(ticket)
            except LocoError:
                raise
            except Exception:
                process.fault("queueing again after a pause")

    return wrapper


def async_pause(adapter: Adapter) -> Wrapper:
    """Give the slot back for the length of an async `_sleep_for_retry(*, response, ...)`."""

    async def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        paused = _suspended(adapter, kwargs)
        await wrapped(*args, **kwargs)
        if paused is not None:
            engine, ticket = paused
            try:
                engine.resume(ticket)
                if ticket.state is not State.GRANTED:
                    await aio.decided(engine, ticket)
                let_in_again(ticket)
            except LocoError:
                raise
            except Exception:
                process.fault("queueing again after a pause")

    return wrapper


def sending(adapter: Adapter) -> Wrapper:
    """See an attempt go out, in `_build_request(options, ...)`, which has one colour and is further down than others.

    Here the inference span of the SDK's own making, or of somebody who wraps below us, is the current one. And a call
    that got here without a slot went around our wrappers, so they are looked after.
    """

    def wrapper(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            ticket = ownership.covering()
            if ticket is None:
                if _is_call(adapter, client, args[0] if args else kwargs.get("options")):
                    repatching.look()
            elif ticket.request.settles:
                find_below(ticket)
        except Exception:
            process.log_fault("seeing an attempt go out")
        return wrapped(*args, **kwargs)

    return wrapper


def answered(_: Adapter) -> Wrapper:
    """See what the headers of an answer say is left, in `_process_response(*, response, ...)` of either colour.

    Nothing is read until a provider has pushed back.
    """

    def wrapper(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            runtime = process.peek()
            if runtime is not None and runtime.has_learnt:
                ticket = ownership.covering()
                if ticket is not None and ticket.request.settles:
                    limits = read_limits(kwargs["response"].headers)
                    if limits is not None:
                        runtime.engine.note_limits(ticket, limits)
        except Exception:
            process.log_fault("reading what a provider says is left")
        return wrapped(*args, **kwargs)

    return wrapper


def _is_call(adapter: Adapter, client: Any, options: Any) -> bool:
    try:
        return adapter.describe(client, options) is not None
    except Exception:  # which was logged, and counted, when the call was to be scheduled
        return False


def _options(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("options")


def _asking(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with what is sent instead of what the program asked for."""
    given = _options(args, kwargs)
    options = call.options(given)
    if options is given:
        return args, kwargs
    if len(args) > 1:
        return (args[0], options, *args[2:]), kwargs
    return args, {**kwargs, "options": options}


def _acquired(call: Call) -> bool:
    """Wait for the slot; False when it could not be had for a fault of ours."""
    try:
        call.submit()
        if call.ticket.state is not State.GRANTED:
            threads.decided(call.engine, call.ticket)
    except LocoError as error:
        call.fail(error)
        raise
    except Exception:
        call.fault("acquiring a slot")
        return False
    finally:
        call.wait_no_more()
    return True


async def _async_acquired(call: Call) -> bool:
    """Wait for the slot; False when it could not be had: for a fault of ours, or because this is not asyncio."""
    if not aio.supported():
        call.pass_by(aio.ELSEWHERE)
        return False
    try:
        call.submit()
        if call.ticket.state is not State.GRANTED:
            await aio.decided(call.engine, call.ticket)
    except LocoError as error:
        call.fail(error)
        raise
    except Exception:
        call.fault("acquiring a slot")
        return False
    finally:
        call.wait_no_more()
    return True


def _fail(call: Call, error: BaseException) -> None:
    try:
        call.fail(error)
    except Exception:
        process.log_fault("noting a failed call")


def _hand_over(call: Call, answer: Any) -> None:
    try:
        hand_over(call, answer)
    except Exception:
        process.log_fault("following an answer")
        call.give_up()


def _suspended(adapter: Adapter, kwargs: Mapping[str, Any]) -> tuple[Engine, Ticket] | None:
    """Give back the slot of the call under way here, if it is one of ours, and note why it failed."""
    ticket = ownership.covering()
    if ticket is None or not ticket.request.settles or ticket.state is not State.GRANTED:
        return None
    try:
        engine = process.current().engine
        # Where there was no response, the SDK pauses while it handles what it failed with.
        pushback = read_pushback(adapter, kwargs.get("response"), error=sys.exception())
        if pushback is not None:
            engine.throttle(ticket, *pushback)
        engine.suspend(ticket)
    except Exception:
        process.log_fault("giving a slot back for a pause")
        return None
    return engine, ticket
