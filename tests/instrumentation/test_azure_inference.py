"""What Azure's SDK for inference has beside the conformance suite: bodies, its iterator, own spans, timeouts."""

import gc
import io
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import server_fixtures
from azure.ai.inference import ChatCompletionsClient, EmbeddingsClient, tracing
from azure.ai.inference.models import ImageContentItem, ImageUrl, TextContentItem, UserMessage
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError, ServiceResponseTimeoutError
from llm_server import LlmServer
from sdk_scheduling import Scheduled

import loco_otel
from loco_otel.events import Released, Spent, Submitted, Throttled, ThrottleKind, Usage

PROMPT = "tell me about the harbour"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]
KEY = AzureKeyCredential("fake")
PRICES = {"dear": {"input": 1000, "output": 1000}, "cheap": {"input": 1, "output": 1}}

server = server_fixtures.server


@pytest.fixture
def client(server: LlmServer) -> Iterator[Any]:
    with ChatCompletionsClient(server.url("azure"), KEY, model="default") as made:
        yield made


def test_models_and_bodies_are_read(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    client.complete(messages=[UserMessage(PROMPT)], max_tokens=50)
    client.complete({"messages": MESSAGES, "model": "named", "max_tokens": 60})
    scheduling.settled(2)
    chats = [scheduling.spans(f"chat {model}")[0].attributes or {} for model in ("default", "named")]
    assert [chat["gen_ai.request.max_tokens"] for chat in chats] == [50, 60]
    assert chats[0]["gen_ai.provider.name"] == "azure.ai.inference"
    assert chats[0]["server.address"] == "127.0.0.1"
    assert [spent.spending.usage for spent in scheduling.seen.of(Spent)] == [Usage(5, 5, False, 0, None, 0)] * 2


def test_file_as_body_is_sent_as_it_is(client: Any, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    loco_otel.configure(prices=PRICES, budgets="*=1", budget_on_exceeded="downgrade", downgrade={"default": "cheap"})
    client.complete(io.BytesIO(json.dumps({"messages": MESSAGES, "model": "named"}).encode()))
    scheduling.settled(1)
    assert [request.model for request in server.requests()] == ["named"]


@pytest.mark.parametrize("form", ["arguments", "body", "default"])
def test_downgraded_call_has_cheaper_model(form: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    loco_otel.configure(prices=PRICES, budgets="*=0.01", budget_on_exceeded="downgrade", downgrade={"dear": "cheap"})
    with ChatCompletionsClient(server.url("azure"), KEY, model="dear") as client:
        if form == "body":
            client.complete({"messages": MESSAGES, "model": "dear"})
        elif form == "arguments":
            client.complete(messages=MESSAGES, model="dear")
        else:
            client.complete(messages=MESSAGES)
    scheduling.settled(1)
    assert [request.model for request in server.requests()] == ["cheap"]


def test_image_in_message_has_flat_size(client: Any, scheduled: Scheduled) -> None:
    tokens = []
    for size in (30, 300_000):
        scheduling = scheduled(capacity=1, tokens_per_minute=1_000_000)
        image = ImageContentItem(image_url=ImageUrl(url=f"data:image/png;base64,{'A' * size}"))
        client.complete(messages=[UserMessage([TextContentItem(text=PROMPT), image])])
        scheduling.settled(1)
        tokens.append(scheduling.seen.of(Submitted)[0].ticket.request.tokens)
    assert tokens[0] == tokens[1] > 1000


def test_embeddings_are_scheduled(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with EmbeddingsClient(server.url("azure"), KEY) as client:
        client.embed(input=[PROMPT, PROMPT], model="text-embedding-3-small")
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(10, 0, False)
    assert len(scheduling.spans("embeddings text-embedding-3-small")) == 1


def test_stream_is_read_by_next_and_ends_at_mark(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    stream = client.complete(messages=MESSAGES, stream=True)
    next(stream)
    assert scheduling.active() == 1
    assert len(list(stream)) == 5
    scheduling.settled(1)  # though the SDK has not closed it


def test_dropped_stream_frees_slot(server: LlmServer, client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.hold(after_chunks=2)
    gc.disable()
    try:
        stream = client.complete(messages=MESSAGES, stream=True)
        next(stream)
        assert scheduling.active() == 1
        del stream
        scheduling.seen.wait_for(Released)
    finally:
        gc.enable()
    scheduling.settled(1)


def test_timeout_is_throttling_and_charged(server: LlmServer, client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.hold()
    with pytest.raises(ServiceResponseTimeoutError):
        client.complete(messages=MESSAGES, read_timeout=0.1, retry_total=0)
    scheduling.settled(1)
    (throttled,) = scheduling.seen.of(Throttled)
    assert throttled.kind is ThrottleKind.TIMEOUT
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    assert spent.spending.usage.estimated


def test_refusal_at_last_is_throttling_once(server: LlmServer, client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(1, headers={"Retry-After": "30"})
    with pytest.raises(HttpResponseError):
        client.complete(messages=MESSAGES, retry_total=0)
    scheduling.settled(1)
    (throttled,) = scheduling.seen.of(Throttled)
    assert (throttled.status, throttled.retry_after) == (429, 30.0)


def test_call_that_sdk_traces_has_no_span_of_ours(
    client: Any, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("azure.core.settings.settings", SimpleNamespace(tracing_implementation=object))
    scheduling = scheduled(capacity=1)
    monkeypatch.setattr(tracing, "_inference_traces_enabled", True)
    client.complete(messages=MESSAGES)
    scheduling.settled(1)
    assert not scheduling.spans("chat ")


def test_model_information_passes_unscheduled(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with pytest.raises(HttpResponseError):
        client.get_model_info()
    assert not scheduling.seen.of(Submitted)
