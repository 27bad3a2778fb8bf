"""No wait is longer than what is stated: by the guard under every policy, by `load` alone for a small alpha.

Each of many random runs is a line of its own with other agents, weights and arrivals.
"""

import random
from collections.abc import Callable
from math import ceil

import pytest
from effort import scale

from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Request

RUNS = scale(10_000)
BATCHES = 10

WEIGHTS = (1000, 1000, 2000, 9000)
_AGENTS = ("greedy", "a", "b", "c", "d")
_TENANTS = (None, "acme", "beta")


class Town:
    """A line with one slot: a release, hence a tick, a grant, and `rate` arrivals on average.

    Args:
        line: empty.
        chance: gives agents and weights.
        tenants: whether they have any.

    """

    def __init__(self, line: QueueSet, chance: random.Random, *, tenants: bool = False) -> None:
        self.line = line
        self.chance = chance
        self.tenants = tenants
        self.bounds: dict[Ticket, float] = {}
        self.closest = 0.0
        """The longest wait, in parts of its bound."""

    def arrive(self, agent: str, bound: Callable[[], float], age: int = 0) -> None:
        """Let one come, with the bound that holds from then on."""
        tenant = self.chance.choice(_TENANTS) if self.tenants else None
        ticket = Ticket(Request(agent, self.chance.choice(WEIGHTS), tenant=tenant))
        ticket.state = State.WAITING
        ticket.birth = self.line.tick - age
        self.line.add_ticket(ticket)
        self.bounds[ticket] = age + bound()

    def some_agent(self) -> str:
        """Name one: more often than not the greedy one."""
        return "greedy" if self.chance.random() < 0.7 else self.chance.choice(_AGENTS)

    def live(self, ticks: int, rate: float, bound: Callable[[], float]) -> None:
        """Serve and let come, and see that no bound is broken."""
        line, owing = self.line, 0.0
        for _ in range(ticks):
            line.tick += 1
            if line.waiting:
                ticket, _ = line.select_next()
                if line.policy.is_metered:
                    line.charge_ticket(ticket, 0.0)
                line.remove_ticket(ticket)
                self.check(ticket)
                del self.bounds[ticket]
                if self.chance.random() < 0.5:
                    line.settle_charge(ticket, 0.0)
            owing += rate
            while owing >= 1.0:
                owing -= 1.0
                self.arrive(self.some_agent(), bound)
        for ticket in self.bounds:
            self.check(ticket)

    def check(self, ticket: Ticket) -> None:
        waited = self.line.tick - ticket.birth
        assert waited <= self.bounds[ticket]
        self.closest = max(self.closest, waited / self.bounds[ticket])


@pytest.mark.parametrize("batch", range(BATCHES))
def test_wait_under_load_is_bounded_by_the_earlier_waiters(batch: int) -> None:
    """By (W + lambda*r*A) / (1 - lambda*r), with lambda*r < 1, and the burst of the arrivals added to W."""
    closest = 0.0
    for run in range(RUNS // BATCHES):
        chance = random.Random(f"load {batch} {run}")
        rate = chance.choice((0.5, 0.9, 1.0, 1.0, 1.5))
        alpha = chance.uniform(0.0, 0.97) / (1.0 + rate)
        town = Town(QueueSet(lambda alpha=alpha, draw=chance.random: LoadPolicy(alpha, draw), 0), chance)  # type: ignore[misc]
        closest = max(closest, _live_under_load(town, alpha, rate))
    assert closest > 0.5, "no wait came near its bound, so nothing was tested"


def _live_under_load(town: Town, alpha: float, rate: float) -> float:
    line = town.line
    growth = rate * alpha / (1.0 - alpha)

    def bound() -> float:
        oldest = line.find_oldest_waiter()
        age = 0 if oldest is None else line.tick - oldest.birth
        return (line.waiting + 1 + ceil(rate) + growth * age) / (1.0 - growth)

    for _ in range(town.chance.randrange(12)):
        town.arrive(town.some_agent(), bound, age=town.chance.randrange(4))
    # They came faster than the rate allows: what is bounded is how long they wait from here.
    town.bounds = {ticket: bound() + line.tick - ticket.birth for ticket in town.bounds}
    town.live(town.chance.randrange(10, 40), rate, bound)
    return town.closest


POLICIES: dict[str, Callable[[random.Random], Callable[[], Policy]]] = {
    "load": lambda chance: lambda: LoadPolicy(1.0, chance.random),
    "fair": lambda _: lambda: FairPolicy({"greedy": 1_000_000}),
    "fifo": lambda _: FifoPolicy,
}


@pytest.mark.parametrize("batch", range(BATCHES))
def test_wait_is_bounded_by_the_guard_and_the_older(batch: int) -> None:
    """Under every policy, with tenants and without, at any alpha and share."""
    closest = 0.0
    for run in range(RUNS // BATCHES):
        chance = random.Random(f"guard {batch} {run}")
        make = POLICIES[chance.choice([*POLICIES])](chance)
        guard = chance.choice((1, 3, 8))
        line = QueueSet(make, guard, tenant_shares={"acme": 1_000_000})
        town = Town(line, chance, tenants=chance.random() < 0.5)

        def bound(line: QueueSet = line, guard: int = guard) -> float:
            # All that wait at its birth are older, it itself is counted too.
            return guard + line.waiting - 1

        for _ in range(chance.randrange(12)):
            town.arrive(town.some_agent(), bound)
        town.live(chance.randrange(10, 40), chance.choice((0.7, 1.0, 1.2)), bound)
        closest = max(closest, town.closest)
    assert closest == 1.0, "no wait reached its bound, so nothing was tested"
