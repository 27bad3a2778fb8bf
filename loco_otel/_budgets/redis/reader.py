"""Reads a ledger on a server, and changes nothing."""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, tzinfo

from loco_otel._budgets.redis.records import AccountRecord, make_status, parse_account, parse_hold, parse_row
from loco_otel._budgets.redis.script import make_ledger_key
from loco_otel._budgets.spend_totals import aggregate_rows
from loco_otel._config.engine_rules import EngineAddress, hide_password
from loco_otel._engine.redis.client import Client
from loco_otel.errors import LedgerError
from loco_otel.money import RUN_ATTRIBUTION, Budget, BudgetStatus, Totals

_PAGE = 1000


class LedgerReader:
    """A connection of its own to a ledger, opened on demand. Thread-safe.

    Args:
        url: of the server.
        namespace: whose ledger is read.
        timeout: seconds to wait for each answer.

    """

    def __init__(self, url: str, namespace: str, timeout: float) -> None:
        self._client = Client(EngineAddress.parse(url), timeout)
        self._name = hide_password(url)
        self._key = make_ledger_key(namespace)

    @property
    def _lock(self) -> threading.Lock:
        # Made with its first use, as it is held while the server answers: gevent may patch after this reader was made,
        # and a greenlet that blocks in a lock of before stops all others.
        lock: threading.Lock = self.__dict__.setdefault("_first_lock", threading.Lock())
        return lock

    def read_accounts(self) -> tuple[float, dict[str, AccountRecord]]:
        """Return the server's time, and all accounts by name, without what dead processes have reserved.

        Raises:
            LedgerError: the server cannot be used now.

        """
        with self._lock:
            try:
                now = self._read_time()
                found = {name: parse_account(name, record) for name, record in self._scan("accounts")}
                for dead in self._client.call("ZRANGEBYSCORE", f"{self._key}:processes", "-inf", f"{now:.6f}"):
                    for _, hold in self._scan(f"holds:{dead}"):
                        self._subtract_hold(found, hold)
            except Exception as error:
                raise self._make_error(error) from error
        return now, found

    def compute_totals(self, by: Sequence[str], since: datetime | None = None) -> tuple[Totals, ...]:
        """Return the totals of all settled calls since a day in UTC.

        Raises:
            LedgerError: the server cannot be used now.
            ValueError: `by` has a field that totals cannot be grouped by.

        """
        aggregate_rows((), by)
        days, table = ("run_days", "run_spend") if RUN_ATTRIBUTION[-1] in by else ("days", "spend")
        first = "" if since is None else since.date().isoformat()
        with self._lock:
            try:
                found = [day for day in self._client.call("SMEMBERS", f"{self._key}:{days}") if day >= first]
                rows = [parse_row(*row) for day in found for row in self._scan(f"{table}:{day}")]
            except Exception as error:
                raise self._make_error(error) from error
        return aggregate_rows(rows, by)

    def close(self) -> None:
        """Close the connection. It is reopened on demand."""
        self._client.close()

    def _read_time(self) -> float:
        seconds, micros = self._client.call("TIME")
        return int(seconds) + int(micros) / 1e6

    def _scan(self, name: str) -> Iterator[tuple[str, str]]:
        cursor, seen = "0", set()
        while True:
            cursor, page = self._client.call("HSCAN", f"{self._key}:{name}", cursor, "COUNT", _PAGE)
            for field, value in zip(page[::2], page[1::2], strict=True):
                if field not in seen:  # it may be returned twice
                    seen.add(field)
                    yield field, value
            if cursor == "0":
                return

    def _subtract_hold(self, accounts: dict[str, AccountRecord], hold: str) -> None:
        for name, amount in parse_hold(hold):
            if name in accounts:
                accounts[name] = accounts[name]._replace(reserved=max(0, accounts[name].reserved - amount))

    def _make_error(self, error: Exception) -> LedgerError:
        self.close()
        return LedgerError(f"the ledger {self._name} can't be used: {error or type(error).__name__}")


class RedisLedgerView:
    """A read-only view of a ledger on a server. It has no rules of its own.

    Args:
        url: of the server.
        namespace: whose ledger is read.
        timeout: seconds to wait for each answer.
        zone: the time zone at whose midnight a day ends.

    The operations raise `LedgerError` if the server cannot be used.

    """

    def __init__(self, url: str, namespace: str, timeout: float, zone: tzinfo = UTC) -> None:
        self._reader = LedgerReader(url, namespace, timeout)
        self._zone = zone
        self.compute_totals = self._reader.compute_totals
        self.close = self._reader.close

    def read_statuses(self, now: float) -> tuple[BudgetStatus, ...]:  # noqa: ARG002 - the server's time counts
        """Return the status of every account, with the limits that programs last stated."""
        at, accounts = self._reader.read_accounts()
        return tuple(
            [
                make_status(
                    it,
                    it.key,
                    Budget(it.key.scope, it.key.key, it.limit, it.key.unit, it.key.period, it.action),
                    at,
                    self._zone,
                )
                for _, it in sorted(accounts.items())
            ]
        )
