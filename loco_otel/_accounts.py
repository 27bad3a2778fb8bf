"""What `loco-otel budgets` and `loco-otel spend` read from a ledger's file, and how they show it."""

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loco_otel._money.forecast import runs_out_at
from loco_otel._money.sqlite_ledger import LedgerView
from loco_otel.money import Standing, Totals, Unit

_DASH = "-"


def budgets_of(path: Path, zone: tzinfo, now: float) -> tuple[Standing, ...]:
    """Return how the budgets of a ledger stand, by the limits that programs last stated.

    Raises:
        LedgerError: the file is not there, no ledger, or can't be read.

    """
    view = LedgerView(path, zone)
    try:
        return view.standings(now)
    finally:
        view.close()


def spending_of(path: Path, by: Sequence[str], since: datetime | None) -> tuple[Totals, ...]:
    """Return what calls took by the ledger, from a day on.

    Raises:
        LedgerError: the file is not there, no ledger, or can't be read.
        ValueError: `by` has a field that is none to tell them by.

    """
    view = LedgerView(path)
    try:
        return view.totals(by, since)
    finally:
        view.close()


def budget_as_json(it: Standing, now: float) -> dict[str, Any]:
    """Return a budget for programs: amounts in USD or weights, times in seconds since the epoch."""
    scope, key, unit, period = it.key
    return {
        "scope": scope,
        "key": key,
        "unit": unit,
        "period": period,
        "on_exceeded": it.action,
        "limit": unit.amount(it.limit),
        "spent": unit.amount(it.spent),
        "reserved": unit.amount(it.reserved),
        "left": unit.amount(it.limit - it.spent - it.reserved),
        "used": _used(it),
        "resets_at": it.resets_at,
        "runs_out_at": runs_out_at(it, now),
    }


def totals_as_json(it: Totals, by: Sequence[str]) -> dict[str, Any]:
    """Return totals for programs: amounts in USD and weights."""
    amounts = {"usd": Unit.USD.amount(it.usd), "weight": Unit.WEIGHT.amount(it.weight)}
    return {**dict(zip(by, it.by, strict=True)), **it._asdict(), **amounts, "by": list(by)}


def show_budgets(standings: Sequence[Standing], zone: tzinfo, now: float, console: Console) -> None:
    """Print a table of budgets."""
    if not standings:
        console.print("no budgets: no program that uses this ledger has stated any")
        return
    table = _table(left=("scope", "key", "period"), right=("limit", "spent", "reserved", "used", "left"))
    for name in ("begins anew", "runs out"):
        table.add_column(name)
    for it in standings:
        scope, key, unit, period = it.key
        limit, spent, reserved = (unit.tell(unit.amount(amount)) for amount in (it.limit, it.spent, it.reserved))
        left = unit.tell(unit.amount(it.limit - it.spent - it.reserved))
        out = runs_out_at(it, now)
        table.add_row(
            scope,
            key,
            period,
            limit,
            spent,
            reserved,
            f"{_used(it):.0%}",
            left,
            _DASH if it.resets_at is None else _moment(it.resets_at, zone),
            _DASH if out is None else "now" if out <= now else f"in {_span(out - now)}",
        )
    console.print(table)


def show_spending(totals: Sequence[Totals], by: Sequence[str], console: Console) -> None:
    """Print a table of what calls took, and their sum."""
    table = _table(left=by, right=("calls", "USD", "weight", "input tokens", "output tokens", "unpriced", "estimated"))
    for it in totals:
        table.add_row(*(value or _DASH for value in it.by), *_cells(it))
    if len(totals) > 1 and by:
        everything = Totals(tuple("" for _ in by), *map(sum, zip(*(it[1:] for it in totals), strict=True)))
        table.add_section()
        table.add_row("all", *everything.by[1:], *_cells(everything), style="bold")
    console.print(table)


def _cells(it: Totals) -> tuple[str, ...]:
    return (
        str(it.calls),
        Unit.USD.tell(Unit.USD.amount(it.usd)),
        f"{Unit.WEIGHT.amount(it.weight):g}",
        str(it.input_tokens),
        str(it.output_tokens),
        str(it.unpriced),
        str(it.estimated),
    )


def _table(left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _used(it: Standing) -> float:
    return (it.spent + it.reserved) / it.limit if it.limit else 1.0


def _moment(at: float, zone: tzinfo) -> str:
    return datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M %Z")


def _span(seconds: float) -> str:
    whole = timedelta(seconds=round(seconds))
    if whole.days:
        return f"{whole.days} d {whole.seconds // 3600} h"
    hours, minutes = divmod(whole.seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{whole.seconds} s"
