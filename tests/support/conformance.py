"""What the conformance suite requires of an SDK, and callers of either colour that it controls from outside.

A folder under `loco_otel_instrumentation` adds one `ConformingSdk` to `ROWS`, and `test_conformance.py` then runs all
of its tests against that SDK. Tests of one SDK alone are for what no other SDK has.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Self

import anthropic
import groq
import httpx
import httpx2
import ollama
import openai
from azure.ai.inference import ChatCompletionsClient
from azure.ai.inference.aio import ChatCompletionsClient as AsyncChatCompletionsClient
from azure.core.credentials import AzureKeyCredential
from bedrock_clients import AIOBOTOCORE, AsyncBedrock, make_bedrock, open_conversation
from cohere_clients import AsyncCohereClient, CohereClient, OldAsyncCohereClient, OldCohereClient, create_cohere_chat
from google import genai
from http_clients import AsyncHttpClient, HttpClient, send_request
from huggingface_hub import AsyncInferenceClient, InferenceClient, get_session
from litellm_calls import LITELLM, make_litellm
from llm_server import LlmServer
from mistral_clients import AsyncMistralClient, MistralClient, create_mistral_chat
from sdk_calls import each, finished, now
from sdk_versions import has

PROMPT = [{"role": "user", "content": "tell me about the harbour"}]
PROMPT_TOKENS = 5
"""The server counts words."""


class Mode(NamedTuple):
    """One way to make a call."""

    is_async: bool
    streamed: bool

    def __str__(self) -> str:
        return f"{'async' if self.is_async else 'sync'}-{'stream' if self.streamed else 'whole'}"


ALL_MODES = tuple(Mode(is_async, streamed) for is_async in (False, True) for streamed in (False, True))


@dataclass(frozen=True)
class ConformingSdk:
    """One SDK: how its clients are made, how it is called, and what it lacks."""

    name: str
    """Of the row."""
    make_client: Callable[..., Any] | None
    """Takes `api_key` and `base_url`."""
    make_async_client: Callable[..., Any] | None
    create: Callable[..., Any]
    """`create(client, model=.., messages=.., stream=..)`: makes a call. Of an async client it returns an awaitable."""
    api: str | None = None
    """Name of its API at the server; None for the name of the row."""
    operation: str = "chat"
    """As its inference spans are named."""
    modes: tuple[Mode, ...] = ALL_MODES
    reports_cached_tokens: bool = True
    mixed_share: float = 1.0
    """Share of the mixed calls that the row makes, where an SDK has several rows."""
    first_chunks: int = 2
    """Chunks of a stream's response after which the SDK has yielded something, and not all."""
    has_retries: bool = True
    """Whether it calls again after a 429 by default, and honours `retry-after`."""
    retries_streams: bool = True
    """Whether it does so for streams too."""
    is_installed: bool = True
    """Whether the suite can run it here."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Without which its calls are not scheduled; an `engine` other than memory is a server of the session."""

    def __str__(self) -> str:
        return self.name

    def open_caller(self, server: LlmServer, *, is_async: bool) -> "Caller":
        """Return a caller whose client talks to a server."""
        url = server.url(self.api or self.name)
        make = self.make_async_client if is_async else self.make_client
        assert make is not None
        return Caller(self, lambda: make(api_key="fake", base_url=url), is_async=is_async)


