"""A ledger in a file: what was spent survives a restart, and several processes of one host share their budgets.

Each operation is one transaction that takes the file's write lock first (`BEGIN IMMEDIATE`), so check and reserve are
one step for all processes. A reservation has an expiry: that of a process that was killed is gone after the time of a
lease, and what was spent before is still there.
"""

import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from loco_otel._core.account import ADMITTED, Account, Decision, Settled, decide
from loco_otel._core.rules import Rules
from loco_otel._core.tally import added_up
from loco_otel.errors import LedgerError
from loco_otel.money import ATTRIBUTION, AccountKey, Action, Budget, Charge, Period, Scope, Standing, Totals, Unit, ends

_APPLICATION = 0x10C0
_VERSION = 1
_SCHEMA = """
CREATE TABLE account (
    scope TEXT, key TEXT, unit TEXT, period TEXT,
    spent INTEGER NOT NULL, told INTEGER NOT NULL, resets_at REAL, since REAL,
    PRIMARY KEY (scope, key, unit, period)
) WITHOUT ROWID;
CREATE TABLE hold (
    id TEXT, scope TEXT, key TEXT, unit TEXT, period TEXT, amount INTEGER NOT NULL, expires_at REAL NOT NULL,
    PRIMARY KEY (scope, key, unit, period, id)
) WITHOUT ROWID;
CREATE INDEX hold_id ON hold (id);
CREATE TABLE spend (
    day TEXT, agent TEXT, tenant TEXT, team TEXT, workflow TEXT, session TEXT, provider TEXT, model TEXT,
    calls INTEGER NOT NULL, usd INTEGER NOT NULL, weight INTEGER NOT NULL, unpriced INTEGER NOT NULL,
    estimated INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL
);
CREATE INDEX spend_key ON spend (day, agent, model);
"""
_SUMS = ("calls", "usd", "weight", "unpriced", "estimated", "input_tokens", "output_tokens")


