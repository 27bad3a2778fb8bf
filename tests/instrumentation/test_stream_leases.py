"""A stream that is read keeps its lease; one that nobody reads loses it after `LOCO_MAX_HOLD`."""

from functools import partial

import pytest
from call_endings import STALL, list_failed_spans
from sdk_calls import Sdk, each, each_sdk, each_sync_sdk, now, opened
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

from loco_otel._engine.in_process import InProcessEngine
from loco_otel._runtime import runtime
from loco_otel.events import Released
from loco_otel.testing import ManualClock


@each_sdk
def test_stalled_reader_loses_its_slot(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    server.script({"type": "stream_fault", "kind": "stall", "after_chunks": 2, "stall_seconds": STALL})
    scheduling = scheduled(capacity=1, max_hold=0.2)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            stream = await now(sdk.stream(client))
            async for _ in each(stream):
                break
            await scheduling.seen.await_event(Released)
            (released,) = scheduling.seen.of(Released)
            assert released.expired
            assert released.held >= 0.2
            await now(sdk.ask(client))
            await now(stream.close())

    sdk.run(main())
    scheduling.settled(2)
    assert len(scheduling.spans("call ")) == 2
    assert not list_failed_spans(scheduling, "call ")


@each_sync_sdk
def test_each_chunk_renews_the_lease(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body takes longer than `LOCO_MAX_HOLD`, no pause in it does."""
    clock = ManualClock()
    monkeypatch.setattr(runtime, "InProcessEngine", partial(InProcessEngine, clock=clock))
    scheduling = scheduled(capacity=1, max_hold=0.4)
    with sdk.client(server) as client, sdk.stream(client) as stream:
        for _ in stream:
            clock.advance(0.3)
            scheduling.runtime.engine.run_due_actions()
    (released,) = scheduling.seen.of(Released)
    assert not released.expired
    assert released.held > 0.4
    scheduling.settled(1)
