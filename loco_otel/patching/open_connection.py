"""The connection of an open body, closed from outside: in the event loop that it belongs to, or in this thread."""

import asyncio
import inspect
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

Close: TypeAlias = Callable[[], object]
"""Closes a stream's connection. Idempotent. May return a coroutine that does so."""


class OpenConnection:
    """A connection that another thread or task may close.

    Args:
        close: closes it. It must not refer to the body.
        loop: the event loop that it belongs to; None if its body is read by threads.
        interrupt: ends a read that is under way in another thread; None if nothing can, or if there is a loop.
        is_shared: whether other calls read from it too. Then nothing ends a read that is under way.

    """

    __slots__ = ("_close", "_interrupt", "_is_shared", "_loop")

    def __init__(
        self,
        close: Close,
        loop: asyncio.AbstractEventLoop | None,
        interrupt: Callable[[], None] | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        self._close = close
        self._loop = loop
        self._interrupt = interrupt
        self._is_shared = is_shared

    def close(self, *, is_reading: bool) -> None:
        """Close it. A thread that is reading from it is only interrupted: it closes what it reads from. Never raises.

        Args:
            is_reading: whether a chunk is being read.

        """
        if is_reading and self._is_shared:
            return
        if self._loop is not None or not is_reading:
            close_in_loop(self._close, self._loop)
        elif self._interrupt is not None:
            with suppress(Exception):
                self._interrupt()


def open_response_connection(response: Any) -> OpenConnection:
    """Return the connection of a response of httpx, or of one that is like it."""
    weak = weakref.ref(response)
    loop = asyncio._get_running_loop()

    def close() -> object:
        found = weak()
        return None if found is None else found.close() if loop is None else found.aclose()

    def interrupt() -> None:
        found = weak()
        if found is not None:
            connection = found.extensions["network_stream"].get_extra_info("socket")
            # The base class's: that of TLS forgets its state, which the reading thread uses.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    # HTTP/2: the socket is that of other calls, and a task that reads a stream which is closed meanwhile waits forever.
    is_shared = getattr(response, "extensions", {}).get("http_version") == b"HTTP/2"
    return OpenConnection(close, loop, interrupt, is_shared=is_shared)


def close_in_loop(close: Close, loop: asyncio.AbstractEventLoop | None) -> None:
    """Close a connection in the loop that it belongs to, from any thread. Never raises."""
    with suppress(Exception):
        if loop is None:
            close_quietly(close)
        else:
            loop.call_soon_threadsafe(_start_closing, close)


def close_quietly(close: Close) -> None:
    """Close a connection where nothing can be awaited."""
    with suppress(Exception):
        closing = close()
        if inspect.iscoroutine(closing):
            closing.close()


def _start_closing(close: Close) -> None:
    """Close a connection in a callback of its loop."""
    task = asyncio.ensure_future(close_async_quietly(close))
    _closing_tasks.add(task)
    task.add_done_callback(_closing_tasks.discard)


_closing_tasks: set[asyncio.Future[None]] = set()
"""Keeps the tasks alive that close connections."""


async def close_async_quietly(close: Close) -> None:
    """Close a connection, and wait for it."""
    with suppress(Exception):
        closing = close()
        if inspect.isawaitable(closing):
            await closing
