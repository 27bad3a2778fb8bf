"""The budgets of one process: their settings, the rejection of waiters without room, and alerts.

`Reservation` decides whether a call is admitted and with which model; `LedgerClient` writes the amounts.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from fnmatch import fnmatchcase
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from loco_otel import _fork
from loco_otel._budgets.account import Decision, LedgerUpdate
from loco_otel._budgets.ledger_client import LedgerClient, open_ledger
from loco_otel._budgets.prices import Prices
from loco_otel._budgets.waiters import RejectionCheck, WaiterIndex
from loco_otel._config.run_limits import RunLimits
from loco_otel._config.settings import Settings
from loco_otel._core.ticket import State, Ticket
from loco_otel.clock import monotonic
from loco_otel.events import BudgetEvent, BudgetReached, Event
from loco_otel.money import (
    CALL_SCOPES,
    AccountKey,
    Action,
    BudgetReport,
    BudgetStatus,
    BudgetStore,
    Charge,
    Scope,
    Totals,
)

_logger = logging.getLogger("loco_otel")

_REPORTED_SCOPES = tuple([scope for scope in Scope if scope not in CALL_SCOPES])


class BudgetEngine(Protocol):
    """The engine operations that budgets use."""

    observed: bool
    """Whether listeners receive events."""

    def emit(self, make: Callable[[float], Event]) -> None:
        """Emit an event to the listeners."""

    def reject_waiting(self, tickets: Iterable[Ticket]) -> int:
        """Reject waiting tickets."""


class BudgetController:
    """Owns the ledger and the budget state of calls in flight. Thread-safe.

    Args:
        settings: the source of budgets, prices and the ledger's path.
        engine: receives events and rejects waiting tickets.
        wall: seconds since the epoch.

    Raises:
        ConfigurationError: the ledger's file can't be used.

    """

    def __init__(self, settings: Settings, engine: BudgetEngine, wall: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.wall_clock = wall
        self.callbacks: list[Callable[[BudgetEvent], object]] = []
        self._waiters = WaiterIndex()
        _fork.on_child(self, _fork.ForkPhase.BUDGETS)
        self._is_counting_requested = self._is_run_counting_requested = False
        self._charged: dict[AccountKey, int] = {}
        """What this process has charged while it was observed, but to single runs and sessions."""
        self._charged_lock = _fork.ForkSafeLock()
        self._settings = settings
        self.prices = Prices(settings.prices)
        self.ledger_client = LedgerClient(open_ledger(settings), wall, self._handle_ledger_update)
        """Writes reservations and charges to the ledger."""
        self._apply_current_settings()

    def _apply_current_settings(self) -> None:
        settings = self._settings
        self.has_budgets = bool(settings.limits)
        """Whether calls must be admitted by a budget."""
        self.is_fail_closed = settings.ledger_on_error == "closed" and settings.mode == "enforce"
        """Whether calls with budgets are rejected while the ledger can't be used."""
        self.is_alert_last = settings.downgrade_ends == "alert"
        self.is_counting = (
            self.has_budgets or settings.ledger is not None or settings.count_spend or self._is_counting_requested
        )
        """Whether the cost of calls must be computed even if nothing else needs it."""
        self.is_observing = settings.mode == "observe"
        """Whether calls without room are sent all the same."""
        self.ledger_client.ledger.lease = settings.max_hold
        self.ledger_client.ledger.counts_runs = (
            settings.run_limits != RunLimits()
            or any(budget.scope is Scope.RUN for budget in settings.limits)
            or settings.count_spend
            or self._is_run_counting_requested
        )
        self.ledger_client.ledger.run_idle_timeout = settings.run_idle_timeout
        self._waiters.set_budgets(settings.limits)
        if self.has_budgets:
            self.prices.load_snapshot()
        is_remote = self.ledger_client.ledger.is_remote
        if self.has_budgets or settings.ledger is not None or (self.is_counting and is_remote):
            self.ledger_client.start_maintenance()

    def apply_settings(self, settings: Settings) -> None:
        """Apply other settings.

        Raises:
            ConfigurationError: the new ledger's file can't be used. No change was made.

        """
        before = self._settings
        if settings.ledger_location != before.ledger_location:
            former, self.ledger_client.ledger = self.ledger_client.ledger, open_ledger(settings)
            former.close()
        elif (settings.limits, settings.budget_zone) != (before.limits, before.budget_zone):
            self.ledger_client.ledger.set_budgets(settings.limits, ZoneInfo(settings.budget_zone))
        if settings.prices != before.prices:
            self.prices = Prices(settings.prices)
        self._settings = settings
        self._apply_current_settings()

    def recheck_waiters(self) -> None:
        """Reject the waiting calls that the current settings can no longer admit, and run the program's callbacks."""
        self._reject_unaffordable(self._waiters.list_waiters())

    def find_cheaper_models(self, model: str | None) -> tuple[str, ...]:
        """Return the models that may replace one, the next cheaper one first."""
        table = self._settings.downgrade
        if model is None or not table:
            return ()
        ladder = table.get(model) or next((ladder for glob, ladder in table.items() if fnmatchcase(model, glob)), ())
        # A model on the ladder of a glob continues from its own step: the steps before it cost more.
        return ladder[ladder.index(model) + 1 :] if model in ladder else ladder

    # -- the budget operations of one call --------------------------------------------------------------------------

    def track_waiter(
        self, ticket: Ticket, charges: tuple[Charge, ...], refusal: RejectionCheck
    ) -> "Future[Any] | None":
        """Track a waiting call, and reject it at once if no budget can admit it. Return the check, if it is under way.

        Args:
            ticket: the call's ticket.
            charges: the call's estimates: one for each model that it may be sent with.
            refusal: checks whether the call is to be rejected.

        """
        # Tracked before the check, so that spending in between is not missed.
        self._waiters.add_waiter(ticket, charges, refusal)
        return self.ledger_client.run_off_loop(self._reject_unaffordable, {ticket: refusal})

    def untrack_waiter(self, ticket: Ticket) -> None:
        """Stop tracking a call that no longer waits."""
        self._waiters.remove_waiter(ticket)

    def check_estimate(self, charge: Charge, passing: Collection[Action]) -> Decision:
        """Return whether a call can be admitted within the period.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        return self.ledger_client.ledger.check_estimate(charge, self.wall_clock(), passing)

    def check_waiter(self, ticket: Ticket, charge: Charge, passing: Collection[Action]) -> Decision:
        """Check a call that waits, or reserve its estimate; see `Ledger.check_estimate`.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        return self.ledger_client.check_waiter(ticket, charge, passing)

    def settle_charge(self, ticket: Ticket, charge: Charge, *, is_reserved: bool = True) -> tuple[BudgetStatus, ...]:
        """Spend a call's actual cost. Return its accounts, or an empty tuple if the ledger can't be used now.

        With `is_reserved` False nothing was reserved for it.
        """
        if not (is_reserved or self.has_budgets):
            self.ledger_client.count_charge(ticket, charge)
            return ()
        return self.ledger_client.settle_reservation(ticket, charge).statuses

    def emit_budget_event(self, make: Callable[[float], BudgetEvent]) -> None:
        """Emit a budget event to listeners and to the program's callbacks."""
        self.engine.emit(make)
        if self.callbacks:
            event = make(monotonic())
            for callback in tuple(self.callbacks):
                try:
                    callback(event)
                except Exception:
                    _logger.exception("a callback of on_budget() failed; the call continues, fix the callback")

    # -- operations on all budgets ----------------------------------------------------------------------------------

    def read_statuses(self) -> tuple[BudgetStatus, ...]:
        """Return the status of every account.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        self.ledger_client.flush()
        return self.ledger_client.ledger.read_statuses(self.wall_clock())

    def read_report(self) -> BudgetReport:
        """Return the status of the accounts that metrics have, where they are kept, and what this process has charged.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        self.ledger_client.flush()
        statuses = self.ledger_client.ledger.read_statuses(self.wall_clock(), _REPORTED_SCOPES)
        call_budgets = tuple([budget for budget in self._settings.limits if budget.scope in CALL_SCOPES])
        store = BudgetStore.MEMORY if self._settings.ledger_location is None else BudgetStore.LEDGER
        with self._charged_lock:
            return BudgetReport(store, statuses, self._charged.copy(), call_budgets)

    def compute_totals(self, by: tuple[str, ...]) -> tuple[Totals, ...]:
        """Return the totals of all settled calls, grouped by these fields.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        self.ledger_client.flush()
        return self.ledger_client.ledger.compute_totals(by)

    def start_counting(self, *, by_run: bool) -> bool:
        """Start to count spending, with `by_run` per run too. Return False if it was counted before."""
        was, self.is_counting, self._is_counting_requested = self.is_counting, True, True
        if by_run:
            was = was and self.ledger_client.ledger.counts_runs
            self.ledger_client.ledger.counts_runs = self._is_run_counting_requested = True
        return not was

    def close(self) -> None:
        """Write deferred settlements, and close the ledger."""
        _fork.discard(self)
        self.ledger_client.flush()
        self.ledger_client.ledger.close()

    def after_fork(self) -> None:
        """Reset the state of a forked child, which does not own its parent's calls."""
        self._waiters.clear()
        self._charged = {}
        self.ledger_client.after_fork()
        self._apply_current_settings()

    def _handle_ledger_update(self, ticket: Ticket, charge: Charge, settled: LedgerUpdate) -> None:
        if settled.statuses and self.engine.observed:
            with self._charged_lock:
                # Single runs and sessions are without bound, and no metric has them.
                for status in (status for status in settled.statuses if status.key.scope not in CALL_SCOPES):
                    self._charged[status.key] = self._charged.get(status.key, 0) + charge.amount(status.key.unit)
        for percent, standing in settled.reached:
            self._report_threshold(ticket, percent, standing)
        if self._waiters:
            self._reject_unaffordable(self._waiters.find_affected(settled.statuses))

    def _reject_unaffordable(self, waiting: Mapping[Ticket, RejectionCheck]) -> None:
        """Reject the waiting calls that can no longer be admitted."""
        hopeless = []
        for ticket, refusal in waiting.items():
            denial = refusal(ticket) if ticket.state is State.WAITING else None
            if denial is not None:
                ticket.denial = denial
                hopeless.append(ticket)
        if hopeless:
            self.engine.reject_waiting(hopeless)

    def _report_threshold(self, ticket: Ticket, percent: int, standing: BudgetStatus) -> None:
        unit = standing.key.unit
        _logger.warning(
            "the budget of %s %s has reached %d %%: %s of %s are spent",
            standing.key.scope,
            standing.key.key,
            percent,
            unit.tell(unit.amount(standing.spent)),
            unit.tell(unit.amount(standing.limit)),
        )
        self.emit_budget_event(lambda at: BudgetReached(at, ticket, percent, standing))
