"""What the run came to, and whether that is what was promised."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from errors import DemoError
from receiver import Wait
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from server import Served, peak

_OK, _TOO_MANY_REQUESTS = 200, 429


class Result(NamedTuple):
    """What the program's telemetry says, and what the server saw."""

    capacity: int
    waits: Sequence[Wait]
    served: Sequence[Served]

    @property
    def peak(self) -> int:
        """The most calls that the server saw at once."""
        return peak(self.served)

    @property
    def refused(self) -> int:
        """How many calls the server refused."""
        return sum(request.status == _TOO_MANY_REQUESTS for request in self.served)


def check(result: Result) -> None:
    """Hold what the telemetry says against what the server saw.

    Raises:
        DemoError: they differ, or too many calls were under way at once, or one failed.

    """
    if result.peak > result.capacity:
        raise DemoError(f"the server saw {result.peak} calls at once, and at most {result.capacity} were allowed")
    answered = sum(request.status == _OK for request in result.served)
    failed = [request.status for request in result.served if request.status not in (_OK, _TOO_MANY_REQUESTS)]
    if failed:
        raise DemoError(f"{len(failed)} calls failed, with status {', '.join(map(str, sorted(set(failed))))}")
    settled = sum(wait.spending is not None for wait in result.waits)
    if not answered or settled != answered:
        raise DemoError(f"the server answered {answered} calls, and the spans tell of {settled}")
    refusals = sum(wait.refusals for wait in result.waits)
    if refusals != result.refused:
        raise DemoError(f"the server refused {result.refused} calls, and the spans tell of {refusals}")
    turned_away = [wait for wait in result.waits if wait.outcome not in (None, "granted")]
    if turned_away:
        raise DemoError(f"{len(turned_away)} calls got no slot: {turned_away[0].agent} {turned_away[0].outcome}")


def show(console: Console, result: Result) -> None:
    """Print a row for each agent, and what the server saw."""
    console.print("\n[bold]What each agent waited for and took[/], from the spans of this run:", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("agent", overflow="fold")
    for name in ("calls", "429s", "wait p50", "p95", "max", "tokens in", "out", "USD", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    total = _usd(result.waits)
    for agent in sorted({wait.agent for wait in result.waits}):
        waits = [wait for wait in result.waits if wait.agent == agent]
        table.add_row(agent, *_cells(waits), f"{_usd(waits) / total:.0%}" if total else "-")
    table.add_row("all", *_cells(result.waits), "", style="bold")
    console.print(table)
    notes = [
        "A wait is from asking for a slot to getting it. A call that was refused asks again, so it has two.",
        "USD: by published prices; the models only pretend.",
    ]
    if any(wait.spending and wait.spending.estimated for wait in result.waits):
        notes.append("~ Partly estimated: a stream that is broken off, or not asked for its usage, does not tell.")
    for note in notes:
        console.print(note, style="dim", soft_wrap=True)
    refused = f"{result.refused} calls were refused with 429; each gave up its slot, waited, and came through."
    console.print(
        f"\n[bold]The server saw at most {result.peak} calls at once[/]; LOCO_CAPACITY was {result.capacity}.\n"
        f"{refused if result.refused else 'No call was refused.'}",
        soft_wrap=True,
    )


def _cells(waits: Sequence[Wait]) -> list[str]:
    spent = [wait.spending for wait in waits if wait.spending is not None]
    seconds = sorted(wait.seconds for wait in waits if wait.seconds is not None)
    about = "~" if any(spending.estimated for spending in spent) else ""
    return [
        str(len(spent)),
        str(sum(wait.refusals for wait in waits)),
        f"{_percentile(seconds, 0.5):.2f} s",
        f"{_percentile(seconds, 0.95):.2f} s",
        f"{seconds[-1]:.2f} s",
        f"{about}{sum(spending.input_tokens for spending in spent)}",
        f"{about}{sum(spending.output_tokens for spending in spent)}",
        f"{_usd(waits):.4f}",
    ]


def _usd(waits: Sequence[Wait]) -> float:
    return sum(wait.spending.usd for wait in waits if wait.spending is not None)


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Return the least of the values that is not below `share` of them: always one that was measured."""
    return ordered[math.ceil(share * len(ordered)) - 1]
