"""The inference span is the current one only while the SDK reads."""

import asyncio
import threading
from contextvars import Context
from typing import Any

import pytest
from inference_spans import PROGRAM, find_inference_span, read_current_span_id, read_span_id, read_status
from opentelemetry import trace
from opentelemetry.trace import StatusCode
from patience import PATIENCE
from sdk_calls import Sdk, each, each_async_sdk, each_sdk, each_sync_sdk, now, opened
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

pytestmark = pytest.mark.usefixtures("no_foreign_context")


@each_sdk
def test_span_is_current_only_while_the_sdk_reads(
    sdk: Sdk, server: LlmServer, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    within = _note_reads(sdk, monkeypatch)

    async def main() -> list[bool]:
        async with opened(sdk.client(server)) as client:
            with PROGRAM.start_as_current_span("program"):
                program = read_current_span_id()
                stream = await now(sdk.stream(client))
                outside = [read_current_span_id() == program]
                outside += [read_current_span_id() == program async for _ in each(stream)]
                return [*outside, read_current_span_id() == program]

    outside = sdk.run(main())
    assert all(outside)
    assert len(outside) > 4
    scheduling.settled(1)
    assert len(within) > 2
    assert set(within) == {read_span_id(find_inference_span(scheduling))}


def _note_reads(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the current span wherever the SDK's decoder of events is at work."""
    streaming = __import__(f"{sdk.name}._streaming", fromlist=["SSEDecoder"])
    decode, within = streaming.SSEDecoder.decode, []

    def noted(self: Any, line: str) -> Any:
        within.append(read_current_span_id())
        return decode(self, line)

    monkeypatch.setattr(streaming.SSEDecoder, "decode", noted)
    return within


@each_async_sdk
@pytest.mark.parametrize("apart", [False, True])
def test_stream_may_be_read_in_another_task(apart: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with sdk.client(server) as client:
            with PROGRAM.start_as_current_span("program"):
                stream = await sdk.stream(client)
                await stream.__anext__()

                async def read() -> None:
                    before = read_current_span_id()
                    async for _ in stream:
                        assert read_current_span_id() == before

                await asyncio.create_task(read(), context=Context() if apart else None)

    sdk.run(main())
    scheduling.settled(1)
    assert read_status(find_inference_span(scheduling)) == (StatusCode.UNSET, None)


@each_sync_sdk
def test_stream_may_be_read_in_another_thread(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    seen: list[int] = []
    with sdk.client(server) as client:
        with PROGRAM.start_as_current_span("program"):
            stream = sdk.stream(client)
            next(stream)
        reader = threading.Thread(target=lambda: seen.extend(read_current_span_id() for _ in stream))
        reader.start()
        reader.join(PATIENCE)
    assert seen
    assert set(seen) == {trace.INVALID_SPAN_ID}
    scheduling.settled(1)
    assert read_status(find_inference_span(scheduling)) == (StatusCode.UNSET, None)
