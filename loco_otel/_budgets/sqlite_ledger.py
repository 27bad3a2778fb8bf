"""A ledger in a SQLite file: it survives a restart, and several processes of one host share their budgets.

Each operation is one transaction that first takes the file's write lock (`BEGIN IMMEDIATE`), so check and reserve are
atomic across processes. Reservations expire: those of a killed process end with their lease, and its settled costs
stay. The id of a settled reservation is stored for a day, so that settling it again after an error is a no-op.
"""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import chain
from pathlib import Path

from loco_otel._budgets.account import ADMITTED, Account, Decision, LedgerUpdate, decide_admission
from loco_otel._budgets.rules import Rules
from loco_otel._budgets.spend_totals import aggregate_rows
from loco_otel._budgets.sqlite_file import SqliteFile
from loco_otel.money import (
    ATTRIBUTION,
    RUN_ATTRIBUTION,
    AccountKey,
    Action,
    Budget,
    BudgetStatus,
    Charge,
    Period,
    Scope,
    Totals,
    Unit,
    ends,
)

_SUM_COLUMNS = ("calls", "usd", "weight", "unpriced", "estimated", "input_tokens", "output_tokens")
_ACCOUNT_FILTER = "scope = ? AND key = ? AND unit = ? AND period = ?"
_SETTLED_ID_SECONDS = 86_400
"""Seconds for which the ids of settled reservations are stored."""
_RUN_DAYS = timedelta(days=30)
"""Days for which what each run took is stored."""
_MAX_RUN_ROWS = 100_000
"""The rows of runs that are stored, the last ones."""


