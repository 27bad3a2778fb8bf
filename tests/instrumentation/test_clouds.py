"""Calls of clients of other providers are scheduled under their names, with what their servers answer."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import anthropic
import openai
import pytest
from patience import PATIENCE
from sdk_calls import CHAT, MESSAGE, PROMPT
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled
from sdk_server import KEY
from sdk_versions import BEDROCK_KEY

from loco_otel.events import Spent, Submitted, Usage

CAPACITY = 2
CALLERS = 4


class Provider:
    """Answers in this process: each request waits until `CAPACITY` of them are there."""

    def __init__(self, sdk: str, answer: dict[str, Any]) -> None:
        self._library = http_of(sdk)
        self._answer = answer
        self._together = threading.Barrier(CAPACITY)
        self._lock = threading.Lock()
        self._open = 0
        self.most = 0
        self.urls: set[str] = set()

    def __call__(self, request: Any) -> Any:
        with self._lock:
            self._open += 1
            self.most = max(self.most, self._open)
            self.urls.add(str(request.url))
        self._together.wait(PATIENCE)
        with self._lock:
            self._open -= 1
        return self._library.Response(200, json=self._answer)

    async def answer(self, request: Any) -> Any:
        return await asyncio.to_thread(self, request)

    def http(self) -> Any:
        return client_of(self._library, self)

    def async_http(self) -> Any:
        return client_of(self._library, self.answer, is_async=True)


CHAT_ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}


COMPLETION_ANSWER: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "gpt-3.5-turbo-instruct",
    "choices": [{"index": 0, "finish_reason": "stop", "text": "hello", "logprobs": None}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}


MESSAGE_ANSWER: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5-20990101",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 4,
        "cache_creation_input_tokens": 2,
        "cache_read_input_tokens": 1,
        "output_tokens": 3,
    },
}


MESSAGE_USAGE = Usage(7, 3, cache_read_tokens=1, cache_write_tokens=2)


class Cloud(NamedTuple):
    """A client class that puts the SDK before another provider."""

    sync: Callable[[Any], Any]
    coro: Callable[[Any], Any]
    call: Callable[[Any], Any]
    answer: dict[str, Any]
    provider: str
    path: str
    operation: str = "chat"
    usage: Usage = Usage(7, 3)


def _chat(client: Any) -> Any:
    return client.chat.completions.create(**CHAT)


def _message(client: Any) -> Any:
    return client.messages.create(**MESSAGE)


def _completion(client: Any) -> Any:
    return client.completions.create(model="gpt-3.5-turbo-instruct", prompt=PROMPT)


AZURE = {"api_key": KEY, "azure_endpoint": "https://azure.invalid", "api_version": "2024-10-21"}


BEDROCK = {**BEDROCK_KEY, "aws_region": "eu-west-1", "base_url": "https://bedrock.invalid"}


VERTEX = {
    "access_token": KEY,
    "region": "europe-west1",
    "project_id": "harbour",
    "base_url": "https://vertex.invalid",
}


CLOUDS = {
    "azure": Cloud(
        lambda http: openai.AzureOpenAI(**AZURE, http_client=http),  # type: ignore[call-overload]
        lambda http: openai.AsyncAzureOpenAI(**AZURE, http_client=http),  # type: ignore[call-overload]
        _chat,
        CHAT_ANSWER,
        "azure.ai.openai",
        "/openai/deployments/gpt-4o/chat/completions",
    ),
    "bedrock": Cloud(
        lambda http: anthropic.AnthropicBedrock(**BEDROCK, http_client=http),  # type: ignore[arg-type]
        lambda http: anthropic.AsyncAnthropicBedrock(**BEDROCK, http_client=http),  # type: ignore[arg-type]
        _message,
        MESSAGE_ANSWER,
        "aws.bedrock",
        "/model/claude-sonnet-5/invoke",
        usage=MESSAGE_USAGE,
    ),
    "vertex": Cloud(
        lambda http: anthropic.AnthropicVertex(**VERTEX, http_client=http),  # type: ignore[arg-type]
        lambda http: anthropic.AsyncAnthropicVertex(**VERTEX, http_client=http),  # type: ignore[arg-type]
        _message,
        MESSAGE_ANSWER,
        "gcp.vertex_ai",
        "claude-sonnet-5:rawPredict",
        usage=MESSAGE_USAGE,
    ),
    "completions": Cloud(
        lambda http: openai.OpenAI(api_key=KEY, http_client=http),
        lambda http: openai.AsyncOpenAI(api_key=KEY, http_client=http),
        _completion,
        COMPLETION_ANSWER,
        "openai",
        "/v1/completions",
        "text_completion",
    ),
}


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_client_of_another_provider_has_its_name(name: str, colour: str, scheduled: Scheduled) -> None:
    cloud = CLOUDS[name]
    provider = Provider("anthropic" if cloud.call is _message else "openai", cloud.answer)
    scheduling = scheduled(capacity=CAPACITY)
    if colour == "sync":
        with cloud.sync(provider.http()) as client, ThreadPoolExecutor(CALLERS) as pool:
            answers: Sequence[Any] = list(pool.map(lambda _: cloud.call(client), range(CALLERS), timeout=PATIENCE))
    else:

        async def main() -> list[Any]:
            async with cloud.coro(provider.async_http()) as client:
                return await asyncio.gather(*[cloud.call(client) for _ in range(CALLERS)])

        answers = asyncio.run(main())

    assert {answer.model for answer in answers} == {cloud.answer["model"]}
    assert provider.most == CAPACITY
    (url,) = provider.urls
    assert cloud.path in url
    scheduling.settled(CALLERS)
    for event in scheduling.seen.of(Submitted):
        request = event.ticket.request
        assert (request.provider, request.task_type) == (cloud.provider, cloud.operation)
    assert {event.spending.usage for event in scheduling.seen.of(Spent)} == {cloud.usage}
    assert {event.spending.model for event in scheduling.seen.of(Spent)} == {cloud.answer["model"]}
