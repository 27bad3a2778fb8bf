"""What `fair` is for: light agents beside a hog, and a spike beside a backlog, in simulated time."""

import heapq
import random
from collections.abc import Callable, Mapping
from itertools import count

import pytest

from loco_otel._core.fairness import jains_index
from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import DEFAULT_RESOURCE, MILLI, Request, Spending

SLOTS = 8
HORIZON = 400.0
"""In mean service times."""
WARM_UP = 20.0


def by_fair() -> Policy:
    return FairPolicy({})


class Traffic:
    """Calls come at random and last for random times, 1 on average; a full queue turns its agent's next call away.

    The duration of a call is not known beforehand: each asks with a weight of 1, and is settled by its time.

    Args:
        rates: calls per mean service time, by agent.
        tenants: by agent.
        queue_cap: calls of one agent that may wait.

    """

    def __init__(
        self,
        policy: Callable[[], Policy],
        rates: Mapping[str, float],
        seed: int,
        tenants: Mapping[str, str] | None = None,
        queue_cap: int = 50,
    ) -> None:
        self.core = Scheduler({DEFAULT_RESOURCE: SLOTS}, policy, max_wait_ticks=0, max_waiters=10**6)
        self.waits: dict[str, list[float]] = {agent: [] for agent in rates}
        self.served = dict.fromkeys(rates, 0.0)
        self.asked = dict.fromkeys(rates, 0.0)
        self._queue_cap = queue_cap
        self._queued = dict.fromkeys(rates, 0)
        self._lasts: dict[Ticket, float] = {}
        self._began: dict[Ticket, float] = {}
        self._order = count()
        self._agenda: list[tuple[float, int, Ticket, bool]] = []
        chance = random.Random(seed)
        for agent, rate in rates.items():
            now = 0.0
            while (now := now + chance.expovariate(rate)) < HORIZON:
                ticket = Ticket(Request(agent, MILLI, tenant=(tenants or {}).get(agent)))
                self._lasts[ticket] = chance.expovariate(1.0)
                self._plan(now, ticket, ends=False)
        self._live()

    def _plan(self, at: float, ticket: Ticket, *, ends: bool) -> None:
        heapq.heappush(self._agenda, (at, next(self._order), ticket, ends))

    def _live(self) -> None:
        while self._agenda:
            now, _, ticket, ends = heapq.heappop(self._agenda)
            if now > HORIZON:
                return
            if ends:
                self._end(ticket, now)
            else:
                self._come(ticket, now)
            for granted in self.core.decided:
                self._queued[granted.request.agent] -= 1
                self._go(granted, now)
            self.core.decided.clear()

    def _come(self, ticket: Ticket, now: float) -> None:
        agent = ticket.request.agent
        if now > WARM_UP:
            self.asked[agent] += self._lasts[ticket]
        if self._queued[agent] < self._queue_cap:
            self._began[ticket] = now
            self.core.submit(ticket, now)
            if ticket.state is State.WAITING:
                self._queued[agent] += 1
            else:
                self._go(ticket, now)

    def _go(self, ticket: Ticket, now: float) -> None:
        agent, lasts = ticket.request.agent, self._lasts[ticket]
        self._plan(now + lasts, ticket, ends=True)
        if now > WARM_UP:
            self.served[agent] += lasts
            self.waits[agent].append(now - self._began[ticket])

    def _end(self, ticket: Ticket, now: float) -> None:
        weight = max(1, round(self._lasts[ticket] * MILLI))
        self.core.record_spending(ticket, Spending(None, weight, None), now)
        self.core.release(ticket, now)

    def p99(self, kind: str) -> float:
        waits = sorted(wait for agent in self.waits if agent.startswith(kind) for wait in self.waits[agent])
        return waits[int(0.99 * len(waits))]

    def fairness(self, kind: str = "") -> float:
        """Jain's index of what each was served, in parts of what max-min fairness would give it."""
        due = max_min(self.asked, sum(self.served.values()))
        return jains_index(self.served[agent] / due[agent] for agent in due if agent.startswith(kind))


