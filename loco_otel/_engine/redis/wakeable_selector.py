"""Waiting for sockets in one thread, which any other thread can end."""

import selectors
import socket
from contextlib import ExitStack, suppress
from typing import Any


class WakeableSelector:
    """Waits until a socket can be read, or `wake` is called.

    Raises:
        OSError: the process has no descriptor left.

    """

    def __init__(self) -> None:
        with ExitStack() as undo:
            self._woken, self._waker = map(undo.enter_context, socket.socketpair())
            self._woken.setblocking(False)
            self._waker.setblocking(False)
            self._selector = undo.enter_context(selectors.DefaultSelector())
            self._selector.register(self._woken, selectors.EVENT_READ)
            self._resources = undo.pop_all()

    def add_socket(self, added: socket.socket) -> None:
        """Wait for a socket too."""
        self._selector.register(added, selectors.EVENT_READ)

    def remove_socket(self, removed: socket.socket) -> None:
        """Wait for a socket no longer; no-op if it was not added, or was closed by a failed write."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(removed)

    def wait(self, seconds: float | None) -> set[Any]:
        """Return the sockets that can be read: none after `wake` or the time."""
        ready = {key.fileobj for key, _ in self._selector.select(seconds)}
        if self._woken in ready:
            self._woken.recv(4096)
            ready.remove(self._woken)
        return ready

    def wake(self) -> None:
        """End the wait of another thread, or its next one."""
        with suppress(OSError):  # it is full, so the thread wakes anyway; or it is closed
            self._waker.send(b"x")

    def close(self) -> None:
        """Close all but the sockets that were added."""
        self._resources.close()
