"""The file of a ledger: its tables, and transactions that either happen or do not."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loco_otel.errors import LedgerError

_APPLICATION = 0x10C0
_VERSION = 1
_SCHEMA = """
CREATE TABLE account (
    scope TEXT, key TEXT, unit TEXT, period TEXT, budget INTEGER NOT NULL, action TEXT NOT NULL,
    spent INTEGER NOT NULL, told INTEGER NOT NULL, resets_at REAL, since REAL,
    PRIMARY KEY (scope, key, unit, period)
) WITHOUT ROWID;
CREATE TABLE hold (
    id TEXT, scope TEXT, key TEXT, unit TEXT, period TEXT, amount INTEGER NOT NULL, expires_at REAL NOT NULL,
    PRIMARY KEY (scope, key, unit, period, id)
) WITHOUT ROWID;
CREATE INDEX hold_id ON hold (id);
CREATE TABLE settled (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE spend (
    day TEXT NOT NULL, agent TEXT, tenant TEXT, team TEXT, workflow TEXT, session TEXT, provider TEXT, model TEXT,
    calls INTEGER NOT NULL, usd INTEGER NOT NULL, weight INTEGER NOT NULL, unpriced INTEGER NOT NULL,
    estimated INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL
);
CREATE INDEX spend_key ON spend (day, agent, model);
"""

_forsaken: list[sqlite3.Connection] = []
"""Connections of a parent, in its forked child. SQLite forbids to use them there, and to close them too."""


class SqliteFile:
    """One SQLite file, through one connection that is opened when it is needed. For all threads, one at a time.

    Args:
        path: the file.
        patience: seconds to wait for other processes' transactions.
        read_only: the file must be there, and nothing is written.

    Raises:
        LedgerError: the file is no ledger, of another version, or can't be opened, or written.

    """

    def __init__(self, path: Path, patience: float, *, read_only: bool = False) -> None:
        self._path = path
        self._patience = patience
        self._read_only = read_only
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        if path.is_dir():
            raise LedgerError(f"the ledger {path} can't be used: it is a folder")
        try:
            with self.reading() if read_only else self.writing() as database:
                self._prepare(database)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run a body in a transaction that has the file's write lock from the start."""
        with self._transaction("BEGIN IMMEDIATE") as database:
            yield database

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Run a body in a transaction that sees the file as it stands at one moment."""
        with self._transaction("BEGIN") as database:
            yield database

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._lock:
            self._drop()

    def after_fork(self) -> None:
        """Let go of the parent's connection in the child."""
        self._lock = threading.Lock()
        if self._database is not None:
            _forsaken.append(self._database)
            self._database = None

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
        place = f"{self._path.absolute().as_uri()}?mode={'ro' if self._read_only else 'rwc'}"
        database = sqlite3.connect(
            place, timeout=self._patience, isolation_level=None, check_same_thread=False, uri=True
        )
        try:
            if not self._read_only:
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
        if not tables and not application and not self._read_only:
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
