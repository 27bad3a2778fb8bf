"""The ledger of a process that shares its budgets with nobody: in memory, behind a lock."""

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, tzinfo
from typing import TypeVar

from loco_otel._budgets.account import Decision, Settled
from loco_otel._budgets.accounts import Ledger
from loco_otel.money import AccountKey, Action, Budget, Charge, Standing, Totals

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
        self._core = Ledger(budgets, zone, lease)
        self._lock = threading.Lock()
        self._busy = False

    @property
    def lease(self) -> float:
        """Seconds after which a reservation that nobody renewed is gone."""
        return self._core.lease

    @lease.setter
    def lease(self, seconds: float) -> None:
        self._core.lease = seconds

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo) -> None:
        """Go on under other rules; the accounts keep what they have spent and reserved."""
        self._do(lambda core: core.set_budgets(budgets, zone))

    def reserve(self, hold: str, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,)) -> Decision:
        """Reserve a call's estimate from all its budgets, or from none."""
        core = self._core
        with self._lock:  # as `_do`, which costs a call more: this is the hot path
            if self._busy:
                core.recover()
            self._busy = True
            decision = core.reserve(hold, charge, now, passing)
            self._busy = False
        return decision

    def judge(
        self, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,), *, beside: bool = False
    ) -> Decision:
        """Tell what `reserve` would say, `beside` what is reserved or if nothing were, and reserve nothing."""
        return self._do(lambda core: core.judge(charge, now, passing, beside=beside))

    def settle(self, hold: str, charge: Charge, now: float) -> Settled:
        """End a reservation, and spend what the call really took."""
        core = self._core
        with self._lock:  # as above
            if self._busy:
                core.recover()
            self._busy = True
            settled = core.settle(hold, charge, now)
            self._busy = False
        return settled

    def give_back(self, hold: str) -> None:
        """End a reservation of which nothing was spent; harmless when it has ended."""
        self._do(lambda core: core.give_back(hold))

    def renew(self, holds: Iterable[str], now: float) -> None:
        """Note that these calls still go on, so that their reservations do not expire."""
        self._do(lambda core: core.renew(holds, now))

    def standings(self, now: float) -> tuple[Standing, ...]:
        """Tell how each account stands; those of named budgets are there before anything is spent."""
        return self._do(lambda core: core.standings(now))

    def standing(self, key: AccountKey, now: float) -> Standing:
        """Tell how one account stands that a rule covers."""
        return self._do(lambda core: core.standing(key, now))

    def totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Tell what all settled calls took.

        Raises:
            ValueError: `by` has a field that is none to tell them by.

        """
        return self._do(lambda core: core.totals(by))

    def reset(self, key: AccountKey) -> None:
        """Set what an account has spent to nothing; what is reserved stays reserved."""
        self._do(lambda core: core.reset(key))

    def close(self) -> None:
        """Do nothing: there is nothing open."""

    def after_fork(self) -> None:
        """Go on in the child of a fork, whose parent's reservations are not its own."""
        self._lock = threading.Lock()
        self._core.forget_holds()

    def _do(self, operation: Callable[[Ledger], _Result]) -> _Result:
        with self._lock:
            if self._busy:
                self._core.recover()
            self._busy = True
            result = operation(self._core)
            self._busy = False
        return result
