"""What grows with the program: each operation at a size, and at ten times that size."""

import random

from benchmarks.timing import best_of, print_table
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.events import MILLI, Request

_AGENTS = (1_000, 10_000)


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


def run() -> dict[str, float]:
    """Measure, print, and return microseconds per snapshot by number of agents."""
    crowds = {f"{agents:>6,} agents": _crowd(agents) for agents in _AGENTS}
    ways = {name: lambda count, engine=engine: _take_snapshots(engine, count) for name, engine in crowds.items()}
    times = best_of(ways, 3)
    print_table("Snapshot under `load`, all weights different (goal: in proportion)", times, next(iter(crowds)))
    return times
