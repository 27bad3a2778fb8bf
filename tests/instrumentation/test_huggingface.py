"""What Hugging Face's SDK has beside the conformance suite: tasks, providers, usage on request, lost streams."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import server_fixtures
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.inference._common import RequestParameters
from llm_server import LlmServer
from loco_otel_instrumentation.huggingface_hub.adapter import HuggingFaceAdapter
from sdk_scheduling import Scheduled

from loco_otel.events import Released, Spent, Submitted, Throttled

PROMPT = "tell me about the harbour"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]

server = server_fixtures.server


@pytest.fixture
def client(server: LlmServer) -> Iterator[Any]:
    with InferenceClient(base_url=server.url("huggingface"), api_key="fake") as made:
        yield made


@pytest.mark.parametrize("asked", ["nobody", "program", "setting"])
def test_usage_of_stream_is_requested_if_set(asked: str, server: LlmServer, client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1, stream_usage=asked == "setting")
    options = {"stream_options": {"include_usage": True}} if asked == "program" else {}
    chunks = list(client.chat_completion(MESSAGES, model="m", stream=True, **options))
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    assert spent.spending.usage.estimated == (asked == "nobody")
    # The chunk that is there only because of us is concealed.
    assert [chunk.usage is not None for chunk in chunks].count(True) == (asked == "program")


def test_dropped_stream_frees_slot_and_connection(server: LlmServer, client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.hold(after_chunks=2)
    gc.disable()
    try:
        stream = client.chat_completion(MESSAGES, model="m", stream=True)
        next(iter(stream))
        assert scheduling.active() == 1
        del stream
        scheduling.seen.wait_for(Released)
        server.wait_for(finished=1)
    finally:
        gc.enable()
    scheduling.settled(1)
    assert [request.end for request in server.requests()] == ["disconnected"]


def test_refusal_is_throttling(server: LlmServer, client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(2, retry_after=30)
    for streamed in (False, True):
        with pytest.raises(HfHubHTTPError):
            client.chat_completion(MESSAGES, model="m", stream=streamed)
    scheduling.settled(2)
    assert [(event.status, event.retry_after) for event in scheduling.seen.of(Throttled)] == [(429, 30.0)] * 2


def test_other_tasks_pass_unscheduled(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with pytest.raises(HfHubHTTPError):
        client.fill_mask("the [MASK]", model=None)
    assert not scheduling.seen.of(Submitted)


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://router.huggingface.co/v1/chat/completions", "huggingface"),
        ("https://router.huggingface.co/hf-inference/models/m/v1/chat/completions", "huggingface"),
        ("https://router.huggingface.co/groq/openai/v1/chat/completions", "huggingface_groq"),
        ("https://api.together.xyz/v1/chat/completions", "together"),
        ("https://xyz.endpoints.huggingface.cloud/v1/chat/completions", "huggingface"),
    ],
)
def test_provider_is_that_of_url(url: str, provider: str) -> None:
    body = {"model": "m", "messages": MESSAGES}
    request = RequestParameters(url, "conversational", "m", body, None, {})
    description = HuggingFaceAdapter().describe_call(None, {"request_parameters": request})
    assert description is not None
    assert description.provider == provider
    assert (description.accepts_model is None) == ("/models/" not in url)


def test_generated_text_weighs_its_parameters() -> None:
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 50, "temperature": 0.5}}
    request = RequestParameters("http://127.0.0.1", "text-generation", "m", body, None, {})
    description = HuggingFaceAdapter().describe_call(None, {"request_parameters": request})
    assert description is not None
    assert description.operation == "text_completion"
    assert (description.body["input"], description.body["max_tokens"]) == (PROMPT, 50)
