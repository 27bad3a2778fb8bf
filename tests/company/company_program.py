"""A program that runs our instrumentation beside another vendor's, and prints what each recorded of its calls.

Started as a child: `company_program.py SDK URL VENDOR STEPS`, with comma-separated steps: `ours`, `theirs`, `ours-off`,
`theirs-off`, and `calls`, which prints one line of JSON: what was seen of each call.
"""

import asyncio
import gc
import importlib
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from company_spans import exporter, processor
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

import loco_otel
from loco_otel._runtime import process
from loco_otel.events import Event, Granted, Released

VENDORS = {
    ("official", "openai"): "opentelemetry.instrumentation.genai.openai:OpenAIInstrumentor",
    ("official", "anthropic"): "opentelemetry.instrumentation.genai.anthropic:AnthropicInstrumentor",
    ("openllmetry", "openai"): "opentelemetry.instrumentation.openai:OpenAIInstrumentor",
    ("openllmetry", "anthropic"): "opentelemetry.instrumentation.anthropic:AnthropicInstrumentor",
    ("openinference", "openai"): "openinference.instrumentation.openai:OpenAIInstrumentor",
    ("langfuse", "openai"): "langfuse_drop_in:DropIn",
    ("openinference", "anthropic"): "openinference.instrumentation.anthropic:AnthropicInstrumentor",
    ("openllmetry", "groq"): "opentelemetry.instrumentation.groq:GroqInstrumentor",
    ("openinference", "groq"): "openinference.instrumentation.groq:GroqInstrumentor",
    ("official", "gemini"): "opentelemetry.instrumentation.google_genai:GoogleGenAiSdkInstrumentor",
    ("openllmetry", "gemini"): ("opentelemetry.instrumentation.google_generativeai:GoogleGenerativeAiInstrumentor"),
    ("openinference", "gemini"): "openinference.instrumentation.google_genai:GoogleGenAIInstrumentor",
    ("official", "botocore"): "opentelemetry.instrumentation.genai.bedrock:BedrockInstrumentor",
    ("openllmetry", "botocore"): "opentelemetry.instrumentation.bedrock:BedrockInstrumentor",
    ("agentops", "openai"): "agentops.instrumentation.providers.openai:OpenaiInstrumentor",
    ("logfire", "openai"): "logfire_instrumentors:OpenAIInstrumentor",
    ("logfire", "anthropic"): "logfire_instrumentors:AnthropicInstrumentor",
    ("openinference", "botocore"): "openinference.instrumentation.bedrock:BedrockInstrumentor",
    ("openllmetry", "cohere"): "opentelemetry.instrumentation.cohere:CohereInstrumentor",
    ("openllmetry", "ollama"): "opentelemetry.instrumentation.ollama:OllamaInstrumentor",
    ("openinference", "litellm"): "openinference.instrumentation.litellm:LiteLLMInstrumentor",
    ("openinference", "mistral"): "openinference.instrumentation.mistralai:MistralAIInstrumentor",
    ("botocore", "botocore"): "opentelemetry.instrumentation.botocore:BotocoreInstrumentor",
}
QUESTION: list[Any] = [{"role": "user", "content": "tell me about the harbour"}]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": QUESTION}
MESSAGE: dict[str, Any] = {"model": "claude-sonnet-5", "max_tokens": 64, "messages": QUESTION}

events: list[Event] = []
runners = ExitStack()


def begin() -> None:
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(processor)
    process.get_runtime().engine.add_listener(events.append)


def vendor(name: str, sdk: str) -> Any:
    module, _, attribute = VENDORS[name, sdk].partition(":")
    return getattr(importlib.import_module(module), attribute)()


