"""A ledger on a Redis or Valkey server: processes of several hosts share their budgets.

Each operation is one call of a script, so check and reserve are atomic for all processes. A reservation belongs to its
process, and ends with it: a process that is silent for its lease time loses all that it has reserved. What is spent
never expires. Only the server's clock counts.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

from loco_otel._budgets.account import ADMITTED, Decision, LedgerUpdate
from loco_otel._budgets.redis.charge_log import MakeOperation, Operation
from loco_otel._budgets.redis.link import LedgerLink
from loco_otel._budgets.redis.pending import OpenReservation
from loco_otel._budgets.redis.reader import LedgerReader
from loco_otel._budgets.redis.records import (
    Share,
    make_status,
    name_account,
    pack_budget,
    pack_rows,
    pack_share,
    parse_status,
    parse_update,
)
from loco_otel._budgets.redis.script import make_ledger_key
from loco_otel._budgets.rules import Rules
from loco_otel._config.engine_rules import EngineAddress, hide_password
from loco_otel._engine.redis.address import import_client
from loco_otel.errors import LedgerError
from loco_otel.money import AccountKey, Action, Budget, BudgetStatus, Charge, Scope, Totals, Unit

_STATED_PER_STEP = 256


class LedgerServer(NamedTuple):
    """Where the ledger is, and for how long to wait for it."""

    url: str
    namespace: str = "default"
    ttl: float = 5.0
    """Seconds until a silent process has lost its reservations."""
    timeout: float = 0.25
    """Seconds to wait for an answer."""
    engine: str = ""
    """The prefix of the keys of the shared engine, if that is on the same server."""


class RedisLedger:
    """The accounts on a server. Safe for threads and processes; see `_budgets.ledger` for the operations.

    `now` is ignored everywhere: the time is the server's.

    Args:
        server: where it is.
        budgets: the rules of this process.
        zone: the time zone at whose midnight a day ends.
        run_idle_timeout: seconds of silence after which a run is forgotten.

    Raises:
        ImportError: the client library is not installed.

    """

    is_remote = True

    def __init__(
        self,
        server: LedgerServer,
        budgets: Iterable[Budget] = (),
        zone: tzinfo = UTC,
        *,
        run_idle_timeout: float = 900.0,
    ) -> None:
        import_client()  # it takes longer than an operation may
        self.lease = server.ttl
        self.run_idle_timeout = run_idle_timeout
        self.counts_runs = True
        self._server = server
        self._rules, self._zone = Rules(budgets), zone
        self._connect()

    def _connect(self) -> None:
        server = self._server
        self._reader = LedgerReader(server.url, server.namespace, server.timeout)
        self._cancelling: set[str] = set()
        """Reservations that could not be ended yet."""
        self._link = LedgerLink(
            EngineAddress.parse(server.url),
            make_ledger_key(server.namespace),
            ttl=server.ttl,
            timeout=server.timeout,
            name=hide_password(server.url),
            list_statements=self._list_statements,
        )
        if self._rules:
            # Here, and not by the timer of reservations: where gevent patches in between, its thread would start a
            # greenlet that runs only while that thread waits.
            self._link.start_early()

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo) -> None:
        """Replace the rules. Accounts keep their spent and reserved amounts."""
        self._rules, self._zone = Rules(budgets), zone
        with suppress(LedgerError):  # stated with the next connection
            for statement in self._list_statements():
                self._send_statement(statement)

    def _send_statement(self, statement: Operation) -> None:
        self._link.call(lambda _now, _number: statement)

    def reserve_estimate(
        self,
        hold: str,
        charge: Charge,
        now: float,  # noqa: ARG002
        passing: Collection[Action] = (Action.ALERT,),
    ) -> Decision:
        """Reserve a call's estimate in all its budgets, or in none."""
        shares = self._list_shares(charge)
        if not shares or hold in self._link.holds:
            return ADMITTED
        result = self._link.call(
            lambda now, _: ("reserve", hold, self._pack(shares, now), tuple(passing)),
            on_done=lambda result: self._record_hold(hold, shares, is_reserved=result[0]),
        )
        return _make_decision(shares, result)

    def check_estimate(
        self,
        charge: Charge,
        now: float,  # noqa: ARG002
        passing: Collection[Action] = (Action.ALERT,),
        hold: str | None = None,
    ) -> Decision:
        """Check a call as if nothing else were reserved; see `Ledger.check_estimate`."""
        shares = self._list_shares(charge)
        if not shares:
            return ADMITTED
        engine = self._server.engine
        if hold is None or not engine:
            result = self._link.call(lambda now, _: ("check", self._pack(shares, now), tuple(passing)))
            return _make_decision(shares, result)
        is_reserved, decided = self._link.call(
            lambda now, _: ("enter", hold, self._pack(shares, now), tuple(passing), engine),
            on_done=lambda result: self._record_hold(hold, shares, is_reserved=result[0]),
        )
        return _make_decision(shares, decided)._replace(is_reserved=bool(is_reserved))

    def settle_reservation(self, hold: str, charge: Charge, now: float) -> LedgerUpdate:  # noqa: ARG002
        """End a reservation and spend the call's actual cost."""
        shares = self._list_shares(charge)
        result = self._send_charge(
            hold,
            lambda now, number: (
                *("settle", number, hold, self._pack(shares, now)),
                pack_rows(charge, now, counts_runs=self.counts_runs),
            ),
        )
        return parse_update(shares, result or ())

    def cancel_reservation(self, hold: str, now: float, *, sent: bool = False) -> None:  # noqa: ARG002
        """End a reservation without spending more than the call itself, if it was sent. No-op if it has ended."""
        held = self._link.holds.get(hold)
        if held is None and hold not in self._cancelling:
            return
        shares = () if held is None or not sent else held.shares
        calls = [share for share in shares if share.key.unit is Unit.CALLS]
        self._cancelling.add(hold)
        if calls:
            self._send_charge(hold, lambda now, number: ("cancel", number, hold, self._pack(calls, now)))
        else:
            self._forget_hold(hold)
            self._link.call(lambda _now, _number: ("cancel", 0, hold, ()))
        self._cancelling.discard(hold)

    def renew_reservations(self, holds: Iterable[str], now: float) -> None:  # noqa: ARG002
        """Renew all reservations of this process; the link does so too, all the time."""
        if self._link.is_started:
            self._link.beat()

    def read_statuses(
        self,
        now: float,  # noqa: ARG002
        scopes: Collection[Scope] = tuple(Scope),
    ) -> tuple[BudgetStatus, ...]:
        """Return the status of every account of some scopes; see `Ledger.read_statuses`."""
        rules, zone = self._rules, self._zone
        if not rules:
            return ()
        at, accounts = self._reader.read_accounts()
        records = {it.key: it for it in accounts.values()}
        keys = [key for key in dict.fromkeys([*rules.named_budgets, *records]) if key.scope in scopes]
        covered = [(key, rules.find_budget(key)) for key in keys]
        return tuple(
            [make_status(records.get(key), key, budget, at, zone) for key, budget in covered if budget is not None]
        )

    def compute_totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Return the totals of all settled calls.

        Raises:
            ValueError: `by` has a field that totals cannot be grouped by.

        """
        return self._reader.compute_totals(by)

    def reset_account(self, key: AccountKey) -> None:
        """Set an account's spent amount to 0. Reserved amounts are kept."""
        self._link.call(lambda _now, _number: ("reset", name_account(key)))

    def close(self) -> None:
        """End the reservations of this process, and close the connections."""
        self._link.close()
        self._reader.close()

    def after_fork(self) -> None:
        """Start without reservations in a forked child: to the server it is another process, with its own sockets."""
        self._connect()

    def _send_charge(self, hold: str, make: MakeOperation) -> Sequence[Any] | None:
        """Send what is spent once, however often this is called; None if it was applied by an earlier call."""
        with self._link.lock:
            entry = self._link.log.open_charge(hold, make)
        result: Sequence[Any] | None = self._link.call(entry.make, entry, lambda _: self._forget_hold(hold))
        self._forget_hold(hold)
        return result

    def _record_hold(self, hold: str, shares: Sequence[Share], *, is_reserved: int) -> None:
        if is_reserved:
            self._link.holds[hold] = OpenReservation(shares, lambda now: ("restore", hold, self._pack(shares, now)))

    def _forget_hold(self, hold: str) -> None:
        with self._link.lock:
            self._link.holds.pop(hold, None)

    def _list_shares(self, charge: Charge) -> Sequence[Share]:
        rules = self._rules  # read once, as `set_budgets` may replace it
        found = [(key, rules.find_budget(key)) for key in rules.find_account_keys(charge)]
        return [Share(key, budget, charge.amount(key.unit)) for key, budget in found if budget is not None]

    def _pack(self, shares: Sequence[Share], now: float) -> Sequence[Any]:
        return [pack_share(share, now, self._zone, self.run_idle_timeout) for share in shares]

    def _list_statements(self) -> Iterable[Operation]:
        named = [pack_budget(*it) for it in self._rules.named_budgets.items()]
        return [("state", named[start : start + _STATED_PER_STEP]) for start in range(0, len(named), _STATED_PER_STEP)]


def _make_decision(shares: Sequence[Share], result: Sequence[Any]) -> Decision:
    is_admitted, *over = result
    return Decision(bool(is_admitted), tuple([parse_status(shares[fields[0]], fields) for fields in over]))
