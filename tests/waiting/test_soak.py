"""Threads and event loops at two slots, a hundred thousand rounds, with what can go wrong going wrong at random.

Which rounds are cancelled, time out or raise is random but seeded; how they interleave is the machine's business.
"""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from effort import scale

import loco_otel
from loco_otel import AcquireTimeoutError, Settings, slot
from loco_otel._runtime import process

CAPACITY = 2
THREADS = 4
LOOPS = 4
TASKS = 5
"""In each loop."""
ROUNDS = scale(100_000)
"""In all."""

_EACH = ROUNDS // (THREADS + LOOPS)
_TIMEOUTS = (None, None, None, 10.0, 0.0, 0.0002, 0.001)


class BrokenError(Exception):
    """What some bodies end with."""


class Floor:
    """Where the bodies run: counts them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self.most = 0
        self.ends: Counter[str] = Counter()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1

    def ended(self, how: str) -> None:
        """Count how a round ended."""
        with self._lock:
            self.ends[how] += 1


def perhaps_break(chance: random.Random) -> None:
    """End a body in ten."""
    if chance.random() < 0.1:
        raise BrokenError


def in_a_thread(floor: Floor, chance: random.Random) -> None:
    """Do a thread's rounds."""
    for _ in range(_EACH):
        try:
            with slot(f"agent-{chance.randrange(3)}", timeout=chance.choice(_TIMEOUTS)), floor:
                perhaps_break(chance)
            floor.ended("served")
        except (BrokenError, AcquireTimeoutError) as error:
            floor.ended(type(error).__name__)


async def in_a_loop(floor: Floor, chance: random.Random) -> None:
    """Do a loop's rounds, some tasks at a time."""

    async def attempt() -> None:
        async with slot(f"agent-{chance.randrange(3)}", timeout=chance.choice(_TIMEOUTS)):
            with floor:
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
                perhaps_break(chance)

    async def cancelled_soon() -> None:
        task = asyncio.create_task(attempt())
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        task.cancel()
        await task

    async def work() -> None:
        for _ in range(_EACH // TASKS):
            try:
                await (cancelled_soon() if chance.random() < 0.3 else attempt())
                floor.ended("served")
            except (BrokenError, AcquireTimeoutError, asyncio.CancelledError) as error:
                floor.ended(type(error).__name__)

    await asyncio.gather(*(work() for _ in range(TASKS)))


def test_no_slot_is_lost_or_granted_twice() -> None:
    process.replace_runtime(Settings().changed(capacity=CAPACITY))
    floor = Floor()
    faults: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            faults.append(error)

    chances = [random.Random(seed) for seed in range(THREADS + LOOPS)]
    works: list[Callable[[], None]] = [lambda chance=chance: in_a_thread(floor, chance) for chance in chances[:THREADS]]
    works += [lambda chance=chance: asyncio.run(in_a_loop(floor, chance)) for chance in chances[THREADS:]]
    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert faults == []
    assert floor.ends.total() == ROUNDS
    assert set(floor.ends) == {"served", "BrokenError", "AcquireTimeoutError", "CancelledError"}
    assert min(floor.ends.values()) > ROUNDS // 100
    assert floor.most == CAPACITY
    (standing,) = loco_otel.snapshot().resources
    assert (standing.active, standing.waiting, standing.agents) == (0, 0, ())
    with slot("one", timeout=0), slot("two", timeout=0), pytest.raises(AcquireTimeoutError):
        slot("three", timeout=0).__enter__()
