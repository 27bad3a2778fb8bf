"""What the interactions of google-genai have beside the conformance suite, through either generated client.

Decisions are requests of the same client. No method of the SDK is unknown.
"""

import asyncio
import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import server_fixtures
from google import genai
from llm_server import LlmServer
from loco_otel_instrumentation.google_genai import GoogleGenaiInstrumentor
from loco_otel_instrumentation.google_genai.adapter import _OPERATIONS
from loco_otel_instrumentation.google_genai.interactions import _SCHEDULED_IDS
from opentelemetry.trace import StatusCode
from sdk_scheduling import Scheduled
from sdk_versions import PAIR

from loco_otel.events import Released, Spent, Submitted, Suspended, Throttled, Usage

pytestmark = pytest.mark.filterwarnings("ignore:Interactions usage is experimental:UserWarning")

REQUEST: dict[str, Any] = {"model": "gemini-2.5-flash", "input": "tell me about the harbour"}

SDK = Path(genai.__file__).parent
NOT_COVERED = {
    "RunTrigger": "triggers",
    "batchGenerateContent": "batches",
    "asyncBatchEmbedContent": "batches",
    "predictLongRunning": "models.generate_videos",
    "validateReinforcementTuningReward": "tunings",
}
"""What asks a model and passes: ids of the generated client and methods of the API, by their names in `not_covered`."""
NO_MODEL = {
    *("CreateAgent", "CreateCredential", "CreateEnvironment", "CreateInteractionAuthToken", "CreateTrigger"),
    *("CreateVoice", "CreateWebhook", "PingWebhook", "RotateSigningSecret", "StartEnvironmentFileUpload"),
    *("cancelInteractionById", "deleteInteraction", "getInteractionById"),
    *("cancel", "computeTokens", "countTokens", "fetchPredictOperation"),
    *("importFile", "register", "uploadToFileSearchStore"),
}
READS_OR_CHANGES = re.compile("(Get|List|Update|Delete)[A-Z]")

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


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_decision_of_google_genai_is_scheduled_with_usage(
    is_async: bool, gemini: LlmServer, scheduled: Scheduled, tmp_path: Path
) -> None:
    if not (SDK / "decisions.py").exists():
        assert PAIR, "the newest pair is to have all"
        pytest.skip("google-genai of this pair has no decisions")
    settings = tmp_path / "loco.toml"
    settings.write_text(f'[downgrade]\n"{REQUEST["model"]}" = ["gemini-2.5-flash-lite"]\n')
    scheduling = scheduled(capacity=1, budgets="*=0.01", budget_on_exceeded="downgrade", config=settings)
    gemini.configure(output_tokens=7, cached_tokens=2)
    questions = {"calm": {"type": "noul", "instructions": "Is the harbour calm? " * 10_000}}
    request: dict[str, Any] = {**REQUEST, "model": f"models/{REQUEST['model']}", "questions": questions}
    options: Any = {"base_url": gemini.url("gemini"), "api_version": "v1beta"}

    async def create(client: Any) -> Any:
        async with client.aio as async_client:
            return await async_client.decisions.create(**request)

    with genai.Client(api_key="fake", http_options=options) as client:
        answer = asyncio.run(create(client)) if is_async else client.decisions.create(**request)
    assert answer.answers["calm"].noul == 0.9
    assert [event.ticket.request.model for event in scheduling.seen.of(Submitted)] == [REQUEST["model"]]
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(5, 7, False, 2, None, 0)
    (sent,) = gemini.requests()
    assert sent.model == "models/gemini-2.5-flash-lite", "its questions are a part of the prompt"


def test_each_method_of_google_genai_is_known() -> None:
    texts = [path.read_text() for path in (*SDK.glob("*.py"), *(SDK / "_gaos").rglob("*.py"))]
    found = set(re.findall(r'(?:operation_id="|(?:path|url) = \'[^\' ]*:)(\w+)', "".join(texts)))
    known = {*_OPERATIONS, *_SCHEDULED_IDS, *NOT_COVERED, *NO_MODEL}
    assert {name for name in found - known if not READS_OR_CHANGES.match(name)} == set()
    assert PAIR or known <= found
    assert set(NOT_COVERED.values()) <= set(GoogleGenaiInstrumentor.not_covered)
