"""What a waiting slot takes, as `benchmarks/memory.py` measures it."""

import asyncio
import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Coroutine

from loco_otel import Settings, slot
from loco_otel._runtime import process

WAITERS = 900
"""Fewer than a warning needs."""
LIMIT = 2048


async def wait_for_future(_: int) -> None:
    await asyncio.get_running_loop().create_future()


async def wait_for_slot(number: int) -> None:
    async with slot(f"agent-{number}"):
        pass


async def measure_waiter(wait: Callable[[int], Coroutine[None, None, None]]) -> float:
    """Return the bytes of a task that waits."""
    is_held, ended = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with slot("holder"):
            is_held.set()
            await ended.wait()

    holder = asyncio.create_task(hold())
    await is_held.wait()
    gc.collect()
    tracemalloc.start()
    try:
        tasks = [asyncio.create_task(wait(number)) for number in range(WAITERS)]
        await asyncio.sleep(0)
        gc.collect()
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    ended.set()
    await holder
    return size / WAITERS


def test_waiting_slot_takes_at_most_two_kilobytes() -> None:
    done = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True)
    assert float(done.stdout) <= LIMIT


if __name__ == "__main__":
    # In a process of its own: tickets have room for the attributes that earlier calls of a process have set.
    process.replace_runtime(Settings().changed(capacity=1))
    future, waiter = (asyncio.run(measure_waiter(wait)) for wait in (wait_for_future, wait_for_slot))
    sys.stdout.write(str(waiter - future))
