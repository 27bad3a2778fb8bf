"""The rows of `loco-otel ps --by run`: runs by workflow and priority, as metrics have no ids of runs."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from rich.console import Console

from loco_otel._introspection.tables import make_table

_COLUMNS = ("workflow", "priority", "active", "ended", "duration", "wait", "slowdown")
_DASH = "-"
_MEANS = {"duration": "loco_run_duration_seconds", "wait": "loco_run_wait_seconds", "slowdown": "loco_run_slowdown"}
"""Histograms by column."""


class Sample(Protocol):
    """One sample of a Prometheus page."""

    @property
    def name(self) -> str:
        """The metric's name, with the suffix of a histogram's part."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""

    @property
    def value(self) -> float:
        """Its value."""


class RunRow(NamedTuple):
    """The runs of one workflow and priority since the process started; means are None without an ended run."""

    workflow: str
    priority: str
    active: int
    ended: int
    duration: float | None
    """Seconds, the mean of the runs that ended; so are the next two."""
    wait: float | None
    slowdown: float | None


def build_run_rows(samples: Iterable[Sample]) -> list[RunRow]:
    """Return the rows of a page, the most active first."""
    values: dict[tuple[str, str], dict[str, float]] = {}
    for sample in samples:
        if sample.name.startswith(("loco_run_", "loco_runs_")) and "le" not in sample.labels:
            kind = sample.labels.get("gen_ai_workflow_name", _DASH), sample.labels.get("loco_priority", _DASH)
            values.setdefault(kind, {})[sample.name] = sample.value
    rows = [_build_row(kind, own) for kind, own in values.items()]
    return sorted(rows, key=lambda row: (-row.active, -row.ended, row.workflow, row.priority))


def print_runs(rows: Iterable[RunRow], out: Console) -> None:
    """Print a table of runs."""
    table = make_table(_COLUMNS, numeric_columns=_COLUMNS[2:])
    for row in rows:
        seconds = [_DASH if value is None else f"{value:.1f} s" for value in (row.duration, row.wait)]
        slowdown = _DASH if row.slowdown is None else f"{row.slowdown:.2f}"
        table.add_row(row.workflow, row.priority, str(row.active), str(row.ended), *seconds, slowdown)
    if table.row_count:
        out.print(table)
    else:
        out.print("no runs: no call there has belonged to one")


def _build_row(kind: tuple[str, str], values: Mapping[str, float]) -> RunRow:
    means = []
    for name in _MEANS.values():
        count = values.get(f"{name}_count", 0.0)
        means.append(values[f"{name}_sum"] / count if count else None)
    ended = values.get(f"{_MEANS['duration']}_count", 0.0)
    return RunRow(*kind, int(values.get("loco_runs_active", 0.0)), int(ended), *means)
