"""The accounts of all budgets, in memory: what each has spent and reserved.

Check and reserve are one step. A call is admitted if each of its budgets has room for its estimate beside the amounts
already spent and reserved:

    spent + reserved + estimate <= limit

so nothing is overspent at any concurrency while no call costs more than its estimate; otherwise at most by the sum of
the excesses of the calls in flight. A reservation ends with its call: settled with the actual cost, cancelled, or
expired if it is not renewed within the lease. An amount reserved when a period ends stays reserved, and is spent in
the period in which it is settled.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import tzinfo
from itertools import chain
from typing import NamedTuple

from loco_otel._budgets.account import ADMITTED, Account, Decision, LedgerUpdate, decide_admission
from loco_otel._budgets.rules import Rules
from loco_otel._budgets.spend_totals import SpendTotals
from loco_otel.money import AccountKey, Action, Budget, BudgetStatus, Charge, Scope, Totals, Unit, ends

_MAX_ACCOUNTS = 10_000
"""The number of accounts at which empty ones are first removed."""


class _ReservationRecord(NamedTuple):
    """One reservation. The reservations are authoritative; an account's reserved amount is their sum."""

    amounts: tuple[tuple[Account, int], ...]
    expires_at: float


class LedgerState:
    """The accounts, in memory. Not thread-safe: the owner holds a lock.

    After an operation was interrupted, `rebuild_reserved` must run. `now` is in seconds since the epoch;
    `loco_otel._budgets.ledger` documents the operations.

    Args:
        budgets: the rules.
        zone: the time zone at whose midnight a day ends.
        lease: seconds after which a reservation that was not renewed expires.
        run_idle_timeout: seconds of silence after which a run is forgotten.

    """

    def __init__(self, budgets: Iterable[Budget], zone: tzinfo, lease: float, run_idle_timeout: float = 900.0) -> None:
        self._zone = zone
        self.lease = lease
        self.run_idle_timeout = run_idle_timeout
        self._rules = Rules(budgets)
        self._accounts: dict[AccountKey, Account] = {}
        self._retired_accounts: dict[AccountKey, Account] = {}
        """Accounts that no rule covers now. Their amounts count again once a rule covers them."""
        self._prune_threshold = _MAX_ACCOUNTS
        self._reservations: dict[str, _ReservationRecord] = {}
        self.spend_totals = SpendTotals()

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo) -> None:
        """Replace the rules. Accounts keep their spent and reserved amounts, whether a rule covers them or not."""
        self._zone = zone
        self._rules = Rules(budgets)
        known = {**self._retired_accounts, **self._accounts}
        self._accounts, self._retired_accounts = {}, {}
        for key, account in known.items():
            budget = self._rules.find_budget(key)
            if budget is not None:
                account.apply_budget(budget)
                self._accounts[key] = account
            elif account.spent or account.reserved:
                self._retired_accounts[key] = account

    def reserve_estimate(self, hold: str, charge: Charge, now: float, passing: Collection[Action]) -> Decision:
        """Reserve a call's estimate in all its budgets, or in none."""
        if hold in self._reservations:
            return ADMITTED
        accounts = self._find_accounts(charge, now)
        decision = decide_admission(accounts, charge, passing)
        if not decision.admitted and self._expire_reservations(now):
            decision = decide_admission(accounts, charge, passing)
        if decision.admitted:
            amounts = tuple([(account, charge.amount(account.key.unit)) for account in accounts])
            self._reservations[hold] = _ReservationRecord(amounts, now + self.lease)
            for account, amount in amounts:
                account.reserved += amount
        return decision

    def check_estimate(
        self, charge: Charge, now: float, passing: Collection[Action], *, include_reserved: bool
    ) -> Decision:
        """Return the decision of `reserve_estimate` without reserving, with or without counting reserved amounts."""
        return decide_admission(self._find_accounts(charge, now), charge, passing, include_reserved=include_reserved)

    def settle_reservation(self, hold: str, charge: Charge, now: float) -> LedgerUpdate:
        """End a reservation and spend the call's actual cost."""
        # Before the reservation ends, which keeps a run with a long call from being silent.
        accounts = self._find_accounts(charge, now)
        self.cancel_reservation(hold, now)
        self.spend_totals.add_charge(charge)
        if not accounts:
            return _NO_UPDATE
        reached = [account.spend_charge(charge, now) for account in accounts]
        return LedgerUpdate(
            tuple([account.make_status() for account in accounts]),
            tuple(chain.from_iterable(reached)),
        )

    def cancel_reservation(self, hold: str, now: float, *, sent: bool = False) -> None:
        """End a reservation without spending more than the call itself, if it was sent. No-op if it has ended."""
        ended = self._reservations.pop(hold, None)
        if ended is not None:
            for account, amount in ended.amounts:
                if sent and account.key.unit is Unit.CALLS:
                    account.roll_period(now, self._zone)  # while it has a reservation: its run is not silent
                    account.touch(now, self.run_idle_timeout)
                    account.spend_call(amount, now)
                account.reserved -= amount

    def renew_reservations(self, holds: Iterable[str], now: float) -> None:
        """Extend the expiry of the reservations of calls in flight."""
        for name in holds:
            hold = self._reservations.get(name)
            if hold is not None:
                self._reservations[name] = hold._replace(expires_at=now + self.lease)
        self._expire_reservations(now)
        self._forget_runs(now)

    def read_statuses(self, now: float, scopes: Collection[Scope] = tuple(Scope)) -> tuple[BudgetStatus, ...]:
        """Return the status of every account of some scopes; see `Ledger.read_statuses`."""
        self._expire_reservations(now)
        self._forget_runs(now)
        for key in self._rules.named_budgets:
            self._get_account(key, now)
        found = [account for account in self._accounts.values() if account.key.scope in scopes]
        for account in found:
            account.roll_period(now, self._zone)
        return tuple([account.make_status() for account in found])

    def read_status(self, key: AccountKey, now: float) -> BudgetStatus:
        """Return the status of one account that a rule covers."""
        return self._get_account(key, now).make_status()

    def compute_totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Return the totals of all settled calls.

        Raises:
            ValueError: `by` has a field that totals cannot be grouped by.

        """
        return self.spend_totals.compute_totals(by)

    def reset_account(self, key: AccountKey) -> None:
        """Set an account's spent amount to 0. Reserved amounts are kept."""
        account = self._accounts.get(key) or self._retired_accounts.get(key)
        if account is not None:
            account.clear_spending()

    def rebuild_reserved(self) -> None:
        """Recompute the reserved amounts from the reservations, after an interrupted operation."""
        for account in chain(self._accounts.values(), self._retired_accounts.values()):
            account.reserved = 0
        for hold in self._reservations.values():
            for account, amount in hold.amounts:
                account.reserved += amount

    def drop_reservations(self) -> None:
        """End all reservations. A forked child does so, as they belong to its parent."""
        self._reservations = {}
        self.rebuild_reserved()

    def _expire_reservations(self, now: float) -> bool:
        """End expired reservations. Return True if there were any."""
        expired = [name for name, hold in self._reservations.items() if hold.expires_at <= now]
        for name in expired:
            self.cancel_reservation(name, now)
        return bool(expired)

    def _find_accounts(self, charge: Charge, now: float) -> list[Account]:
        if len(self._accounts) >= self._prune_threshold:
            self._prune_accounts(now)
        return [self._get_account(key, now) for key in self._rules.find_account_keys(charge)]

    def _get_account(self, key: AccountKey, now: float) -> Account:
        account = self._accounts.get(key)
        if account is None:
            budget = self._rules.find_budget(key)
            assert budget is not None  # noqa: S101 - invariant: asked only for what a rule covers
            account = self._accounts[key] = Account(key, budget, ends(key.period, now, self._zone))
        else:
            account.roll_period(now, self._zone)
        account.touch(now, self.run_idle_timeout)
        return account

    def _forget_runs(self, now: float) -> None:
        """Remove the accounts of runs that have been silent."""
        for accounts in (self._accounts, self._retired_accounts):
            for key in [key for key, account in accounts.items() if account.is_silent(now)]:
                del accounts[key]

    def _prune_accounts(self, now: float) -> None:
        """Remove empty accounts, which are recreated on demand, and those of silent runs."""
        self._forget_runs(now)
        for account in self._accounts.values():
            account.roll_period(now, self._zone)
        self._accounts = {key: account for key, account in self._accounts.items() if account.spent or account.reserved}
        # If few could be removed, the threshold is doubled: the amortised cost for a call is negligible.
        self._prune_threshold = max(_MAX_ACCOUNTS, 2 * len(self._accounts))


_NO_UPDATE = LedgerUpdate()
