"""What budgets need of a ledger: the accounts of one process, or of several that share a file.

An operation is one step for all that share the ledger, for any thread, and harmless when repeated for the same hold.
`now` is in seconds since the epoch.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import tzinfo
from typing import Protocol

from loco_otel._budgets.account import Decision, LedgerUpdate
from loco_otel.money import AccountKey, Action, Budget, BudgetStatus, Charge, Totals


class Ledger(Protocol):
    """Keeps what was spent and what is reserved.

    Raises:
        LedgerError: any operation may: it can't be used now. Nothing is half done then.

    """

    lease: float
    """Seconds after which a reservation that nobody renewed is gone."""

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo) -> None:
        """Go on under other rules; the accounts keep what they have spent and reserved."""

    def reserve_estimate(
        self, hold: str, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,)
    ) -> Decision:
        """Reserve a call's estimate from all its budgets, or from none.

        Args:
            hold: names the reservation; one that is there already is kept, and its call admitted.
            charge: the estimate, and who is charged.
            now: the time.
            passing: a budget without room lets the call in where its action is one of these.

        """

    def check_estimate(self, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,)) -> Decision:
        """Tell what `reserve` would say if nothing else were reserved, and reserve nothing.

        A call that is refused here is refused however long it waits within the period.
        """

    def settle_reservation(self, hold: str, charge: Charge, now: float) -> LedgerUpdate:
        """End a reservation, and spend what the call really took.

        A call without a reservation, because it was lost or never made, is charged all the same.
        """

    def cancel_reservation(self, hold: str) -> None:
        """End a reservation of which nothing was spent; harmless when it has ended."""

    def renew_reservations(self, holds: Iterable[str], now: float) -> None:
        """Note that these calls still go on, so that their reservations do not expire."""

    def read_statuses(self, now: float) -> tuple[BudgetStatus, ...]:
        """Tell how each account stands; those of named budgets are there before anything is spent."""

    def compute_totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Tell what all settled calls took, by fields of `Charge` that are in `ATTRIBUTION`; most USD first."""

    def reset_account(self, key: AccountKey) -> None:
        """Set what an account has spent to nothing; what is reserved stays reserved."""

    def close(self) -> None:
        """Let go of what it holds open."""

    def after_fork(self) -> None:
        """Go on in the child of a fork, whose parent's reservations are not its own."""