def max_min(asked: Mapping[str, float], capacity: float) -> dict[str, float]:
    """Share a capacity: nobody gets more than they ask, and what they leave goes to the others in equal parts."""
    due: dict[str, float] = {}
    for number, agent in enumerate(sorted(asked, key=lambda agent: asked[agent])):
        due[agent] = min(asked[agent], capacity / (len(asked) - number))
        capacity -= due[agent]
    return due


def test_max_min_serves_small_demands_and_splits_the_rest() -> None:
    assert max_min({"a": 1.0, "b": 9.0, "c": 4.0}, 8.0) == {"a": 1.0, "b": 3.5, "c": 3.5}


LIGHT = {f"light-{number}": 0.4 / 19 * 1.3 * SLOTS for number in range(19)}
BESIDE_A_HOG = {**LIGHT, "hog": 0.6 * 1.3 * SLOTS}
"""20 agents that ask for 1.3 times what there is; 60 % of the calls are one agent's."""


@pytest.mark.parametrize("seed", range(5))
def test_light_agents_beside_a_hog_hardly_wait(seed: int) -> None:
    traffic = Traffic(by_fair, BESIDE_A_HOG, seed)

    assert traffic.p99("light") <= 4.0
    assert traffic.fairness() >= 0.99
    assert Traffic(FifoPolicy, BESIDE_A_HOG, seed).p99("light") > 4.0, "without fairness they would as well"


@pytest.mark.parametrize("policy", [by_fair, FifoPolicy])
def test_light_tenants_beside_a_hog_hardly_wait_with_any_policy(policy: Callable[[], Policy]) -> None:
    traffic = Traffic(policy, BESIDE_A_HOG, seed=1, tenants={agent: f"tenant-{agent}" for agent in BESIDE_A_HOG})

    assert traffic.p99("light") <= 4.0
    assert traffic.fairness() >= 0.99


@pytest.mark.parametrize("seed", range(3))
def test_constant_waiters_get_equal_service_for_any_weight(seed: int) -> None:
    hogs = {f"hog-{number}": 2.0 * number for number in range(1, 11)}
    traffic = Traffic(by_fair, {**dict.fromkeys(LIGHT, 0.05), **hogs}, seed, queue_cap=10_000)

    assert traffic.fairness("hog") >= 0.99
    assert traffic.fairness() >= 0.99
    assert Traffic(FifoPolicy, hogs, seed, queue_cap=10_000).fairness() < 0.95


@pytest.mark.parametrize("weight", [1000, 2000])
@pytest.mark.parametrize("seed", range(20))
def test_webhook_spike_passes_a_backlog(seed: int, weight: int) -> None:
    """The seed's scenario S3; there a webhook waits for 33 to 60 ticks on average."""
    core = Scheduler({DEFAULT_RESOURCE: 1}, by_fair, max_wait_ticks=0)
    chance = random.Random(seed)
    tickets: list[Ticket] = []

    def arrive(agent: str, weight: int) -> Ticket:
        ticket = Ticket(Request(agent, weight))
        core.submit(ticket, 0.0)
        tickets.append(ticket)
        return ticket

    background = [f"background-{number}" for number in range(10)]
    for _ in range(4):
        for agent in background:
            arrive(agent, 2000)
    webhooks: list[Ticket] = []
    for tick in range(100):
        for agent in background:
            if chance.random() < 0.07:
                arrive(agent, 2000)
        if tick == 30:
            webhooks = [arrive(f"webhook-{number}", weight) for number in range(5)]
        for holder in [ticket for ticket in tickets if ticket.state is State.GRANTED]:
            core.release(holder, 0.0)

    assert sum(ticket.waited_ticks for ticket in webhooks) / len(webhooks) <= 4.0
