"""Slots under uvloop and trio."""

import asyncio
import logging

import pytest
import trio
import uvloop
from patience import PATIENCE

import loco_otel
from loco_otel import AcquireTimeoutError, Settings, slot
from loco_otel._runtime import process
from loco_otel.events import Bypassed, BypassReason
from loco_otel.testing import RecordingListener


def test_uvloop_schedules_like_asyncio() -> None:
    process.replace_runtime(Settings().changed(capacity=3))
    inside, seen = 0, set()

    async def call(number: int) -> None:
        nonlocal inside
        async with slot(f"agent-{number % 4}"):
            inside += 1
            seen.add(inside)
            await asyncio.sleep(0)
            inside -= 1

    async def main() -> None:
        await asyncio.gather(*(call(number) for number in range(100)))
        async with slot("a"), slot("b"), slot("c"):
            with pytest.raises(AcquireTimeoutError):
                await asyncio.create_task(in_time())

    async def in_time() -> None:
        async with slot("late", timeout=0):
            pytest.fail("nothing is free")

    uvloop.run(main())
    assert seen == {1, 2, 3}
    (standing,) = loco_otel.snapshot().resources
    assert (standing.active, standing.waiting) == (0, 0)


def test_trio_bypass_is_counted_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    runtime = process.replace_runtime(Settings().changed(capacity=1))
    assert runtime is not None
    listener = RecordingListener()
    runtime.engine.add_listener(listener)
    all_inside = trio.Event()
    inside = 0

    async def call() -> None:
        nonlocal inside
        async with slot("a") as held:
            assert held.waited_ticks == 0
            held.touch()
            inside += 1
            if inside == 3:
                all_inside.set()
            await all_inside.wait()

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(call)

    with caplog.at_level(logging.WARNING, "loco_otel"):
        trio.run(main)
    assert [event.reason for event in listener.of(Bypassed)] == [BypassReason.UNSUPPORTED_RUNTIME] * 3
    assert len(listener.events) == 3
    (record,) = caplog.records
    assert record.getMessage() == (
        "an event loop that is not asyncio's (trio): the call is sent unscheduled (logged once)"
    )
