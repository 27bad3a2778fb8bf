"""Streams that are opened first and read later end at any capacity."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context

import pytest
from grant_reasons import FREE, REENTRANT, list_reasons
from patience import PATIENCE
from sdk_calls import Sdk, each_async_sdk, each_sync_sdk
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

from loco_otel.events import Waiting
from loco_otel.patching import response_body


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots lie idle as soon as a stream is there."""
    monkeypatch.setattr(response_body, "_UNREAD_IDLE_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
@each_async_sdk
@pytest.mark.parametrize("settings", [{"capacity": 1}, {"capacity": "auto"}], ids=str)
def test_streams_opened_together_and_read_later_finish(
    settings: dict[str, object], sdk: Sdk, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(**settings)
    if settings["capacity"] == "auto":
        server.script({"type": "fail", "status": 429, "retry_after": 0.01, "times": 1})

    async def main() -> None:
        async with sdk.client(server) as client:
            opening = asyncio.gather(*[sdk.stream(client) for _ in range(4)])
            while not opening.done():
                # What the timer does each second.
                scheduling.runtime.engine.run_due_actions()
                await asyncio.sleep(0)
            for stream in await opening:
                async for _ in stream:
                    pass

    sdk.run(asyncio.wait_for(main(), PATIENCE))
    scheduling.settled(4)


@pytest.mark.usefixtures("impatient")
@each_sync_sdk
def test_streams_opened_by_a_pool_and_read_later_finish(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client:
        with ThreadPoolExecutor(4) as pool:
            opening = [pool.submit(sdk.stream, client) for _ in range(4)]
            while not all(each.done() for each in opening):
                scheduling.runtime.engine.run_due_actions()
        for each in opening:
            list(each.result(PATIENCE))
    scheduling.settled(4)
    assert list_reasons(scheduling) == [FREE, REENTRANT, REENTRANT, REENTRANT]


@each_sync_sdk
def test_stream_lends_its_slot_while_its_reader_is_busy(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_body, "_PAUSED_IDLE_SECONDS", -1.0)
    scheduling = scheduled(capacity=1)
    with sdk.client(server) as client, ThreadPoolExecutor(1) as pool:
        with sdk.stream(client) as stream:
            other = Context().run(pool.submit, sdk.ask, client)
            scheduling.seen.wait_for(Waiting)
            scheduling.runtime.engine.run_due_actions()
            assert list_reasons(scheduling) == [FREE], "not read yet, and not for long"
            next(stream)
            scheduling.runtime.engine.run_due_actions()
            other.result(PATIENCE)
    scheduling.settled(2)
    assert list_reasons(scheduling) == [FREE, REENTRANT]
