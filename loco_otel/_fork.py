"""Locks that a forked child finds open: whoever held one in the parent is not there to give it back."""

import os
import threading
from types import TracebackType
from weakref import WeakSet


class ForkSafeLock:
    """A `threading.Lock` for `with`, a new one in each forked child. What it guards may be half done there."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self.replace_lock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def replace_lock(self) -> None:
        """Be open, whoever holds it."""
        self._lock = threading.Lock()


_locks: WeakSet[ForkSafeLock] = WeakSet()


def _after_fork_in_child() -> None:
    for lock in tuple(_locks):
        lock.replace_lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
