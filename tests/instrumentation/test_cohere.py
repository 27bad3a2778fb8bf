"""What Cohere's SDK has beside the conformance suite: billed tokens, embeddings, limits of a month, what passes."""

from collections.abc import Iterator
from typing import Any

import cohere
import httpx
import pytest
import server_fixtures
from llm_server import LlmServer
from loco_otel_instrumentation.cohere.adapter import CohereAdapter
from sdk_scheduling import Scheduled

from loco_otel.events import Spent, Submitted, Throttled, ThrottleKind, Usage

PROMPT = "tell me about the harbour"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]
ONCE: Any = {"max_retries": 0}

server = server_fixtures.server


@pytest.fixture
def client(server: LlmServer) -> Iterator[Any]:
    with httpx.Client() as transport:
        yield cohere.ClientV2(api_key="fake", base_url=server.url("cohere"), httpx_client=transport)


@pytest.mark.parametrize("streamed", [False, True])
def test_span_has_details_of_chat(streamed: bool, client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    request: Any = {"model": "command-a-03-2025", "messages": MESSAGES, "max_tokens": 50, "p": 0.5, "k": 3}
    if streamed:
        list(client.chat_stream(**request))
    else:
        client.chat(**request)
    scheduling.settled(1)
    (span,) = scheduling.spans("chat command-a-03-2025")
    attributes = span.attributes or {}
    assert attributes["gen_ai.provider.name"] == "cohere"
    assert attributes["gen_ai.request.max_tokens"] == 50
    assert (attributes["gen_ai.request.top_p"], attributes["gen_ai.request.top_k"]) == (0.5, 3)
    assert attributes["gen_ai.response.id"] == "chat_0"
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["server.address"] == "127.0.0.1"


def test_raw_answers_are_counted(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    request: Any = {"model": "command-a-03-2025", "messages": MESSAGES}
    raw = client.with_raw_response.chat(**request)
    assert raw.headers["content-type"] == "application/json"
    with client.with_raw_response.chat_stream(**request) as raw:
        assert list(raw.data)
    scheduling.settled(2)
    for spent in scheduling.seen.of(Spent):
        assert spent.spending.usage is not None
        assert not spent.spending.usage.estimated


def test_embeddings_have_input_alone(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    texts = [PROMPT, PROMPT]
    client.embed(model="embed-v4.0", texts=texts, input_type="search_query", embedding_types=["float"])
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(10, 0, False)
    assert len(scheduling.spans("embeddings embed-v4.0")) == 1


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("You are using a Trial key, which is limited to 20 API calls / minute.", ThrottleKind.LOAD),
        ("You are using a Trial key, which is limited to 1000 API calls / month.", ThrottleKind.SPEND),
    ],
)
def test_limit_of_a_month_is_no_load(
    message: str, kind: ThrottleKind, server: LlmServer, client: Any, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(1, message=message)
    with pytest.raises(cohere.errors.TooManyRequestsError):
        client.chat(model="m", messages=MESSAGES, request_options=ONCE)
    scheduling.settled(1)
    (throttled,) = scheduling.seen.of(Throttled)
    assert (throttled.status, throttled.kind) == (429, kind)
    assert not scheduling.seen.of(Spent)


def test_stream_that_is_refused_is_throttling(server: LlmServer, client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(1, retry_after=30)
    with pytest.raises(cohere.errors.TooManyRequestsError):
        list(client.chat_stream(model="m", messages=MESSAGES))
    scheduling.settled(1)
    (throttled,) = scheduling.seen.of(Throttled)
    assert (throttled.status, throttled.retry_after) == (429, 30.0)


def test_stream_sends_nothing_before_it_is_read(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    streams = [client.chat_stream(model="m", messages=MESSAGES) for _ in range(3)]
    assert not scheduling.seen.of(Submitted)
    for stream in streams:
        assert list(stream)
    scheduling.settled(3)


def test_provider_of_clients_for_aws_is_bedrock() -> None:
    keys = {"aws_access_key": "key", "aws_secret_key": "secret", "aws_region": "us-east-1"}
    client: Any = cohere.BedrockClientV2(**keys)
    http = client._client_wrapper.httpx_client
    request = {"path": "v2/chat", "json": {"model": "cohere.command-r-v1:0", "messages": MESSAGES}}
    description = CohereAdapter().describe_call(http, request)
    assert description is not None
    assert (description.provider, description.model) == ("aws.bedrock", "cohere.command-r-v1:0")
    assert description.url is None
    http.httpx_client.close()


def test_tokenize_and_rerank_pass_unscheduled(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    for call in (
        lambda: client.rerank(model="rerank-v3.5", query="q", documents=["d"], request_options=ONCE),
        lambda: client.tokenize(text=PROMPT, model="m", offline=False, request_options=ONCE),
    ):
        with pytest.raises(cohere.errors.NotFoundError):
            call()
    assert not scheduling.seen.of(Submitted)
