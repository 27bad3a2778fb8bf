"""Reads and prints a ledger for `loco-otel budgets` and `loco-otel spend`."""

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from loco_otel._budgets.forecast import predict_exhaustion
from loco_otel._budgets.sqlite_ledger import LedgerView
from loco_otel._config.engine_rules import hide_password, is_server_url
from loco_otel._introspection.tables import make_table
from loco_otel.errors import LedgerError
from loco_otel.money import BudgetStatus, Totals, Unit

if TYPE_CHECKING:
    from loco_otel._budgets.redis.reader import RedisLedgerView

_DASH = "-"
_TIMEOUT = 5.0
"""Seconds to wait for an answer of a server."""
_AMOUNT_COLUMNS = ("limit", "spent", "reserved", "used", "left")
_BUDGET_COLUMNS = ("scope", "key", "period", *_AMOUNT_COLUMNS, "begins anew", "runs out")
_TOTALS_COLUMNS = ("calls", "USD", "weight", "input tokens", "output tokens", "unpriced", "estimated")


class LedgerPlace(NamedTuple):
    """The path of a ledger's file or the URL of its server, and the namespace there."""

    location: str
    namespace: str
    zone: tzinfo

    def open_view(self) -> "LedgerView | RedisLedgerView":
        """Open it for reading.

        Raises:
            LedgerError: the file is missing, or not a ledger; or the client library of the server is missing.

        """
        if not is_server_url(self.location):
            return LedgerView(Path(self.location).expanduser(), self.zone)
        # Only here, as the client library is slow to import, and optional.
        from loco_otel._budgets.redis.reader import RedisLedgerView  # noqa: PLC0415

        try:
            return RedisLedgerView(self.location, self.namespace, _TIMEOUT, self.zone)
        except ValueError as error:
            raise LedgerError(f"{hide_password(self.location)} is not the URL of a ledger: {error}") from error


def load_budgets(place: LedgerPlace, now: float) -> tuple[BudgetStatus, ...]:
    """Return the status of a ledger's budgets, with the limits that programs last stored.

    Raises:
        LedgerError: it can't be read.

    """
    view = place.open_view()
    try:
        return view.read_statuses(now)
    finally:
        view.close()


def load_spending(place: LedgerPlace, by: Sequence[str], since: datetime | None) -> tuple[Totals, ...]:
    """Return the totals of a ledger since a day.

    Raises:
        LedgerError: it can't be read.
        ValueError: `by` has a field that totals cannot be grouped by.

    """
    view = place.open_view()
    try:
        return view.compute_totals(by, since)
    finally:
        view.close()


def budget_as_json(it: BudgetStatus, now: float) -> dict[str, Any]:
    """Return a budget as JSON values: amounts in USD or weights, times in seconds since the epoch."""
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
        "used": _compute_used_share(it),
        "resets_at": it.resets_at,
        "runs_out_at": predict_exhaustion(it, now),
    }


def totals_as_json(it: Totals, by: Sequence[str]) -> dict[str, Any]:
    """Return totals as JSON values: amounts in USD and weights."""
    amounts = {"usd": Unit.USD.amount(it.usd), "weight": Unit.WEIGHT.amount(it.weight)}
    return {**dict(zip(by, it.by, strict=True)), **it._asdict(), **amounts, "by": list(by)}


def print_budgets(standings: Sequence[BudgetStatus], zone: tzinfo, now: float, out: Console) -> None:
    """Print a table of budgets."""
    if not standings:
        out.print("no budgets: no program that uses this ledger has stated any")
        return
    budgets = make_table(_BUDGET_COLUMNS, numeric_columns=_AMOUNT_COLUMNS)
    for it in standings:
        scope, key, unit, period = it.key
        limit, spent, reserved = (unit.tell(unit.amount(amount)) for amount in (it.limit, it.spent, it.reserved))
        left = unit.tell(unit.amount(it.limit - it.spent - it.reserved))
        ends = predict_exhaustion(it, now)
        budgets.add_row(
            scope,
            key,
            period,
            limit,
            spent,
            reserved,
            f"{_compute_used_share(it):.0%}",
            left,
            _DASH if it.resets_at is None else _format_time(it.resets_at, zone),
            _DASH if ends is None else "now" if ends <= now else f"in {_format_duration(ends - now)}",
        )
    out.print(budgets)


def print_spending(totals: Sequence[Totals], by: Sequence[str], out: Console) -> None:
    """Print a table of totals, and their sum."""
    spending = make_table((*by, *_TOTALS_COLUMNS), numeric_columns=_TOTALS_COLUMNS)
    for it in totals:
        spending.add_row(*(value or _DASH for value in it.by), *_format_totals(it))
    if len(totals) > 1 and by:
        everything = Totals(tuple("" for _ in by), *map(sum, zip(*(it[1:] for it in totals), strict=True)))
        spending.add_section()
        spending.add_row("all", *everything.by[1:], *_format_totals(everything), style="bold")
    out.print(spending)


def _format_totals(it: Totals) -> tuple[str, ...]:
    return (
        str(it.calls),
        Unit.USD.tell(Unit.USD.amount(it.usd)),
        f"{Unit.WEIGHT.amount(it.weight):g}",
        str(it.input_tokens),
        str(it.output_tokens),
        str(it.unpriced),
        str(it.estimated),
    )


def _compute_used_share(it: BudgetStatus) -> float:
    return (it.spent + it.reserved) / it.limit if it.limit else 1.0


def _format_time(at: float, zone: tzinfo) -> str:
    return datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M %Z")


def _format_duration(seconds: float) -> str:
    whole = timedelta(seconds=round(seconds))
    if whole.days:
        return f"{whole.days} d {whole.seconds // 3600} h"
    hours, minutes = divmod(whole.seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{whole.seconds} s"
