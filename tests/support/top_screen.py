"""`loco-otel top` under Textual's pilot: what is on its screen."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from patience import PATIENCE
from rich.console import Console
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from loco_otel.cli.top.app import TopApp

Row = dict[str, str]


class TopScreen:
    """The application in a terminal of 160 columns."""

    def __init__(self, app: TopApp, pilot: Pilot[None]) -> None:
        self._app = app
        self.pilot = pilot

    @property
    def title(self) -> str:
        return self._app.sub_title

    def agents(self) -> list[Row]:
        """Return the rows of the table of agents, cells by title."""
        table = self._app.query_one("#agents", DataTable)
        titles = [str(column.label) for column in table.columns.values()]
        return [dict(zip(titles, map(str, table.get_row_at(number)), strict=True)) for number in range(table.row_count)]

    def text(self, name: str) -> str:
        """Return what a part of the screen shows; nothing if it is hidden."""
        widget = self._app.query_one(f"#{name}", Static)
        if not widget.display:
            return ""
        console = Console(width=160, color_system=None, force_terminal=False)
        with console.capture() as capture:
            console.print(widget.visual if isinstance(widget.content, str) else widget.content)
        return capture.get()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until the screen shows something."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, (self.title, self.agents(), self.text("endpoints"), self.text("notice"))
            await self.pilot.pause(0.02)


def watch_top(urls: list[str], script: Callable[[TopScreen], Awaitable[None]], timeout: float = 60.0) -> None:
    """Run the application on pages, and a script on its screen."""

    async def run() -> None:
        app = TopApp(urls, interval=0.1, timeout=timeout)
        test: AbstractAsyncContextManager[Pilot[None]] = app.run_test(size=(160, 40))
        async with test as pilot:
            await script(TopScreen(app, pilot))

    asyncio.run(run())
