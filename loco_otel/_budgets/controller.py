"""The budgets of one process: by which settings calls are paid for, who waits in vain, and who is told.

Whether a call is let in, and with which model, is `Purchase`'s part; what is written down, that of `Books`.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Protocol, TypeAlias
from zoneinfo import ZoneInfo

from loco_otel._budgets.account import Decision, Settled
from loco_otel._budgets.ledger_client import Books, open_ledger
from loco_otel._budgets.prices import Prices
from loco_otel._config.settings import Settings
from loco_otel._core.ticket import State, Ticket
from loco_otel.clock import monotonic
from loco_otel.events import BudgetEvent, BudgetReached, Event
from loco_otel.money import Action, Charge, Standing, Totals, Unit

_logger = logging.getLogger("loco_otel")


Refusal: TypeAlias = Callable[[Ticket], Exception | None]
"""Tells why a call will not be let in however long it waits; None while it may."""


class Teller(Protocol):
    """What budgets need of the engine."""

    def tell(self, make: Callable[[float], Event]) -> None:
        """Tell listeners an event."""

    def evict(self, tickets: Iterable[Ticket]) -> int:
        """Turn tickets away that wait."""


class Budgets:
    """Keeps the ledger, and all that calls under way have to do with it. For all threads.

    Args:
        settings: whose budgets, prices and ledger these are.
        engine: told what happens, and asked to turn away who waits in vain.
        wall: seconds since the epoch.

    Raises:
        ConfigurationError: the ledger's file can't be used.

    """

    def __init__(self, settings: Settings, engine: Teller, wall: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.now = wall
        self.callbacks: list[Callable[[BudgetEvent], object]] = []
        self._waiting: dict[Ticket, Refusal] = {}
        self._largest = {Unit.USD: 0, Unit.WEIGHT: 0}
        """Of the estimates of those that wait: an account with more room than that refuses none of them."""
        self._asked = False
        self._settings = settings
        self.prices = Prices(settings.prices)
        self.books = Books(open_ledger(settings), wall, self._note_settled)
        """Where what is reserved and spent is written."""
        self._begin()

    def _begin(self) -> None:
        settings = self._settings
        self.limited = bool(settings.budgets)
        """Whether calls need to be let in."""
        self.closed = settings.ledger_on_error == "closed"
        self.ends_in_alert = settings.downgrade_ends == "alert"
        self.counting = self.limited or settings.ledger is not None or settings.count_spend or self._asked
        """Whether what calls take is to be known, though nobody else should ask."""
        self.books.ledger.lease = settings.max_hold
        if self.limited:
            self.prices.load()
        if self.limited or settings.ledger is not None:
            self.books.watch()

    def configure(self, settings: Settings) -> None:
        """Go on under other settings.

        Raises:
            ConfigurationError: another ledger's file can't be used; nothing has changed then.

        """
        before = self._settings
        if settings.ledger != before.ledger:
            former, self.books.ledger = self.books.ledger, open_ledger(settings)
            former.close()
        elif (settings.limits, settings.budget_zone) != (before.limits, before.budget_zone):
            self.books.ledger.set_budgets(settings.limits, ZoneInfo(settings.budget_zone))
        if settings.prices != before.prices:
            self.prices = Prices(settings.prices)
        self._settings = settings
        self._begin()

    def look_again(self) -> None:
        """Turn those away that wait in vain under the settings as they are now; tells the program's callbacks."""
        self._turn_away(self._waiting.copy())

    def ladder(self, model: str | None) -> tuple[str, ...]:
        """Return what a model's calls may be sent with instead, the next cheaper one first."""
        table = self._settings.downgrade
        if model is None or not table:
            return ()
        ladder = table.get(model) or next((ladder for glob, ladder in table.items() if fnmatchcase(model, glob)), ())
        # A model that stands on the ladder of a glob goes on from its own step: those before it are dearer.
        return ladder[ladder.index(model) + 1 :] if model in ladder else ladder

    # -- the way of a call's money ----------------------------------------------------------------------------------

    def wait(self, ticket: Ticket, charge: Charge, refusal: Refusal) -> None:
        """Note a call that waits for its slot, and turn it away if that is in vain.

        Args:
            ticket: its ticket.
            charge: its estimate.
            refusal: its.

        """
        largest = self._largest
        largest[Unit.USD] = max(largest[Unit.USD], charge.usd or 0)
        largest[Unit.WEIGHT] = max(largest[Unit.WEIGHT], charge.weight)
        # First noted, then looked at: what is spent in between is not missed.
        self._waiting[ticket] = refusal
        self._turn_away({ticket: refusal})

    def wait_no_more(self, ticket: Ticket) -> None:
        """Note that a call waits no more."""
        self._waiting.pop(ticket, None)
        if not self._waiting:
            self._largest = {Unit.USD: 0, Unit.WEIGHT: 0}

    def judge(self, charge: Charge, passing: Collection[Action]) -> Decision:
        """Tell whether a call can be let in within the period.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        return self.books.ledger.judge(charge, self.now(), passing)

    def settle(self, ticket: Ticket, charge: Charge) -> tuple[Standing, ...]:
        """Spend what a call took, and return its accounts; none where the ledger can't be used now."""
        return self.books.settle(ticket, charge).standings

    def note(self, make: Callable[[float], BudgetEvent]) -> None:
        """Tell listeners and the program's callbacks of a budget."""
        self.engine.tell(make)
        if self.callbacks:
            event = make(monotonic())
            for callback in tuple(self.callbacks):
                try:
                    callback(event)
                except Exception:
                    _logger.exception("a callback for budgets failed; the call goes on")

    # -- what is asked of all of them -------------------------------------------------------------------------------

    def standings(self) -> tuple[Standing, ...]:
        """Tell how each account stands.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        self.books.catch_up()
        return self.books.ledger.standings(self.now())

    def totals(self, by: tuple[str, ...]) -> tuple[Totals, ...]:
        """Tell what all settled calls took, by these fields.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        self.books.catch_up()
        return self.books.ledger.totals(by)

    def count(self) -> bool:
        """Count from now on; False where that was done already."""
        was, self.counting, self._asked = self.counting, True, True
        return not was

    def close(self) -> None:
        """Spend what is left to spend, and let go of the ledger."""
        self.books.catch_up()
        self.books.ledger.close()

    def after_fork(self) -> None:
        """Go on in the child, whose parent's calls are not its own."""
        self._waiting = {}
        self.books.after_fork()
        self._begin()

    def _note_settled(self, ticket: Ticket, settled: Settled) -> None:
        for percent, standing in settled.reached:
            self._reached(ticket, percent, standing)
        if self._waiting and any(self._is_tight(standing) for standing in settled.standings):
            self._turn_away(self._waiting.copy())

    def _is_tight(self, standing: Standing) -> bool:
        return (
            standing.action is not Action.ALERT and standing.limit - standing.spent < self._largest[standing.key.unit]
        )

    def _turn_away(self, waiting: Mapping[Ticket, Refusal]) -> None:
        """Turn those away that no longer can be let in."""
        hopeless = []
        for ticket, refusal in waiting.items():
            denial = refusal(ticket) if ticket.state is State.WAITING else None
            if denial is not None:
                ticket.denial = denial
                hopeless.append(ticket)
        if hopeless:
            self.engine.evict(hopeless)

    def _reached(self, ticket: Ticket, percent: int, standing: Standing) -> None:
        unit = standing.key.unit
        _logger.warning(
            "the budget of %s %s has reached %d %%: %s of %s are spent",
            standing.key.scope,
            standing.key.key,
            percent,
            unit.tell(unit.amount(standing.spent)),
            unit.tell(unit.amount(standing.limit)),
        )
        self.note(lambda at: BudgetReached(at, ticket, percent, standing))
