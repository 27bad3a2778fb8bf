"""One run: the core grants, and the simulation creates arrivals and advances time.

In each tick slots are released first, which grants waiters, then tasks arrive. So a task that finds a free slot waits 0
ticks, and any other at least 1.
"""

import heapq
import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

from loco_otel._core.policies.base import Policy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import DEFAULT_RESOURCE, MILLI, GrantReason, Request
from loco_otel.simulation.scenario import Group, Scenario


class Arrival(NamedTuple):
    """One task."""

    at: float
    number: int
    """In order of arrival."""
    agent: str
    group: Group
    service: float


class ServedTask(NamedTuple):
    """A task that was granted a slot."""

    agent: str
    group: str
    at: float
    wait: float
    scored: bool
    """Whether it was chosen among several waiters."""


def generate_arrivals(scenario: Scenario, seed: int) -> list[Arrival]:
    """Return all tasks of a scenario, equal for all policies."""
    rng = random.Random(seed)  # noqa: S311 - a simulation
    number = count()

    def service(group: Group) -> float:
        mean = group.service or scenario.service
        return rng.expovariate(1 / mean) if scenario.spread == "exponential" else mean

    def task(at: float, agent: str, group: Group) -> Arrival:
        return Arrival(at, next(number), agent, group, service(group))

    found = []
    for group in scenario.groups:
        for agent in group.list_agents():
            found += [task(group.at, agent, group) for _ in range(group.tasks)]
    for tick in range(scenario.ticks):
        for group in scenario.groups:
            if group.rate and tick >= group.at:
                for agent in group.list_agents():
                    found += [task(tick, agent, group) for _ in range(_draw_count(rng, group.rate))]
    return sorted(found, key=lambda arrival: (arrival.at, arrival.number))


def _draw_count(rng: random.Random, rate: float) -> int:
    """Return the arrivals of one tick: the whole part of the rate, plus one with the probability of its fraction."""
    return int(rate) + (rng.random() < rate % 1)


def simulate_core(scenario: Scenario, policy: Callable[[], Policy], seed: int, *, guard: int = 0) -> list[ServedTask]:
    """Return the tasks that the core served, in the order of their grants.

    Args:
        scenario: the scenario.
        policy: creates the policy.
        seed: the seed of the arrivals.
        guard: `LOCO_MAX_WAIT_TICKS`; 0 disables it.

    """
    core = Scheduler({DEFAULT_RESOURCE: scenario.capacity}, policy, max_wait_ticks=guard, max_waiters=10**9)
    ends: list[tuple[float, int, Ticket]] = []
    tasks: dict[Ticket, Arrival] = {}
    served: list[ServedTask] = []

    def granted(ticket: Ticket, now: float) -> None:
        task = tasks[ticket]
        scored = ticket.reason is not GrantReason.FREE
        served.append(ServedTask(task.agent, task.group.name, now, now - task.at, scored))
        heapq.heappush(ends, (now + task.service, task.number, ticket))

    def release_until(time: float) -> None:
        while ends and ends[0][0] <= time:
            now, _, ticket = heapq.heappop(ends)
            core.release(ticket, now)
            decided, core.decided = core.decided, []
            for following in decided:
                granted(following, now)

    for task in generate_arrivals(scenario, seed):
        release_until(task.at)
        weight = max(1, round(task.group.weight * MILLI))
        ticket = Ticket(Request(task.agent, weight, tenant=task.group.tenant))
        tasks[ticket] = task
        core.submit(ticket, task.at)
        if ticket.state is State.GRANTED:
            granted(ticket, task.at)
    release_until(scenario.ticks - 1)
    return served


def simulate_semaphore(scenario: Scenario, seed: int) -> list[ServedTask]:
    """Return the tasks that a plain semaphore without agents would serve: first come, first served."""
    waiting = iter(generate_arrivals(scenario, seed))
    free = [0.0] * scenario.capacity
    return list(_serve_in_order(waiting, free, scenario.ticks - 1))


def _serve_in_order(waiting: Iterator[Arrival], free: list[float], last: float) -> Iterator[ServedTask]:
    for task in waiting:
        at = max(task.at, heapq.heappop(free))
        if at > last:
            return
        heapq.heappush(free, at + task.service)
        yield ServedTask(task.agent, task.group.name, at, at - task.at, at > task.at)
