"""The ledger of one process: what each budget's account has spent and holds in reserve.

Check and reserve are one step. A call is let in when each of its budgets has room for its estimate beside what is
spent and what others have reserved:

    spent + reserved + estimate <= limit

so nothing is overspent at any concurrency where no call takes more than its estimate; otherwise at most by the sum of
what the calls under way take beyond theirs. A reservation ends with its call, whatever becomes of it: settled with what
it really took, given back, or expired where nobody has renewed it for the time of a lease. What is reserved when a
period ends stays reserved, and is spent in the period in which it is settled.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import tzinfo
from itertools import chain
from typing import NamedTuple

from loco_otel._budgets.account import ADMITTED, Account, Decision, LedgerUpdate, decide_admission
from loco_otel._budgets.rules import Rules
from loco_otel._budgets.spend_totals import SpendTotals
from loco_otel.money import AccountKey, Action, Budget, BudgetStatus, Charge, Totals, ends

_MAX_ACCOUNTS = 10_000
"""Kept before those are looked for that can be forgotten, as nothing is spent or reserved in them."""


class _ReservationRecord(NamedTuple):
    """One reservation. The holds are the truth; what an account has reserved is their sum."""

    amounts: tuple[tuple[Account, int], ...]
    expires_at: float


class LedgerState:
    """The accounts, in memory. Not for several threads at once: whoever shares it has a lock.

    An operation that was broken off anywhere is followed by `recover`. `now` is in seconds since the epoch; what the
    operations do, `loco_otel._budgets.ledger` says.

    Args:
        budgets: the rules.
        zone: whose midnight ends a day.
        lease: seconds after which a reservation that nobody renewed is gone.

    """

    def __init__(self, budgets: Iterable[Budget], zone: tzinfo, lease: float) -> None:
        self._zone = zone
        self.lease = lease
        self._rules = Rules(budgets)
        self._accounts: dict[AccountKey, Account] = {}
        self._retired_accounts: dict[AccountKey, Account] = {}
        """Those that no rule covers any more: what they have spent and reserved counts again once one does."""
        self._prune_threshold = _MAX_ACCOUNTS
        self._reservations: dict[str, _ReservationRecord] = {}
        self._spend_totals = SpendTotals()

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo) -> None:
        """Go on under other rules: an account keeps what it has spent and reserved, whether one covers it or not."""
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
        """Reserve a call's estimate from all its budgets, or from none."""
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
        """Tell what `reserve` would say, `beside` what is reserved or if nothing were."""
        return decide_admission(self._find_accounts(charge, now), charge, passing, include_reserved=include_reserved)

    def settle_reservation(self, hold: str, charge: Charge, now: float) -> LedgerUpdate:
        """End a reservation, and spend what the call really took."""
        self.cancel_reservation(hold)
        self._spend_totals.add_charge(charge)
        accounts = self._find_accounts(charge, now)
        if not accounts:
            return _NO_UPDATE
        reached = [account.spend_charge(charge, now) for account in accounts]
        return LedgerUpdate(
            tuple([account.make_status() for account in accounts]),
            tuple(chain.from_iterable(reached)),
        )

    def cancel_reservation(self, hold: str) -> None:
        """End a reservation of which nothing was spent; harmless when it has ended."""
        ended = self._reservations.pop(hold, None)
        if ended is not None:
            for account, amount in ended.amounts:
                account.reserved -= amount

    def renew_reservations(self, holds: Iterable[str], now: float) -> None:
        """Note that these calls still go on."""
        for name in holds:
            hold = self._reservations.get(name)
            if hold is not None:
                self._reservations[name] = hold._replace(expires_at=now + self.lease)
        self._expire_reservations(now)

    def read_statuses(self, now: float) -> tuple[BudgetStatus, ...]:
        """Tell how each account stands; those of named budgets are there before anything is spent."""
        self._expire_reservations(now)
        for key in self._rules.named_budgets:
            self._get_account(key, now)
        for account in self._accounts.values():
            account.roll_period(now, self._zone)
        return tuple([account.make_status() for account in self._accounts.values()])

    def read_status(self, key: AccountKey, now: float) -> BudgetStatus:
        """Tell how one account stands that a rule covers."""
        return self._get_account(key, now).make_status()

    def compute_totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Tell what all settled calls took.

        Raises:
            ValueError: `by` has a field that is none to tell them by.

        """
        return self._spend_totals.compute_totals(by)

    def reset_account(self, key: AccountKey) -> None:
        """Set what an account has spent to nothing; what is reserved stays reserved."""
        account = self._accounts.get(key) or self._retired_accounts.get(key)
        if account is not None:
            account.clear_spending()

    def rebuild_reserved(self) -> None:
        """Derive what is reserved from the holds, after an operation that was broken off."""
        for account in chain(self._accounts.values(), self._retired_accounts.values()):
            account.reserved = 0
        for hold in self._reservations.values():
            for account, amount in hold.amounts:
                account.reserved += amount

    def drop_reservations(self) -> None:
        """End all reservations: in the child of a fork they are its parent's."""
        self._reservations = {}
        self.rebuild_reserved()

    def _expire_reservations(self, now: float) -> bool:
        """End what has expired; True if anything had."""
        expired = [name for name, hold in self._reservations.items() if hold.expires_at <= now]
        for name in expired:
            self.cancel_reservation(name)
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
        return account

    def _prune_accounts(self, now: float) -> None:
        """Make room: an account of which nothing is spent or reserved can be made again."""
        for account in self._accounts.values():
            account.roll_period(now, self._zone)
        self._accounts = {key: account for key, account in self._accounts.items() if account.spent or account.reserved}
        # Where little could be forgotten the next look is far away: looking takes each call next to nothing.
        self._prune_threshold = max(_MAX_ACCOUNTS, 2 * len(self._accounts))


_NO_UPDATE = LedgerUpdate()
