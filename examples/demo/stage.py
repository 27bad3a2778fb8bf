"""How an act of the demo runs: its signals, its messages and its exit status."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from errors import DemoError, Stopped
from rich.console import Console
from screen import open_console

ROUND = 0.2
"""Seconds between two polls."""

_asked: list[int] = []
"""Signals that ask for an end. They are stored, and handled between two polls: an exception at any other moment could
leave a process that was just started."""


def perform(play: Callable[[Console], None]) -> int:
    """Run an act, and return its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: _asked.append(number))
    console = open_console()
    try:
        play(console)
    except DemoError as error:
        console.print(f"demo: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except Stopped as stop:
        console.print("demo: stopped", soft_wrap=True)
        return 128 + stop.signal
    return 0


def look_again() -> None:
    """Wait a moment.

    Raises:
        Stopped: somebody wants an end.

    """
    time.sleep(ROUND)
    if _asked:
        raise Stopped(_asked[0])


def shown(path: Path) -> str:
    """Return a path as the user would write it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative
