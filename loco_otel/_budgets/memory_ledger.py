"""The ledger of a process that shares its budgets with nobody: in memory, behind a lock."""

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, tzinfo
from typing import TypeVar

from loco_otel._budgets.account import Decision, LedgerUpdate
from loco_otel._budgets.accounts import LedgerState
from loco_otel.money import AccountKey, Action, Budget, BudgetStatus, Charge, Totals

_Result = TypeVar("_Result")


class MemoryLedger:
    """The accounts of one process, for all its threads; see `loco_otel._budgets.ledger` for the operations.

    `_busy` is set while an operation is under way. When an exception breaks one off it stays set, and the next one
    recovers first.

    Args:
        budgets: the rules.
        zone: whose midnight ends a day.
        lease: seconds after which a reservation that nobody renewed is gone.

    """

    def __init__(self, budgets: Iterable[Budget] = (), zone: tzinfo = UTC, *, lease: float = 900.0) -> None:
        self._state = LedgerState(budgets, zone, lease)
        self._lock = threading.Lock()
        self._busy = False

    @property
    def lease(self) -> float:
        """Seconds after which a reservation that nobody renewed is gone."""
        return self._state.lease

    @lease.setter
    def lease(self, seconds: float) -> None:
        self._state.lease = seconds

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo) -> None:
        """Go on under other rules; the accounts keep what they have spent and reserved."""
        self._run_locked(lambda core: core.set_budgets(budgets, zone))

    def reserve_estimate(
        self, hold: str, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,)
    ) -> Decision:
        """Reserve a call's estimate from all its budgets, or from none."""
        core = self._state
        with self._lock:  # as `_do`, which costs a call more: this is the hot path
            if self._busy:
                core.rebuild_reserved()
            self._busy = True
            decision = core.reserve_estimate(hold, charge, now, passing)
            self._busy = False
        return decision

    def check_estimate(
        self,
        charge: Charge,
        now: float,
        passing: Collection[Action] = (Action.ALERT,),
        *,
        include_reserved: bool = False,
    ) -> Decision:
        """Tell what `reserve` would say, `beside` what is reserved or if nothing were, and reserve nothing."""
        return self._run_locked(
            lambda core: core.check_estimate(charge, now, passing, include_reserved=include_reserved)
        )

    def settle_reservation(self, hold: str, charge: Charge, now: float) -> LedgerUpdate:
        """End a reservation, and spend what the call really took."""
        core = self._state
        with self._lock:  # as above
            if self._busy:
                core.rebuild_reserved()
            self._busy = True
            settled = core.settle_reservation(hold, charge, now)
            self._busy = False
        return settled

    def cancel_reservation(self, hold: str) -> None:
        """End a reservation of which nothing was spent; harmless when it has ended."""
        self._run_locked(lambda core: core.cancel_reservation(hold))

    def renew_reservations(self, holds: Iterable[str], now: float) -> None:
        """Note that these calls still go on, so that their reservations do not expire."""
        self._run_locked(lambda core: core.renew_reservations(holds, now))

    def read_statuses(self, now: float) -> tuple[BudgetStatus, ...]:
        """Tell how each account stands; those of named budgets are there before anything is spent."""
        return self._run_locked(lambda core: core.read_statuses(now))

    def read_status(self, key: AccountKey, now: float) -> BudgetStatus:
        """Tell how one account stands that a rule covers."""
        return self._run_locked(lambda core: core.read_status(key, now))

    def compute_totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Tell what all settled calls took.

        Raises:
            ValueError: `by` has a field that is none to tell them by.

        """
        return self._run_locked(lambda core: core.compute_totals(by))

    def reset_account(self, key: AccountKey) -> None:
        """Set what an account has spent to nothing; what is reserved stays reserved."""
        self._run_locked(lambda core: core.reset_account(key))

    def close(self) -> None:
        """Do nothing: there is nothing open."""

    def after_fork(self) -> None:
        """Go on in the child of a fork, whose parent's reservations are not its own."""
        self._lock = threading.Lock()
        self._state.drop_reservations()

    def _run_locked(self, operation: Callable[[LedgerState], _Result]) -> _Result:
        with self._lock:
            if self._busy:
                self._state.rebuild_reserved()
            self._busy = True
            result = operation(self._state)
            self._busy = False
        return result