class SqliteLedger:
    """The accounts in a SQLite file. For several threads and processes at once; see `Ledger` for the operations.

    Args:
        path: the file; made where there is none.
        budgets: the rules, which each process states itself.
        zone: whose midnight ends a day.
        lease: seconds after which a reservation that nobody renewed is gone.
        patience: seconds to wait for other processes' transactions.

    Raises:
        LedgerError: the file is no ledger, of another version, or can't be opened or written.

    """

    def __init__(
        self,
        path: Path,
        budgets: Iterable[Budget] = (),
        zone: tzinfo = UTC,
        *,
        lease: float = 900.0,
        patience: float = 1.0,
    ) -> None:
        self._path = path
        self._zone = zone
        self._rules = Rules(budgets)
        self._lease = lease
        self._patience = patience
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        with self._writing() as database:
            self._prepare(database)

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo) -> None:
        """Go on under other rules; the accounts keep what they have spent and reserved."""
        self._rules, self._zone = Rules(budgets), zone

    def reserve(self, hold: str, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,)) -> Decision:
        """Reserve a call's estimate from all its budgets, or from none.

        Raises:
            LedgerError: the file can't be used now.

        """
        keys = self._rules.keys(charge)
        if not keys:
            return ADMITTED
        with self._writing() as database:
            if database.execute("SELECT 1 FROM hold WHERE id = ?", (hold,)).fetchone() is not None:
                return ADMITTED
            accounts = [self._account(database, key, now) for key in keys]
            decision = decide(accounts, charge, passing)
            if decision.admitted:
                expires = now + self._lease
                database.executemany(
                    "INSERT INTO hold VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(hold, *account.key, charge.amount(account.key.unit), expires) for account in accounts],
                )
        return decision

    def judge(self, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,)) -> Decision:
        """Tell what `reserve` would say if nothing else were reserved, and reserve nothing.

        Raises:
            LedgerError: the file can't be used now.

        """
        keys = self._rules.keys(charge)
        if not keys:
            return ADMITTED
        with self._reading() as database:
            return decide([self._account(database, key, now) for key in keys], charge, passing, beside=False)

    def settle(self, hold: str, charge: Charge, now: float) -> Settled:
        """End a reservation, and spend what the call really took.

        Raises:
            LedgerError: the file can't be used now; nothing is lost of it then, but the reservation stays.

        """
        with self._writing() as database:
            database.execute("DELETE FROM hold WHERE id = ?", (hold,))
            _count(database, charge, now)
            accounts = [self._account(database, key, now) for key in self._rules.keys(charge)]
            reached = [account.spend(charge, now) for account in accounts]
            database.executemany(
                "INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(*it.key, it.spent, it.told, it.resets_at, it.since) for it in accounts],
            )
        return Settled(
            tuple([account.standing() for account in accounts]),
            tuple([threshold for threshold in reached if threshold is not None]),
        )

    def give_back(self, hold: str) -> None:
        """End a reservation of which nothing was spent; harmless when it has ended.

        Raises:
            LedgerError: the file can't be used now.

        """
        with self._writing() as database:
            database.execute("DELETE FROM hold WHERE id = ?", (hold,))

    def renew(self, holds: Iterable[str], now: float) -> None:
        """Note that calls still go on, so that their reservations do not expire.

        Raises:
            LedgerError: the file can't be used now.

        """
        with self._writing() as database:
            database.executemany(
                "UPDATE hold SET expires_at = ? WHERE id = ?", [(now + self._lease, hold) for hold in holds]
            )
            database.execute("DELETE FROM hold WHERE expires_at <= ?", (now,))

    def standings(self, now: float) -> tuple[Standing, ...]:
        """Tell how each account stands; those of named budgets are there before anything is spent.

        Raises:
            LedgerError: the file can't be used now.

        """
        with self._reading() as database:
            rows = database.execute(
                "SELECT scope, key, unit, period FROM account UNION SELECT scope, key, unit, period FROM hold"
            )
            found = [AccountKey(Scope(scope), key, Unit(unit), Period(period)) for scope, key, unit, period in rows]
            keys = dict.fromkeys([*self._rules.named, *found])
            return tuple(
                [self._account(database, key, now).standing() for key in keys if self._rules.budget(key) is not None]
            )

    def totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Tell what all settled calls took.

        Raises:
            LedgerError: the file can't be used now.
            ValueError: `by` has a field that is none to tell them by.

        """
        with self._reading() as database:
            rows = database.execute(f"SELECT {', '.join((*ATTRIBUTION, *_SUMS))} FROM spend").fetchall()  # noqa: S608
        width = len(ATTRIBUTION)
        return added_up(((row[:width], row[width:]) for row in rows), by)

    def reset(self, key: AccountKey) -> None:
        """Set what an account has spent to nothing; what is reserved stays reserved.

        Raises:
            LedgerError: the file can't be used now.

        """
        with self._writing() as database:
            database.execute(
                "UPDATE account SET spent = 0, told = 0, since = NULL"
                " WHERE scope = ? AND key = ? AND unit = ? AND period = ?",
                key,
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._drop()

    def after_fork(self) -> None:
        """Let go of the parent's connection in the child: SQLite's locks are not inherited."""
        self._lock = threading.Lock()
        self._database = None

    # -- the file -------------------------------------------------------------------------------------------------

    def _account(self, database: sqlite3.Connection, key: AccountKey, now: float) -> Account:
        budget = self._rules.budget(key)
        assert budget is not None  # noqa: S101 - invariant: asked only for what a rule covers
        account = Account(key, budget, ends(key.period, now, self._zone))
        where = "WHERE scope = ? AND key = ? AND unit = ? AND period = ?"
        row = database.execute(f"SELECT spent, told, resets_at, since FROM account {where}", key).fetchone()  # noqa: S608 - a constant
        if row is not None:
            account.spent, account.told, account.resets_at, account.since = row
            account.roll(now, self._zone)
        total = database.execute(f"SELECT sum(amount) FROM hold {where} AND expires_at > ?", (*key, now))  # noqa: S608
        account.reserved = total.fetchone()[0] or 0
        return account

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._transaction("BEGIN IMMEDIATE") as database:
            yield database

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._transaction("BEGIN") as database:
            yield database

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """Run a body in a transaction of its own; whatever breaks it off undoes it.

        Raises:
            LedgerError: the file can't be used now.

        """
        with self._lock:
            try:
                database = self._database or self._open()
                database.execute(begin)
                try:
                    yield database
                    database.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        database.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as error:
                # A connection that failed once is not trusted again: the file may have been replaced.
                self._drop()
                raise LedgerError(f"the ledger {self._path} can't be used: {error}") from error

    def _open(self) -> sqlite3.Connection:
        # One connection for all threads, one at a time: the lock is around each transaction.
        database = sqlite3.connect(
            self._path, timeout=self._patience, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            # Readers do not wait for the writer; what was committed survives the process, whatever becomes of it.
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            database.close()
            raise
        self._database = database
        return database

    def _drop(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def _prepare(self, database: sqlite3.Connection) -> None:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables and not application:
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {_VERSION}")
        elif application != _APPLICATION:
            raise LedgerError(f"{self._path} is a SQLite file of another program, not a ledger of loco-otel")
        elif version != _VERSION:
            raise LedgerError(
                f"the ledger {self._path} is of version {version}; this loco-otel reads version {_VERSION}"
            )


def _count(database: sqlite3.Connection, charge: Charge, now: float) -> None:
    """Add a call to what its caller spent that day."""
    day = datetime.fromtimestamp(now, UTC).date().isoformat()
    key = [day, *(getattr(charge, name) for name in ATTRIBUTION)]
    unpriced = charge.usd is None
    sums = (1, charge.usd or 0, charge.weight, unpriced, charge.estimated, charge.input_tokens, charge.output_tokens)
    where = " AND ".join(f"{name} IS ?" for name in ("day", *ATTRIBUTION))
    added = ", ".join(f"{name} = {name} + ?" for name in _SUMS)
    if database.execute(f"UPDATE spend SET {added} WHERE {where}", (*sums, *key)).rowcount == 0:  # noqa: S608
        database.execute(f"INSERT INTO spend VALUES ({', '.join('?' * (len(key) + len(sums)))})", (*key, *sums))  # noqa: S608
