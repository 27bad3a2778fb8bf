"""Streams that are objects with `close`, as botocore's: a proxy that ends the call when the stream ends.

Those that are their own iterators, as LiteLLM's, have a proxy with the colours of the stream.

The proxy has the class and the attributes of the stream. The slot is given back when the stream is read out, closed,
broken off or dropped. A stream that is broken off or dropped is closed first: its SDK does not, and until then the
provider continues to generate.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias

import wrapt

from loco_otel.patching.adapter import UsageMeter
from loco_otel.patching.followed_call import FollowedCall
from loco_otel.patching.open_connection import Close, OpenConnection, close_async_quietly, close_in_loop, close_quietly
from loco_otel.patching.response_body import AsyncFollowedStream, ResponseBody, iterate_chunks

ChunkReader: TypeAlias = Callable[[Any, UsageMeter], None]
"""Reads a chunk into a meter."""


def follow_stream(call: FollowedCall, stream: Any, close: Close) -> Any:
    """Return what the program reads in place of a stream of either colour.

    Args:
        call: ends with the stream.
        stream: an iterable or an async iterable.
        close: closes its connection. It must not refer to the stream.

    """
    body = _open_body(call, close)
    return (_AsyncStreamProxy if hasattr(type(stream), "__aiter__") else _StreamProxy)(stream, body, close)


def follow_iterator(
    call: FollowedCall, stream: Any, close: Close, extend_reader: Callable[[ChunkReader], ChunkReader] | None = None
) -> Any:
    """Return what the program reads in place of a stream that is its own iterator, of one colour or of both.

    Args:
        call: ends with the stream.
        stream: an iterator, an async iterator, or both.
        close: closes its connection, if it is broken off or dropped. It must not refer to the stream.
        extend_reader: returns what reads each chunk in place of the adapter's reader.

    """
    body = _open_body(call, close)
    if extend_reader is not None and body.chunk_reader is not None:
        body.chunk_reader = extend_reader(body.chunk_reader)
    colours = (hasattr(type(stream), "__next__"), hasattr(type(stream), "__anext__"))
    return _ITERATOR_PROXIES[colours](stream, body, close)


def _open_body(call: FollowedCall, close: Close) -> ResponseBody:
    body = ResponseBody(call)
    body.mark_unread()
    call.claim_slot()
    close_with_body(body, close)
    return body


def close_with_body(body: ResponseBody, close: Close) -> None:
    """Close a stream's connection when its body is dropped: in the loop that runs here, if there is one.

    The stream may be in a reference cycle. The body is not, and each way to read the stream refers to it.
    """
    loop = asyncio._get_running_loop()
    body.set_connection(OpenConnection(close, loop))
    weakref.finalize(body, partial(close_in_loop, close, loop)).atexit = False


class _StreamProxy(wrapt.ObjectProxy):  # type: ignore[type-arg] # generic in wrapt 2 only
    """A sync stream."""

    def __init__(self, stream: Any, body: ResponseBody, close: Close) -> None:
        super().__init__(stream)
        self._self_body = body
        self._self_close = close

    def __iter__(self) -> Iterator[Any]:
        return iterate_chunks(_close_after_error(self.__wrapped__, self._self_close), self._self_body)

    def close(self) -> Any:
        """Close the stream, then end the call."""
        try:
            return self.__wrapped__.close()
        finally:
            self._self_body.handle_close(None)


class _AsyncStreamProxy(_StreamProxy):
    """An async stream."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return AsyncFollowedStream(AsyncClosedAfterError(aiter(self.__wrapped__), self._self_close), self._self_body)


_CLOSING_METHODS = {"close": "_self_end", "aclose": "_self_end_async"}
"""The methods that close a stream, and how they end the call."""


class _IteratorProxy(wrapt.ObjectProxy):  # type: ignore[type-arg] # generic in wrapt 2 only
    """A stream that is its own iterator. It has `close` and `aclose` where the stream has them."""

    def __init__(self, stream: Any, body: ResponseBody, close: Close) -> None:
        super().__init__(stream)
        self._self_body = body
        self._self_close = close
        self._self_chunks: Any = None
        """What reads the stream, from its first chunk on."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__wrapped__, name)
        return partial(getattr(self, _CLOSING_METHODS[name]), value) if name in _CLOSING_METHODS else value

    def __enter__(self) -> Any:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._self_end(partial(self.__wrapped__.__exit__, *error))

    async def __aenter__(self) -> Any:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> Any:
        return await self._self_end_async(partial(self.__wrapped__.__aexit__, *error))

    def _self_end(self, close: Callable[[], Any]) -> Any:
        """Close the stream and its connection, then end the call."""
        try:
            return close()
        finally:
            close_quietly(self._self_close)
            self._self_body.handle_close(None)

    async def _self_end_async(self, close: Callable[[], Any]) -> Any:
        """Close the stream and its connection, then end the call."""
        try:
            return await close()
        finally:
            await close_async_quietly(self._self_close)
            self._self_body.handle_close(None)


class _SyncIteratorProxy(_IteratorProxy):
    """A sync stream."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._self_chunks is None:
            self._self_chunks = iterate_chunks(_close_after_error(self.__wrapped__, self._self_close), self._self_body)
        return next(self._self_chunks)


class _AsyncIteratorProxy(_IteratorProxy):
    """An async stream."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._self_chunks is None:
            inner = AsyncClosedAfterError(aiter(self.__wrapped__), self._self_close)
            self._self_chunks = AsyncFollowedStream(inner, self._self_body)
        return await self._self_chunks.__anext__()


class _TwoColourProxy(_SyncIteratorProxy, _AsyncIteratorProxy):
    """A stream of both colours, of which the program reads one."""


_ITERATOR_PROXIES = {
    (True, False): _SyncIteratorProxy,
    (False, True): _AsyncIteratorProxy,
    (True, True): _TwoColourProxy,
}
"""By whether a stream is an iterator, and whether it is an async iterator."""


def _close_after_error(stream: Iterable[Any], close: Close) -> Iterator[Any]:
    """Yield what a stream does. One that is only left between two chunks can be read further."""
    try:
        yield from stream
    except GeneratorExit:
        raise
    except BaseException:
        close_quietly(close)
        raise


class AsyncClosedAfterError:
    """The iterator of an async stream, whose connection is closed before an error is raised, a cancellation too."""

    def __init__(self, inner: AsyncIterator[Any], close: Close) -> None:
        self._inner = inner
        self._close = close

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._inner.__anext__()
        except StopAsyncIteration:
            raise
        except GeneratorExit:
            close_quietly(self._close)  # the task was dropped: nothing can be awaited
            raise
        except BaseException:
            await close_async_quietly(self._close)
            raise
