"""What Ollama's SDK has beside the conformance suite: its options and images, lazy streams, and no prices."""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import ollama
import pytest
import server_fixtures
from llm_server import LlmServer
from sdk_scheduling import Scheduled

import loco_otel
from loco_otel.events import Spent, Submitted, Throttled, Usage

PROMPT = "tell me about the harbour"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]

server = server_fixtures.server


@pytest.fixture
def client(server: LlmServer) -> Iterator[ollama.Client]:
    made = ollama.Client(server.url("ollama"))
    with made._client:
        yield made


def test_operations_and_options_are_read(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    client.chat("llama3.2", MESSAGES, options={"num_predict": 50, "temperature": 0.5})
    list(client.generate("llama3.2", PROMPT, stream=True, options={"num_predict": -1}))
    client.embed("all-minilm", [PROMPT, PROMPT])
    scheduling.settled(3)
    usages = [spent.spending.usage for spent in scheduling.seen.of(Spent)]
    assert usages == [Usage(5, 5, False), Usage(5, 5, False), Usage(10, 0, False)]
    chat, completion, _ = [
        scheduling.spans(name)[0].attributes or {}
        for name in ("chat llama3.2", "text_completion llama3.2", "embeddings all-minilm")
    ]
    assert (chat["gen_ai.provider.name"], chat["server.address"]) == ("ollama", "127.0.0.1")
    assert (chat["gen_ai.request.max_tokens"], chat["gen_ai.request.temperature"]) == (50, 0.5)
    assert chat["gen_ai.response.finish_reasons"] == ("stop",)
    assert "gen_ai.request.max_tokens" not in completion


def test_functions_of_module_are_scheduled(
    server: LlmServer, client: Any, scheduled: Scheduled, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduling = scheduled(capacity=1)
    # They are methods of a client that is made with the module.
    made: Any = ollama.chat.__self__  # type: ignore[attr-defined]
    monkeypatch.setattr(made, "_client", client._client)
    ollama.chat("m", MESSAGES)
    scheduling.settled(1)


@pytest.mark.parametrize("generate", [False, True])
def test_image_weighs_same_whatever_its_size(generate: bool, client: Any, scheduled: Scheduled) -> None:
    tokens = []
    for size in (30, 300_000):
        scheduling = scheduled(capacity=1, tokens_per_minute=1_000_000)
        image = base64.b64encode(bytes(size)).decode()
        if generate:
            client.generate("m", PROMPT, images=[image])
        else:
            client.chat("m", [{**MESSAGES[0], "images": [image]}])
        scheduling.settled(1)
        tokens.append(scheduling.seen.of(Submitted)[0].ticket.request.tokens)
    assert tokens[0] == tokens[1] > 1000


def test_streams_may_be_opened_before_any_is_read(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def read_in_turn() -> None:
        client = ollama.AsyncClient(server.url("ollama"))
        streams: Any = [await client.chat("m", MESSAGES, stream=True) for _ in range(3)]
        assert not scheduling.seen.of(Submitted)  # nothing is sent before the first chunk is asked for
        for stream in streams[1:]:
            assert len([chunk async for chunk in stream]) == 6
        await streams[0].aclose()
        assert [chunk async for chunk in streams[0]] == []
        await client._client.aclose()

    asyncio.run(read_in_turn())
    scheduling.settled(2)


def test_busy_server_is_throttling(server: LlmServer, client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(2, status=503, message="server busy, please try again")
    with pytest.raises(ollama.ResponseError):
        client.chat("m", MESSAGES)
    with pytest.raises(ollama.ResponseError):
        list(client.chat("m", MESSAGES, stream=True))
    scheduling.settled(2)
    assert [event.status for event in scheduling.seen.of(Throttled)] == [503, 503]
    assert not scheduling.seen.of(Spent)


def test_error_within_stream_is_no_throttling(server: LlmServer, client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(1, after_chunks=2)
    with pytest.raises(ollama.ResponseError):
        list(client.chat("m", MESSAGES, stream=True))
    scheduling.settled(1)
    assert not scheduling.seen.of(Throttled)


def test_call_is_free_beside_sellers_of_its_model(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    loco_otel.configure(budgets="*=1")
    client.chat("gpt-4o", MESSAGES)
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert (spent.spending.usd, spent.spending.unpriced) == (0, ())


def test_lists_of_models_pass_unscheduled(client: Any, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    for read in (client.list, client.ps):
        with pytest.raises(ollama.ResponseError):
            read()
    assert not scheduling.seen.of(Submitted)
