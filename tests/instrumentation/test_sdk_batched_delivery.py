"""Spans of real calls that are made late, many at a time, equal those that are made at once."""

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sdk_calls import Sdk, each, each_sync_sdk, now, opened
from sdk_scheduling import Scheduled
from sdk_server import LlmServer

from loco_otel._config.settings import Settings
from loco_otel._runtime import process

_OF_THE_CALL = {"loco.wait.duration", "gen_ai.response.id", "gen_ai.response.time_to_first_chunk"}
"""Differ from call to call."""


def ask(sdk: Sdk, server: LlmServer) -> None:
    async def run() -> None:
        async with opened(sdk.client(server, max_retries=0)) as client:
            await now(sdk.ask(client))

    sdk.run(run())


def stream(sdk: Sdk, server: LlmServer) -> None:
    async def run() -> None:
        async with opened(sdk.client(server, max_retries=0)) as client:
            async for _ in each(await now(sdk.ask(client, stream=True))):
                pass

    sdk.run(run())


def fail(sdk: Sdk, server: LlmServer) -> None:
    server.script({"type": "fail", "status": 400})
    with pytest.raises(Exception, match="400"):
        ask(sdk, server)


def retry(sdk: Sdk, server: LlmServer) -> None:
    server.script({"type": "fail", "status": 429, "retry_after": 0.01})

    async def run() -> None:
        async with opened(sdk.client(server, max_retries=1)) as client:
            await now(sdk.ask(client))

    sdk.run(run())


def said(spans: tuple[ReadableSpan, ...] | list[ReadableSpan]) -> list[Any]:
    """Return all that can be compared: parents, order and contents."""
    names = {span.context.span_id: span.name for span in spans if span.context is not None}
    return sorted(
        (
            span.name,
            None if span.parent is None else names[span.parent.span_id],
            span.status.status_code.name,
            sorted((key, value) for key, value in (span.attributes or {}).items() if key not in _OF_THE_CALL),
            sorted(span.attributes or {}),
            [
                (
                    event.name,
                    sorted((key, value) for key, value in (event.attributes or {}).items() if "tick" not in key),
                )
                for event in span.events
            ],
        )
        for span in spans
    )


@each_sync_sdk
@pytest.mark.parametrize("call", [ask, stream, fail, retry])
def test_late_spans_equal_immediate_ones(
    call: Callable[[Sdk, LlmServer], None], sdk: Sdk, server: LlmServer, scheduled: Scheduled
) -> None:
    at_once = scheduled(capacity=1)
    call(sdk, server)
    at_once.settled(1)
    expected = said(at_once.spans())

    server.reset()
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    process.replace_runtime(Settings.load({"LOCO_CAPACITY": "1"}))
    process.get_runtime().start_telemetry(provider)
    call(sdk, server)
    provider.force_flush()
    spans = exporter.get_finished_spans()
    assert said(spans) == expected
    times = {span.name.split()[0]: (span.start_time or 0, span.end_time or 0) for span in spans}
    outer, inner = times["call"], times["chat"]
    assert outer[0] <= times["acquire"][0] <= times["acquire"][1]
    assert outer[0] <= inner[0] <= inner[1] <= outer[1]
