"""Refuses the calls of what is stopped, and of runs that exceed a limit that is no budget. Closes their streams."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from loco_otel import _fork
from loco_otel._budgets.run_table import Repeats, RunTable, ToolCall
from loco_otel._budgets.stop_file import StopFile
from loco_otel._budgets.stops import Stop, Stops
from loco_otel._config.settings import Settings
from loco_otel._core.ticket import State, Ticket, list_open_bodies
from loco_otel._engine.timer import Timer
from loco_otel.clock import Clock, monotonic
from loco_otel.errors import AcquireRejectedError, RunLimitError, StoppedError
from loco_otel.events import Event, LimitAction, LimitDecided, LimitReason, Outcome, Request

_logger = logging.getLogger("loco_otel")

_FILE_SECONDS = 0.5
"""Seconds between two checks of the stop file while no call comes: each new call reads it first if it has changed."""

_NO_STOPS: Mapping[Stop, bool] = {}


class GovernorEngine(Protocol):
    """The engine operations that the governor uses."""

    def emit(self, make: Callable[[float], Event]) -> None:
        """Emit an event to the listeners."""

    def list_tickets(self) -> Sequence[Ticket]:
        """Return all tickets that have not ended."""

    def reject_waiting(self, tickets: Iterable[Ticket], outcome: Outcome) -> int:
        """Reject waiting tickets."""


class CallEngine(Protocol):
    """The engine operations of one call."""

    def submit(self, ticket: Ticket) -> None:
        """Request the slots that the ticket's request names."""

    def reject(self, ticket: Ticket, outcome: Outcome) -> None:
        """Reject a new ticket."""


