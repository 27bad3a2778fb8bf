"""Answers from LiteLLM's own cache: they use no tokens, and those that are only partly from it use what they report."""

import asyncio
import sys
import threading
import warnings
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import litellm_calls
import pytest
import server_fixtures
from litellm_calls import LITELLM, MARKS
from llm_server import LlmServer
from patience import PATIENCE
from sdk_scheduling import Scheduled, Scheduling

from loco_otel.events import Spent

pytestmark = MARKS

CALLBACKS = ("input_callback", "success_callback", "_async_success_callback")
"""Lists to which a cache of LiteLLM adds itself."""
PROMPTS = {
    "completion": {"messages": [{"role": "user", "content": "tell me about the harbour"}]},
    "text_completion": {"prompt": "tell me about the harbour"},
    "responses": {"input": "tell me about the harbour"},
}
ONE, TWO = {"input": ["harbour"]}, {"input": ["harbour", "lighthouse"]}

each_colour = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])

server = server_fixtures.server
closed_clients = litellm_calls.closed_clients


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Give LiteLLM a cache; return what counts the entries that are written to it, which a thread or a task may do."""
    from litellm.caching.caching import Cache
    from litellm.caching.caching_handler import _should_defer_streaming_cache_hit_callbacks

    # LiteLLM imports its proxy when it first finds an entry, and with that a package that reads sound.
    if find_spec("soundfile") is None:
        monkeypatch.setitem(sys.modules, "soundfile", ModuleType("soundfile"))
    with warnings.catch_warnings(action="ignore"):
        _should_defer_streaming_cache_hit_callbacks(cached_result=None)
    for name in CALLBACKS:
        monkeypatch.setattr(LITELLM, name, list(getattr(LITELLM, name)))
    monkeypatch.setattr(LITELLM, "cache", Cache(type="local"))
    count = threading.Semaphore(0)
    store = LITELLM.cache.cache.set_cache

    def set_cache(*args: Any, **kwargs: Any) -> None:
        store(*args, **kwargs)
        count.release()

    monkeypatch.setattr(LITELLM.cache.cache, "set_cache", set_cache)
    return count


class Caller:
    """Makes calls of one function, each after the answer to the last one has been written to the cache."""

    def __init__(self, name: str, writes: threading.Semaphore, scheduling: Scheduling, **options: Any) -> None:
        self._name = name
        self._writes = writes
        self._scheduling = scheduling
        self._options = {"api_key": "fake", "max_retries": 0, **options}
        self.active: list[int] = []
        """The slots that were held when each answer, or stream, had come."""

    def make_calls(self, *requests: dict[str, Any], is_async: bool) -> list[str]:
        """Return the text of each answer."""
        return asyncio.run(self._make_async_calls(requests)) if is_async else self._make_sync_calls(requests)

    def _make_sync_calls(self, requests: tuple[dict[str, Any], ...]) -> list[str]:
        texts: list[str] = []
        for request in requests:
            assert not texts or self._writes.acquire(timeout=PATIENCE)
            answer = getattr(LITELLM, self._name)(**self._options, **request)
            self.active.append(self._scheduling.active())
            texts.append("".join(map(read_text, answer if request.get("stream") else [answer])))
        return texts

    async def _make_async_calls(self, requests: tuple[dict[str, Any], ...]) -> list[str]:
        texts: list[str] = []
        for request in requests:
            assert not texts or await asyncio.to_thread(self._writes.acquire, timeout=PATIENCE)
            answer = await getattr(LITELLM, f"a{self._name}")(**self._options, **request)
            self.active.append(self._scheduling.active())
            parts = [part async for part in answer] if request.get("stream") else [answer]
            texts.append("".join(map(read_text, parts)))
        await LITELLM.close_litellm_async_clients()
        return texts


def read_text(part: Any) -> str:
    """Return the text of an answer, or of a chunk of a stream."""
    choice = part.choices[0] if getattr(part, "choices", None) else None
    inside = getattr(choice, "message", None) or getattr(choice, "delta", None)
    return getattr(inside, "content", None) or getattr(choice, "text", None) or ""


def read_tokens(scheduling: Scheduling) -> list[tuple[int, int, int | None] | None]:
    """Return the tokens of each call: of the input, of the output, read from a cache; None if they are estimates."""
    usages = [event.spending.usage for event in scheduling.seen.of(Spent)]
    return [
        None if it is None or it.estimated else (it.input_tokens, it.output_tokens, it.cache_read_tokens)
        for it in usages
    ]


@each_colour
@pytest.mark.parametrize("name", ["completion", "text_completion"])
def test_answer_from_cache_uses_no_tokens(
    name: str, is_async: bool, server: LlmServer, scheduled: Scheduled, writes: threading.Semaphore
) -> None:
    scheduling = scheduled(capacity=1)
    server.configure(output_tokens=7, cached_tokens=2)
    caller = Caller(name, writes, scheduling, model="anthropic/claude-sonnet-5", api_base=server.url("anthropic"))
    first, second = caller.make_calls(PROMPTS[name], PROMPTS[name], is_async=is_async)
    assert first == second != ""
    scheduling.settled(2)
    assert read_tokens(scheduling)[1] == (0, 0, None)
    assert len(server.requests()) == 1


@each_colour
@pytest.mark.parametrize("stream_usage", [False, True])
def test_stream_from_cache_uses_no_tokens(
    stream_usage: bool, is_async: bool, server: LlmServer, scheduled: Scheduled, writes: threading.Semaphore
) -> None:
    scheduling = scheduled(capacity=1, stream_usage=stream_usage)
    server.configure(output_tokens=7)
    request = {**PROMPTS["completion"], "stream": True}
    caller = Caller("completion", writes, scheduling, model="openai/gpt-4o-mini", api_base=server.url("openai"))
    first, second = caller.make_calls(request, request, is_async=is_async)
    assert first == second != ""
    assert caller.active == [1, 0]
    scheduling.settled(2)
    assert read_tokens(scheduling)[1] == (0, 0, None)
    assert len(server.requests()) == 1


@each_colour
@pytest.mark.parametrize("name", ["text_completion", "responses"])
def test_stream_around_a_cached_one_uses_no_tokens(
    name: str, is_async: bool, server: LlmServer, scheduled: Scheduled, writes: threading.Semaphore
) -> None:
    scheduling = scheduled(capacity=1)
    request = {**PROMPTS[name], "stream": True}
    caller = Caller(name, writes, scheduling, model="anthropic/claude-sonnet-5", api_base=server.url("anthropic"))
    caller.make_calls(request, request, is_async=is_async)
    assert caller.active == [1, 0]
    scheduling.settled(2)
    assert read_tokens(scheduling)[1] == (0, 0, None)
    assert len(server.requests()) == 1


@each_colour
def test_embedding_from_cache_uses_no_tokens(
    is_async: bool, server: LlmServer, scheduled: Scheduled, writes: threading.Semaphore
) -> None:
    scheduling = scheduled(capacity=1)
    model = "openai/text-embedding-3-small"
    Caller("embedding", writes, scheduling, model=model, api_base=server.url("openai")).make_calls(
        ONE, ONE, is_async=is_async
    )
    scheduling.settled(2)
    assert read_tokens(scheduling)[1] == (0, 0, None)
    assert len(server.requests()) == 1


def test_embedding_partly_from_cache_uses_what_it_reports(
    server: LlmServer, scheduled: Scheduled, writes: threading.Semaphore
) -> None:
    scheduling = scheduled(capacity=1)
    model = "openai/text-embedding-3-small"
    caller = Caller("embedding", writes, scheduling, model=model, api_base=server.url("openai"))
    caller.make_calls(ONE, TWO, is_async=True)
    scheduling.settled(2)
    assert read_tokens(scheduling) == [(1, 0, None), (2, 0, None)]
    assert len(server.requests()) == 2, "LiteLLM asks for what is not in the cache"
