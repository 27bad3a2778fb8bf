"""Memory: what stays after many calls have ended, with an OpenTelemetry SDK, and what a waiting slot takes."""

import asyncio
import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import loco_otel
from benchmarks.call_workload import SURROUNDINGS, Telemetry, Way, Workload
from benchmarks.company import Instrumentor
from loco_otel._config.settings import Settings
from loco_otel._runtime import process

CALLS = 20_000
"""All that is kept of past calls is bounded, and full after fewer."""
WAITERS = 1_000


def run() -> None:
    """Measure in processes of their own, and print."""
    print("\nMemory, by tracemalloc")
    for part in ("calls", "waiters"):
        subprocess.run([sys.executable, "-m", "benchmarks.memory", part], check=True)


def _measure_calls() -> None:
    work = Workload(Way(Telemetry.SDK, (Instrumentor.LOCO,)))

    def read_size() -> int:
        """Return the bytes in use after all is exported."""
        work.export_spans()
        work.collect_metrics()
        work.collect_metrics()  # the first ones are kept until the second
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    work.make_calls("create", SURROUNDINGS[0], 100)
    tracemalloc.start()
    before = read_size()
    work.make_calls("create", SURROUNDINGS[0], CALLS)
    retained = (read_size() - before) / 2**20
    print(f"  retained after {CALLS:,} calls with an SDK  {retained:8.2f} MiB (goal: less than 1)")


def _measure_waiters() -> None:
    process.replace_runtime(Settings.load({"LOCO_CAPACITY": "1"}))
    semaphore = asyncio.Semaphore(1)
    ways: dict[str, Callable[[int], AbstractAsyncContextManager[Any]]] = {
        "asyncio.Semaphore": lambda _: semaphore,
        "slot, one agent": lambda _: loco_otel.slot("analyst"),
        "slot, an agent each": lambda number: loco_otel.slot(f"agent-{number}"),
    }
    task = asyncio.run(_measure_tasks(None))
    print(f"  a task that waits for a future           {task:8,.0f} B")
    for name, way in ways.items():
        print(f"  {name:<20} beside the task     {asyncio.run(_measure_tasks(way)) - task:8,.0f} B")
    print("  (goal for a slot: at most 2,048 B)")


async def _measure_tasks(way: Callable[[int], AbstractAsyncContextManager[Any]] | None) -> float:
    """Return the bytes of a task that waits; None for a future of its own."""
    ended, is_held = asyncio.Event(), asyncio.Event()
    futures: list[asyncio.Future[None]] = []

    async def hold() -> None:
        if way is not None:
            async with way(-1):
                is_held.set()
                await ended.wait()

    async def wait(number: int) -> None:
        if way is None:
            futures.append(asyncio.get_running_loop().create_future())
            await futures[-1]
        else:
            async with way(number):
                pass

    # In a task of its own: a slot is shared with the calls of the task that holds it.
    holder = asyncio.create_task(hold())
    if way is not None:
        await is_held.wait()
    gc.collect()
    tracemalloc.start()
    tasks = [asyncio.create_task(wait(number)) for number in range(WAITERS)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    ended.set()
    for future in futures:
        future.set_result(None)
    await asyncio.gather(holder, *tasks)
    return size / WAITERS


if __name__ == "__main__":
    {"calls": _measure_calls, "waiters": _measure_waiters}[sys.argv[1]]()
