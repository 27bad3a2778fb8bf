"""Client of a ledger: retries failed writes, and ends every reservation with its call."""

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
"""Renewals of a reservation within one lease, so that a failed renewal is repeated in time."""
_CLEAN_UP_SECONDS = 3600.0
"""Seconds between two removals of what has expired while no call is in flight."""
_RETRY_SECONDS = 1.0
"""Seconds until a failed write is retried."""


class LedgerClient:
    """A ledger with its reservations in flight and its deferred settlements.

    Thread-safe.

    Args:
        ledger: stores the amounts.
        wall: seconds since the epoch.
        settled: called for each settled call, possibly after a retry.

    """

    def __init__(
        self, ledger: Ledger, wall: Callable[[], float], settled: Callable[[Ticket, Charge, LedgerUpdate], None]
    ) -> None:
        self.ledger = ledger
        self._wall_clock = wall
        self._on_settled = settled
        self._in_flight: dict[str, Ticket] = {}
        self._deferred: deque[tuple[Ticket, Charge | bool]] = deque()
        """Charges to spend, or of calls to cancel whether they were sent, once the ledger can be used and no finaliser
        runs."""
        self._is_failing = False
        self._clean_up_at = -inf
        self._timer = Timer(monotonic)

    def start_maintenance(self) -> None:
        """Start to renew reservations and to retry failed writes."""
        if not self._timer.start_watching(self.run_maintenance) and self._timer.failure is not None:
            _logger.error(
                "the ledger's timer thread could not be started: reservations of long calls are not renewed (%s)",
                self._timer.failure,
            )

    def reserve_estimate(self, ticket: Ticket, charge: Charge, passing: Collection[Action]) -> Decision:
        """Reserve a call's estimate if all its budgets have room.

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
        """Spend a call's cost, or defer it if the ledger can't be used now."""
        if self._deferred:
            self.write_deferred()
        self._in_flight.pop(ticket.id, None)
        settled = self._try_settle(ticket, charge)
        if settled is None:
            self._deferred.append((ticket, charge))
            return LedgerUpdate()
        return settled

    def count_charge(self, ticket: Ticket, charge: Charge) -> None:
        """Do what `settle_reservation` does for a call without a reservation, while there are no budgets."""
        ledger = self.ledger
        if isinstance(ledger, MemoryLedger) and not self._deferred:
            ledger.count_charge(charge)
        else:
            self.settle_reservation(ticket, charge)

    def cancel_reservation(self, ticket: Ticket, *, sent: bool = False) -> None:
        """End the reservation of a call that cost nothing, but counts as a call if it was sent."""
        if self._in_flight.pop(ticket.id, None) is not None and not self._try_cancel(ticket, sent=sent):
            self._deferred.append((ticket, sent))

    def defer_settlement(self, ticket: Ticket, charge: Charge | None) -> None:
        """End a reservation and spend the call's cost later. Safe in finalisers: takes no lock, calls no listener."""
        if self._in_flight.pop(ticket.id, None) is not None or charge is not None:
            self._deferred.append((ticket, False if charge is None else charge))
            self._timer.wake_timer()

    def write_deferred(self) -> None:
        """Retry deferred writes, until one fails."""
        for _ in range(len(self._deferred)):
            try:
                ticket, charge = self._deferred.popleft()
            except IndexError:  # another thread removed the last one
                return
            if isinstance(charge, bool):
                done = self._try_cancel(ticket, sent=charge)
            else:
                done = self._try_settle(ticket, charge) is not None
            if not done:
                self._deferred.append((ticket, charge))
                return

    def run_maintenance(self) -> float:
        """Retry deferred writes and renew the reservations of calls in flight. The timer calls this.

        Returns:
            The time of the next call, by the monotonic clock.

        """
        self.write_deferred()
        # A call whose lease expired still runs and will be charged, so only the call itself ends its reservation,
        # at the latest when it is finalised.
        under_way = self._in_flight.copy()
        now = self._wall_clock()
        if under_way or now >= self._clean_up_at:  # without calls too, to remove what has expired
            try:
                self.ledger.renew_reservations(under_way, now)
                self._clean_up_at = now + _CLEAN_UP_SECONDS
            except LedgerError:
                self._log_failure()
        return monotonic() + min(_RETRY_SECONDS if self._deferred else inf, self.ledger.lease / _RENEWALS_PER_LEASE)

    def after_fork(self) -> None:
        """Reset the state of a forked child, which does not own its parent's calls."""
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
        self._on_settled(ticket, charge, settled)
        return settled

    def _try_cancel(self, ticket: Ticket, *, sent: bool) -> bool:
        try:
            self.ledger.cancel_reservation(ticket.id, sent=sent)
        except LedgerError:
            self._log_failure()
            return False
        return True

    def _log_failure(self) -> None:
        """Log that the ledger can't be used, once until a write succeeds."""
        if not self._is_failing:
            self._is_failing = True
            _logger.error("ledger write failed; costs stay in memory, retried (check LOCO_LEDGER)", exc_info=True)  # noqa: LOG014 - called in handlers


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger that the settings name.

    Raises:
        ConfigurationError: its file can't be used.

    """
    zone = ZoneInfo(settings.budget_zone)
    if settings.ledger is None:
        return MemoryLedger(settings.limits, zone, lease=settings.max_hold, run_idle_timeout=settings.run_idle_timeout)
    try:
        return SqliteLedger(
            Path(settings.ledger).expanduser(),
            settings.limits,
            zone,
            lease=settings.max_hold,
            run_idle_timeout=settings.run_idle_timeout,
        )
    except LedgerError as error:
        origin = settings.origin("ledger")
        key = origin if origin.startswith("LOCO_") else "ledger"
        raise ConfigurationError(f"{key}={settings.ledger}: {error}") from error