class SqliteLedger:
    """The accounts in a SQLite file. Safe for threads and processes; see `_budgets.ledger` for the operations.

    Args:
        path: the file, created if it is missing.
        budgets: the rules of this process.
        zone: the time zone at whose midnight a day ends.
        lease: seconds after which a reservation that was not renewed expires.
        run_idle_timeout: seconds of silence after which a run is forgotten.
        patience: seconds to wait for transactions of other processes.

    Raises:
        LedgerError: the file is not a ledger, has another version, or can't be opened or written. All operations raise
            it too if the file can't be used. No partial change is made.

    """

    is_remote = False

    def __init__(
        self,
        path: Path,
        budgets: Iterable[Budget] = (),
        zone: tzinfo = UTC,
        *,
        lease: float = 900.0,
        run_idle_timeout: float = 900.0,
        lock_timeout: float = 1.0,
    ) -> None:
        self.lease = lease
        self.run_idle_timeout = run_idle_timeout
        self.counts_runs = True
        self._file = SqliteFile(path, lock_timeout)
        self.set_budgets(budgets, zone)

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo) -> None:
        """Replace the rules. Accounts keep their spent and reserved amounts."""
        rules = Rules(budgets)
        with self._file.begin_write() as database:
            database.executemany(
                "INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, 0, 0, NULL, NULL) ON CONFLICT DO UPDATE"
                " SET budget = excluded.budget, action = excluded.action,"
                " told = CASE WHEN excluded.budget THEN min(told, spent * 100 / excluded.budget) ELSE told END",
                [(*key, budget.limit, budget.action) for key, budget in rules.named_budgets.items()],
            )
        self._rules, self._zone = rules, zone

    def reserve_estimate(
        self, hold: str, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,)
    ) -> Decision:
        """Reserve a call's estimate in all its budgets, or in none."""
        rules = self._rules  # read once, as `set_budgets` may replace it
        keys = rules.find_account_keys(charge)
        if not keys:
            return ADMITTED
        with self._file.begin_write() as database:
            if database.execute("SELECT 1 FROM hold WHERE id = ?", (hold,)).fetchone() is not None:
                return ADMITTED
            accounts = self._load_accounts(database, rules, keys, now)
            decision = decide_admission(accounts, charge, passing)
            if decision.admitted:
                # For `LedgerView`: the limits of default budgets are stored nowhere else.
                database.executemany(
                    "INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, 0, 0, NULL, NULL) ON CONFLICT DO UPDATE"
                    " SET budget = excluded.budget, action = excluded.action"
                    " WHERE budget <> excluded.budget OR action <> excluded.action",
                    [(*account.key, account.budget.limit, account.budget.action) for account in accounts],
                )
                expires = now + self.lease
                _store_silence(database, accounts)
                database.executemany(
                    "INSERT INTO hold VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(hold, *account.key, charge.amount(account.key.unit), expires) for account in accounts],
                )
            else:
                _store_silence(database, accounts)
        return decision

    def check_estimate(
        self,
        charge: Charge,
        now: float,
        passing: Collection[Action] = (Action.ALERT,),
        hold: str | None = None,  # noqa: ARG002
    ) -> Decision:
        """Return the decision of `reserve_estimate` as if nothing else were reserved, and reserve nothing."""
        rules = self._rules
        keys = rules.find_account_keys(charge)
        if not keys:
            return ADMITTED
        with self._file.begin_read() as database:
            accounts = self._load_accounts(database, rules, keys, now)
            decision = decide_admission(accounts, charge, passing, include_reserved=False)
        if not decision.admitted and any(account.is_forgettable for account in accounts):
            with self._file.begin_write() as database:
                _store_silence(database, accounts)
        return decision

    def settle_reservation(self, hold: str, charge: Charge, now: float) -> LedgerUpdate:
        """End a reservation and spend the call's actual cost."""
        rules = self._rules
        with self._file.begin_write() as database:
            if database.execute("INSERT OR IGNORE INTO settled VALUES (?, ?)", (hold, now)).rowcount == 0:
                return LedgerUpdate()
            self._extend_runs(database, hold, now)
            database.execute("DELETE FROM hold WHERE id = ?", (hold,))
            _add_to_sums(database, "spend", ATTRIBUTION, charge, now)
            if charge.run is not None and self.counts_runs:
                _add_to_sums(database, "run_spend", RUN_ATTRIBUTION, charge, now)
            accounts = self._load_accounts(database, rules, rules.find_account_keys(charge), now)
            reached = [account.spend_charge(charge, now) for account in accounts]
            database.executemany(
                "INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (*it.key, it.budget.limit, it.budget.action, it.spent, it.last_threshold, it.resets_at, it.since)
                    for it in accounts
                ],
            )
        return LedgerUpdate(
            tuple([account.make_status() for account in accounts]),
            tuple(chain.from_iterable(reached)),
        )

    def cancel_reservation(self, hold: str, *, sent: bool = False) -> None:
        """End a reservation without spending more than the call itself, if it was sent. No-op if it has ended."""
        with self._file.begin_write() as database:
            if sent:
                self._spend_call(database, hold)
            database.execute("DELETE FROM hold WHERE id = ?", (hold,))

    def _spend_call(self, database: sqlite3.Connection, hold: str) -> None:
        """Spend one call in each budget of calls that a reservation is in, whether a rule still covers it or not."""
        rows = database.execute(
            "SELECT scope, key, unit, period, budget, action, amount, expires_at FROM hold"
            " JOIN account USING (scope, key, unit, period) WHERE id = ? AND unit = ?",
            (hold, Unit.CALLS),
        ).fetchall()
        for *stated, amount, expires_at in rows:
            at = expires_at - self.lease  # when it was reserved or renewed last
            key, budget = _parse_budget(tuple(stated))
            account = _load_account(database, key, budget, at, self._zone)
            since = at if account.since is None else account.since
            database.execute(
                # Of a run in total, `resets_at` is the end of its silence, which a call without a cost keeps.
                f"UPDATE account SET spent = ?, told = ?, resets_at = coalesce(?, resets_at), since = ?"  # noqa: S608
                f" WHERE {_ACCOUNT_FILTER}",
                (account.spent + amount, account.last_threshold, account.resets_at, since, *key),
            )

    def _extend_runs(self, database: sqlite3.Connection, hold: str, now: float) -> None:
        """Note that the runs of a reservation are not silent, before it ends."""
        rows = database.execute(
            "SELECT scope, key, unit, period FROM hold WHERE id = ? AND scope = ? AND period = ?",
            (hold, Scope.RUN, Period.TOTAL),
        ).fetchall()
        for key in rows:
            database.execute(
                f"UPDATE account SET resets_at = ? WHERE {_ACCOUNT_FILTER}",  # noqa: S608
                (now + self.run_idle_timeout, *key),
            )

    def renew_reservations(self, holds: Iterable[str], now: float) -> None:
        """Extend the expiry of the reservations of calls in flight."""
        with self._file.begin_write() as database:
            database.executemany(
                "UPDATE hold SET expires_at = ? WHERE id = ?", [(now + self.lease, hold) for hold in holds]
            )
            database.execute("DELETE FROM hold WHERE expires_at <= ?", (now,))
            database.execute("DELETE FROM settled WHERE at <= ?", (now - _SETTLED_ID_SECONDS,))
            database.execute(
                "DELETE FROM account WHERE scope = ? AND (resets_at <= ? OR resets_at IS NULL) AND NOT EXISTS"
                " (SELECT 1 FROM hold WHERE hold.scope = account.scope AND hold.key = account.key"
                " AND hold.unit = account.unit AND hold.period = account.period)",
                (Scope.RUN, now),
            )
            database.execute("DELETE FROM run_spend WHERE day < ?", (_format_day(now - _RUN_DAYS.total_seconds()),))
            database.execute(
                "DELETE FROM run_spend WHERE rowid <= (SELECT max(rowid) FROM run_spend) - ?", (_MAX_RUN_ROWS,)
            )

    def read_statuses(self, now: float) -> tuple[BudgetStatus, ...]:
        """Return the status of every account. Accounts of named budgets exist before anything is spent."""
        rules = self._rules
        with self._file.begin_read() as database:
            found = _load_account_keys(database)
            keys = [key for key in dict.fromkeys([*rules.named_budgets, *found]) if rules.find_budget(key) is not None]
            return tuple([account.make_status() for account in self._load_accounts(database, rules, keys, now)])

    def compute_totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Return the totals of all settled calls.

        Raises:
            ValueError: `by` has a field that totals cannot be grouped by.

        """
        with self._file.begin_read() as database:
            return _load_totals(database, by, None)

    def reset_account(self, key: AccountKey) -> None:
        """Set an account's spent amount to 0. Reserved amounts are kept."""
        with self._file.begin_write() as database:
            database.execute(f"UPDATE account SET spent = 0, told = 0, since = NULL WHERE {_ACCOUNT_FILTER}", key)  # noqa: S608

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def after_fork(self) -> None:
        """Do nothing: the file renews its lock, and reservations are keyed by the ids of calls."""

    def _load_accounts(
        self, database: sqlite3.Connection, rules: Rules, keys: Iterable[AccountKey], now: float
    ) -> list[Account]:
        """Return the accounts of those keys that the rules cover."""
        covered = [(key, rules.find_budget(key)) for key in keys]
        accounts = [
            _load_account(database, key, budget, now, self._zone) for key, budget in covered if budget is not None
        ]
        for account in accounts:
            account.touch(now, self.run_idle_timeout)
        return accounts