class Caller:
    """Makes calls of one client at the same time: a sync client in threads, an async one in a loop of its own."""

    def __init__(self, sdk: ConformingSdk, make: Callable[[], Any], *, is_async: bool) -> None:
        self.sdk = sdk
        self.is_async = is_async
        self._make = make
        self._threads = ThreadPoolExecutor(10)
        self._loop = asyncio.new_event_loop() if is_async else None

    def __enter__(self) -> Self:
        if self._loop is not None:
            self._threads.submit(self._loop.run_forever)
        self._client = self._make()
        return self

    def __exit__(self, *_: object) -> None:
        self.start(_close(self._client, is_async=self.is_async)).result()
        if self._loop is not None:
            self.start(self._loop.shutdown_default_executor()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._threads.shutdown()
        if self._loop is not None:
            self._loop.close()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "Future[Any]":
        """Run a coroutine beside others; one of a sync client never really awaits."""
        if self._loop is None:
            return self._threads.submit(finished, coroutine)
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def open(self, model: str, *, streamed: bool) -> Any:
        """Make a call, and return what the SDK returns."""
        return self.sdk.create(self._client, model=model, messages=PROMPT, stream=streamed)

    async def call(self, model: str, *, streamed: bool, begun: threading.Event | None = None) -> None:
        """Make a call and read its answer to the end; `begun` is set at each chunk of a stream."""
        answer = await now(self.open(model, streamed=streamed))
        if streamed:
            async for _ in self._read(answer):
                if begun is not None:
                    begun.set()

    def _read(self, stream: Any) -> AsyncIterator[Any]:
        """Iterate over a stream in the caller's colour: LiteLLM's have both."""
        return each(stream if self.is_async else (chunk for chunk in stream))

    async def open_and_close(self, model: str, gate: threading.Event | None = None) -> None:
        """Read the beginning of a stream and, once a gate is open, close it."""
        stream = await now(self.open(model, streamed=True))
        async for _ in self._read(stream):
            break
        if gate is not None:
            await now(asyncio.to_thread(gate.wait) if self.is_async else gate.wait())
        await _close(stream, is_async=self.is_async)

    async def call_and_cancel(self, model: str, turns: int, *, streamed: bool) -> None:
        """Cancel a call after a number of turns of the loop."""
        task = asyncio.ensure_future(self.call(model, streamed=streamed))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])


async def _close(value: Any, *, is_async: bool) -> None:
    """Close a client or a stream. LiteLLM's streams have methods of both colours."""
    close = (getattr(value, "aclose", None) if is_async else None) or getattr(value, "close", None)
    if close is not None:  # LiteLLM 1.106 has none for a sync stream, which its caller drops
        await now(close())


def _create_chat(client: Any, **request: Any) -> Any:
    return client.chat.completions.create(**request)


def _create_message(client: Any, **request: Any) -> Any:
    return client.messages.create(max_tokens=64, **request)


def _make_azure(*, base_url: str, **_: Any) -> ChatCompletionsClient:
    return ChatCompletionsClient(base_url, AzureKeyCredential("fake"))


def _make_async_azure(*, base_url: str, **_: Any) -> AsyncChatCompletionsClient:
    return AsyncChatCompletionsClient(base_url, AzureKeyCredential("fake"))


def _complete_by_azure(client: Any, **request: Any) -> Any:
    return client.complete(**request)


def _make_huggingface(*, base_url: str, api_key: str) -> InferenceClient:
    get_session()  # all clients share it, and threads that need the first one together make several
    return InferenceClient(base_url=base_url, api_key=api_key)


def _make_async_huggingface(*, base_url: str, api_key: str) -> AsyncInferenceClient:
    return AsyncInferenceClient(base_url=base_url, api_key=api_key)


def _make_ollama(*, base_url: str, **_: Any) -> Any:
    client: Any = ollama.Client(base_url)
    client.close = client._client.close  # older ones have none
    return client


def _make_async_ollama(*, base_url: str, **_: Any) -> Any:
    client: Any = ollama.AsyncClient(base_url)
    client.close = client._client.aclose
    return client


def _chat_with_ollama(client: Any, **request: Any) -> Any:
    return client.chat(**request)


def _create_litellm_completion(client: Any, **request: Any) -> Any:
    return client.create(**request)


def _make_gemini(*, api_key: str, base_url: str, **options: Any) -> genai.Client:
    # Retries are off by default, and a delay that Gemini names is not honoured.
    retries = {"attempts": 3, "initial_delay": 0.01, "max_delay": 0.01, "jitter": 0.0}
    where = {"base_url": base_url, "api_version": "v1beta"}
    return genai.Client(api_key=api_key, http_options={**where, "retry_options": retries, **options})  # type: ignore[arg-type]


def _make_httpx_gemini(**options: Any) -> Any:
    return _make_gemini(**options, async_client_args={"transport": httpx.AsyncHTTPTransport()}).aio


def _make_aiohttp_gemini(**options: Any) -> Any:
    return _make_gemini(**options).aio


def _generate_content(client: Any, *, model: str, messages: Any, stream: bool) -> Any:
    models = client.models
    generate = models.generate_content_stream if stream else models.generate_content
    return generate(model=model, contents=messages[0]["content"])


def _make_interactions(*, api_key: str, base_url: str) -> genai.Client:
    # With the retries that it makes by default.
    client = _make_gemini(api_key=api_key, base_url=base_url, retry_options=None)
    assert client.interactions, "imported here, as that takes seconds on a busy machine"
    return client


def _make_async_interactions(**options: Any) -> Any:
    return _make_interactions(**options).aio


