"""The ledger as calls use it: nothing is lost while it can't be used, and no reservation outlives its call."""

import logging
from collections import deque
from collections.abc import Callable, Collection
from math import inf
from pathlib import Path
from zoneinfo import ZoneInfo

from loco_otel._budgets.account import Decision, LedgerUpdate
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

_RENEWALS_PER_LEASE = 3
"""So many times in a lease it is renewed: one that fails leaves time for another."""
_RETRY_SECONDS = 1.0
"""Seconds until what could not be written is tried again."""


class LedgerClient:
    """A ledger, the calls under way that hold something of it, and what could not be written to it yet.

    For all threads.

    Args:
        ledger: where it is all written.
        wall: seconds since the epoch.
        settled: told of each call that was settled, sooner or later.

    """

    def __init__(
        self, ledger: Ledger, wall: Callable[[], float], settled: Callable[[Ticket, LedgerUpdate], None]
    ) -> None:
        self.ledger = ledger
        self._wall_clock = wall
        self._on_settled = settled
        self._in_flight: dict[str, Ticket] = {}
        self._deferred: deque[tuple[Ticket, Charge | None]] = deque()
        """What is to be spent, or with None given back, once the ledger can be used and no finaliser runs."""
        self._is_failing = False
        self._has_renewed = False
        self._timer = Timer(monotonic)

    def start_maintenance(self) -> None:
        """Look after reservations and what is late from now on."""
        if not self._timer.start_watching(self.run_maintenance) and self._timer.failure is not None:
            _logger.error(
                "the ledger's timer thread could not be started: reservations of long calls are not renewed (%s)",
                self._timer.failure,
            )

    def reserve_estimate(self, ticket: Ticket, charge: Charge, passing: Collection[Action]) -> Decision:
        """Reserve a call's estimate, if all its budgets have room.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        if self._deferred:
            self.write_deferred()
        hold = ticket.id
        decision = self.ledger.reserve_estimate(hold, charge, self._wall_clock(), passing)
        if decision.admitted:
            self._in_flight[hold] = ticket
        return decision

    def settle_reservation(self, ticket: Ticket, charge: Charge) -> LedgerUpdate:
        """Spend what a call took; later, where the ledger can't be used now."""
        if self._deferred:
            self.write_deferred()
        self._in_flight.pop(ticket.id, None)
        settled = self._try_settle(ticket, charge)
        if settled is None:
            self._deferred.append((ticket, charge))
            return LedgerUpdate()
        return settled

    def cancel_reservation(self, ticket: Ticket) -> None:
        """End the reservation of a call that took nothing."""
        if self._in_flight.pop(ticket.id, None) is not None and not self._try_cancel(ticket):
            self._deferred.append((ticket, None))

    def defer_settlement(self, ticket: Ticket, charge: Charge | None) -> None:
        """End a reservation, and spend what the call took. For finalisers: takes no lock, tells nobody."""
        if self._in_flight.pop(ticket.id, None) is not None or charge is not None:
            self._deferred.append((ticket, charge))
            self._timer.wake_timer()

    def write_deferred(self) -> None:
        """Write what could not be written before, as far as that works now."""
        for _ in range(len(self._deferred)):
            try:
                ticket, charge = self._deferred.popleft()
            except IndexError:  # another thread has taken the last
                return
            done = self._try_cancel(ticket) if charge is None else self._try_settle(ticket, charge) is not None
            if not done:
                self._deferred.append((ticket, charge))
                return

    def run_maintenance(self) -> float:
        """Catch up, and keep the reservations of calls under way; the timer does.

        Returns:
            When to call again, by the monotonic clock.

        """
        self.write_deferred()
        # A call whose slot was taken back for want of a sign of life goes on too, and will be charged: each ends its
        # own reservation, at the latest where it is dropped.
        under_way = self._in_flight.copy()
        if under_way or not self._has_renewed:  # once in any case: it clears away what programs before have left
            try:
                self.ledger.renew_reservations(under_way, self._wall_clock())
                self._has_renewed = True
            except LedgerError:
                self._log_failure()
        return monotonic() + min(_RETRY_SECONDS if self._deferred else inf, self.ledger.lease / _RENEWALS_PER_LEASE)

    def after_fork(self) -> None:
        """Go on in the child, whose parent's calls are not its own."""
        self._in_flight = {}
        self._deferred.clear()
        self.ledger.after_fork()
        self._timer = Timer(monotonic)

    def _try_settle(self, ticket: Ticket, charge: Charge) -> LedgerUpdate | None:
        try:
            settled = self.ledger.settle_reservation(ticket.id, charge, self._wall_clock())
        except LedgerError:
            self._log_failure()
            return None
        self._is_failing = False
        self._on_settled(ticket, settled)
        return settled

    def _try_cancel(self, ticket: Ticket) -> bool:
        try:
            self.ledger.cancel_reservation(ticket.id)
        except LedgerError:
            self._log_failure()
            return False
        return True

    def _log_failure(self) -> None:
        """Say, once until it works again, that the ledger can't be used."""
        if not self._is_failing:
            self._is_failing = True
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
