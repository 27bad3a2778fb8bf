"""The cost of loco-agent's API: its documented cycle and `wrap`, releases with many waiting, and competing threads.

Where `make bench` found the published `loco-agent`, the same loops run on it, in the same run.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import loco_otel
from benchmarks.timing import best_of, print_table
from loco_otel._config.settings import Settings
from loco_otel._runtime import process

PUBLISHED = Path(__file__).parents[1] / ".venv" / "published"
"""Where `make bench` puts loco-agent."""
WAITERS = (10, 100, 1_000, 10_000)
_BASELINE = "asyncio.Semaphore"
_COUNT = 5_000


def run() -> dict[str, float]:
    """Measure, print, and return microseconds per cycle by way."""
    process.replace_runtime(Settings.load({"LOCO_CAPACITY": "2"}))
    libraries = {"loco_otel": loco_otel}
    if (PUBLISHED / "loco").exists():
        sys.path.append(str(PUBLISHED))
        libraries["loco-agent 0.2.2"] = import_module("loco")
    else:
        print("\nloco-agent is not installed beside: its loops are left out")
    times = _measure_cycles(libraries)
    _measure_releases(libraries)
    _measure_threads()
    return times


def _measure_cycles(libraries: dict[str, Any]) -> dict[str, float]:
    with asyncio.Runner() as runner:
        semaphore = asyncio.Semaphore(1)

        async def take_semaphore(count: int) -> None:
            for _ in range(count):
                async with semaphore:
                    pass

        ways: dict[str, Callable[[int], object]] = {_BASELINE: lambda count: runner.run(take_semaphore(count))}
        for name, library in libraries.items():
            ways[f"{name}: submit, acquire, serve"] = _run_in_loop(runner, _make_cycle(library))
            ways[f"{name}: acquire, no task"] = _run_in_loop(runner, _make_plain_cycle(library))
            ways[f"{name}: wrap"] = _run_in_loop(runner, _make_wrap_cycle(library))
        times = best_of(ways, _COUNT)
    print_table("loco-agent's API without contention, no telemetry (goal: at most x15)", times, _BASELINE)
    return times


def _run_in_loop(runner: asyncio.Runner, once: Callable[[int], Any]) -> Callable[[int], object]:
    return lambda count: runner.run(once(count))


def _make_scheduler(library: Any, agents: int = 1) -> Any:
    names = [library.Agent(f"agent-{number}") for number in range(agents)]
    return library.AsyncLOCOScheduler(names, library.SharedResource("r", 1), max_waiters=10**6)


def _make_cycle(library: Any) -> Callable[[int], Any]:
    scheduler = _make_scheduler(library)

    async def loop(count: int) -> None:
        for _ in range(count):
            await scheduler.submit_task("agent-0", library.Task(weight=2.0))
            async with scheduler.acquire("agent-0"):
                scheduler.get_agent("agent-0").serve_oldest_task()

    return loop


def _make_plain_cycle(library: Any) -> Callable[[int], Any]:
    scheduler = _make_scheduler(library)

    async def loop(count: int) -> None:
        for _ in range(count):
            async with scheduler.acquire("agent-0"):
                pass

    return loop


def _make_wrap_cycle(library: Any) -> Callable[[int], Any]:
    library.configure(capacity=2)

    async def nothing() -> None:
        return None

    async def loop(count: int) -> None:
        for _ in range(count):
            await library.wrap(nothing, agent_id="agent-0")

    return loop


def _measure_releases(libraries: dict[str, Any]) -> None:
    print("\nA release and its hand-over, with so many agents waiting (goal: 10,000 at most x6 of 10)")
    for name, library in libraries.items():
        # Beyond a thousand loco-agent takes minutes.
        sizes = WAITERS if library is loco_otel else WAITERS[:3]
        times = {waiters: min(asyncio.run(_time_releases(library, waiters)) for _ in range(3)) for waiters in sizes}
        for waiters, microseconds in times.items():
            print(
                f"  {name:<18}{waiters:>7,} waiters  {microseconds:10.1f} us  x{microseconds / times[WAITERS[0]]:.2f}"
            )


async def _time_releases(library: Any, waiters: int) -> float:
    """Return microseconds per release, each of which is followed by another arrival."""
    scheduler = _make_scheduler(library, waiters)
    releases, enough = [0], 2_000 if library is loco_otel else 300
    begun = asyncio.Event()

    async def work(agent: str) -> None:
        while releases[0] < enough or not begun.is_set():
            await scheduler.submit_task(agent, library.Task())
            async with scheduler.acquire(agent):
                await begun.wait()
                scheduler.get_agent(agent).serve_oldest_task()
                releases[0] += 1

    tasks = [asyncio.create_task(work(agent)) for agent in tuple(scheduler.agents)]
    await asyncio.sleep(0)
    while scheduler.resource.waiter_count < waiters - 1:  # noqa: ASYNC110 - nothing signals it
        await asyncio.sleep(0)
    started = time.process_time()
    begun.set()
    while releases[0] < enough:  # noqa: ASYNC110 - nothing signals it
        await asyncio.sleep(0.001)
    elapsed = time.process_time() - started
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return elapsed / enough * 1e6


def _measure_threads() -> None:
    loco_otel.configure(capacity=4)
    semaphore = threading.Semaphore(4)
    ways = {
        "threading.Semaphore": lambda _: semaphore,
        "loco_otel.slot": lambda number: loco_otel.slot(f"agent-{number}"),
    }
    print("\nEight threads through four slots, wall time")
    for name, way in ways.items():
        seconds, wakes = _time_threads(way)
        wakes.sort()
        p50, p99 = (wakes[int(len(wakes) * part)] * 1e6 for part in (0.5, 0.99))
        print(f"  {name:<20}{8 * _EACH / seconds:>10,.0f} grants/s   wake p50 {p50:7.1f} us   p99 {p99:9.1f} us")


_EACH = 2_000
_WORK = 50e-6
"""Seconds that a slot is held, asleep, so that the threads compete for slots and not for the interpreter."""


def _time_threads(way: Callable[[int], Any]) -> tuple[float, list[float]]:
    """Return the time of all grants together, and the times from a release to the next one's running."""
    released = [time.perf_counter()]
    wakes: list[float] = []

    def work(number: int) -> None:
        slot = way(number)
        for _ in range(_EACH):
            asked = time.perf_counter()
            with slot:
                now = time.perf_counter()
                if released[0] > asked:
                    wakes.append(now - released[0])
                time.sleep(_WORK)
                released[0] = time.perf_counter()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started, wakes or [0.0]
