"""Functions under a lease: coroutines in place, sync functions in a thread, async generators step by step."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Self

from loco_otel import _fork
from loco_otel._waiting import ownership
from loco_otel.compat.lease import Lease


class _CallThreads:
    """The threads that run sync functions. They are started on demand and kept; slots limit their number."""

    def __init__(self) -> None:
        self.after_fork()
        _fork.on_child(self, _fork.ForkPhase.THREADS)

    def after_fork(self) -> None:
        """Replace the executor: the threads that it counts on exist only in the parent."""
        self.executor = ThreadPoolExecutor(1000, "loco_otel-call")


_call_threads = _CallThreads()


def is_async_generator(function: Callable[..., Any]) -> bool:
    """Return whether a function is an async generator function.

    Raises:
        TypeError: it is a sync generator function, whose body runs after the call and cannot await a slot.

    """
    if _has_flag(function, inspect.CO_GENERATOR):
        name = getattr(_unwrap_partial(function), "__qualname__", function)
        raise TypeError(f"{name} is a sync generator, which would run without its slot: make it an async generator")
    return _has_flag(function, inspect.CO_ASYNC_GENERATOR)


async def run_under_lease(
    lease: Lease,
    function: Callable[[], Any],
    *,
    is_async: bool = False,
    take_over: Callable[[Lease, Any], Any] | None = None,
) -> Any:
    """Call a function under a lease, and return its result.

    A sync function runs in a thread, which cannot be stopped: if its caller is cancelled, the function holds the slot
    until it ends.

    Args:
        lease: a lease that is not entered yet.
        function: takes no arguments.
        is_async: whether it returns an awaitable, though it is no coroutine function.
        take_over: called with the lease and the result. If the result still needs the slot, it returns what the
            program gets in its place, and ends the lease later; else None.

    """
    await lease.__aenter__()
    running: asyncio.Future[Any] | None = None
    try:
        if is_async or _is_coroutine_function(function):
            result = function()
        else:
            running = asyncio.get_running_loop().run_in_executor(_call_threads.executor, copy_context().run, function)
            result = await asyncio.shield(running)
        if inspect.isawaitable(result):
            result = await result
        taken = None if take_over is None else take_over(lease, result)
    except BaseException as error:
        lease.leave_scope()
        if running is None or running.done():
            lease.end_lease(error)
        else:
            running.add_done_callback(partial(_end_lease, lease, error))
        raise
    if taken is not None:
        lease.leave_scope()
        return taken
    if lease.end_lease():
        await lease.call_completed_hook(result)
    return result


class LeasedGenerator(AsyncIterator[Any]):
    """An async generator that acquires a lease with its first step, and holds it until it ends or is closed.

    Args:
        lease: a lease that is not entered yet.
        function: returns the generator.

    """

    def __init__(self, lease: Lease, function: Callable[[], Any]) -> None:
        self._lease = lease
        self._function = function
        self._generator: Any = None
        self._closed = False
        """Whether it was closed before its first step."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await self.asend(None)

    async def asend(self, value: Any) -> Any:
        """Resume the generator, and return its next value."""
        if self._closed:
            raise StopAsyncIteration
        if self._generator is None:
            generator = self._function()  # first: with wrong arguments it raises, and no slot is requested
            await self._lease.__aenter__()
            self._generator = generator
            # The code between two steps runs outside the slot, but must not wait for it, which would be a deadlock.
            self._lease.leave_scope()
            if self._lease.ticket is not None:
                ownership.add_claim(self._lease.ticket)
        return await self._advance_generator(self._generator.asend(value))

    async def athrow(self, error: BaseException) -> Any:
        """Raise an error in the generator, and return its next value."""
        if self._generator is None:
            self._closed = True
            raise error
        return await self._advance_generator(self._generator.athrow(error))

    async def aclose(self) -> None:
        """Close the generator, and release the slot."""
        if self._generator is None:
            self._closed = True
        else:
            try:
                await self._generator.aclose()
            finally:
                await self._end_lease(None)

    async def _advance_generator(self, step: Awaitable[Any]) -> Any:
        ticket = self._lease.ticket
        outer = None if ticket is None else ownership.enter_call(ticket)
        try:
            return await step
        except StopAsyncIteration:
            await self._end_lease(None)
            raise
        except BaseException as error:
            await self._end_lease(error)
            raise
        finally:
            if ticket is not None:
                ownership.exit_call(ticket, outer)

    async def _end_lease(self, error: BaseException | None) -> None:
        if self._lease.end_lease(error):
            await self._lease.call_completed_hook(None)


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    return _has_flag(function, inspect.CO_COROUTINE) or inspect.iscoroutinefunction(_unwrap_partial(function))


def _has_flag(function: Callable[..., Any], flag: int) -> bool:
    # The flags that `inspect` reads too, after checks that most functions do not need.
    function = _unwrap_partial(function)
    code = getattr(function, "__code__", None)
    if code is None:  # a callable object
        code = getattr(getattr(type(function), "__call__", None), "__code__", None)  # noqa: B004 - reads its code
    return code is not None and bool(code.co_flags & flag)


def _unwrap_partial(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, partial):
        function = function.func
    return function


def _end_lease(lease: Lease, error: BaseException, _: object) -> None:
    lease.end_lease(error)
