"""Forks this process, and reports whether the child did what it was given."""

import os
import signal
import traceback
from collections.abc import Callable

_MAX_SECONDS = 180


def start_child(work: Callable[[], object]) -> int:
    """Fork, let the child work for a bounded time, and return its id. It exits with 1 where that raises."""
    child = os.fork()
    if not child:
        signal.alarm(_MAX_SECONDS)  # ends a child that hangs
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def went_well(child: int) -> bool:
    """Wait for a child, and return whether its work raised nothing."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def run_in_child(work: Callable[[], object]) -> bool:
    """Let a forked child work, and return whether that raised nothing."""
    return went_well(start_child(work))
