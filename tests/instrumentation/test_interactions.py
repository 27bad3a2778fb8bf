"""What the interactions of google-genai have beside the conformance suite, through either generated client."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import server_fixtures
from google import genai
from llm_server import LlmServer
from opentelemetry.trace import StatusCode
from sdk_scheduling import Scheduled

from loco_otel.events import Released, Spent, Submitted, Suspended, Throttled, Usage

pytestmark = pytest.mark.filterwarnings("ignore:Interactions usage is experimental:UserWarning")

REQUEST: dict[str, Any] = {"model": "gemini-2.5-flash", "input": "tell me about the harbour"}

gemini = server_fixtures.server


@pytest.fixture
def interactions(gemini: LlmServer) -> Iterator[Any]:
    options: Any = {"base_url": gemini.url("gemini"), "api_version": "v1beta"}
    with genai.Client(api_key="fake", http_options=options) as client:
        yield client.interactions


@pytest.mark.parametrize("streamed", [False, True])
def test_span_and_usage_of_interaction_have_details(
    streamed: bool, gemini: LlmServer, interactions: Any, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    gemini.configure(output_tokens=7, cached_tokens=2, reasoning_tokens=3)
    answer = interactions.create(**REQUEST, generation_config={"max_output_tokens": 50}, stream=streamed)
    if streamed:
        list(answer)
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(5, 10, False, 2, None, 3)
    assert spent.spending.finish_reasons == ("stop",)
    (span,) = scheduling.spans("generate_content ")
    attributes = span.attributes or {}
    assert attributes["gen_ai.provider.name"] == "gcp.gemini"
    assert attributes["gen_ai.request.model"] == REQUEST["model"]
    assert attributes["gen_ai.request.max_tokens"] == 50
    assert attributes["gen_ai.response.id"] == "int_0"
    assert attributes["server.address"] == "127.0.0.1"


@pytest.mark.parametrize("streamed", [False, True])
def test_refusal_of_interaction_is_an_error(
    streamed: bool, gemini: LlmServer, interactions: Any, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    gemini.throttle(None, status=400)
    with pytest.raises(Exception, match=r"400|Too many"):
        interactions.create(**REQUEST, stream=streamed)
    scheduling.settled(1)
    assert not scheduling.seen.of(Suspended)
    assert not scheduling.seen.of(Throttled)
    assert not scheduling.seen.of(Spent)
    (span,) = scheduling.spans("call ")
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("streamed", [False, True])
def test_each_throttled_attempt_is_recorded_once(
    streamed: bool, gemini: LlmServer, interactions: Any, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    gemini.throttle(None, retry_after=0.01)
    with pytest.raises(Exception, match=r"429|Too many"):
        interactions.create(**REQUEST, stream=streamed)
    scheduling.settled(1)
    requests = len(gemini.requests())
    assert requests > 1
    assert len(scheduling.seen.of(Suspended)) == requests - 1
    throttled = [(event.status, event.retry_after) for event in scheduling.seen.of(Throttled)]
    assert throttled == [(429, 0.01)] * requests


def test_dropped_stream_of_interaction_frees_slot(gemini: LlmServer, interactions: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    gemini.hold(after_chunks=2)
    stream = interactions.create(**REQUEST, stream=True)
    next(iter(stream))
    assert scheduling.active() == 1
    del stream
    gc.collect()  # the SDK's stream refers to itself
    scheduling.seen.wait_for(Released)
    gemini.wait_for(finished=1)
    scheduling.settled(1)


def test_interaction_is_sent_with_cheaper_model(
    gemini: LlmServer, interactions: Any, scheduled: Scheduled, tmp_path: Path
) -> None:
    settings = tmp_path / "loco.toml"
    settings.write_text(f'[downgrade]\n"{REQUEST["model"]}" = ["gemini-2.5-flash-lite"]\n')
    scheduled(capacity=1, budgets="*=0.01", budget_on_exceeded="downgrade", config=settings)
    interactions.create(**REQUEST, generation_config={"max_output_tokens": 10_000})
    (request,) = gemini.requests()
    assert request.model == "gemini-2.5-flash-lite"
    assert request.body["generation_config"] == {"max_output_tokens": 10_000}


def test_background_and_other_requests_pass(gemini: LlmServer, interactions: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    interactions.create(**REQUEST, background=True)
    for request in (interactions.get, interactions.cancel, interactions.delete):
        with pytest.raises(Exception, match=r"404|no such path"):
            request("int_0")
    assert len(gemini.requests()) == 1
    assert not scheduling.seen.of(Submitted)
