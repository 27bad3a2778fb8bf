"""Streams that are objects with `close`, as botocore's: a proxy that ends the call when the stream ends.

The proxy has the class and the attributes of the stream. The slot is given back when the stream is read out, closed,
broken off or dropped. A stream that is broken off or dropped is closed first: its SDK does not, and until then the
provider continues to generate.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import wrapt

from loco_otel.patching.followed_call import FollowedCall
from loco_otel.patching.response_body import AsyncFollowedStream, ResponseBody, iterate_chunks

Close: TypeAlias = Callable[[], object]
"""Closes a stream's connection. Idempotent."""


def follow_stream(call: FollowedCall, stream: Any, close: Close) -> Any:
    """Return what the program reads in place of a stream of either colour.

    Args:
        call: ends with the stream.
        stream: an iterable or an async iterable.
        close: closes its connection. It must not refer to the stream.

    """
    body = ResponseBody(call)
    body.mark_unread()
    call.claim_slot()
    # The stream may be in a reference cycle. The body is not, and each way to read the stream refers to it.
    loop = asyncio._get_running_loop()
    weakref.finalize(body, partial(_close_dropped_stream, loop, close)).atexit = False
    return (_AsyncStreamProxy if hasattr(type(stream), "__aiter__") else _StreamProxy)(stream, body, close)


def _close_dropped_stream(loop: asyncio.AbstractEventLoop | None, close: Close) -> None:
    """Close a connection in the loop that it belongs to: the garbage collector may run in any thread."""
    with suppress(Exception):
        if loop is None:
            close()
        else:
            loop.call_soon_threadsafe(_close_quietly, close)


def _close_quietly(close: Close) -> None:
    with suppress(Exception):
        close()


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
        return AsyncFollowedStream(_AsyncClosedAfterError(aiter(self.__wrapped__), self._self_close), self._self_body)


def _close_after_error(stream: Iterable[Any], close: Close) -> Iterator[Any]:
    """Yield what a stream does. One that is only left between two chunks can be read further."""
    try:
        yield from stream
    except GeneratorExit:
        raise
    except BaseException:
        _close_quietly(close)
        raise


class _AsyncClosedAfterError:
    """The iterator of an async stream."""

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
        except BaseException:
            _close_quietly(self._close)
            raise
