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

from loco_otel._budgets.account import ADMITTED, Account, Decision, Settled, decide
from loco_otel._budgets.rules import Rules
from loco_otel._budgets.spend_totals import Tally
from loco_otel.money import AccountKey, Action, Budget, Charge, Standing, Totals, ends

_MOST_ACCOUNTS = 10_000
"""Kept before those are looked for that can be forgotten, as nothing is spent or reserved in them."""


class _Hold(NamedTuple):
    """One reservation. The holds are the truth; what an account has reserved is their sum."""

    amounts: tuple[tuple[Account, int], ...]
    expires_at: float


class Ledger:
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
        self._set_aside: dict[AccountKey, Account] = {}
        """Those that no rule covers any more: what they have spent and reserved counts again once one does."""
        self._most = _MOST_ACCOUNTS
        self._holds: dict[str, _Hold] = {}
        self._tally = Tally()

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo) -> None:
        """Go on under other rules: an account keeps what it has spent and reserved, whether one covers it or not."""
        self._zone = zone
        self._rules = Rules(budgets)
        known = {**self._set_aside, **self._accounts}
        self._accounts, self._set_aside = {}, {}
        for key, account in known.items():
            budget = self._rules.budget(key)
            if budget is not None:
                account.use(budget)
                self._accounts[key] = account
            elif account.spent or account.reserved:
                self._set_aside[key] = account

    def reserve(self, hold: str, charge: Charge, now: float, passing: Collection[Action]) -> Decision:
        """Reserve a call's estimate from all its budgets, or from none."""
        if hold in self._holds:
            return ADMITTED
        accounts = self._accounts_of(charge, now)
        decision = decide(accounts, charge, passing)
        if not decision.admitted and self._expire(now):
            decision = decide(accounts, charge, passing)
        if decision.admitted:
            amounts = tuple([(account, charge.amount(account.key.unit)) for account in accounts])
            self._holds[hold] = _Hold(amounts, now + self.lease)
            for account, amount in amounts:
                account.reserved += amount
        return decision

    def judge(self, charge: Charge, now: float, passing: Collection[Action], *, beside: bool) -> Decision:
        """Tell what `reserve` would say, `beside` what is reserved or if nothing were."""
        return decide(self._accounts_of(charge, now), charge, passing, beside=beside)

    def settle(self, hold: str, charge: Charge, now: float) -> Settled:
        """End a reservation, and spend what the call really took."""
        self.give_back(hold)
        self._tally.add(charge)
        accounts = self._accounts_of(charge, now)
        if not accounts:
            return _NOTHING
        reached = [account.spend(charge, now) for account in accounts]
        return Settled(
            tuple([account.standing() for account in accounts]),
            tuple(chain.from_iterable(reached)),
        )

    def give_back(self, hold: str) -> None:
        """End a reservation of which nothing was spent; harmless when it has ended."""
        ended = self._holds.pop(hold, None)
        if ended is not None:
            for account, amount in ended.amounts:
                account.reserved -= amount

    def renew(self, holds: Iterable[str], now: float) -> None:
        """Note that these calls still go on."""
        for name in holds:
            hold = self._holds.get(name)
            if hold is not None:
                self._holds[name] = hold._replace(expires_at=now + self.lease)
        self._expire(now)

    def standings(self, now: float) -> tuple[Standing, ...]:
        """Tell how each account stands; those of named budgets are there before anything is spent."""
        self._expire(now)
        for key in self._rules.named:
            self._account(key, now)
        for account in self._accounts.values():
            account.roll(now, self._zone)
        return tuple([account.standing() for account in self._accounts.values()])

    def standing(self, key: AccountKey, now: float) -> Standing:
        """Tell how one account stands that a rule covers."""
        return self._account(key, now).standing()

    def totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Tell what all settled calls took.

        Raises:
            ValueError: `by` has a field that is none to tell them by.

        """
        return self._tally.totals(by)

    def reset(self, key: AccountKey) -> None:
        """Set what an account has spent to nothing; what is reserved stays reserved."""
        account = self._accounts.get(key) or self._set_aside.get(key)
        if account is not None:
            account.clear()

    def recover(self) -> None:
        """Derive what is reserved from the holds, after an operation that was broken off."""
        for account in chain(self._accounts.values(), self._set_aside.values()):
            account.reserved = 0
        for hold in self._holds.values():
            for account, amount in hold.amounts:
                account.reserved += amount

    def forget_holds(self) -> None:
        """End all reservations: in the child of a fork they are its parent's."""
        self._holds = {}
        self.recover()

    def _expire(self, now: float) -> bool:
        """End what has expired; True if anything had."""
        expired = [name for name, hold in self._holds.items() if hold.expires_at <= now]
        for name in expired:
            self.give_back(name)
        return bool(expired)

    def _accounts_of(self, charge: Charge, now: float) -> list[Account]:
        if len(self._accounts) >= self._most:
            self._forget(now)
        return [self._account(key, now) for key in self._rules.keys(charge)]

    def _account(self, key: AccountKey, now: float) -> Account:
        account = self._accounts.get(key)
        if account is None:
            budget = self._rules.budget(key)
            assert budget is not None  # noqa: S101 - invariant: asked only for what a rule covers
            account = self._accounts[key] = Account(key, budget, ends(key.period, now, self._zone))
        else:
            account.roll(now, self._zone)
        return account

    def _forget(self, now: float) -> None:
        """Make room: an account of which nothing is spent or reserved can be made again."""
        for account in self._accounts.values():
            account.roll(now, self._zone)
        self._accounts = {key: account for key, account in self._accounts.items() if account.spent or account.reserved}
        # Where little could be forgotten the next look is far away: looking takes each call next to nothing.
        self._most = max(_MOST_ACCOUNTS, 2 * len(self._accounts))


_NOTHING = Settled()
