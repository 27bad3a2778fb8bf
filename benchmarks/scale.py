"""What grows with the program: each operation at a size, and at ten times that size; and the blame for waits."""

import random
from collections.abc import Callable
from itertools import count

from benchmarks.timing import best_of, print_table
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._telemetry.blame import BlameListener
from loco_otel.events import MILLI, Event, Request

_AGENTS = (1_000, 10_000)
_BLAMED_AGENTS, _SLOTS, _WAITERS, _BATCH = 200, 4, 20, 64


def _crowd(agents: int) -> InProcessEngine:
    """Return an engine with one lease, and a waiter of each agent; all weights differ."""
    rng = random.Random(1)
    engine = InProcessEngine(Scheduler({"llm": 1}, lambda: LoadPolicy(0.25, rng.random)), timer=False)
    for number in range(agents + 1):
        engine.submit(engine.create_ticket(Request(f"agent-{number}", MILLI + number, ("llm",))))
    return engine


def _take_snapshots(engine: InProcessEngine, count: int) -> None:
    for _ in range(count):
        engine.take_snapshot()


class _Observed:
    """An engine with twenty of 200 agents waiting, and a listener that gets events in batches.

    Args:
        listener: gets each event.

    """

    def __init__(self, listener: Callable[[Event], object]) -> None:
        self._times = count(1)
        self._core = Scheduler({"llm": _SLOTS}, lambda: LoadPolicy(0.25, random.Random(1).random))
        self._engine = InProcessEngine(self._core, clock=lambda: next(self._times) / 1000)
        self._engine.add_listener(listener)
        self._engine.set_batch_size(_BATCH)
        self._agents = (f"agent-{number % _BLAMED_AGENTS}" for number in count())

    def run_calls(self, number: int) -> None:
        """Submit and release so many calls, each of which waits."""
        engine, leases = self._engine, self._core.resources.pools["llm"].leases
        for _ in range(number):
            engine.submit(engine.create_ticket(Request(next(self._agents), MILLI, ("llm",))))
            if self._core.count_waiting() > _WAITERS:
                engine.release(next(iter(leases.values())))
        engine.flush()


def _measure_blame() -> None:
    ways = {
        "observed": _Observed(lambda _: None).run_calls,
        "and the blame for each wait": _Observed(BlameListener()).run_calls,
    }
    times = best_of(ways, 400, rounds=60)
    print_table("A call that waits, 200 agents (goal: at most x1.15)", times, "observed")


def run() -> dict[str, float]:
    """Measure, print, and return microseconds per snapshot by number of agents."""
    crowds = {f"{agents:>6,} agents": _crowd(agents) for agents in _AGENTS}
    ways = {name: lambda count, engine=engine: _take_snapshots(engine, count) for name, engine in crowds.items()}
    times = best_of(ways, 3)
    print_table("Snapshot under `load`, all weights different (goal: in proportion)", times, next(iter(crowds)))
    _measure_blame()
    return times
