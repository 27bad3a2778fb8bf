"""The in-memory ledger of one process, behind a lock."""

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, tzinfo
from typing import TypeVar

from loco_otel._budgets.account import Decision, LedgerUpdate
from loco_otel._budgets.accounts import LedgerState
from loco_otel.money import AccountKey, Action, Budget, BudgetStatus, Charge, Scope, Totals

_Result = TypeVar("_Result")


class MemoryLedger:
    """The accounts of one process. Thread-safe; see `loco_otel._budgets.ledger` for the operations.

    `_busy` is set during an operation. If an exception interrupts one, it stays set and the next operation first
    recovers the state.

    Args:
        budgets: the rules.
        zone: the time zone at whose midnight a day ends.
        lease: seconds after which a reservation that was not renewed expires.
        run_idle_timeout: seconds of silence after which a run is forgotten.

    """

    is_remote = False

    def __init__(
        self,
        budgets: Iterable[Budget] = (),
        zone: tzinfo = UTC,
        *,
        lease: float = 900.0,
        run_idle_timeout: float = 900.0,
    ) -> None:
        self._state = LedgerState(budgets, zone, lease, run_idle_timeout)
        self._lock = threading.Lock()
        self._busy = False

    @property
    def lease(self) -> float:
        """Seconds after which a reservation that was not renewed expires."""
        return self._state.lease

    @lease.setter
    def lease(self, seconds: float) -> None:
        self._state.lease = seconds

    @property
    def run_idle_timeout(self) -> float:
        """Seconds of silence after which a run is forgotten."""
        return self._state.run_idle_timeout

    @run_idle_timeout.setter
    def run_idle_timeout(self, seconds: float) -> None:
        self._state.run_idle_timeout = seconds

    @property
    def counts_runs(self) -> bool:
        """Whether totals are kept per run too."""
        return self._state.spend_totals.counts_runs

    @counts_runs.setter
    def counts_runs(self, value: bool) -> None:
        self._state.spend_totals.counts_runs = value

    def set_budgets(self, budgets: Iterable[Budget], zone: tzinfo) -> None:
        """Replace the rules. Accounts keep their spent and reserved amounts."""
        self._run_locked(lambda core: core.set_budgets(budgets, zone))

    def reserve_estimate(
        self, hold: str, charge: Charge, now: float, passing: Collection[Action] = (Action.ALERT,)
    ) -> Decision:
        """Reserve a call's estimate in all its budgets, or in none."""
        core = self._state
        with self._lock:  # `_run_locked` inlined, as this is the hot path
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
        hold: str | None = None,  # noqa: ARG002
        *,
        include_reserved: bool = False,
    ) -> Decision:
        """Return the decision of `reserve_estimate` without reserving, with or without counting reserved amounts."""
        return self._run_locked(
            lambda core: core.check_estimate(charge, now, passing, include_reserved=include_reserved)
        )

    def settle_reservation(self, hold: str, charge: Charge, now: float) -> LedgerUpdate:
        """End a reservation and spend the call's actual cost."""
        core = self._state
        with self._lock:  # `_run_locked` inlined
            if self._busy:
                core.rebuild_reserved()
            self._busy = True
            settled = core.settle_reservation(hold, charge, now)
            self._busy = False
        return settled

    def count_charge(self, charge: Charge) -> None:
        """Add the cost of a call to the totals alone: one without a reservation, while there are no budgets."""
        with self._lock:  # `_run_locked` inlined
            if self._busy:
                self._state.rebuild_reserved()
            self._busy = True
            self._state.spend_totals.add_charge(charge)
            self._busy = False

    def cancel_reservation(self, hold: str, now: float, *, sent: bool = False) -> None:
        """End a reservation without spending more than the call itself, if it was sent. No-op if it has ended."""
        self._run_locked(lambda core: core.cancel_reservation(hold, now, sent=sent))

    def renew_reservations(self, holds: Iterable[str], now: float) -> None:
        """Extend the expiry of the reservations of calls in flight."""
        self._run_locked(lambda core: core.renew_reservations(holds, now))

    def read_statuses(self, now: float, scopes: Collection[Scope] = tuple(Scope)) -> tuple[BudgetStatus, ...]:
        """Return the status of every account of some scopes; see `Ledger.read_statuses`."""
        return self._run_locked(lambda core: core.read_statuses(now, scopes))

    def read_status(self, key: AccountKey, now: float) -> BudgetStatus:
        """Return the status of one account that a rule covers."""
        return self._run_locked(lambda core: core.read_status(key, now))

    def compute_totals(self, by: Sequence[str]) -> tuple[Totals, ...]:
        """Return the totals of all settled calls.

        Raises:
            ValueError: `by` has a field that totals cannot be grouped by.

        """
        return self._run_locked(lambda core: core.compute_totals(by))

    def reset_account(self, key: AccountKey) -> None:
        """Set an account's spent amount to 0. Reserved amounts are kept."""
        self._run_locked(lambda core: core.reset_account(key))

    def close(self) -> None:
        """Do nothing: no resource is open."""

    def after_fork(self) -> None:
        """End the reservations in a forked child, as they belong to its parent."""
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
