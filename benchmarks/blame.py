"""What the blame for each wait adds to an observed call that waits."""

import random
from collections.abc import Callable
from itertools import count

from benchmarks.timing import best_of, print_table
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._telemetry.blame import BlameListener
from loco_otel._telemetry.instruments import CardinalityLimit
from loco_otel.events import MILLI, Event, Request

_BLAMED_AGENTS, _SLOTS, _WAITERS, _BATCH = 200, 4, 20, 64
_OPEN_WAITS = (10_000, 100_000)


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


class _Read:
    """The blame of open waits, each of another agent, as a collection of metrics reads it.

    Args:
        waiters: the number of open waits.

    """

    def __init__(self, waiters: int) -> None:
        self._listener = BlameListener(CardinalityLimit())
        engine = InProcessEngine(Scheduler({"llm": _SLOTS}, FifoPolicy), clock=lambda: 1.0, timer=False)
        engine.add_listener(self._listener)
        engine.set_batch_size(_BATCH)
        for number in range(waiters + _SLOTS):
            engine.submit(engine.create_ticket(Request(f"agent-{number}", MILLI, ("llm",))))
        engine.flush()
        self._times = count(2)

    def read_seconds(self, number: int) -> None:
        """Read `count` times."""
        for _ in range(number):
            self._listener.read_seconds(next(self._times))


def run() -> dict[str, float]:
    """Measure, print, and return microseconds per call."""
    ways = {
        "observed": _Observed(lambda _: None).run_calls,
        "and the blame for each wait": _Observed(BlameListener()).run_calls,
    }
    times = best_of(ways, 400, rounds=60)
    print_table("A call that waits, 200 agents (goal: at most x1.15)", times, "observed")
    reads = {f"{waiters:,} waiters": _Read(waiters).read_seconds for waiters in _OPEN_WAITS}
    read = best_of(reads, 1, rounds=5)
    print_table(
        "Reading the blame of open waits, an agent each (goal: x10 for ten times the waiters)", read, next(iter(read))
    )
    return times | read
