"""One budget's account: what it may spend, has spent and holds in reserve, and whether a call fits into it."""

from collections.abc import Sequence
from datetime import tzinfo
from typing import NamedTuple

from loco_otel.money import AccountKey, Action, Budget, Charge, Standing, ends


class Threshold(NamedTuple):
    """What was spent has reached so many percent of a limit."""

    percent: int
    standing: Standing


class Settled(NamedTuple):
    """What became of the accounts of a call that was settled."""

    standings: tuple[Standing, ...] = ()
    reached: tuple[Threshold, ...] = ()
    """Thresholds reached for the first time in their period: the highest of each account."""


class Decision(NamedTuple):
    """Whether a call may go as far as its budgets are concerned."""

    admitted: bool
    over: tuple[Standing, ...] = ()
    """The budgets that had no room for it, as they stood before. Of an admitted call they are those that only alert."""


ADMITTED = Decision(admitted=True)


class Account:
    """One budget's standing, for one agent, tenant, team, model or all."""

    __slots__ = ("budget", "key", "reserved", "resets_at", "spent", "told")

    def __init__(self, key: AccountKey, budget: Budget, resets_at: float | None) -> None:
        self.key = key
        self.budget = budget
        self.spent = 0
        self.reserved = 0
        self.resets_at = resets_at
        self.told = 0
        """The highest threshold that was told in this period, in percent."""

    def roll(self, now: float, zone: tzinfo) -> None:
        """Begin a new period, if the last one is over; what is reserved stays reserved."""
        if self.resets_at is not None and now >= self.resets_at:
            self.spent = self.told = 0
            self.resets_at = ends(self.key.period, now, zone)

    def lacks(self, charge: Charge) -> bool:
        """Tell whether there is no room for an estimate beside what is spent and reserved."""
        return self.spent + self.reserved + charge.amount(self.key.unit) > self.budget.limit

    def lacks_for_good(self, charge: Charge) -> bool:
        """Tell whether there would be no room for it in this period though nothing were reserved."""
        return self.spent + charge.amount(self.key.unit) > self.budget.limit

    def spend(self, charge: Charge) -> Threshold | None:
        """Spend what a call took, and return the highest threshold that this reached for the first time."""
        self.spent += charge.amount(self.key.unit)
        limit = self.budget.limit
        reached = [step for step in self.budget.thresholds if step > self.told and self.spent * 100 >= step * limit]
        if not reached:
            return None
        self.told = max(reached)
        return Threshold(self.told, self.standing())

    def standing(self) -> Standing:
        """Tell how it stands."""
        return Standing(self.key, self.budget.limit, self.spent, self.reserved, self.resets_at, self.budget.action)


def decide(accounts: Sequence[Account], charge: Charge) -> Decision:
    """Say whether all its accounts let a call in."""
    over = [account for account in accounts if account.lacks(charge)]
    if not over:
        return ADMITTED
    refused = any(account.budget.action is not Action.ALERT for account in over)
    return Decision(not refused, tuple([account.standing() for account in over]))


def hopeless(accounts: Sequence[Account], charge: Charge) -> tuple[Standing, ...]:
    """Return the accounts that refuse a call however long it waits within their period."""
    return tuple(
        account.standing()
        for account in accounts
        if account.budget.action is not Action.ALERT and account.lacks_for_good(charge)
    )
