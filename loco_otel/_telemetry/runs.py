"""The duration, waiting and slowdown of runs, from the events of their calls.

At a moment at which `w` calls of a run wait and `h` are under way, the share `w / (w + h)` of its time is lost. The
lost seconds are the run's wait, and its slowdown is its duration divided by what remains without them: an estimate of
what it would take alone, with as many slots as it can use.

A run has no end that can be seen, unless a framework reports one. So it is recorded once no call of it is under way
and it has been silent for a time, earlier if there are too many runs, or at the end of the process; its duration ends
with its last call.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import NamedTuple

from loco_otel import _fork
from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.call_trace import CallTrace, get_call_trace, is_request_suppressed
from loco_otel._telemetry.selective_listener import SelectiveListener
from loco_otel.events import (
    MILLI,
    Granted,
    Rejected,
    Released,
    RequestEvent,
    RunEnded,
    Spent,
    Submitted,
    Suspended,
    TicketView,
    Waiting,
)

_MAX_RUNS = 10_000
"""Runs that are observed at a time. The run that has been silent longest is recorded for a further one; while none is
silent, calls of further runs are of no run here.
"""

_WAITING, _UNDER_WAY, _PAUSED = range(3)


class FinishedRun(NamedTuple):
    """A run that has ended."""

    workflow: str
    priority: str
    duration: float
    """Seconds from its first call to the end of its last one."""
    wait: float
    """Seconds that it lost to waiting."""

    @property
    def slowdown(self) -> float | None:
        """Its duration, as a multiple of what it would have been without waiting; None if it did nothing else."""
        alone = self.duration - self.wait
        return self.duration / alone if alone > 0 else None


class _Run:
    __slots__ = ("attained", "calls", "changed_at", "counts", "has_ended", "priority", "started_at", "wait", "workflow")

    def __init__(self, at: float, workflow: str | None, priority: str) -> None:
        self.started_at = self.changed_at = at
        self.workflow = key.UNKNOWN if workflow is None else workflow
        self.priority = priority
        self.counts = [0, 0, 0]
        """Calls that wait, are under way, and pause."""
        self.calls: dict[TicketView, int] = {}
        """What each call does."""
        self.wait = 0.0
        self.attained = 0
        """Milli-weights of its settled calls."""
        self.has_ended = False
        """Whether its framework has reported its end."""

    def add_wait(self, at: float) -> None:
        """Add what was lost to waiting since the last change."""
        waiting, under_way, _ = self.counts
        if waiting:
            self.wait += (at - self.changed_at) * waiting / (waiting + under_way)

    def make_finished(self) -> FinishedRun:
        """Return it as it ended with its last change."""
        return FinishedRun(self.workflow, self.priority, self.changed_at - self.started_at, self.wait)


class RunListener(SelectiveListener):
    """Follows the runs of all calls. Thread-safe, as collections read it too.

    Args:
        idle: seconds of silence after which a run has ended.

    """

    def __init__(self, idle: float = 900.0) -> None:
        self.idle = idle
        self.record: Callable[[FinishedRun], None] | None = None
        """Called with each run that has ended."""
        self._runs: dict[str, _Run] = {}
        self._silent: OrderedDict[str, None] = OrderedDict()
        """Runs without a call, by the end of their last one."""
        self._silent_until = inf
        """A time before which none of them has been silent for long enough."""
        # Not a `ForkSafeLock`: that has two calls in Python for each event.
        self._lock = threading.Lock()
        self.event_handlers = {
            Submitted: self._handle_submitted,
            Waiting: partial(self._handle_change, _WAITING),
            Granted: partial(self._handle_change, _UNDER_WAY),
            Suspended: partial(self._handle_change, _PAUSED),
            Rejected: partial(self._handle_change, None),
            Released: partial(self._handle_change, None),
            Spent: self._handle_spent,
            RunEnded: self._handle_ended,
        }
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def _handle_submitted(self, event: Submitted) -> None:
        ticket, at = event.ticket, event.at
        name = ticket.request.run
        if name is not None and not is_request_suppressed(ticket.request):
            with self._lock:
                run = self._runs.get(name)
                if run is None and self._make_room():
                    run = self._start_run(name, event)
                if run is not None:
                    self._change_call(name, run, ticket, _WAITING, at)

    def _handle_change(self, phase: int | None, event: RequestEvent) -> None:
        ticket = event.ticket
        name = ticket.request.run
        if name is not None:
            with self._lock:
                run = self._runs.get(name)
                # Not a call of an earlier run of this name, nor one whose first events are missing.
                if run is not None and ticket in run.calls:
                    self._change_call(name, run, ticket, phase, event.at)

    def _handle_spent(self, event: Spent) -> None:
        name = event.ticket.request.run
        if name is not None:
            with self._lock:
                run = self._runs.get(name)
                if run is not None:
                    run.attained += event.spending.weight

    def _handle_ended(self, event: RunEnded) -> None:
        with self._lock:
            self._end_run(event.run)

    def get_attained_weight(self, run: str) -> float | None:
        """Return the weight of the settled calls of a run; None if it is not known."""
        found = self._runs.get(run)
        return None if found is None else found.attained / MILLI

    def list_active_runs(self, now: float) -> Iterable[tuple[str, str]]:
        """Return workflow and priority of each run that has not ended."""
        with self._lock:
            self._finish_silent_runs(now)
            return [(run.workflow, run.priority) for run in self._runs.values()]

    def finish_all(self, now: float) -> None:
        """Record all runs: nothing follows."""
        with self._lock:
            for name, run in tuple(self._runs.items()):
                if run.calls:
                    run.add_wait(now)
                    run.changed_at = now
                self._finish_run(name)

    def forget_open(self) -> None:
        """Forget all runs, as events of their calls are missing."""
        with self._lock:
            self._runs.clear()
            self._silent.clear()

    def after_fork(self) -> None:
        """Forget all runs in a forked child: they are the parent's."""
        self._lock = threading.Lock()
        self.forget_open()

    def _make_room(self) -> bool:
        """Return whether another run may be observed, after the run that has been silent longest is recorded for it."""
        if len(self._runs) >= _MAX_RUNS and self._silent:
            self._finish_run(next(iter(self._silent)))
        return len(self._runs) < _MAX_RUNS

    def _finish_silent_runs(self, now: float) -> None:
        """Record the runs that have been silent for long enough."""
        self._silent_until = inf
        while self._silent:
            name = next(iter(self._silent))
            since = self._runs[name].changed_at
            if now - since < self.idle:
                self._silent_until = since + self.idle
                return
            self._finish_run(name)

    def _start_run(self, name: str, event: Submitted) -> _Run:
        request = event.ticket.request
        trace: CallTrace | None = get_call_trace(request)
        workflow = request.workflow if trace is None else trace.caller_attributes.get(key.WORKFLOW, request.workflow)
        run = self._runs[name] = _Run(event.at, workflow, request.priority.value)
        return run

    def _change_call(self, name: str, run: _Run, ticket: TicketView, phase: int | None, at: float) -> None:
        # Advanced to `at` first: what it does now counts from then on.
        counts, calls = run.counts, run.calls
        if counts[_WAITING]:
            run.add_wait(at)
        run.changed_at = at
        before = calls.pop(ticket, None)
        if before is not None:
            counts[before] -= 1
        elif not calls:
            self._silent.pop(name, None)
        if phase is not None:
            calls[ticket] = phase
            counts[phase] += 1
        elif not calls:
            self._silent[name] = None
            self._silent_until = min(self._silent_until, at + self.idle)
            if run.has_ended:
                self._finish_run(name)
        if at >= self._silent_until:
            self._finish_silent_runs(at)

    def _end_run(self, name: str) -> None:
        run = self._runs.get(name)
        if run is not None:
            run.has_ended = True
            if not run.calls:
                self._finish_run(name)

    def _finish_run(self, name: str) -> None:
        self._silent.pop(name, None)
        run = self._runs.pop(name)
        if self.record is not None:
            self.record(run.make_finished())