class Governor:
    """Decides on each call before it is submitted. Thread-safe.

    Args:
        settings: the limits, the mode, and the path of the stop file.
        engine: emits decisions and rejects waiters.
        clock: seconds.

    """

    def __init__(self, settings: Settings, engine: GovernorEngine, clock: Clock = monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = _fork.ForkSafeLock()
        self._file_lock = _fork.ForkSafeLock()
        self._called: dict[Stop, bool] = {}
        """What `stop` was called for."""
        self._filed: Mapping[Stop, bool] = _NO_STOPS
        """What the stop file names."""
        self._file: StopFile | None = None
        self._stops = Stops()
        self.has_stops = False
        """Whether anything is stopped."""
        self.is_active = False
        """Whether calls must be checked at all."""
        self._runs = RunTable(settings.run_idle_timeout)
        self._timer = Timer(clock)
        self.apply_settings(settings)
        _fork.on_child(self, _fork.ForkPhase.THREADS)

    def apply_settings(self, settings: Settings) -> None:
        """Apply other settings. What `stop` was called for stays stopped."""
        limits = settings.run_limits
        self._seconds, self._repeats = limits.seconds, limits.repeats
        self.counts_tool_calls = limits.repeats is not None
        """Whether `submit` reads tool calls."""
        self._is_observing = settings.mode == "observe"
        self._runs.idle = settings.run_idle_timeout
        path = None if settings.stop_file is None else Path(settings.stop_file)
        with self._file_lock:
            if path != (None if self._file is None else self._file.path):
                self._file = None if path is None else StopFile(path)
                self._filed = _NO_STOPS
            self._renew_stops()
        if path is not None:
            self.refresh_file()
            self._timer.start_watching(self.watch_file)

    def submit(self, engine: CallEngine, ticket: Ticket, tool_calls: Iterable[ToolCall] = ()) -> None:
        """Submit a ticket, or reject it. The state of the ticket and its `denial` are the result."""
        denial = self.check_call(ticket, tool_calls)
        if denial is not None:
            ticket.denial = denial
            engine.reject(ticket, _get_outcome(denial))
            return
        engine.submit(ticket)
        self.recheck_waiter(ticket)

    def recheck_waiter(self, ticket: Ticket) -> None:
        """Reject a waiter that was stopped between its check and its submission."""
        if self.has_stops:
            self._reject_waiters((ticket,))

    def raise_if_stopped(self, ticket: Ticket) -> None:
        """Check a call again when it has its slot, before it is sent: it may have been stopped since it was checked.

        A stop rejects the waiters that it finds, so a call that is granted while it does so passes neither.

        Raises:
            StoppedError: the call is stopped. The caller cancels its ticket.

        """
        stop = self._stops.find_stop(ticket.request)
        if stop is not None and not self._is_observing:
            self._emit_decision(ticket, LimitReason.STOPPED, LimitAction.REFUSED)
            raise stop.make_error(ticket.request)

    def find_abort(self, ticket: Ticket) -> StoppedError | None:
        """Return the error with which the open stream of a call is closed; None if it may be read.

        The stream asks after it has set `Ticket.body`, which a stop reads after it has taken effect: one finds it.
        """
        stop = None if self._is_observing else self._stops.find_abort(ticket.request)
        return None if stop is None else stop.make_error(ticket.request)

    def check_call(self, ticket: Ticket, tool_calls: Iterable[ToolCall] = ()) -> AcquireRejectedError | None:
        """Return the error with which a call is refused, and emit the decision; None if it may go."""
        request = ticket.request
        if self._file is not None:
            self.refresh_file()
        if self._is_observing and request.deadline is not None:
            if self._clock() > request.deadline:
                self._emit_decision(ticket, LimitReason.DEADLINE, LimitAction.WOULD)
            ticket.request = request._replace(deadline=None)
        denial = self._check_stops(ticket)
        if denial is None and request.run is not None and (self._seconds is not None or self._repeats is not None):
            denial = self._check_run(ticket, request.run, tool_calls)
        return denial

    def stop(self, stop: Stop, *, abort_streams: bool = False) -> int:
        """Refuse the calls of a run, session, agent or tenant from now on, and return how many waiters were rejected.

        Args:
            stop: what is stopped.
            abort_streams: whether its open streams are closed.

        """
        with self._lock:
            self._called = {**self._called, stop: abort_streams or self._called.get(stop, False)}
            self._merge_stops()
        return self._enforce_stops()

    def resume(self, stop: Stop) -> bool:
        """Undo `stop`; return False if it was not stopped. The stop file is not changed."""
        with self._lock:
            was = stop in self._called
            self._called = {known: aborts for known, aborts in self._called.items() if known != stop}
            self._merge_stops()
        return was

    def refresh_file(self) -> None:
        """Read the stop file if it has changed."""
        file = self._file
        if file is None or not file.has_changed():
            return
        with self._file_lock:
            stops = None if file is not self._file else file.read_stops()
            if stops is None:
                return
            self._filed = stops
            self._renew_stops()
        self._enforce_stops()

    def watch_file(self) -> float:
        """Read the stop file if it has changed, and return when to call this again. The timer calls this."""
        self.refresh_file()
        return self._clock() + _FILE_SECONDS if self._file is not None else float("inf")

    def close(self) -> None:
        """Stop watching the file."""
        _fork.discard(self)
        self._file = None

    def after_fork(self) -> None:
        """Watch the file in a forked child too."""
        self._timer = self._timer.create_child_timer()
        if self._file is not None:
            self._timer.start_watching(self.watch_file)

    def _renew_stops(self) -> None:
        with self._lock:
            self._merge_stops()

    def _merge_stops(self) -> None:
        """Derive what follows from all stops. The caller holds the lock, so that all belongs to the same change."""
        merged = dict(self._filed)
        for stop, aborts in self._called.items():
            merged[stop] = aborts or merged.get(stop, False)
        self._stops = Stops(merged)
        self.has_stops = bool(merged)
        self.is_active = (
            self._is_observing
            or bool(merged)
            or self._file is not None
            or self._seconds is not None
            or self._repeats is not None
        )

    def _enforce_stops(self) -> int:
        """Reject the waiters that are stopped now, and close their streams where that was requested."""
        if not self.has_stops or self._is_observing:
            return 0
        tickets = self._engine.list_tickets()
        rejected = self._reject_waiters(tickets)
        for call, body in list_open_bodies(tickets):
            error = self.find_abort(call)
            if error is not None:
                body.abort(error)
        return rejected

    def _reject_waiters(self, tickets: Iterable[Ticket]) -> int:
        stopped = []
        for ticket in tickets:
            stop = self._stops.find_stop(ticket.request) if ticket.state is State.WAITING else None
            if stop is not None and not self._is_observing:
                ticket.denial = stop.make_error(ticket.request)
                self._emit_decision(ticket, LimitReason.STOPPED, LimitAction.REFUSED)
                stopped.append(ticket)
        return self._engine.reject_waiting(stopped, Outcome.STOPPED) if stopped else 0

    def _check_stops(self, ticket: Ticket) -> AcquireRejectedError | None:
        stop = self._stops.find_stop(ticket.request)
        if stop is None:
            return None
        return self._refuse(ticket, LimitReason.STOPPED, stop.make_error(ticket.request))

    def _check_run(self, ticket: Ticket, run: str, tool_calls: Iterable[ToolCall]) -> AcquireRejectedError | None:
        request, now = ticket.request, self._clock()
        seconds = self._runs.record_call(run, now)
        if self._seconds is not None and seconds > self._seconds:
            text = f"its first call was {seconds:.0f} s ago, and its limit is {self._seconds:g} s"
            return self._refuse(ticket, LimitReason.RUN_SECONDS, _make_limit_error(request, run, "seconds", text))
        if self._repeats is None:
            return None
        repeats = self._runs.count_tool_calls(run, tool_calls, now)
        for repeated in repeats:
            if repeated.before < self._repeats <= repeated.times:
                self._warn_of_repeats(ticket, run, repeated, 2 * self._repeats)
        most = max(repeats, key=lambda repeated: repeated.times, default=None)
        if most is not None and most.times >= 2 * self._repeats:
            text = f"it has made the same call of the tool {most.name!r} {most.times} times"
            return self._refuse(ticket, LimitReason.RUN_REPEATS, _make_limit_error(request, run, "repeats", text))
        return None

    def _warn_of_repeats(self, ticket: Ticket, run: str, repeated: Repeats, limit: int) -> None:
        _logger.warning(
            "the run %r of %r has made the same call of the tool %r %d times; at %d its next call of a model is"
            " refused (LOCO_RUN_LIMITS, repeats)",
            run,
            ticket.request.agent,
            repeated.name,
            repeated.times,
            limit,
        )
        self._emit_decision(ticket, LimitReason.RUN_REPEATS, LimitAction.WARNED)

    def _refuse(self, ticket: Ticket, reason: LimitReason, error: AcquireRejectedError) -> AcquireRejectedError | None:
        """Emit a refusal, and return its error; None while the mode is `observe`."""
        self._emit_decision(ticket, reason, LimitAction.WOULD if self._is_observing else LimitAction.REFUSED)
        return None if self._is_observing else error

    def _emit_decision(self, ticket: Ticket, reason: LimitReason, action: LimitAction) -> None:
        self._engine.emit(lambda at: LimitDecided(at, ticket, reason, action))


def _get_outcome(denial: AcquireRejectedError) -> Outcome:
    return Outcome.LIMIT if isinstance(denial, RunLimitError) else Outcome.STOPPED


def _make_limit_error(request: Request, run: str, limit: str, text: str) -> RunLimitError:
    return RunLimitError(
        f"A call of {request.agent!r} was refused: its run {run!r} is over a limit: {text}; the call was not sent"
        " (LOCO_RUN_LIMITS)",
        run=run,
        limit=limit,
        agent=request.agent,
        resource=",".join(request.resources),
    )
