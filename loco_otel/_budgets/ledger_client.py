"""Client of a ledger: retries failed writes, and ends every reservation with its call."""

import importlib
import logging
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from math import inf
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from loco_otel._budgets.account import Decision, LedgerUpdate
from loco_otel._budgets.ledger import Ledger
from loco_otel._budgets.ledger_threads import LedgerThreads, is_on_event_loop
from loco_otel._budgets.memory_ledger import MemoryLedger
from loco_otel._config.engine_rules import hide_password
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
_MAX_DEFERRED = 100_000
"""Failed writes that are kept at most."""
_FLUSH_SECONDS = 1.0
"""The most seconds for which a reader waits for writes of other threads."""


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
        self._deferred: deque[tuple[Ticket, Charge | bool]] = deque(maxlen=_MAX_DEFERRED)
        """Charges to spend, or of calls to cancel whether they were sent, once the ledger can be used and no finaliser
        runs."""
        self._is_failing = False
        self._is_unchecked = False
        self._threads = LedgerThreads()
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
        if self._deferred and not self.ledger.is_remote:
            self.write_deferred()
        hold = ticket.id
        try:
            decision = self.ledger.reserve_estimate(hold, charge, self._wall_clock(), passing)
            if decision.admitted:
                self._in_flight[hold] = ticket
        except LedgerError:
            raise
        except BaseException:  # interrupted: the end of the call cancels what may be reserved
            self._in_flight[hold] = ticket
            raise
        self._is_unchecked = False
        return decision

    def check_waiter(self, ticket: Ticket, charge: Charge, passing: Collection[Action]) -> Decision:
        """Check a call that waits, or reserve its estimate; see `Ledger.check_estimate`.

        Raises:
            LedgerError: the ledger can't be used now.

        """
        hold = ticket.id
        try:
            decision = self.ledger.check_estimate(charge, self._wall_clock(), passing, hold)
            if decision.is_reserved:
                self._in_flight[hold] = ticket
        except LedgerError:
            raise
        except BaseException:  # as above
            self._in_flight[hold] = ticket
            raise
        return decision

    def settle_reservation(self, ticket: Ticket, charge: Charge) -> LedgerUpdate:
        """Spend a call's cost, or defer it if the ledger can't be used now.

        In another thread, with an empty result, if this one must not wait for the ledger.
        """
        if self.must_not_wait:
            self._threads.start(self._settle_now, ticket, charge)
            return LedgerUpdate()
        return self._settle_now(ticket, charge)

    def _settle_now(self, ticket: Ticket, charge: Charge) -> LedgerUpdate:
        if self._deferred and not self.ledger.is_remote:
            self.write_deferred()
        self._in_flight.pop(ticket.id, None)
        settled = self._try_settle(ticket, charge)
        if settled is None:
            self._defer(ticket, charge)
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
        if self._in_flight.pop(ticket.id, None) is None:
            return
        if self.must_not_wait:
            self._threads.start(self._cancel_now, ticket, sent)
        else:
            self._cancel_now(ticket, sent)

    def _cancel_now(self, ticket: Ticket, sent: bool) -> None:  # noqa: FBT001 - run with positional arguments
        if not self._try_cancel(ticket, sent=sent):
            self._defer(ticket, sent)

    @property
    def must_not_wait(self) -> bool:
        """Whether the ledger waits for a server, and the caller runs on an event loop."""
        return self.ledger.is_remote and is_on_event_loop()

    def run_off_loop(self, operation: Callable[..., Any], *arguments: Any) -> "Future[Any] | None":
        """Run an operation that uses the ledger: in another thread, if this one must not wait. Return its future."""
        if self.must_not_wait:
            return self._threads.start(operation, *arguments)
        operation(*arguments)
        return None

    def start_thread(
        self, earlier: "Future[Any] | None", operation: Callable[..., Any], *arguments: Any
    ) -> "Future[Any]":
        """Run an operation that uses the ledger in another thread, after an earlier one if there is one."""
        if earlier is None:
            return self._threads.run(operation, *arguments)
        return self._threads.run_after(earlier, operation, *arguments)

    def flush(self) -> None:
        """Write what is deferred, and wait for the writes of other threads."""
        self._threads.wait(_FLUSH_SECONDS)
        self.write_deferred()

    def warn_unchecked(self, error: LedgerError) -> None:
        """Log that a call is sent without a check of its budgets, once until a check succeeds."""
        if not self._is_unchecked:
            self._is_unchecked = True
            _logger.warning(
                "Ledger unavailable, calls are allowed without a budget check until it is back (LOCO_LEDGER_ON_ERROR or"
                " LOCO_MODE): %s",
                error,
            )

    def defer_settlement(self, ticket: Ticket, charge: Charge | None) -> None:
        """End a reservation and spend the call's cost later. Safe in finalisers: takes no lock, calls no listener."""
        if self._in_flight.pop(ticket.id, None) is not None or charge is not None:
            self._deferred.append((ticket, False if charge is None else charge))
            self._timer.wake_timer()

    def _defer(self, ticket: Ticket, charge: Charge | bool) -> None:  # noqa: FBT001 - as in `_deferred`
        if len(self._deferred) == _MAX_DEFERRED - 1:
            _logger.error("%d costs could not be written to the ledger: the oldest are dropped now", _MAX_DEFERRED)
        self._deferred.append((ticket, charge))
        if self.ledger.is_remote:  # no later call writes it
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
        self._threads = LedgerThreads()
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
            self.ledger.cancel_reservation(ticket.id, self._wall_clock(), sent=sent)
        except LedgerError:
            self._log_failure()
            return False
        return True

    def _log_failure(self) -> None:
        """Log that the ledger can't be used, once until a write succeeds. A remote ledger does so itself."""
        if not self._is_failing and not self.ledger.is_remote:
            self._is_failing = True
            _logger.error("ledger write failed; costs stay in memory, retried (check LOCO_LEDGER)", exc_info=True)  # noqa: LOG014 - called in handlers


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger that the settings name.

    Raises:
        ConfigurationError: its file can't be used, or the client library of its server is missing.

    """
    zone = ZoneInfo(settings.budget_zone)
    if settings.ledger_url is not None:
        return _open_remote_ledger(settings, settings.ledger_url, zone)
    if settings.ledger is None:
        return MemoryLedger(settings.limits, zone, lease=settings.max_hold, run_idle_timeout=settings.run_idle_timeout)
    try:
        # Here, as the standard library's `sqlite3` is of no use without it.
        from loco_otel._budgets.sqlite_ledger import SqliteLedger  # noqa: PLC0415

        return SqliteLedger(
            Path(settings.ledger),
            settings.limits,
            zone,
            lease=settings.max_hold,
            run_idle_timeout=settings.run_idle_timeout,
        )
    except LedgerError as error:
        origin = settings.origin("ledger")
        key = origin if origin.startswith("LOCO_") else "ledger"
        raise ConfigurationError(f"{key}={settings.ledger}: {error}") from error


def _open_remote_ledger(settings: Settings, url: str, zone: ZoneInfo) -> Ledger:
    # Only here, as the client library is slow to import, and optional.
    module = importlib.import_module("loco_otel._budgets.redis.ledger")
    make_base_key = importlib.import_module("loco_otel._engine.redis.script").make_base_key
    # The same text is the same server; for another text of it, a call reserves in a round trip of its own.
    engine = make_base_key(settings.engine_namespace) if url == settings.engine else ""
    server = module.LedgerServer(url, settings.engine_namespace, settings.engine_ttl, settings.engine_timeout, engine)
    try:
        ledger: Ledger = module.RedisLedger(server, settings.limits, zone, run_idle_timeout=settings.run_idle_timeout)
    except ImportError as error:
        raise ConfigurationError(
            f"the ledger {hide_password(url)} needs the package redis: pip install 'loco-otel[redis]'"
        ) from error
    return ledger
