"""The budgets of one process: by which settings calls are paid for, who waits in vain, and who is told.

Whether a call is let in, and with which model, is `Purchase`'s part; what is written down, that of `Books`.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Protocol, TypeAlias
from zoneinfo import ZoneInfo

from loco_otel import _fork
from loco_otel._budgets.account import Decision, LedgerUpdate
from loco_otel._budgets.ledger_client import LedgerClient, open_ledger
from loco_otel._budgets.prices import Prices
from loco_otel._config.settings import Settings
from loco_otel._core.ticket import State, Ticket
from loco_otel.clock import monotonic
from loco_otel.events import BudgetEvent, BudgetReached, Event
from loco_otel.money import Action, BudgetStatus, Charge, Totals, Unit

_logger = logging.getLogger("loco_otel")


RejectionCheck: TypeAlias = Callable[[Ticket], Exception | None]
"""Tells why a call will not be let in however long it waits; None while it may."""


class BudgetEngine(Protocol):
    """What budgets need of the engine."""

    def emit(self, make: Callable[[float], Event]) -> None:
        """Tell listeners an event."""

    def reject_waiting(self, tickets: Iterable[Ticket]) -> int:
        """Turn tickets away that wait."""


class BudgetController:
    """Keeps the ledger, and all that calls under way have to do with it. For all threads.

    Args:
        settings: whose budgets, prices and ledger these are.
        engine: told what happens, and asked to turn away who waits in vain.
        wall: seconds since the epoch.

    Raises:
        ConfigurationError: the ledger's file can't be used.

    """

    def __init__(self, settings: Settings, engine: BudgetEngine, wall: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.wall_clock = wall
        self.callbacks: list[Callable[[BudgetEvent], object]] = []
        self._waiters: dict[Ticket, RejectionCheck] = {}
        _fork.on_child(self, _fork.ForkPhase.BUDGETS)
        self._largest_estimates = {Unit.USD: 0, Unit.WEIGHT: 0}
        """Of the estimates of those that wait: an account with more room than that refuses none of them."""
        self._is_counting_requested = False
        self._settings = settings
        self.prices = Prices(settings.prices)
        self.ledger_client = LedgerClient(open_ledger(settings), wall, self._handle_ledger_update)
        """Where what is reserved and spent is written."""
        self._apply_current_settings()

    def _apply_current_settings(self) -> None:
        settings = self._settings
        self.has_budgets = bool(settings.budgets)
        """Whether calls need to be let in."""
        self.is_fail_closed = settings.ledger_on_error == "closed"
        self.is_alert_last = settings.downgrade_ends == "alert"
        self.is_counting = (
            self.has_budgets or settings.ledger is not None or settings.count_spend or self._is_counting_requested
        )
        """Whether what calls take is to be known, though nobody else should ask."""
        self.ledger_client.ledger.lease = settings.max_hold
        if self.has_budgets:
            self.prices.load_snapshot()
        if self.has_budgets or settings.ledger is not None:
            self.ledger_client.start_maintenance()

    def apply_settings(self, settings: Settings) -> None:
        """Go on under other settings.

        Raises:
            ConfigurationError: another ledger's file can't be used; nothing has changed then.

        """
        before = self._settings
        if settings.ledger != before.ledger:
            former, self.ledger_client.ledger = self.ledger_client.ledger, open_ledger(settings)
            former.close()
        elif (settings.limits, settings.budget_zone) != (before.limits, before.budget_zone):
            self.ledger_client.ledger.set_budgets(settings.limits, ZoneInfo(settings.budget_zone))
        if settings.prices != before.prices:
            self.prices = Prices(settings.prices)
        self._settings = settings
        self._apply_current_settings()

    def recheck_waiters(self) -> None:
        """Turn those away that wait in vain under the settings as they are now; tells the program's callbacks."""
        self._reject_unaffordable(self._waiters.copy())

    def find_cheaper_models(self, model: str | None) -> tuple[str, ...]:
        """Return what a model's calls may be sent with instead, the next cheaper one first."""
        table = self._settings.downgrade
        if model is None or not table:
            return ()
        ladder = table.get(model) or next((ladder for glob, ladder in table.items() if fnmatchcase(model, glob)), ())
        # A model that stands on the ladder of a glob goes on from its own step: those before it are dearer.
        return ladder[ladder.index(model) + 1 :] if model in ladder else ladder

    # -- the way of a call's money ----------------------------------------------------------------------------------

    def track_waiter(self, ticket: Ticket, charge: Charge, refusal: RejectionCheck) -> None:
        """Note a call that waits for its slot, and turn it away if that is in vain.

        Args:
            ticket: its ticket.
            charge: its estimate.
            refusal: its.

        """
        largest = self._largest_estimates
        largest[Unit.USD] = max(largest[Unit.USD], charge.usd or 0)
        largest[Unit.WEIGHT] = max(largest[Unit.WEIGHT], charge.weight)
        # First noted, then looked at: what is spent in between is not missed.
        self._waiters[ticket] = refusal
        self._reject_unaffordable({ticket: refusal})

    def untrack_waiter(self, ticket: Ticket) -> None:
        """Note that a call waits no more."""
        self._waiters.pop(ticket, None)
        if not self._waiters:
            self._largest_estimates = {Unit.USD: 0, Unit.WEIGHT: 0}

    def check_estimate(self, charge: Charge, passing: Collection[Action]) -> Decision:
        """Tell whether a call can be let in within the period.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        return self.ledger_client.ledger.check_estimate(charge, self.wall_clock(), passing)

    def settle_charge(self, ticket: Ticket, charge: Charge) -> tuple[BudgetStatus, ...]:
        """Spend what a call took, and return its accounts; none where the ledger can't be used now."""
        return self.ledger_client.settle_reservation(ticket, charge).statuses

    def emit_budget_event(self, make: Callable[[float], BudgetEvent]) -> None:
        """Tell listeners and the program's callbacks of a budget."""
        self.engine.emit(make)
        if self.callbacks:
            event = make(monotonic())
            for callback in tuple(self.callbacks):
                try:
                    callback(event)
                except Exception:
                    _logger.exception("a callback for budgets failed; the call goes on")

    # -- what is asked of all of them -------------------------------------------------------------------------------

    def read_statuses(self) -> tuple[BudgetStatus, ...]:
        """Tell how each account stands.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        self.ledger_client.write_deferred()
        return self.ledger_client.ledger.read_statuses(self.wall_clock())

    def compute_totals(self, by: tuple[str, ...]) -> tuple[Totals, ...]:
        """Tell what all settled calls took, by these fields.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        self.ledger_client.write_deferred()
        return self.ledger_client.ledger.compute_totals(by)

    def start_counting(self) -> bool:
        """Count from now on; False where that was done already."""
        was, self.is_counting, self._is_counting_requested = self.is_counting, True, True
        return not was

    def close(self) -> None:
        """Spend what is left to spend, and let go of the ledger."""
        _fork.discard(self)
        self.ledger_client.write_deferred()
        self.ledger_client.ledger.close()

    def after_fork(self) -> None:
        """Go on in the child, whose parent's calls are not its own."""
        self._waiters = {}
        self.ledger_client.after_fork()
        self._apply_current_settings()

    def _handle_ledger_update(self, ticket: Ticket, settled: LedgerUpdate) -> None:
        for percent, standing in settled.reached:
            self._report_threshold(ticket, percent, standing)
        if self._waiters and any(self._can_reject_waiters(standing) for standing in settled.statuses):
            self._reject_unaffordable(self._waiters.copy())

    def _can_reject_waiters(self, standing: BudgetStatus) -> bool:
        return (
            standing.action is not Action.ALERT
            and standing.limit - standing.spent < self._largest_estimates[standing.key.unit]
        )

    def _reject_unaffordable(self, waiting: Mapping[Ticket, RejectionCheck]) -> None:
        """Turn those away that no longer can be let in."""
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
