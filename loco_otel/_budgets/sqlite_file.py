"""The SQLite file of a ledger: its schema and its atomic transactions."""

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loco_otel import _fork
from loco_otel.errors import LedgerError

_APPLICATION_ID = 0x10C0
_SCHEMA_VERSION = 1
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
CREATE INDEX spend_key ON spend (day, agent, tenant, team, workflow, session, provider, model);
"""
# Not in version 1 at first. Processes that lack it use the rest of the file all the same.
_RUN_SCHEMA = """
CREATE TABLE IF NOT EXISTS run_spend (
    day TEXT NOT NULL, agent TEXT, tenant TEXT, team TEXT, workflow TEXT, session TEXT, provider TEXT, model TEXT,
    run TEXT NOT NULL, calls INTEGER NOT NULL, usd INTEGER NOT NULL, weight INTEGER NOT NULL,
    unpriced INTEGER NOT NULL, estimated INTEGER NOT NULL, input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS run_spend_key ON run_spend (run, day);
CREATE INDEX IF NOT EXISTS run_spend_day ON run_spend (day);
"""

_files: "weakref.WeakSet[SqliteFile]" = weakref.WeakSet()
_inherited_connections: list[sqlite3.Connection] = []
"""Connections of the parent of a forked child. SQLite forbids both using and closing them there."""


class SqliteFile:
    """A SQLite file with one connection, opened on demand. Thread-safe: one transaction runs at a time.

    Args:
        path: the file.
        patience: seconds to wait for transactions of other processes.
        read_only: require the file to exist, and write nothing.

    Raises:
        LedgerError: the file is not a ledger, has another version, or can't be opened or written.

    """

    def __init__(self, path: Path, patience: float, *, read_only: bool = False) -> None:
        self._path = path.absolute()  # the program may change its working directory
        self._lock_timeout = patience
        self._read_only = read_only
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        if path.is_dir():
            raise LedgerError(f"the ledger {path} can't be used: it is a folder")
        with self.begin_read() if read_only else self.begin_write():
            pass
        _files.add(self)
        _fork.on_child(self, _fork.ForkPhase.FILES)

    @contextmanager
    def begin_write(self) -> Iterator[sqlite3.Connection]:
        """Run a body in a transaction that holds the file's write lock from the start."""
        with self._run_transaction("BEGIN IMMEDIATE") as database:
            yield database

    @contextmanager
    def begin_read(self) -> Iterator[sqlite3.Connection]:
        """Run a body in a transaction that reads one consistent state of the file."""
        with self._run_transaction("BEGIN") as database:
            yield database

    def close(self) -> None:
        """Close the connection. It is reopened on demand."""
        with self._lock:
            self._close_connection()

    def before_fork(self) -> bool:
        """Close the connection and block transactions while the process forks; return False if one is in progress.

        SQLite shares its file locks among all connections of a process. A child that inherits them acts as the owner of
        its parent's locks, and its connections write to files that the parent deletes.
        """
        # For longer than any transaction waits. A fork from within this thread's own transaction is not delayed.
        if not self._lock.acquire(timeout=2 * self._lock_timeout + 1):
            return False
        self._close_connection()
        return True

    def after_fork_in_parent(self) -> None:
        """Release the lock taken by `before_fork`."""
        self._lock.release()

    def after_fork(self) -> None:
        """Replace the lock in the child, whatever `before_fork` returned. The connection is reopened on demand."""
        self._lock = threading.Lock()
        if self._connection is not None:
            _inherited_connections.append(self._connection)
            self._connection = None

    @contextmanager
    def _run_transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """Run a body in a transaction, which any exception rolls back.

        Raises:
            LedgerError: the file can't be used now.

        """
        with self._lock:
            try:
                database = self._connection or self._open_connection()
                database.execute(begin)
                try:
                    yield database
                    database.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        database.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as error:
                # A failed connection is not reused: the file may have been replaced.
                self._close_connection()
                raise LedgerError(f"the ledger {self._path} can't be used: {error}") from error
            finally:
                if self._read_only:
                    self._close_connection()  # it may be immutable, see `_open_connection`

    def _open_connection(self) -> sqlite3.Connection:
        place = f"{self._path.as_uri()}?mode={'ro' if self._read_only else 'rwc'}"
        if self._read_only and not self._path.with_name(f"{self._path.name}-wal").exists():
            # No process has the file open. A normal connection would create files beside it that belong to the reader,
            # which a writer of another user might not be able to write.
            place += "&immutable=1"
        database = sqlite3.connect(
            place, timeout=self._lock_timeout, isolation_level=None, check_same_thread=False, uri=True
        )
        try:
            if not self._read_only:
                # Readers do not wait for the writer, and committed data survives a crash of the process.
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = NORMAL")
                database.execute("BEGIN IMMEDIATE")
            # At each opening, as the file may have been removed since.
            self._ensure_schema(database)
            if not self._read_only:
                database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        self._connection = database
        return database

    def _close_connection(self) -> None:
        database, self._connection = self._connection, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def _ensure_schema(self, database: sqlite3.Connection) -> None:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables and not application and not self._read_only:
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        elif application != _APPLICATION_ID:
            raise LedgerError(f"{self._path} is a SQLite file of another program, not a ledger of loco-otel")
        elif version != _SCHEMA_VERSION:
            raise LedgerError(
                f"the ledger {self._path} is of version {version}; this loco-otel reads version {_SCHEMA_VERSION}"
            )
        if not self._read_only:
            for statement in _RUN_SCHEMA.split(";"):
                database.execute(statement)


_files_locked_for_fork: list[SqliteFile] = []


def _before_fork() -> None:
    _files_locked_for_fork.extend(file for file in tuple(_files) if file.before_fork())


def _after_fork_in_parent() -> None:
    while _files_locked_for_fork:
        _files_locked_for_fork.pop().after_fork_in_parent()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_files_locked_for_fork.clear
    )
