"""The inference span of real calls: its attributes, how long it lasts, when it is current, and when there is none."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any

import anthropic
import openai
import pytest
from inference_spans import PROGRAM, find_inference_span, read_attributes, read_status, read_times
from opentelemetry.trace import SpanKind, StatusCode
from patience import PATIENCE
from sdk_calls import Sdk, each, each_sdk, now, opened
from sdk_http import client_of, http_of
from sdk_scheduling import Scheduled
from sdk_server import LlmServer
from sdk_versions import BEDROCK_KEY

import loco_otel
from loco_otel.events import Waiting

pytestmark = pytest.mark.usefixtures("no_foreign_context")

# -- attributes -------------------------------------------------------------------------------------------------------


@each_sdk
@pytest.mark.parametrize("streamed", [False, True])
def test_span_shows_request_and_answer(streamed: bool, sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    options = {"stream_options": {"include_usage": True}} if streamed and sdk.name == "openai" else {}

    async def main() -> tuple[str, str, int, int]:
        async with opened(sdk.client(server)) as client:
            answer = await now(sdk.ask(client, stream=streamed, **options))
            if not streamed:
                return (answer.id, answer.model, *_tokens(answer.usage))
            return await _read(sdk, answer)

    answer_id, model, read, written = sdk.run(main())
    scheduling.settled(1)
    span = find_inference_span(scheduling)
    asked = "gpt-4o" if sdk.name == "openai" else "claude-sonnet-5"
    assert span.name == f"chat {asked}"
    shown = read_attributes(span)
    first_chunk = shown.pop("gen_ai.response.time_to_first_chunk", None)
    assert (first_chunk is not None) == streamed
    optional = (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.reasoning.output_tokens",
    )
    spent = {key for key in shown if key.startswith("loco.spend.")}
    assert {"loco.spend.weight", "loco.spend.estimated"} <= spent
    assert not {"loco.spend.input_tokens", "loco.spend.output_tokens"} & spent
    assert {key: value for key, value in shown.items() if key not in {*optional, *spent}} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": sdk.name,
        "gen_ai.request.model": asked,
        "loco.agent.id": "unknown",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "gen_ai.response.id": answer_id,
        "gen_ai.response.model": model,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": read,
        "gen_ai.usage.output_tokens": written,
        **({"gen_ai.request.stream": True} if streamed else {}),
        **({"gen_ai.request.max_tokens": 64} if sdk.name == "anthropic" else {}),
    }
    if first_chunk is not None:
        begun, ended = read_times(span)
        # By two clocks, and a process may be suspended between two reads of them.
        assert 0 < first_chunk <= (ended - begun) / 1e9 + 1
    assert read_status(span) == (StatusCode.UNSET, None)


def _tokens(usage: Any) -> tuple[int, int]:
    if hasattr(usage, "prompt_tokens"):
        return usage.prompt_tokens, usage.completion_tokens
    return usage.input_tokens, usage.output_tokens


async def _read(sdk: Sdk, stream: Any) -> tuple[str, str, int, int]:
    chunks = [chunk async for chunk in each(stream)]
    if sdk.name == "openai":
        return (chunks[0].id, chunks[0].model, *_tokens(chunks[-1].usage))
    start = chunks[0].message
    (end,) = (chunk for chunk in chunks if chunk.type == "message_delta")
    return start.id, start.model, start.usage.input_tokens, end.usage.output_tokens


@pytest.mark.parametrize("is_async", [False, True])
def test_embeddings_and_responses_have_spans(is_async: bool, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    sdk = Sdk("openai", is_async=is_async)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            await now(client.embeddings.create(model="text-embedding-3-small", input="hi", encoding_format="float"))
            await now(client.responses.create(model="gpt-4o", input="hi"))

    sdk.run(main())
    scheduling.settled(2)
    spans = [span for span in scheduling.spans() if span.kind is SpanKind.CLIENT]
    assert [span.name for span in spans] == ["embeddings text-embedding-3-small", "chat gpt-4o"]
    assert read_attributes(spans[1])["gen_ai.response.finish_reasons"] == ("stop",)


CLOUDS: dict[str, tuple[str, Callable[[Any], Any], str, str]] = {
    "azure": (
        "openai",
        lambda http: openai.AzureOpenAI(
            api_key="key", azure_endpoint="https://azure.invalid", api_version="2024-10-21", http_client=http
        ),
        "azure.ai.openai",
        "azure.invalid",
    ),
    "bedrock": (
        "anthropic",
        lambda http: anthropic.AnthropicBedrock(
            **BEDROCK_KEY, aws_region="eu-west-1", base_url="https://bedrock.invalid", http_client=http
        ),
        "aws.bedrock",
        "bedrock.invalid",
    ),
    "vertex": (
        "anthropic",
        lambda http: anthropic.AnthropicVertex(
            access_token="key",
            region="europe-west1",
            project_id="harbour",
            base_url="https://vertex.invalid",
            http_client=http,
        ),
        "gcp.vertex_ai",
        "vertex.invalid",
    ),
}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_client_of_another_provider_has_its_name(cloud: str, scheduled: Scheduled) -> None:
    name, make, provider, host = CLOUDS[cloud]
    library = http_of(name)
    scheduling = scheduled(capacity=1)
    sdk = Sdk(name, is_async=False)
    with make(client_of(library, lambda _: library.Response(400, json={}))) as client:
        with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)):
            sdk.ask(client)
    scheduling.settled(1)
    shown = read_attributes(find_inference_span(scheduling))
    assert (shown["gen_ai.provider.name"], shown["server.address"]) == (provider, host)
    assert shown["server.port"] == 443


# -- parent and duration ----------------------------------------------------------------------------------------------


@each_sdk
def test_parent_is_the_span_of_the_program(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> int:
        async with opened(sdk.client(server)) as client:
            with PROGRAM.start_as_current_span("program") as span:
                await now(sdk.ask(client))
                return span.get_span_context().span_id

    program = sdk.run(main())
    scheduling.settled(1)
    span = find_inference_span(scheduling)
    assert span.parent is not None
    assert span.parent.span_id == program
    assert not scheduling.spans("call ")


@each_sdk
def test_parent_is_the_call_span_without_a_program_span(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def main() -> None:
        async with opened(sdk.client(server)) as client:
            await now(sdk.ask(client))

    sdk.run(main())
    scheduling.settled(1)
    (call,) = scheduling.spans("call ")
    assert find_inference_span(scheduling).parent == call.context


@each_sdk
def test_span_lasts_from_the_grant_to_the_end_of_the_body(sdk: Sdk, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)

    async def call() -> None:
        async with opened(sdk.client(server)) as client:
            async with opened(await now(sdk.stream(client))) as stream:
                assert [chunk async for chunk in each(stream)]

    with loco_otel.slot("holder"), ThreadPoolExecutor(1) as pool:
        calling = pool.submit(Context().run, sdk.run, call())
        scheduling.seen.wait_for(Waiting)
        loco_otel.configure(capacity=2)
        calling.result(PATIENCE)
    scheduling.settled(2)
    (acquire,) = (span for span in scheduling.spans("acquire ") if read_attributes(span)["loco.agent.id"] != "holder")
    span = find_inference_span(scheduling)
    assert read_times(span)[0] >= read_times(acquire)[1] - 1_000_000
    assert read_attributes(acquire)["loco.wait.duration"] > 0
    (call_span,) = scheduling.spans("call ")
    assert read_times(call_span)[0] < read_times(span)[0]
