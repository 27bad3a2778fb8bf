"""The cost of a release with its grant, and of an arrival, while many agents wait. loco-agent's grows in proportion."""

import random
from collections.abc import Callable
from itertools import cycle

from benchmarks.timing import best_of, print_table
from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import Ticket
from loco_otel.events import DEFAULT_RESOURCE, MILLI, Request

AGENTS = (10, 100, 1_000, 10_000, 100_000)
_DEPTH = 4
_CAPACITY = 8


class Crowd:
    """A scheduler with all slots held and four tickets of each agent waiting; 80 % of arrivals are of 20 %.

    Args:
        agents: so many.
        policy: makes the policy; `load` unless given.
        tenants: so many, each with its part of the agents; 0 is none named.

    """

    def __init__(self, agents: int, policy: Callable[[], Policy] | None = None, tenants: int = 0) -> None:
        rng = random.Random(1)

        def request(agent: int) -> Request:
            tenant = f"tenant-{agent % tenants}" if tenants else None
            return Request(f"agent-{agent}", rng.choice((1, 2, 3, 5)) * MILLI, tenant=tenant)

        self._core = Scheduler(
            {DEFAULT_RESOURCE: _CAPACITY},
            policy or (lambda: LoadPolicy(0.25, rng.random)),
            max_waiters=10**9,
            max_wait_ticks=0,
        )
        heavy = max(1, agents // 5)
        draws = [rng.randrange(heavy) if rng.random() < 0.8 else rng.randrange(agents) for _ in range(100_000)]
        self._requests = cycle(request(agent) for agent in draws)
        for agent in range(agents):
            for _ in range(_DEPTH):
                self._core.submit(Ticket(request(agent)), 0.0)
        self._core.decided.clear()
        self._holders = list(self._core.resources.pools[DEFAULT_RESOURCE].leases.values())

    def run_turns(self, count: int) -> None:
        """Release the oldest lease, which grants one, and let one more arrive."""
        core, holders = self._core, self._holders
        for _ in range(count):
            core.release(holders.pop(0), 0.0)
            holders += core.decided
            core.decided.clear()
            core.submit(Ticket(next(self._requests)), 0.0)


def run() -> dict[str, float]:
    """Measure, print, and return microseconds per turn by number of agents."""
    crowds = {f"{agents:>7,} agents": Crowd(agents) for agents in AGENTS}
    times = best_of({name: crowd.run_turns for name, crowd in crowds.items()}, 2_000)
    print_table("Release with its grant, and an arrival (goal: 100,000 at most x6 of 10)", times, next(iter(crowds)))
    others = {
        "load": Crowd(1_000),
        "fair": Crowd(1_000, lambda: FairPolicy({})),
        "load, 50 tenants": Crowd(1_000, tenants=50),
        "fair, 50 tenants": Crowd(1_000, lambda: FairPolicy({}), tenants=50),
    }
    by_policy = best_of({name: crowd.run_turns for name, crowd in others.items()}, 2_000)
    print_table("The same with 1,000 agents, by policy", by_policy, "load")
    return times
