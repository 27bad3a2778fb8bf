"""Runs of dependent calls on the real core, in simulated time.

A step's calls are submitted at once; the next step follows when all have ended, after the time to think. Each call is
charged the mean weight at its grant, and what it really took at its end. A run that has a call rejected ends there.
"""

import heapq
from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

from loco_otel._core.policies.base import Candidate, Key, Policy, UnmeteredPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import DEFAULT_RESOURCE, MILLI, Priority, Request, Spending
from loco_otel.simulation.run_kinds import ArrivingRun


class EndedRun(NamedTuple):
    """A run that has ended."""

    kind: str
    ended_at: float
    latency: float
    """From its arrival to the end of its last step; of a run that missed its deadline, to the miss."""
    slowdown: float
    """Latency, in units of what it would take alone."""
    missed: bool
    """Whether a call could not be granted by its deadline."""


class RemainingWorkPolicy(UnmeteredPolicy):
    """An oracle: the run with the least remaining work is next. It is known only in a simulation. O(n)."""

    name = "oracle"
    alpha = 0.0

    def __init__(self, remaining: dict[str, float]) -> None:
        self._remaining = remaining
        self._candidates: dict[Key, Candidate] = {}

    def update_candidate(self, key: Key, candidate: Candidate) -> None:
        """Add a run, or update it."""
        self._candidates[key] = candidate

    def remove_candidate(self, key: Key) -> None:
        """Remove a run."""
        self._candidates.pop(key, None)

    def clear_candidates(self) -> None:
        """Remove all runs."""
        self._candidates = {}

    def pick_next(self, tick: int) -> Key:
        """Return the run with the least remaining work."""
        return min(self._candidates, key=lambda key: (-self.compute_score(key, tick), self._candidates[key].head))

    def compute_score(self, key: Key, tick: int) -> float:  # noqa: ARG002 - the protocol's
        """Return the remaining work, negative."""
        return -self._remaining[key[1]]

    def create_scorer(self, tick: int) -> Callable[[Key], float]:
        """Return a function that computes scores."""
        return lambda key: self.compute_score(key, tick)


def simulate_runs(
    runs: Sequence[ArrivingRun],
    policy: Callable[[], Policy] | None,
    capacity: int,
    *,
    by_run: bool,
    guard: int = 0,
    has_priorities: bool = True,
) -> list[EndedRun]:
    """Return the runs in the order of their ends.

    Args:
        runs: those that arrive.
        policy: creates the policy; None is the oracle.
        capacity: slots.
        by_run: whether the policy orders runs, not agents.
        guard: `LOCO_MAX_WAIT_TICKS`; 0 disables it.
        has_priorities: whether the runs' priorities and deadlines apply.

    """
    remaining = {str(number): run.work for number, run in enumerate(runs)}
    core = Scheduler(
        {DEFAULT_RESOURCE: capacity},
        policy or (lambda: RemainingWorkPolicy(remaining)),
        max_wait_ticks=guard,
        by_run=by_run,
    )
    return _RunSimulation(runs, core, remaining, has_priorities=has_priorities).run_all()


class _RunSimulation:
    def __init__(
        self, runs: Sequence[ArrivingRun], core: Scheduler, remaining: dict[str, float], *, has_priorities: bool
    ) -> None:
        self._runs = runs
        self._core = core
        self._remaining = remaining
        self._has_priorities = has_priorities
        self._serial = count()
        self._events: list[tuple[float, int, Ticket | None, int, int]] = []
        """Time, a serial number, the ticket that ends; or None, and the run and its step that begins."""
        self._calls: dict[Ticket, tuple[int, float]] = {}
        """Run and service time of each call that has not ended."""
        self._open: dict[int, tuple[int, int]] = {}
        """Of each run within a step: the calls that have not ended, and the step."""
        self._ended: list[EndedRun] = []

    def run_all(self) -> list[EndedRun]:
        for number, run in enumerate(self._runs):
            self._plan(run.at, None, number, 0)
        core = self._core
        while self._events:
            due = core.compute_next_wakeup()
            if due < self._events[0][0]:
                core.run_due_actions(due)
                self._handle_decided(due)
                continue
            now, _, ticket, number, step = heapq.heappop(self._events)
            if ticket is None:
                self._begin_step(number, step, now)
            else:
                self._end_call(ticket, now)
            self._handle_decided(now)
        return self._ended

    def _plan(self, at: float, ticket: Ticket | None, number: int, step: int) -> None:
        heapq.heappush(self._events, (at, next(self._serial), ticket, number, step))

    def _begin_step(self, number: int, place: int, now: float) -> None:
        run = self._runs[number]
        step = run.steps[place]
        self._open[number] = len(step.services), place
        for service in step.services:
            request = Request(step.agent, MILLI, run=str(number))
            if self._has_priorities:
                deadline = None if run.kind.deadline is None else run.at + run.kind.deadline
                request = request._replace(priority=Priority(run.kind.priority), deadline=deadline)
            ticket = Ticket(request)
            self._calls[ticket] = number, service
            self._core.submit(ticket, now)
            if ticket.state is not State.WAITING and ticket not in self._core.decided:
                self._handle_decision(ticket, now)

    def _handle_decided(self, now: float) -> None:
        decided, self._core.decided = self._core.decided, []
        for ticket in decided:
            self._handle_decision(ticket, now)

    def _handle_decision(self, ticket: Ticket, now: float) -> None:
        number, service = self._calls[ticket]
        if ticket.state is State.GRANTED:
            self._remaining[str(number)] -= service
            self._plan(now + service, ticket, number, 0)
        else:
            del self._calls[ticket]
            self._end_run(number, now, missed=True)

    def _end_call(self, ticket: Ticket, now: float) -> None:
        number, service = self._calls.pop(ticket)
        self._core.record_spending(ticket, Spending(None, max(1, round(service * MILLI)), None), now)
        self._core.release(ticket, now)
        if number not in self._open:
            return  # the run has ended at a miss
        left, place = self._open[number]
        self._open[number] = left - 1, place
        if left > 1:
            return
        run = self._runs[number]
        end = now + run.steps[place].think
        if place + 1 < len(run.steps):
            self._plan(end, None, number, place + 1)
        else:
            self._end_run(number, end)

    def _end_run(self, number: int, now: float, *, missed: bool = False) -> None:
        if self._open.pop(number, None) is not None:
            run = self._runs[number]
            latency = now - run.at
            self._ended.append(EndedRun(run.kind.name, now, latency, latency / run.alone, missed))
