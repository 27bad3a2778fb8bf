"""A ledger on a server whose clock the test sets: the time that each operation is given is the server's."""

import hashlib
from collections.abc import Collection, Iterable
from datetime import tzinfo
from typing import Any

import pytest
from redis_server import RedisServer

from loco_otel._budgets.account import Decision, LedgerUpdate
from loco_otel._budgets.redis import link, reader
from loco_otel._budgets.redis.ledger import LedgerServer, RedisLedger
from loco_otel._budgets.redis.script import SOURCE, make_ledger_key
from loco_otel.money import Action, Budget, BudgetStatus, Charge, Scope

_TIMED_SOURCE = SOURCE.replace("call('TIME')", "call('HMGET', base .. 'clock', 'seconds', 'micros')")


def use_set_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the script and the readers of ledgers read the time that `TimedLedger` sets."""
    assert _TIMED_SOURCE != SOURCE

    def read_time(self: Any) -> float:
        seconds, micros = self._client.call("HMGET", f"{self._key}:clock", "seconds", "micros")
        return int(seconds) + int(micros) / 1e6

    monkeypatch.setattr(link, "SOURCE", _TIMED_SOURCE)
    monkeypatch.setattr(link, "SHA", hashlib.sha1(_TIMED_SOURCE.encode()).hexdigest())
    monkeypatch.setattr(reader.LedgerReader, "_read_time", read_time)


class TimedLedger(RedisLedger):
    """Sets the server's clock to the time of each operation. Needs `use_set_clock`."""

    def __init__(
        self, server: RedisServer, namespace: str, budgets: Iterable[Budget], zone: tzinfo, lease: float, now: float
    ) -> None:
        self._redis = server
        self._clock_key = f"{make_ledger_key(namespace)}:clock"
        self._set_clock(now)
        super().__init__(LedgerServer(server.url, namespace, lease, 60.0), budgets, zone)

    def reserve_estimate(
        self, hold: str, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,)
    ) -> Decision:
        self._set_clock(now)
        return super().reserve_estimate(hold, charge, now, passing)

    def check_estimate(
        self, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,), hold: str | None = None
    ) -> Decision:
        self._set_clock(now)
        return super().check_estimate(charge, now, passing, hold)

    def settle_reservation(self, hold: str, charge: Charge, now: float) -> LedgerUpdate:
        self._set_clock(now)
        return super().settle_reservation(hold, charge, now)

    def cancel_reservation(self, hold: str, now: float, *, sent: bool = False) -> None:
        self._set_clock(now)
        super().cancel_reservation(hold, now, sent=sent)

    def renew_reservations(self, holds: Iterable[str], now: float) -> None:
        self._set_clock(now)
        super().renew_reservations(holds, now)

    def read_statuses(self, now: float, scopes: Collection[Scope] = tuple(Scope)) -> tuple[BudgetStatus, ...]:
        self._set_clock(now)
        return super().read_statuses(now, scopes)

    def _set_clock(self, now: float) -> None:
        micros = round(now * 1e6)
        self._redis.call("HSET", self._clock_key, "seconds", str(micros // 10**6), "micros", str(micros % 10**6))
