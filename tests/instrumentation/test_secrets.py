"""What the program keeps to itself gets out nowhere: not on spans, metrics or events, nor in logs and errors."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

import anthropic
import openai
import pytest
from loco_otel_instrumentation.anthropic.adapter import AnthropicAdapter
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from sdk_calls import Sdk, each, each_sdk, now, opened
from sdk_scheduling import SOON, Scheduled
from sdk_server import KEY, LlmServer

import loco_otel
from loco_otel._runtime import faults
from loco_otel.errors import AcquireTimeoutError
from loco_otel.events import Released, Submitted

QUESTION = "planted-question-4711"
ANSWER = "planted-answer-0815"
HEADER = "planted-header-2718"
QUERY = "planted-query-3141"
STOP = "planted-stop-1414"
USER = "planted-user-1732"
SECRETS = (KEY, QUESTION, ANSWER, HEADER, QUERY, STOP, USER)

ADAPTERS = {"openai": OpenAIAdapter, "anthropic": AnthropicAdapter}


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of fault is logged once in a process: begin anew."""
    monkeypatch.setattr(faults, "_logged", set())


def broken(*_: object, **__: object) -> Any:
    raise RuntimeError("on our side")


def ask(sdk: Sdk, client: Any, **options: Any) -> Any:
    """Make a call that has a secret wherever it can have one."""
    messages = [{"role": "user", "content": QUESTION}]
    if sdk.name == "openai":
        said: dict[str, Any] = {"model": "gpt-4o", "stop": [STOP], "user": USER, "metadata": {"who": USER}}
        return client.chat.completions.create(messages=messages, **said, **options)
    said = {"model": "claude-sonnet-5", "max_tokens": 64, "stop_sequences": [STOP], "metadata": {"user_id": USER}}
    return client.messages.create(messages=messages, system=QUESTION, **said, **options)


def told_by(span: ReadableSpan) -> str:
    events = [(event.name, dict(event.attributes or {})) for event in span.events]
    return repr((span.name, dict(span.attributes or {}), events, span.status.description))


def labels(reader: InMemoryMetricReader) -> Iterator[str]:
    data = reader.get_metrics_data()
    assert data is not None
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    yield repr((metric.name, dict(point.attributes or {})))


@each_sdk
def test_no_secret_gets_out(
    sdk: Sdk,
    server: LlmServer,
    scheduled: Scheduled,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG, "loco_otel")
    scheduling = scheduled(capacity=1, acquire_timeout=0.05)
    reader = InMemoryMetricReader()
    scheduling.runtime.start_telemetry(meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    said: list[str] = []
    options = {"max_retries": 1, "default_headers": {"x-planted": HEADER}, "default_query": {"planted": QUERY}}

    async def calls() -> None:
        server.script({"type": "reply", "text": ANSWER, "times": None})
        async with opened(sdk.client(server, **options)) as client:
            assert ANSWER in (await now(ask(sdk, client))).to_json()
            async with opened(await now(ask(sdk, client, stream=True))) as stream:
                async for _ in each(stream):
                    said.append(repr(scheduling.runtime.engine.take_snapshot()))
            server.script({"type": "fail", "status": 429, "retry_after": 0.01, "message": f"{QUESTION} {KEY}"})
            await now(ask(sdk, client))
            server.script({"type": "fail", "status": 400, "message": f"{QUESTION} {KEY}"})
            with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)):
                await now(ask(sdk, client))
            monkeypatch.setattr(ADAPTERS[sdk.name], "read_answer", broken)
            await now(ask(sdk, client))
            monkeypatch.setattr(ADAPTERS[sdk.name], "describe_call", broken)
            await now(ask(sdk, client))

    async def rejected() -> None:
        async with opened(sdk.client(server, **options)) as client:
            with pytest.raises(AcquireTimeoutError) as raised:
                await now(ask(sdk, client))
            said.append(f"{raised.value!r} {raised.value}")

    with ThreadPoolExecutor(1) as threads, loco_otel.slot("holder"):
        threads.submit(Context().run, sdk.run, rejected()).result(SOON)
    sdk.run(calls())

    scheduling.settled(7)
    assert len(scheduling.seen.of(Released)) == 6
    ours = [span for span in scheduling.spans() if span.instrumentation_scope.name == "loco_otel"]  # type: ignore[union-attr]
    assert len([span for span in ours if span.kind is SpanKind.CLIENT]) == 5
    said += [told_by(span) for span in ours]
    points = list(labels(reader))
    assert [point for point in points if point.startswith("('gen_ai.")]
    said += points
    said += [repr(event) for event in scheduling.seen.events]
    said += [repr(event.ticket.request) for event in scheduling.seen.of(Submitted)]
    records = [record for record in caplog.records if record.name.startswith("loco_otel")]
    assert len(records) >= 2
    said += [logging.Formatter().format(record) for record in records]
    text = json.dumps(said)
    assert not [secret for secret in SECRETS if secret in text]
