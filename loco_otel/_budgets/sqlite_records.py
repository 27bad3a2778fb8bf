"""Accounts and totals as a ledger's file stores them."""

import sqlite3
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple, Self

from loco_otel._budgets.account import Account
from loco_otel._budgets.spend_totals import MAX_KEYS, aggregate_rows, shorten_key
from loco_otel.money import (
    ATTRIBUTION,
    RUN_ATTRIBUTION,
    AccountKey,
    Action,
    Budget,
    Charge,
    Period,
    Scope,
    Totals,
    Unit,
    ends,
)

ACCOUNT_FILTER = "scope = ? AND key = ? AND unit = ? AND period = ?"
HOLDS_OF_ACCOUNT = (
    "FROM hold WHERE hold.scope = account.scope AND hold.key = account.key AND hold.unit = account.unit"
    " AND hold.period = account.period"
)
_ACCOUNT_QUERY = (
    "SELECT scope, key, unit, period, budget, action, spent, told, resets_at, since,"  # noqa: S608
    f" (SELECT coalesce(sum(amount), 0) {HOLDS_OF_ACCOUNT} AND expires_at > ?) FROM account WHERE "
)
_SUM_COLUMNS = ("calls", "usd", "weight", "unpriced", "estimated", "input_tokens", "output_tokens")

_RawAccount = tuple[str, str, str, str, int, str, int, int, float | None, float | None, int]


class StoredAccount(NamedTuple):
    """An account with the budget that a program stated last, and what is reserved."""

    key: AccountKey
    budget: Budget
    spent: int
    last_threshold: int
    resets_at: float | None
    since: float | None
    reserved: int

    @classmethod
    def parse(cls, row: _RawAccount) -> Self:
        """Return the account of a row."""
        scope, name, unit, period, limit, action, spent, told, resets_at, since, reserved = row
        key = AccountKey(Scope(scope), name, Unit(unit), Period(period))
        budget = Budget(key.scope, name, limit, key.unit, key.period, Action(action))
        return cls(key, budget, spent, told, resets_at, since, reserved)


def fetch_account(database: sqlite3.Connection, key: AccountKey, now: float) -> StoredAccount | None:
    """Return an account; None if it is not stored."""
    row = database.execute(_ACCOUNT_QUERY + ACCOUNT_FILTER, (now, *key)).fetchone()
    return None if row is None else StoredAccount.parse(row)


def fetch_accounts(database: sqlite3.Connection, scopes: Collection[Scope], now: float) -> list[_RawAccount]:
    """Return all accounts of some scopes, unparsed, as calls wait until the transaction ends."""
    where = f"scope IN ({', '.join('?' * len(scopes))}) ORDER BY scope, key, unit, period"
    return database.execute(_ACCOUNT_QUERY + where, (now, *scopes)).fetchall()


def make_account(stored: StoredAccount | None, key: AccountKey, budget: Budget, now: float, zone: tzinfo) -> Account:
    """Return an account under a budget, in the current period."""
    account = Account(key, budget, ends(key.period, now, zone))
    if stored is None:
        return account
    account.reserved = stored.reserved
    if stored.since is not None:
        account.spent, account.last_threshold = stored.spent, stored.last_threshold
        account.resets_at, account.since = stored.resets_at, stored.since
        if stored.budget.limit != budget.limit:
            account.apply_budget(budget)
        account.roll_period(now, zone)
    return account


def format_day(at: float) -> str:
    """Return the day in UTC of a time."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def load_totals(database: sqlite3.Connection, by: Sequence[str], since: str | None) -> tuple[Totals, ...]:
    """Return the totals of all settled calls since a day, grouped by fields.

    Raises:
        ValueError: `by` has a field that totals cannot be grouped by.

    """
    is_by_run = RUN_ATTRIBUTION[-1] in by
    table, names = ("run_spend", RUN_ATTRIBUTION) if is_by_run else ("spend", ATTRIBUTION)
    if is_by_run and not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
        return ()  # a file of an earlier loco-otel
    columns = ", ".join((*names, *_SUM_COLUMNS))
    rows = database.execute(f"SELECT {columns} FROM {table} WHERE day >= ?", (since or "",)).fetchall()  # noqa: S608
    width = len(names)
    return aggregate_rows(((row[:width], row[width:]) for row in rows), by)


def add_to_sums(database: sqlite3.Connection, charge: Charge, now: float, *, counts_runs: bool) -> None:
    """Add a call to the sums of the day, with `counts_runs` to those of its run too."""
    day = format_day(now)
    key = tuple([getattr(charge, name) for name in ATTRIBUTION])
    if not _add_to_row(database, "spend", (day, *key), charge):
        short = shorten_key(key, _estimate_rows(database, day))
        if short == key or not _add_to_row(database, "spend", (day, *short), charge):
            _insert_row(database, "spend", (day, *short), charge)
    if (
        charge.run is not None
        and counts_runs
        and not _add_to_row(database, "run_spend", (day, *key, charge.run), charge)
    ):
        _insert_row(database, "run_spend", (day, *key, charge.run), charge)


def _estimate_rows(database: sqlite3.Connection, day: str) -> int:
    """Return how many rows of the last day there are, in steps of `MAX_KEYS`, in constant time.

    Rows are added from day to day and never removed: a day has `MAX_KEYS` rows if the one that many back is of it.
    """
    (full,) = database.execute(
        "SELECT count(*) FROM spend WHERE +day = ? AND rowid IN (SELECT max(rowid) - ? FROM spend UNION ALL"
        " SELECT max(rowid) - ? FROM spend)",
        (day, MAX_KEYS - 1, 2 * MAX_KEYS - 1),
    ).fetchone()
    return MAX_KEYS * int(full)


def _add_to_row(database: sqlite3.Connection, table: str, key: Sequence[str | None], charge: Charge) -> bool:
    """Add a call to the sums with this key; return False if there are none."""
    where = " AND ".join(f"{name} IS ?" for name in ("day", *RUN_ATTRIBUTION)[: len(key)])
    added = ", ".join(f"{name} = {name} + ?" for name in _SUM_COLUMNS)
    sums = _make_sums(charge)
    return database.execute(f"UPDATE {table} SET {added} WHERE {where}", (*sums, *key)).rowcount > 0  # noqa: S608


def _insert_row(database: sqlite3.Connection, table: str, key: Sequence[str | None], charge: Charge) -> None:
    values = (*key, *_make_sums(charge))
    database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608


def _make_sums(charge: Charge) -> tuple[int, ...]:
    """Return what a call adds to `_SUM_COLUMNS`."""
    unpriced = charge.usd is None or charge.underpriced
    return 1, charge.usd or 0, charge.weight, unpriced, charge.estimated, charge.input_tokens, charge.output_tokens
