"""What is seen while the program runs: a table that moves on a terminal, now and then a line elsewhere."""

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from program import Standing
from receiver import Wait
from rich.console import Console
from rich.live import Live
from rich.table import Table

_BETWEEN_LINES = 2.0
"""Seconds, where there is no terminal."""
_WIDTH = 120
"""Columns, where there is no terminal."""


def open_console() -> Console:
    """Return a console that writes control codes to a terminal only, whatever the environment says."""
    capable = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return Console(force_terminal=capable, width=None if capable else _WIDTH, highlight=False)


class Screen:
    """Shows how things stand, for the length of a `with` body."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._started_at = self._line_at = time.monotonic()
        self._agents: set[str] = set()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, standing: Standing | None, waits: list[Wait]) -> None:
        """Show who holds, who waits, and how many calls are done, once there is anybody."""
        done = Counter(wait.agent for wait in waits if wait.spending)
        if standing is None or not (standing.active or done):
            return
        now = time.monotonic()
        if self._live is not None:
            self._live.update(self._table(standing, done, now - self._started_at), refresh=True)
        elif now >= self._line_at + _BETWEEN_LINES:
            self._line_at = now
            self._console.print(
                f"  {now - self._started_at:3.0f} s   holds: {_listed(standing.active)}"
                f"   waits: {_listed(standing.waiting)}   calls done: {done.total()}",
                soft_wrap=True,
            )

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._console.print(line, markup=False, soft_wrap=True)

    def _table(self, standing: Standing, done: Mapping[str, int], elapsed: float) -> Table:
        self._agents |= standing.active.keys() | standing.waiting.keys() | done.keys()
        held, queued = "#." if self._console.options.ascii_only else "■□"
        table = Table(title=f"{elapsed:.0f} s", title_justify="left", min_width=60)
        table.add_column("agent")
        table.add_column("holds", min_width=6)
        table.add_column("waits", min_width=12)
        table.add_column("calls done", justify="right")
        for agent in sorted(self._agents):
            table.add_row(
                agent,
                f"[green]{held * standing.active.get(agent, 0)}",
                f"[yellow]{queued * standing.waiting.get(agent, 0)}",
                str(done.get(agent, 0)),
            )
        return table


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{agent} {count}" for agent, count in sorted(counts.items())) or "nobody"