def openai_calls(url: str) -> dict[str, Callable[[], object]]:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAI

    client = OpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)

    def opened() -> AsyncOpenAI:
        # Reading the certificates, for each loop's client, would take longer than the calls.
        http = DefaultAsyncHttpxClient(verify=False)
        return AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0, http_client=http)

    def broken_off() -> None:
        for _ in client.chat.completions.create(**CHAT, stream=True):
            break

    async def stream() -> None:
        async with opened() as other:
            async for _ in await other.chat.completions.create(**CHAT, stream=True):
                pass

    async def create() -> None:
        async with opened() as other:
            await other.chat.completions.create(**CHAT)

    async def broken_off_async() -> None:
        async with (
            opened() as other,
            await other.chat.completions.create(**CHAT, stream=True) as chunks,
        ):
            async for _ in chunks:
                break

    async def responses() -> None:
        async with opened() as other:
            await other.responses.create(model="gpt-4o", input="tell me about the harbour")

    async def embeddings() -> None:
        async with opened() as other:
            await other.embeddings.create(model="text-embedding-3-small", input="harbour")

    return {
        "create": lambda: client.chat.completions.create(**CHAT),
        "stream": lambda: list(client.chat.completions.create(**CHAT, stream=True)),
        "broken off": broken_off,
        "raw": lambda: client.chat.completions.with_raw_response.create(**CHAT).parse(),
        "responses": lambda: client.responses.create(model="gpt-4o", input="tell me about the harbour"),
        "embeddings": lambda: client.embeddings.create(model="text-embedding-3-small", input="harbour"),
        "async create": _run(create),
        "async stream": _run(stream),
        "async broken off": _run(broken_off_async),
        "async responses": _run(responses),
        "async embeddings": _run(embeddings),
    }


def anthropic_calls(url: str) -> dict[str, Callable[[], object]]:
    from anthropic import Anthropic, AsyncAnthropic, DefaultAsyncHttpxClient

    client = Anthropic(api_key="none", base_url=f"{url}/anthropic", max_retries=0)

    def opened() -> AsyncAnthropic:
        # Reading the certificates, for each loop's client, would take longer than the calls.
        http = DefaultAsyncHttpxClient(verify=False)
        return AsyncAnthropic(api_key="none", base_url=f"{url}/anthropic", max_retries=0, http_client=http)

    def helper() -> None:
        with client.messages.stream(**MESSAGE) as stream:
            list(stream)

    def broken_off() -> None:
        with client.messages.create(**MESSAGE, stream=True) as chunks:
            next(iter(chunks))

    async def create() -> None:
        async with opened() as other:
            await other.messages.create(**MESSAGE)

    async def stream() -> None:
        async with opened() as other:
            async for _ in await other.messages.create(**MESSAGE, stream=True):
                pass

    async def helper_async() -> None:
        async with (
            opened() as other,
            other.messages.stream(**MESSAGE) as chunks,
        ):
            async for _ in chunks:
                pass

    return {
        "create": lambda: client.messages.create(**MESSAGE),
        "stream": lambda: list(client.messages.create(**MESSAGE, stream=True)),
        "broken off": broken_off,
        "helper": helper,
        "async create": _run(create),
        "async stream": _run(stream),
        "async helper": _run(helper_async),
    }


def further_calls(sdk: str, url: str) -> dict[str, Callable[[], object]]:
    """Return the calls of an SDK that takes `api_key` and `base_url`, and of which one function makes calls."""
    make, make_async, create = _IMPORTS[sdk]()
    client = make(api_key="none", base_url=url)

    def broken_off() -> None:
        chunks = create(client, stream=True)
        next(iter(chunks))
        chunks.close()

    calls: dict[str, Callable[[], object]] = {
        "create": lambda: create(client, stream=False),
        "stream": lambda: list(create(client, stream=True)),
        "broken off": broken_off,
    }
    if make_async is None:
        return calls
    # One loop for its client, whose connections belong to it.
    runner = runners.enter_context(asyncio.Runner())

    async def opened() -> Any:
        return make_async(api_key="none", base_url=url)

    async_client = runner.run(opened())

    async def create_async() -> None:
        await create(async_client, stream=False)

    async def stream() -> None:
        async for _ in await create(async_client, stream=True):
            pass

    return calls | {
        "async create": lambda: runner.run(create_async()),
        "async stream": lambda: runner.run(stream()),
    }


def _import_groq() -> tuple[Any, Any, Callable[..., Any]]:
    import groq

    return groq.Groq, groq.AsyncGroq, lambda client, stream: client.chat.completions.create(**CHAT, stream=stream)


def _import_gemini() -> tuple[Any, Any, Callable[..., Any]]:
    from google import genai

    def make(*, api_key: str, base_url: str) -> genai.Client:
        return genai.Client(api_key=api_key, http_options={"base_url": base_url, "api_version": "v1beta"})

    def create(client: Any, *, stream: bool) -> Any:
        models = client.models
        return (models.generate_content_stream if stream else models.generate_content)(model="m", contents="harbour")

    return make, lambda **options: make(**options).aio, create