class LedgerView:
    """A read-only view of a ledger's file, which must exist. It has no rules of its own.

    Args:
        path: the file.
        zone: the time zone at whose midnight a day ends.

    Raises:
        LedgerError: the file is missing, not a ledger, or can't be read. The operations raise it too.

    """

    def __init__(self, path: Path, zone: tzinfo = UTC) -> None:
        self._file = SqliteFile(path, 1.0, read_only=True)
        self._zone = zone

    def read_statuses(self, now: float) -> tuple[BudgetStatus, ...]:
        """Return the status of every account, with the limits that programs last stored."""
        with self._file.begin_read() as database:
            rows = database.execute(
                "SELECT scope, key, unit, period, budget, action FROM account ORDER BY scope, key, unit, period"
            ).fetchall()
            stated = [_parse_budget(row) for row in rows]
            return tuple(
                [_load_account(database, key, budget, now, self._zone).make_status() for key, budget in stated]
            )

    def compute_totals(self, by: Sequence[str], since: datetime | None = None) -> tuple[Totals, ...]:
        """Return the totals of all settled calls since a day in UTC.

        Raises:
            ValueError: `by` has a field that totals cannot be grouped by.

        """
        with self._file.begin_read() as database:
            return _load_totals(database, by, None if since is None else since.date().isoformat())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _load_account_keys(database: sqlite3.Connection) -> list[AccountKey]:
    rows = database.execute(
        "SELECT scope, key, unit, period FROM account UNION SELECT scope, key, unit, period FROM hold"
    )
    return [AccountKey(Scope(scope), key, Unit(unit), Period(period)) for scope, key, unit, period in rows]


