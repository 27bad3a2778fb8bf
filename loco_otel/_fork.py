"""What a forked child renews: locks, connections, engines, measurements, budgets and threads of its parent.

A child inherits memory, not threads. A lock that a thread of the parent held would stay locked, and what the parent has
under way is not the child's to end. Each object that must be renewed is registered with `on_child`. The child renews
all objects of one phase before those of the next, in the order of `ForkPhase`.
"""

import mmap
import os
import threading
from contextlib import suppress
from enum import IntEnum
from types import TracebackType
from typing import Protocol
from weakref import WeakSet


class ForkPhase(IntEnum):
    """The order in which a forked child renews what it inherited."""

    LOCKS = 0
    """First: all that follows takes locks."""
    FILES = 1
    ENGINES = 2
    MEASUREMENTS = 3
    BUDGETS = 4
    """After files and engines, which budgets use."""
    THREADS = 5


class RenewedInChild(Protocol):
    """An object that a forked child renews."""

    def after_fork(self) -> None:
        """Renew the object in the child. Only one thread runs then."""


_registered: dict[ForkPhase, WeakSet[RenewedInChild]] = {phase: WeakSet() for phase in ForkPhase}


def on_child(renewed: RenewedInChild, phase: ForkPhase) -> None:
    """Call `renewed.after_fork()` in each forked child, as long as the object exists."""
    _registered[phase].add(renewed)


def discard(renewed: RenewedInChild) -> None:
    """Undo `on_child`. Idempotent."""
    for objects in _registered.values():
        objects.discard(renewed)


class ForkSafeLock:
    """A `threading.Lock` for `with`, a new one in each forked child. What it guards may be inconsistent there."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self.after_fork()
        on_child(self, ForkPhase.LOCKS)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def after_fork(self) -> None:
        """Replace the lock, held or not."""
        self._lock = threading.Lock()


_PID_BYTES = 8
_MAX_COUNTED = 1024
_child_pids: mmap.mmap | None = None
"""Shared with the children: each writes its process id there, at the index that the id has modulo the size."""


def count_children() -> int | None:
    """Return the number of forked children that run; None before the first fork.

    At most 1024 are counted, and of two children whose process ids differ by a multiple of 1024 one.
    """
    pids = _child_pids
    if pids is None:
        return None
    return sum(_is_running(int.from_bytes(pids[at : at + _PID_BYTES])) for at in range(0, len(pids), _PID_BYTES))


def _is_running(pid: int) -> bool:
    if pid == 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user by now
        return True
    return True


def _share_page() -> None:
    global _child_pids  # noqa: PLW0603 - one per process
    if _child_pids is None:
        with suppress(OSError):
            _child_pids = mmap.mmap(-1, _MAX_COUNTED * _PID_BYTES)


def _renew_in_child() -> None:
    global _child_pids
    pids, _child_pids = _child_pids, None
    if pids is not None:
        at = os.getpid() % _MAX_COUNTED * _PID_BYTES
        pids[at : at + _PID_BYTES] = os.getpid().to_bytes(_PID_BYTES)
    for phase in ForkPhase:
        for renewed in tuple(_registered[phase]):
            renewed.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_share_page, after_in_child=_renew_in_child)