def _import_botocore() -> tuple[Any, Any, Callable[..., Any]]:
    from bedrock_clients import make_bedrock, open_conversation

    return make_bedrock, None, partial(open_conversation, model="m", messages=QUESTION)


def _import_mistral() -> tuple[Any, Any, Callable[..., Any]]:
    from mistral_clients import AsyncMistralClient, MistralClient

    def create(client: Any, *, stream: bool) -> Any:
        return client.chat(model="m", messages=QUESTION, stream=stream)

    return MistralClient, AsyncMistralClient, create


def _import_cohere() -> tuple[Any, Any, Callable[..., Any]]:
    import cohere

    def create(client: Any, *, stream: bool) -> Any:
        return (client.chat_stream if stream else client.chat)(model="m", messages=QUESTION)

    return cohere.ClientV2, None, create


def _import_ollama() -> tuple[Any, Any, Callable[..., Any]]:
    import ollama

    def create(client: Any, *, stream: bool) -> Any:
        return client.chat("m", QUESTION, stream=stream)

    return lambda api_key, base_url: ollama.Client(base_url), None, create


def _import_litellm() -> tuple[Any, Any, Callable[..., Any]]:
    import litellm

    def create(client: Any, *, stream: bool) -> Any:
        return litellm.completion("openai/m", QUESTION, api_key="none", api_base=client, stream=stream, num_retries=0)

    return lambda api_key, base_url: base_url, None, create


_IMPORTS: dict[str, Callable[[], tuple[Any, Any, Callable[..., Any]]]] = {
    "groq": _import_groq,
    "gemini": _import_gemini,
    "botocore": _import_botocore,
    "mistral": _import_mistral,
    "cohere": _import_cohere,
    "ollama": _import_ollama,
    "litellm": _import_litellm,
}


def _run(call: Callable[[], Awaitable[None]]) -> Callable[[], object]:
    async def main() -> None:
        await call()

    return lambda: asyncio.run(main())


def seen(call: Callable[[], object]) -> dict[str, object]:
    """Make one call, and return what was recorded of it."""
    exporter.clear()
    events.clear()
    call()
    gc.collect()
    if any(isinstance(event, Granted) for event in events):
        process.get_runtime().engine.run_due_actions()  # what was dropped is given back by the next operation
    process.get_runtime().engine.flush()
    spans = exporter.get_finished_spans()
    inference = [span for span in spans if is_inference(span)]
    return {
        "granted": sum(isinstance(event, Granted) for event in events),
        "released": sum(isinstance(event, Released) for event in events),
        "acquired": sum(span.name.startswith("acquire ") for span in spans),
        "inference": sorted(span.instrumentation_scope.name for span in inference if span.instrumentation_scope),
        "errors": sum(not span.status.is_ok for span in inference if "loco.agent.id" in attributes(span)),
        "wait": sum("loco.wait.duration" in attributes(span) for span in inference),
    }


def is_inference(span: ReadableSpan) -> bool:
    known = attributes(span)
    return (
        known.get("gen_ai.operation.name") in {"chat", "embeddings", "text_completion", "generate_content"}
        or known.get("openinference.span.kind") in {"LLM", "EMBEDDING"}
        or known.get("langfuse.observation.type") in {"generation", "embedding"}
        or span.name.startswith(("openai.", "anthropic."))
        or ("gen_ai.request.model" in known and "loco.agent.id" not in known)
    )


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def main(sdk: str, url: str, vendor_name: str, steps: str) -> None:
    begin()
    calls: dict[str, Callable[[], object]] | None = None
    for step in steps.split(","):
        if step == "ours":
            loco_otel.install()
        elif step == "ours-off":
            loco_otel.uninstall()
        elif step == "theirs":
            vendor(vendor_name, sdk).instrument(skip_dep_check=True)
        elif step == "theirs-off":
            vendor(vendor_name, sdk).uninstrument()
        else:
            if calls is None:
                make_calls = {"openai": openai_calls, "anthropic": anthropic_calls}.get(sdk)
                calls = further_calls(sdk, url) if make_calls is None else make_calls(url)
                gc.freeze()  # modules stay, so that a collection after each call is quick
            sys.stdout.write(json.dumps({name: seen(call) for name, call in calls.items()}) + "\n")


with runners:
    main(*sys.argv[1:])
