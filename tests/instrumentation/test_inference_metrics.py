"""Metrics of inference, and calls whose telemetry the program suppresses."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context
from typing import Any

import anthropic
import openai
import pytest
from inference_spans import find_inference_span, read_attributes, read_times
from opentelemetry import context as otel_context
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import SpanKind
from patience import PATIENCE
from sdk_calls import Sdk, each, each_sdk, now, opened
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled, Scheduling
from sdk_server import LlmServer

import loco_otel
from loco_otel.events import Submitted, Waiting

pytestmark = pytest.mark.usefixtures("no_foreign_context")

# -- suppressed -------------------------------------------------------------------------------------------------------


def _points(reader: InMemoryMetricReader) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Return what was measured: attributes and point, by metric."""
    data = reader.get_metrics_data()
    found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found[metric.name] = [(dict(point.attributes or {}), point) for point in metric.data.data_points]
    return found


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


def measured(scheduling: Scheduling, reader: InMemoryMetricReader) -> None:
    scheduling.runtime.start_telemetry(meter_provider=MeterProvider([reader], shutdown_on_exit=False))


@contextmanager
def suppressed(key: str) -> Iterator[None]:
    token = otel_context.attach(otel_context.set_value(key, True))
    yield
    otel_context.detach(token)


@each_sdk
@pytest.mark.parametrize("key", ["suppress_instrumentation", _SUPPRESS_INSTRUMENTATION_KEY], ids=["older", "newer"])
def test_suppressed_call_is_scheduled_without_telemetry(
    key: str, sdk: Sdk, server: LlmServer, scheduled: Scheduled, reader: InMemoryMetricReader
) -> None:
    scheduling = scheduled(capacity=1)
    measured(scheduling, reader)

    async def call() -> None:
        async with opened(sdk.client(server)) as client:
            with suppressed(key):
                async with opened(await now(sdk.stream(client))) as stream:
                    assert [chunk async for chunk in each(stream)]

    with ThreadPoolExecutor(1) as pool, suppressed(key):
        with loco_otel.slot("holder"):
            calling = pool.submit(Context().run, sdk.run, call())
            scheduling.seen.wait_for(Waiting)
            assert not server.requests()
        calling.result(PATIENCE)
    scheduling.settled(2)
    assert not scheduling.spans()
    points = _points(reader)
    for name in ("loco.acquire.requests", "loco.wait.duration", "loco.hold.duration", "loco.tokens"):
        assert not points.get(name), name
    assert not [name for name in points if name.startswith("gen_ai.")]


# -- metrics ----------------------------------------------------------------------------------------------------------


@each_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_metrics_are_recorded(
    streamed: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled, reader: InMemoryMetricReader
) -> None:
    scheduling = scheduled(capacity=1)
    measured(scheduling, reader)
    options = {"stream_options": {"include_usage": True}} if streamed and sdk.name == "openai" else {}

    async def main() -> None:
        async with opened(sdk.client(server, max_retries=0)) as client:
            answer = await now(sdk.ask(client, stream=streamed, **options))
            if streamed:
                assert [chunk async for chunk in each(answer)]
            server.script({"type": "fail", "status": 500})
            with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)):
                await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(2)
    ok, failed = (span for span in scheduling.spans() if span.kind is SpanKind.CLIENT)
    shown = read_attributes(ok)
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": sdk.name,
        "gen_ai.request.model": shown["gen_ai.request.model"],
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    answered = {**common, "gen_ai.response.model": shown["gen_ai.response.model"]}
    points = _points(reader)

    durations = {attributes.get("error.type"): (attributes, point) for attributes, point in _duration(points)}
    assert durations.keys() == {None, f"{sdk.name}.InternalServerError"}
    assert durations[None][0] == answered
    error = f"{sdk.name}.InternalServerError"
    assert durations[error][0] == {**common, "error.type": error}
    for span, key in ((ok, None), (failed, error)):
        begun, ended = read_times(span)
        point = durations[key][1]
        assert point.count == 1
        # The span's ends are of the wall clock, the metric's of the scheduler's.
        assert point.sum == pytest.approx((ended - begun) / 1e9, abs=0.05)

    tokens = {attributes.pop("gen_ai.token.type"): (attributes, point) for attributes, point in _usage(points)}
    for direction in ("input", "output"):
        attributes, point = tokens.pop(direction)
        assert attributes == answered
        assert (point.count, point.sum) == (1, shown[f"gen_ai.usage.{direction}_tokens"])
    assert not tokens
    first = points.get("gen_ai.client.operation.time_to_first_chunk", [])
    assert [attributes for attributes, _ in first] == ([answered] if streamed else [])
    for _, point in first:
        assert point.sum == pytest.approx(shown["gen_ai.response.time_to_first_chunk"])


def _duration(points: dict[str, list[tuple[dict[str, Any], Any]]]) -> list[tuple[dict[str, Any], Any]]:
    return points["gen_ai.client.operation.duration"]


def _usage(points: dict[str, list[tuple[dict[str, Any], Any]]]) -> list[tuple[dict[str, Any], Any]]:
    return points["gen_ai.client.token.usage"]


def test_estimate_is_not_reported_as_usage(
    server: LlmServer, scheduled: Scheduled, reader: InMemoryMetricReader
) -> None:
    scheduling = scheduled(capacity=1)
    measured(scheduling, reader)
    sdk = Sdk("openai", is_async=False)
    with sdk.client(server) as client:
        assert list(sdk.stream(client))
    scheduling.settled(1)
    assert len(scheduling.seen.of(Submitted)) == 1
    assert "gen_ai.usage.input_tokens" not in read_attributes(find_inference_span(scheduling))
    points = _points(reader)
    assert not points.get("gen_ai.client.token.usage")
    assert len(_duration(points)) == 1


@pytest.mark.parametrize("opts_in", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_tier_and_cost_of_the_answer_are_shown(streamed: bool, opts_in: bool, scheduled: Scheduled) -> None:
    opt_in = {"otel_semconv_stability_opt_in": "http,gen_ai_latest_experimental"} if opts_in else {}
    scheduling = scheduled(capacity=1, **opt_in)
    library = http_of("openai")
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    answer = {"id": "c", "object": "chat.completion", "model": "gpt-4o", "created": 1, "service_tier": "flex"}
    if streamed:
        chunk = {**answer, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        text = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        response = library.Response(200, text=text, headers={"content-type": "text/event-stream"})
    else:
        response = library.Response(200, json={**answer, "choices": [], "usage": usage})
    with client_of(library, lambda _: response) as http:
        client = openai.OpenAI(api_key="none", http_client=http)
        created: Any = client.chat.completions.create(model="gpt-4o", messages=[], stream=streamed)
        if streamed:
            list(created)
    scheduling.settled(1)
    (span,) = scheduling.spans("chat")
    known = read_attributes(span)
    assert known["openai.response.service_tier"] == "flex"
    assert known.get("gen_ai.usage.cost.amount") == (known["loco.spend.usd"] if opts_in else None)
    assert known.get("gen_ai.usage.cost.source") == ("local" if opts_in else None)
