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
from loco_otel._budgets.sqlite_file import SqliteFile
from loco_otel._budgets.sqlite_records import (
    ACCOUNT_FILTER,
    HOLDS_OF_ACCOUNT,
    StoredAccount,
    add_to_sums,
    fetch_account,
    fetch_accounts,
    format_day,
    load_totals,
    make_account,
)
from loco_otel.money import (
    CALL_SCOPES,
    AccountKey,
    Action,
    Budget,
    BudgetStatus,
    Charge,
    Period,
    Scope,
    Totals,
    Unit,
)

_SETTLED_ID_SECONDS = 86_400
"""Seconds for which the ids of settled reservations are stored."""
_RUN_DAYS = timedelta(days=30)
"""Days for which what each run took is stored."""
_MAX_RUN_ROWS = 100_000
"""The rows of runs that are stored, the last ones."""
_REMOVED_PER_STEP = 1000
"""Accounts that are removed at once, as calls wait meanwhile."""


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
                    "INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?, NULL) ON CONFLICT DO UPDATE"
                    " SET budget = excluded.budget, action = excluded.action"
                    " WHERE budget <> excluded.budget OR action <> excluded.action",
                    [(*it.key, it.budget.limit, it.budget.action, it.resets_at) for it in accounts],
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
            add_to_sums(database, charge, now, counts_runs=self.counts_runs)
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

    def cancel_reservation(self, hold: str, now: float, *, sent: bool = False) -> None:
        """End a reservation without spending more than the call itself, if it was sent. No-op if it has ended."""
        with self._file.begin_write() as database:
            if sent:
                self._extend_runs(database, hold, now)
                self._spend_call(database, hold, now)
            database.execute("DELETE FROM hold WHERE id = ?", (hold,))

    def _spend_call(self, database: sqlite3.Connection, hold: str, now: float) -> None:
        """Spend one call in each budget of calls that a reservation is in, whether a rule still covers it or not."""
        rows = database.execute(
            "SELECT scope, key, unit, period, amount FROM hold WHERE id = ? AND unit = ?", (hold, Unit.CALLS)
        ).fetchall()
        for *names, amount in rows:
            stored = fetch_account(database, AccountKey(*names), now)
            assert stored is not None  # noqa: S101 - invariant: an account with reservations is stored
            account = make_account(stored, stored.key, stored.budget, now, self._zone)
            account.spend_call(amount, now)
            database.execute(
                # Of a run in total, `resets_at` is the end of its silence.
                "UPDATE account SET spent = ?, told = ?, resets_at = coalesce(?, resets_at), since = ?"  # noqa: S608
                f" WHERE {ACCOUNT_FILTER}",
                (account.spent, account.last_threshold, account.resets_at, account.since, *stored.key),
            )

    def _extend_runs(self, database: sqlite3.Connection, hold: str, now: float) -> None:
        """Note that the runs of a reservation are not silent, before it ends."""
        rows = database.execute(
            "SELECT scope, key, unit, period FROM hold WHERE id = ? AND scope = ? AND period = ?",
            (hold, Scope.RUN, Period.TOTAL),
        ).fetchall()
        for key in rows:
            database.execute(
                f"UPDATE account SET resets_at = ? WHERE {ACCOUNT_FILTER}",  # noqa: S608
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
            database.execute("DELETE FROM run_spend WHERE day < ?", (format_day(now - _RUN_DAYS.total_seconds()),))
            database.execute(
                "DELETE FROM run_spend WHERE rowid <= (SELECT max(rowid) FROM run_spend) - ?", (_MAX_RUN_ROWS,)
            )
        self._remove_past_accounts(now)

    def _remove_past_accounts(self, now: float) -> None:
        """Remove the accounts of default budgets whose period has passed: their names are without bound.

        Those of single runs and sessions are removed whether a rule covers them or not.
        """
        rules = self._rules
        is_past = f"resets_at <= ? AND NOT EXISTS (SELECT 1 {HOLDS_OF_ACCOUNT})"
        with self._file.begin_read() as database:
            rows = database.execute(f"SELECT scope, key, unit, period FROM account WHERE {is_past}", (now,)).fetchall()  # noqa: S608
        past = [AccountKey(Scope(scope), key, Unit(unit), Period(period)) for scope, key, unit, period in rows]
        covered = [(key, rules.find_budget(key)) for key in past]
        keys = [key for key, budget in covered if (key.scope in CALL_SCOPES if budget is None else budget.key is None)]
        for start in range(0, len(keys), _REMOVED_PER_STEP):
            with self._file.begin_write() as database:
                database.executemany(
                    f"DELETE FROM account WHERE {ACCOUNT_FILTER} AND {is_past}",  # noqa: S608
                    [(*key, now) for key in keys[start : start + _REMOVED_PER_STEP]],
                )

    def read_statuses(self, now: float, scopes: Collection[Scope] = tuple(Scope)) -> tuple[BudgetStatus, ...]:
        """Return the status of every account of some scopes; see `Ledger.read_statuses`."""
        rules, zone = self._rules, self._zone
        with self._file.begin_read() as database:
            rows = fetch_accounts(database, scopes, now)
        stored = {account.key: account for account in map(StoredAccount.parse, rows)}
        keys = [key for key in dict.fromkeys([*rules.named_budgets, *stored]) if key.scope in scopes]
        covered = [(key, rules.find_budget(key)) for key in keys]
        return tuple(
            [
                make_account(stored.get(key), key, budget, now, zone).make_status()
                for key, budget in covered
                if budget is not None
            ]
        )

    def compute_totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Return the totals of all settled calls.

        Raises:
            ValueError: `by` has a field that totals cannot be grouped by.

        """
        with self._file.begin_read() as database:
            return load_totals(database, by, None)

    def reset_account(self, key: AccountKey) -> None:
        """Set an account's spent amount to 0. Reserved amounts are kept."""
        with self._file.begin_write() as database:
            database.execute(f"UPDATE account SET spent = 0, told = 0, since = NULL WHERE {ACCOUNT_FILTER}", key)  # noqa: S608

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
            make_account(fetch_account(database, key, now), key, budget, now, self._zone)
            for key, budget in covered
            if budget is not None
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
            rows = fetch_accounts(database, tuple(Scope), now)
        return tuple(
            [
                make_account(stored, stored.key, stored.budget, now, self._zone).make_status()
                for stored in map(StoredAccount.parse, rows)
            ]
        )

    def compute_totals(self, by: Sequence[str], since: datetime | None = None) -> tuple[Totals, ...]:
        """Return the totals of all settled calls since a day in UTC.

        Raises:
            ValueError: `by` has a field that totals cannot be grouped by.

        """
        with self._file.begin_read() as database:
            return load_totals(database, by, None if since is None else since.date().isoformat())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _store_silence(database: sqlite3.Connection, accounts: Iterable[Account]) -> None:
    """Store until when the runs of these accounts may be silent."""
    database.executemany(
        f"UPDATE account SET resets_at = ? WHERE {ACCOUNT_FILTER}",  # noqa: S608
        [(account.resets_at, *account.key) for account in accounts if account.is_forgettable],
    )