def _create_interaction(client: Any, *, model: str, messages: Any, stream: bool) -> Any:
    return client.interactions.create(model=model, input=messages[0]["content"], stream=stream)


def _list_modes(*, is_async: bool) -> tuple[Mode, ...]:
    return tuple(mode for mode in ALL_MODES if mode.is_async == is_async)


_BOTOCORE_HAS_CACHE = has("botocore", "1.38")
"""Older versions drop the tokens of the cache from Converse's usage."""
_GROQ_HAS_DETAILS = "prompt_tokens_details" in groq.types.CompletionUsage.model_fields
"""Older versions drop the details of the usage."""

ROWS = [
    ConformingSdk("openai", openai.OpenAI, openai.AsyncOpenAI, _create_chat),
    ConformingSdk(
        "openai-shared-engine",
        openai.OpenAI,
        openai.AsyncOpenAI,
        _create_chat,
        api="openai",
        mixed_share=0.4,
        settings={"engine": "shared"},
    ),
    ConformingSdk("anthropic", anthropic.Anthropic, anthropic.AsyncAnthropic, _create_message),
    ConformingSdk("groq", groq.Groq, groq.AsyncGroq, _create_chat, reports_cached_tokens=_GROQ_HAS_DETAILS),
    ConformingSdk("mistral", MistralClient, AsyncMistralClient, create_mistral_chat),
    ConformingSdk("huggingface", _make_huggingface, _make_async_huggingface, _create_chat, has_retries=False),
    ConformingSdk("azure-ai", _make_azure, _make_async_azure, _complete_by_azure, api="azure"),
    ConformingSdk(
        "cohere", CohereClient, AsyncCohereClient, create_cohere_chat, mixed_share=0.6, retries_streams=False
    ),
    ConformingSdk(
        "cohere-v1",
        OldCohereClient,
        OldAsyncCohereClient,
        create_cohere_chat,
        api="cohere",
        mixed_share=0.4,
        retries_streams=False,
    ),
    ConformingSdk(
        "ollama",
        _make_ollama,
        _make_async_ollama,
        _chat_with_ollama,
        reports_cached_tokens=False,
        has_retries=False,
    ),
    ConformingSdk(
        "gemini", _make_gemini, _make_httpx_gemini, _generate_content, operation="generate_content", mixed_share=0.6
    ),
    ConformingSdk(
        "gemini-aiohttp",
        _make_gemini,
        _make_aiohttp_gemini,
        _generate_content,
        api="gemini",
        operation="generate_content",
        mixed_share=0.3,
        modes=tuple(mode for mode in ALL_MODES if mode.is_async),
    ),
    ConformingSdk(
        "interactions",
        _make_interactions,
        _make_async_interactions,
        _create_interaction,
        api="gemini",
        operation="generate_content",
        mixed_share=0.1,  # its SDK spends 80 ms of CPU time on each
    ),
    ConformingSdk(
        "botocore",
        make_bedrock,
        None,
        open_conversation,
        api="bedrock",
        modes=_list_modes(is_async=False),
        reports_cached_tokens=_BOTOCORE_HAS_CACHE,
    ),
    ConformingSdk(
        "aiobotocore",
        None,
        AsyncBedrock,
        open_conversation,
        api="bedrock",
        modes=_list_modes(is_async=True),
        reports_cached_tokens=_BOTOCORE_HAS_CACHE,
        is_installed=AIOBOTOCORE is not None,
    ),
    *(
        ConformingSdk(
            f"{package.__name__}-{api}",
            partial(HttpClient, package, path),
            partial(AsyncHttpClient, package, path),
            send_request,
            api=api,
            mixed_share=0.3,
            has_retries=False,
            settings={"http_hosts": "127.0.0.1"},
        )
        for package in (httpx, httpx2)
        for api, path in (("openai", "chat/completions"), ("anthropic", "v1/messages"))
    ),
    *(
        ConformingSdk(
            f"litellm-{api}",
            partial(make_litellm, api, is_async=False),
            partial(make_litellm, api, is_async=True),
            _create_litellm_completion,
            api=api,
            mixed_share=0.3,  # LiteLLM spends 20 ms of CPU time on each
            first_chunks=first_chunks,
            is_installed=LITELLM is not None,
        )
        # Anthropic's first events contain nothing for LiteLLM to yield.
        for api, first_chunks in (("openai", 2), ("anthropic", 4))
    ),
]
"""All, for `docs/coverage.md`."""
SDKS = [row for row in ROWS if row.is_installed]
