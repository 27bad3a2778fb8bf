"""One budget's account: its limit, spent and reserved amounts, and the check whether a call fits."""

from collections.abc import Collection, Sequence
from datetime import tzinfo
from math import inf
from typing import NamedTuple

from loco_otel.money import AccountKey, Action, Budget, BudgetStatus, Charge, Period, Scope, ends


class ReachedThreshold(NamedTuple):
    """A threshold that spending reached, in percent of the limit."""

    percent: int
    status: BudgetStatus


class LedgerUpdate(NamedTuple):
    """What settling a call changed in its accounts."""

    statuses: tuple[BudgetStatus, ...] = ()
    reached: tuple[ReachedThreshold, ...] = ()
    """Thresholds reached for the first time in their period."""


class Decision(NamedTuple):
    """The result of checking a call against its budgets."""

    admitted: bool
    exceeded: tuple[BudgetStatus, ...] = ()
    """The budgets without room for the call, with their status before it."""
    is_reserved: bool = False
    """Whether the check of a waiter has reserved the estimate."""


ADMITTED = Decision(admitted=True)


class Account:
    """The account of one budget, for one agent, tenant, team, model, run, session, workflow or all.

    That of a run in total is forgotten once the run has been silent: it resets, unless an amount is reserved.
    """

    __slots__ = ("_last_threshold", "_next_threshold_at", "budget", "key", "reserved", "resets_at", "since", "spent")

    def __init__(self, key: AccountKey, budget: Budget, resets_at: float | None) -> None:
        self.key = key
        self.budget = budget
        self.spent = 0
        self.reserved = 0
        self.resets_at = resets_at
        self.since: float | None = None
        """When the first call of this period was charged."""
        self.last_threshold = 0

    @property
    def is_forgettable(self) -> bool:
        """Whether it resets once its run has been silent."""
        return self.key.scope is Scope.RUN and self.key.period is Period.TOTAL

    def is_silent(self, now: float) -> bool:
        """Return whether it is of a run that has been silent, so that it may be removed."""
        is_over = self.resets_at is not None and now >= self.resets_at
        return self.key.scope is Scope.RUN and is_over and not self.reserved

    def touch(self, now: float, run_idle_timeout: float) -> None:
        """Record a call of its run, or the refusal of one."""
        if self.is_forgettable:
            self.resets_at = now + run_idle_timeout

    @property
    def last_threshold(self) -> int:
        """The highest threshold reported in this period, in percent."""
        return self._last_threshold

    @last_threshold.setter
    def last_threshold(self, percent: int) -> None:
        self._last_threshold = percent
        limit = self.budget.limit
        # In hundredths; infinite if no threshold is left to report.
        steps = self.budget.thresholds if limit else ()
        self._next_threshold_at = min([step * limit for step in steps if step > percent], default=inf)

    def roll_period(self, now: float, zone: tzinfo) -> None:
        """Start a new period if the last one has ended. Reserved amounts are kept."""
        if self.resets_at is not None and now >= self.resets_at and not (self.is_forgettable and self.reserved):
            self.clear_spending()
            self.resets_at = ends(self.key.period, now, zone)

    def clear_spending(self) -> None:
        """Set the spent amount to 0."""
        self.spent = self.last_threshold = 0
        self.since = None

    def apply_budget(self, budget: Budget) -> None:
        """Replace the rule. A threshold that the new limit has not reached yet can be reported again."""
        self.budget = budget
        self.last_threshold = (
            min(self.last_threshold, self.spent * 100 // budget.limit) if budget.limit else self.last_threshold
        )

    def is_exceeded_by(self, charge: Charge, *, include_reserved: bool) -> bool:
        """Return True if the charge does not fit into the limit, beside what is spent and, optionally, reserved."""
        limit = self.budget.limit
        taken = self.spent + self.reserved if include_reserved else self.spent
        # A limit of 0 admits no call, not even one without a price.
        return not limit or taken + charge.amount(self.key.unit) > limit

    def spend_charge(self, charge: Charge, now: float) -> tuple[ReachedThreshold, ...]:
        """Add a charge to the spent amount, and return the thresholds first reached by it, in ascending order."""
        if self.since is None:
            self.since = now
        self.spent += charge.amount(self.key.unit)
        if self.spent * 100 < self._next_threshold_at:
            return ()
        told, limit = self.last_threshold, self.budget.limit
        reached = [step for step in self.budget.thresholds if step > told and self.spent * 100 >= step * limit]
        self.last_threshold = max(reached)
        standing = self.make_status()
        return tuple([ReachedThreshold(step, standing) for step in sorted(reached)])

    def spend_call(self, amount: int, now: float) -> None:
        """Add a call that has no cost to the spent amount of a budget of calls. No threshold is reported for it."""
        if self.since is None:
            self.since = now
        self.spent += amount

    def make_status(self) -> BudgetStatus:
        """Return the account's limit and amounts."""
        budget = self.budget
        return BudgetStatus(
            self.key, budget.limit, self.spent, self.reserved, self.resets_at, budget.action, self.since
        )


def decide_admission(
    accounts: Sequence[Account], charge: Charge, passing: Collection[Action], *, include_reserved: bool = True
) -> Decision:
    """Return whether all accounts admit a call: one without room does so if its action is in `passing`."""
    over = [account for account in accounts if account.is_exceeded_by(charge, include_reserved=include_reserved)]
    if not over:
        return ADMITTED
    refused = any(account.budget.action not in passing for account in over)
    return Decision(not refused, tuple([account.make_status() for account in over]))
