"""The ledger of one process: what each budget's account has spent and holds in reserve.

Check and reserve are one step. A call is let in when each of its budgets has room for its estimate beside what is
spent and what others have reserved:

    spent + reserved + estimate <= limit

so nothing is overspent at any concurrency where no call takes more than its estimate; otherwise at most by the sum of
what the calls under way take beyond theirs. A reservation ends with its call, whatever becomes of it: settled with what
it really took, or given back. What is reserved when a period ends stays reserved, and is spent in the period in which
it is settled.
"""

from collections.abc import Iterable
from datetime import UTC, tzinfo

from loco_otel._core.account import ADMITTED, Account, Decision, Threshold, decide, hopeless
from loco_otel._core.rules import Rules
from loco_otel.money import AccountKey, Budget, Charge, Standing, ends

_MOST_ACCOUNTS = 10_000
"""Kept at once; beyond, those are forgotten in which nothing is spent or reserved."""


class Ledger:
    """The accounts, in memory. Not for several threads at once: whoever shares it has a lock.

    `now` is in seconds since the epoch.

    Args:
        budgets: the rules.
        zone: whose midnight ends a day.

    """

    def __init__(self, budgets: Iterable[Budget] = (), zone: tzinfo = UTC) -> None:
        self._zone = zone
        self._rules = Rules(budgets)
        self._accounts: dict[AccountKey, Account] = {}
        self._holds: dict[str, tuple[tuple[Account, int], ...]] = {}

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo = UTC) -> None:
        """Go on under other rules: an account that both know keeps what it has spent and reserved."""
        self._zone = zone
        self._rules = Rules(budgets)
        for key, account in list(self._accounts.items()):
            budget = self._rules.budget(key)
            if budget is None:
                del self._accounts[key]
            else:
                account.budget = budget

    def reserve(self, hold: str, charge: Charge, now: float) -> Decision:
        """Reserve a call's estimate from all its budgets, or from none.

        Args:
            hold: names the reservation; one that is known already is left as it is.
            charge: the estimate, and who is charged.
            now: the time.

        """
        if hold in self._holds:
            return ADMITTED
        accounts = self._accounts_of(charge, now)
        decision = decide(accounts, charge)
        if decision.admitted:
            reserved = self._holds[hold] = tuple([(account, charge.amount(account.key.unit)) for account in accounts])
            for account, amount in reserved:
                account.reserved += amount
        return decision

    def hopeless(self, charge: Charge, now: float) -> tuple[Standing, ...]:
        """Return the budgets that refuse a call however long it waits within their period."""
        return hopeless(self._accounts_of(charge, now), charge)

    def settle(self, hold: str, charge: Charge, now: float) -> tuple[Threshold, ...]:
        """End a reservation, spend what the call really took, and return the thresholds that this reached.

        A call without a reservation, because it was lost or never made, is charged all the same.
        """
        self.give_back(hold)
        reached = [account.spend(charge) for account in self._accounts_of(charge, now)]
        return tuple([threshold for threshold in reached if threshold is not None])

    def give_back(self, hold: str) -> None:
        """End a reservation of which nothing was spent; harmless when it has ended."""
        for account, amount in self._holds.pop(hold, ()):
            account.reserved -= amount

    def standings(self, now: float) -> tuple[Standing, ...]:
        """Tell how each account stands; those of named budgets are there before anything is spent."""
        for key in self._rules.named:
            self._account(key, now)
        for account in self._accounts.values():
            account.roll(now, self._zone)
        return tuple([account.standing() for account in self._accounts.values()])

    def reset(self, key: AccountKey) -> None:
        """Set what an account has spent to nothing; what is reserved stays reserved."""
        account = self._accounts.get(key)
        if account is not None:
            account.spent = account.told = 0

    def _accounts_of(self, charge: Charge, now: float) -> list[Account]:
        if len(self._accounts) >= _MOST_ACCOUNTS:
            self._forget()
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

    def _forget(self) -> None:
        """Make room: an account of which nothing is spent or reserved can be made again."""
        self._accounts = {key: account for key, account in self._accounts.items() if account.spent or account.reserved}
