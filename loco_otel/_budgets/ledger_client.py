"""The ledger as calls use it: nothing is lost while it can't be used, and no reservation outlives its call."""

import logging
from collections import deque
from collections.abc import Callable, Collection
from math import inf
from pathlib import Path
from zoneinfo import ZoneInfo

from loco_otel._budgets.account import Decision, Settled
from loco_otel._budgets.ledger import Ledger
from loco_otel._budgets.memory_ledger import MemoryLedger
from loco_otel._budgets.sqlite_ledger import SqliteLedger
from loco_otel._config.settings import Settings
from loco_otel._core.ticket import Ticket
from loco_otel._engine.timer import Timer
from loco_otel.clock import monotonic
from loco_otel.errors import ConfigurationError, LedgerError
from loco_otel.money import Action, Charge

_logger = logging.getLogger("loco_otel")

_RENEWALS = 3
"""So many times in a lease it is renewed: one that fails leaves time for another."""
_TRY_AGAIN = 1.0
"""Seconds until what could not be written is tried again."""


class Books:
    """A ledger, the calls under way that hold something of it, and what could not be written to it yet.

    For all threads.

    Args:
        ledger: where it is all written.
        wall: seconds since the epoch.
        settled: told of each call that was settled, sooner or later.

    """

    def __init__(self, ledger: Ledger, wall: Callable[[], float], settled: Callable[[Ticket, Settled], None]) -> None:
        self.ledger = ledger
        self._now = wall
        self._settled = settled
        self._under_way: dict[str, Ticket] = {}
        self._later: deque[tuple[Ticket, Charge | None]] = deque()
        """What is to be spent, or with None given back, once the ledger can be used and no finaliser runs."""
        self._failing = False
        self._renewed = False
        self._timer = Timer(monotonic)

    def watch(self) -> None:
        """Look after reservations and what is late from now on."""
        self._timer.start(self.tidy)

    def reserve(self, ticket: Ticket, charge: Charge, passing: Collection[Action]) -> Decision:
        """Reserve a call's estimate, if all its budgets have room.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        if self._later:
            self.catch_up()
        hold = ticket.id
        decision = self.ledger.reserve(hold, charge, self._now(), passing)
        if decision.admitted:
            self._under_way[hold] = ticket
        return decision

    def settle(self, ticket: Ticket, charge: Charge) -> Settled:
        """Spend what a call took; later, where the ledger can't be used now."""
        if self._later:
            self.catch_up()
        self._under_way.pop(ticket.id, None)
        settled = self._settle(ticket, charge)
        if settled is None:
            self._later.append((ticket, charge))
            return Settled()
        return settled

    def give_back(self, ticket: Ticket) -> None:
        """End the reservation of a call that took nothing."""
        if self._under_way.pop(ticket.id, None) is not None and not self._give_back(ticket):
            self._later.append((ticket, None))

    def settle_later(self, ticket: Ticket, charge: Charge | None) -> None:
        """End a reservation, and spend what the call took. For finalisers: takes no lock, tells nobody."""
        if self._under_way.pop(ticket.id, None) is not None or charge is not None:
            self._later.append((ticket, charge))
            self._timer.poke()

    def catch_up(self) -> None:
        """Write what could not be written before, as far as that works now."""
        for _ in range(len(self._later)):
            try:
                ticket, charge = self._later.popleft()
            except IndexError:  # another thread has taken the last
                return
            done = self._give_back(ticket) if charge is None else self._settle(ticket, charge) is not None
            if not done:
                self._later.append((ticket, charge))
                return

    def tidy(self) -> float:
        """Catch up, and keep the reservations of calls under way; the timer does.

        Returns:
            When to call again, by the monotonic clock.

        """
        self.catch_up()
        # A call whose slot was taken back for want of a sign of life goes on too, and will be charged: each ends its
        # own reservation, at the latest where it is dropped.
        under_way = self._under_way.copy()
        if under_way or not self._renewed:  # once in any case: it clears away what programs before have left
            try:
                self.ledger.renew(under_way, self._now())
                self._renewed = True
            except LedgerError:
                self._fail()
        return monotonic() + min(_TRY_AGAIN if self._later else inf, self.ledger.lease / _RENEWALS)

    def after_fork(self) -> None:
        """Go on in the child, whose parent's calls are not its own."""
        self._under_way = {}
        self._later.clear()
        self.ledger.after_fork()
        self._timer = Timer(monotonic)

    def _settle(self, ticket: Ticket, charge: Charge) -> Settled | None:
        try:
            settled = self.ledger.settle(ticket.id, charge, self._now())
        except LedgerError:
            self._fail()
            return None
        self._failing = False
        self._settled(ticket, settled)
        return settled

    def _give_back(self, ticket: Ticket) -> bool:
        try:
            self.ledger.give_back(ticket.id)
        except LedgerError:
            self._fail()
            return False
        return True

    def _fail(self) -> None:
        """Say, once until it works again, that the ledger can't be used."""
        if not self._failing:
            self._failing = True
            _logger.error("what calls take is kept in memory until the ledger can be used again", exc_info=True)  # noqa: LOG014 - called in handlers


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
