"""The wrappers around methods that return lazily: their request is sent when the first chunk is asked for."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

from loco_otel.patching.adapter import Adapter
from loco_otel.patching.arguments import Arguments
from loco_otel.patching.call_setup import start_call
from loco_otel.patching.iterator_body import follow_async_iterator, iterate_body
from loco_otel.patching.wrappers import Wrapper, acquire_slot, acquire_slot_async, replace_request, try_fail_call


def wrap_generator(adapter: Adapter, arguments: Arguments) -> Wrapper:
    """Schedule a sync method that returns a generator, or is one: the slot is acquired with the first chunk."""

    def wrapper(
        wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[Any]:
        given = arguments.read_request(args, kwargs)
        call = start_call(adapter, client, given, wrapped)
        if call is None or not acquire_slot(call):
            yield from wrapped(*args, **kwargs)
            return
        args, kwargs = replace_request(call, arguments, given, args, kwargs)
        inner = wrapped(*args, **kwargs)
        call.enter_sdk_call()
        # Attempts and pauses happen before the first chunk, and only there must they find the call's ticket.
        first = []
        try:
            with suppress(StopIteration):
                first.append(next(inner))
        except BaseException as error:
            try_fail_call(call, error)
            raise
        finally:
            call.exit_sdk_call()
        try:
            yield from iterate_body(call, chain(first, inner))
        except GeneratorExit:
            inner.close()  # the connection, before the slot
            call.abandon_call()
            raise

    return wrapper


def wrap_async_generator(adapter: Adapter, arguments: Arguments) -> Wrapper:
    """Schedule an async method that returns an async generator: the slot is acquired with the first chunk."""

    async def wrapper(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        async def open_iterator() -> AsyncIterator[Any]:
            given = arguments.read_request(args, kwargs)
            call = start_call(adapter, client, given, wrapped)
            if call is None or not await acquire_slot_async(call):
                return aiter(await wrapped(*args, **kwargs))
            sent_args, sent_kwargs = replace_request(call, arguments, given, args, kwargs)
            call.enter_sdk_call()
            first = []
            try:
                inner = await wrapped(*sent_args, **sent_kwargs)
                with suppress(StopAsyncIteration):
                    first.append(await anext(inner))
            except BaseException as error:
                try_fail_call(call, error)
                raise
            finally:
                call.exit_sdk_call()
            return follow_async_iterator(call, _AsyncChain(first, inner))

        return _LazyIterator(open_iterator)

    return wrapper


class _LazyIterator:
    """An async iterator that is opened when its first chunk is asked for."""

    def __init__(self, open_iterator: Callable[[], Awaitable[Any]]) -> None:
        self._open_iterator = open_iterator
        self._inner: Any = None
        self._is_closed = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._is_closed:
            raise StopAsyncIteration
        if self._inner is None:
            try:
                self._inner = await self._open_iterator()
            except BaseException:
                self._is_closed = True
                raise
        return await anext(self._inner)

    async def aclose(self) -> None:
        """Close what was opened."""
        self._is_closed = True
        if self._inner is not None:
            await self._inner.aclose()


class _AsyncChain:
    """The chunks that were read already, then those of an async generator."""

    def __init__(self, first: list[Any], inner: Any) -> None:
        self._first = first
        self._inner = inner

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return self._first.pop() if self._first else await anext(self._inner)

    async def aclose(self) -> None:
        """Close the generator."""
        await self._inner.aclose()
