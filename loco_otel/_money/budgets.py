"""The budgets of one process: what calls are paid from, and what there is to do for them besides.

Whether a call is let in, and with which model, is `Purchase`'s part.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path
from typing import Protocol, TypeAlias
from zoneinfo import ZoneInfo

from loco_otel._core.account import Decision, Settled
from loco_otel._core.ticket import State, Ticket
from loco_otel._engines.timer import Timer
from loco_otel._money.base import Ledger
from loco_otel._money.memory_ledger import MemoryLedger
from loco_otel._money.prices import Prices
from loco_otel._money.sqlite_ledger import SqliteLedger
from loco_otel.clock import monotonic
from loco_otel.errors import ConfigurationError, LedgerError
from loco_otel.events import BudgetEvent, BudgetReached, Event
from loco_otel.money import Action, Charge, Standing, Totals, Unit
from loco_otel.settings import Settings

_logger = logging.getLogger("loco_otel")

_RENEWALS = 3
"""So many times in a lease it is renewed: one that fails leaves time for another."""


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
        self._under_way: dict[str, Ticket] = {}
        self._later: deque[tuple[Ticket, Charge | None]] = deque()
        """What is to be spent, or with None given back, once the ledger can be used and no finaliser runs."""
        self._failing = False
        self._asked = False
        self._settings = settings
        self.prices = Prices(settings.prices)
        self._ledger = open_ledger(settings)
        self._timer = Timer(monotonic)
        self._begin()

    def _begin(self) -> None:
        settings = self._settings
        self.limited = bool(settings.budgets)
        """Whether calls need to be let in."""
        self.closed = settings.ledger_on_error == "closed"
        self.ends_in_alert = settings.downgrade_ends == "alert"
        self.counting = self.limited or settings.ledger is not None or settings.count_spend or self._asked
        """Whether what calls take is to be known, though nobody else should ask."""
        self._ledger.lease = settings.max_hold
        if self.limited:
            self.prices.load()
        if self.limited or settings.ledger is not None:
            self._timer.start(self.tidy)

    def configure(self, settings: Settings) -> None:
        """Go on under other settings.

        Raises:
            ConfigurationError: another ledger's file can't be used; nothing has changed then.

        """
        before = self._settings
        if settings.ledger != before.ledger:
            former, self._ledger = self._ledger, open_ledger(settings)
            former.close()
        elif (settings.limits, settings.budget_zone) != (before.limits, before.budget_zone):
            self._ledger.set_budgets(settings.limits, ZoneInfo(settings.budget_zone))
        if settings.prices != before.prices:
            self.prices = Prices(settings.prices)
        self._settings = settings
        self._begin()
        self._turn_away(self._waiting.copy())

    def ladder(self, model: str | None) -> tuple[str, ...]:
        """Return what a model's calls may be sent with instead, the next cheaper one first."""
        table = self._settings.downgrade
        if model is None or not table:
            return ()
        if model in table:
            return table[model]
        return next((ladder for glob, ladder in table.items() if fnmatchcase(model, glob)), ())

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
        return self._ledger.judge(charge, self.now(), passing)

    def reserve(self, ticket: Ticket, charge: Charge, passing: Collection[Action]) -> Decision:
        """Reserve a call's estimate, if all its budgets have room.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        if self._later:
            self._catch_up()
        hold = ticket.id
        decision = self._ledger.reserve(hold, charge, self.now(), passing)
        if decision.admitted:
            self._under_way[hold] = ticket
        return decision

    def settle(self, ticket: Ticket, charge: Charge) -> tuple[Standing, ...]:
        """Spend what a call took, and return its accounts; where the ledger can't be used now it is spent later."""
        if self._later:
            self._catch_up()
        self._under_way.pop(ticket.id, None)
        settled = self._settle(ticket, charge)
        if settled is None:
            self._later.append((ticket, charge))
            return ()
        return settled.standings

    def give_back(self, ticket: Ticket) -> None:
        """End the reservation of a call that took nothing."""
        if self._under_way.pop(ticket.id, None) is not None and not self._give_back(ticket):
            self._later.append((ticket, None))

    def settle_later(self, ticket: Ticket, charge: Charge | None) -> None:
        """End a reservation, and spend what the call took. For finalisers: takes no lock, tells nobody."""
        if self._under_way.pop(ticket.id, None) is not None or charge is not None:
            self._later.append((ticket, charge))
            self._timer.poke()

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
        self._catch_up()
        return self._ledger.standings(self.now())

    def totals(self, by: tuple[str, ...]) -> tuple[Totals, ...]:
        """Tell what all settled calls took, by these fields.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        self._catch_up()
        return self._ledger.totals(by)

    def count(self) -> bool:
        """Count from now on; False where that was done already."""
        was, self.counting, self._asked = self.counting, True, True
        return not was

    def tidy(self) -> float:
        """Spend what could not be spent at once, and keep the reservations of calls under way; the timer does.

        Returns:
            When to call again, by the monotonic clock.

        """
        self._catch_up()
        for ticket in self._under_way.copy().values():
            if ticket.state.ended:
                # Taken back for want of a sign of life: its call may settle yet, and is charged without a reservation.
                self.give_back(ticket)
        under_way = self._under_way.copy()
        if under_way:
            try:
                self._ledger.renew(under_way, self.now())
            except LedgerError:
                self._fail()
        soon = 1.0 if self._later else inf
        return monotonic() + min(soon, self._ledger.lease / _RENEWALS)

    def close(self) -> None:
        """Spend what is left to spend, and let go of the ledger."""
        self._catch_up()
        self._ledger.close()

    def after_fork(self) -> None:
        """Go on in the child, whose parent's calls are not its own."""
        self._waiting = {}
        self._under_way = {}
        self._later.clear()
        self._ledger.after_fork()
        self._timer = Timer(monotonic)
        self._begin()

    def _catch_up(self) -> None:
        for _ in range(len(self._later)):
            try:
                ticket, charge = self._later.popleft()
            except IndexError:  # another thread has taken the last
                return
            done = self._give_back(ticket) if charge is None else self._settle(ticket, charge) is not None
            if not done:
                self._later.append((ticket, charge))
                return

    def _settle(self, ticket: Ticket, charge: Charge) -> Settled | None:
        try:
            settled = self._ledger.settle(ticket.id, charge, self.now())
        except LedgerError:
            self._fail()
            return None
        self._failing = False
        for percent, standing in settled.reached:
            self._reached(ticket, percent, standing)
        if self._waiting and any(self._is_tight(standing) for standing in settled.standings):
            self._turn_away(self._waiting.copy())
        return settled

    def _give_back(self, ticket: Ticket) -> bool:
        try:
            self._ledger.give_back(ticket.id)
        except LedgerError:
            self._fail()
            return False
        return True

    def _fail(self) -> None:
        """Say, once until it works again, that the ledger can't be used."""
        if not self._failing:
            self._failing = True
            _logger.error("what calls take is kept in memory until the ledger can be used again", exc_info=True)  # noqa: LOG014 - called in handlers

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


def open_ledger(settings: Settings) -> Ledger:
    """Return the ledger of the settings.

    Raises:
        ConfigurationError: its file can't be used.

    """
    zone = ZoneInfo(settings.budget_zone)
    if settings.ledger is None:
        return MemoryLedger(settings.limits, zone, lease=settings.max_hold)
    try:
        return SqliteLedger(Path(settings.ledger).expanduser(), settings.limits, zone, lease=settings.max_hold)
    except LedgerError as error:
        origin = settings.origin("ledger")
        key = origin if origin.startswith("LOCO_") else "ledger"
        raise ConfigurationError(f"{key}={settings.ledger}: {error}") from error
