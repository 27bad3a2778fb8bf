"""The cost of acquire and release without contention, beside `asyncio.Semaphore`."""

import asyncio
import threading

import loco_otel
from benchmarks.timing import best_of, print_table
from loco_otel._config.settings import Settings
from loco_otel._runtime import process

BASELINE = "asyncio.Semaphore"


def run() -> dict[str, float]:
    """Measure, print, and return microseconds per pair by way."""
    process.replace_runtime(Settings.load({"LOCO_CAPACITY": "2"}))
    with asyncio.Runner() as runner:
        semaphore = asyncio.Semaphore(1)
        slot = loco_otel.slot("agent")
        lock = threading.Semaphore(1)

        async def take_semaphore(count: int) -> None:
            for _ in range(count):
                async with semaphore:
                    pass

        async def take_slot(count: int) -> None:
            for _ in range(count):
                async with slot:
                    pass

        async def make_and_take_slot(count: int) -> None:
            for _ in range(count):
                async with loco_otel.slot("agent"):
                    pass

        def take_lock(count: int) -> None:
            for _ in range(count):
                with lock:
                    pass

        def take_slot_in_a_thread(count: int) -> None:
            for _ in range(count):
                with slot:
                    pass

        times = best_of(
            {
                BASELINE: lambda count: runner.run(take_semaphore(count)),
                "async with slot (made once)": lambda count: runner.run(take_slot(count)),
                "async with slot(...)": lambda count: runner.run(make_and_take_slot(count)),
                "threading.Semaphore": take_lock,
                "with slot (made once)": take_slot_in_a_thread,
            },
            50_000,
        )
    print_table("Uncontended acquire and release, no telemetry (goal: at most x6)", times, BASELINE)
    return times