def _parse_budget(row: tuple[str, str, str, str, int, str]) -> tuple[AccountKey, Budget]:
    """Return the key of a stored account, and the budget that a program last stated for it."""
    scope, name, unit, period, limit, action = row
    key = AccountKey(Scope(scope), name, Unit(unit), Period(period))
    return key, Budget(key.scope, name, limit, key.unit, key.period, Action(action))


def _load_account(database: sqlite3.Connection, key: AccountKey, budget: Budget, now: float, zone: tzinfo) -> Account:
    account = Account(key, budget, ends(key.period, now, zone))
    total = database.execute(f"SELECT sum(amount) FROM hold WHERE {_ACCOUNT_FILTER} AND expires_at > ?", (*key, now))  # noqa: S608
    account.reserved = total.fetchone()[0] or 0
    row = database.execute(f"SELECT spent, told, resets_at, since, budget FROM account WHERE {_ACCOUNT_FILTER}", key)  # noqa: S608
    spent, told, resets_at, since, limit = row.fetchone() or (0, 0, None, None, None)
    if since is not None:
        account.spent, account.last_threshold, account.resets_at, account.since = spent, told, resets_at, since
        if limit != budget.limit:
            account.apply_budget(budget)
        account.roll_period(now, zone)
    return account


def _store_silence(database: sqlite3.Connection, accounts: Iterable[Account]) -> None:
    """Store until when the runs of these accounts may be silent."""
    database.executemany(
        f"UPDATE account SET resets_at = ? WHERE {_ACCOUNT_FILTER}",  # noqa: S608
        [(account.resets_at, *account.key) for account in accounts if account.is_forgettable],
    )


def _format_day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _load_totals(database: sqlite3.Connection, by: Sequence[str], since: str | None) -> tuple[Totals, ...]:
    is_by_run = RUN_ATTRIBUTION[-1] in by
    table, names = ("run_spend", RUN_ATTRIBUTION) if is_by_run else ("spend", ATTRIBUTION)
    if is_by_run and not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
        return ()  # a file of an earlier loco-otel
    columns = ", ".join((*names, *_SUM_COLUMNS))
    rows = database.execute(f"SELECT {columns} FROM {table} WHERE day >= ?", (since or "",)).fetchall()  # noqa: S608
    width = len(names)
    return aggregate_rows(((row[:width], row[width:]) for row in rows), by)


def _add_to_sums(database: sqlite3.Connection, table: str, names: Sequence[str], charge: Charge, now: float) -> None:
    """Add a call to the sums of that day that have these attributes."""
    key = [_format_day(now), *(getattr(charge, name) for name in names)]
    unpriced = charge.usd is None or charge.underpriced
    sums = (1, charge.usd or 0, charge.weight, unpriced, charge.estimated, charge.input_tokens, charge.output_tokens)
    where = " AND ".join(f"{name} IS ?" for name in ("day", *names))
    added = ", ".join(f"{name} = {name} + ?" for name in _SUM_COLUMNS)
    if database.execute(f"UPDATE {table} SET {added} WHERE {where}", (*sums, *key)).rowcount == 0:  # noqa: S608
        values = ", ".join("?" * (len(key) + len(sums)))
        database.execute(f"INSERT INTO {table} VALUES ({values})", (*key, *sums))  # noqa: S608
