"""What only Bedrock has, against a real server process: through boto3, and aiobotocore where it is installed."""

import asyncio
import gc
import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anthropic
import boto3
import pytest
import server_fixtures
from bedrock_clients import AIOBOTOCORE, CREDENTIALS, REGION, AsyncBedrock, make_bedrock
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError, ReadTimeoutError
from llm_server import LlmServer
from loco_otel_instrumentation.botocore.adapter import BedrockAdapter
from loco_otel_instrumentation.botocore.model_chunks import read_model_chunk
from loco_otel_instrumentation.botocore.models import find_family
from loco_otel_instrumentation.botocore.request_bodies import neutralise_converse, neutralise_invoke
from sdk_scheduling import Scheduled

from loco_otel._budgets.prices import Prices
from loco_otel._config.budget_rules import Price
from loco_otel.errors import BudgetExceededError
from loco_otel.events import Granted, Released, Spent, Submitted, Suspended, Throttled, ThrottleKind, Usage
from loco_otel.money import BilledItem
from loco_otel.patching import UsageMeter
from loco_otel.patching.request_size import estimate_tokens, find_max_output_tokens

HAIKU, SONNET = "anthropic.claude-3-haiku-20240307-v1:0", "us.anthropic.claude-sonnet-4-20250514-v1:0"
LLAMA, TITAN, NOVA = "meta.llama3-8b-instruct-v1:0", "amazon.titan-text-express-v1", "amazon.nova-lite-v1:0"
EMBED = "amazon.titan-embed-text-v2:0"
PROMPT = "tell me about the harbour"
MESSAGES = [{"role": "user", "content": [{"text": PROMPT}]}]
BODIES: dict[str, dict[str, Any]] = {
    SONNET: {"anthropic_version": "x", "max_tokens": 64, "messages": [{"role": "user", "content": PROMPT}]},
    LLAMA: {"prompt": PROMPT, "max_gen_len": 64, "temperature": 0.5},
    TITAN: {"inputText": PROMPT, "textGenerationConfig": {"maxTokenCount": 64, "temperature": 0.5}},
    NOVA: {"messages": MESSAGES, "inferenceConfig": {"maxTokens": 64, "temperature": 0.5}},
}
COLOURS = ["sync"] if AIOBOTOCORE is None else ["sync", "async"]

each_colour: Callable[..., Any] = pytest.mark.parametrize("colour", COLOURS)
each_model: Callable[..., Any] = pytest.mark.parametrize("model", BODIES)

server = server_fixtures.server


def call(colour: str, server: LlmServer, operation: str, config: dict[str, Any] | None = None, **params: Any) -> Any:
    """Call an operation of Bedrock; return its answer, or the events of its stream."""
    options: dict[str, Any] = {"base_url": server.url("bedrock")}
    if colour == "sync":
        client = make_bedrock(config=Config(**config or {}), **options)
        answer = getattr(client, operation)(**params)
        return list(answer.get("stream") or answer["body"]) if "stream" in operation else answer

    async def call_async() -> Any:
        client = AsyncBedrock(config=make_async_config(config or {}), **options)
        try:
            answer = await getattr(await client.open_client(), operation)(**params)
            if "stream" in operation:
                return [event async for event in answer.get("stream") or answer["body"]]
            return answer | ({"body": io.BytesIO(await answer["body"].read())} if "body" in answer else {})
        finally:
            await client.close()

    return asyncio.run(call_async())


def make_async_config(config: dict[str, Any]) -> Any:
    from aiobotocore.config import AioConfig

    return AioConfig(**config)


# The model, the operation and the usage.


@each_colour
@each_model
def test_invoke_usage_is_in_headers_and_body_unread(
    model: str, colour: str, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    server.configure(output_tokens=7, cached_tokens=2)
    answer = call(colour, server, "invoke_model", modelId=model, body=json.dumps(BODIES[model]))
    assert json.loads(answer["body"].read())
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(5, 7, False, 2, None)
    (span,) = scheduling.spans(f"{'chat' if 'messages' in BODIES[model] else 'text_completion'} {model}")
    attributes = dict(span.attributes or {})
    assert attributes["gen_ai.provider.name"] == "aws.bedrock"
    assert attributes["gen_ai.request.max_tokens"] == 64
    assert attributes["server.address"] == "127.0.0.1"


@each_colour
@each_model
def test_invoke_stream_usage_is_in_last_chunk(model: str, colour: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.configure(output_tokens=7, cached_tokens=2)
    body = json.dumps(BODIES[model]).encode()
    events = call(colour, server, "invoke_model_with_response_stream", modelId=model, body=body)
    assert all(json.loads(event["chunk"]["bytes"]) for event in events)
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(5, 7, False, 2, None)


@pytest.mark.parametrize(
    "chunks",
    [
        [
            {
                "type": "message_start",
                "message": {"usage": {"input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens": 1}},
            },
            {"type": "content_block_delta", "delta": {"text": "a token"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
            {"type": "message_stop"},
        ],
        [
            {"metadata": {"usage": {"inputTokens": 3, "outputTokens": 7, "cacheReadInputTokenCount": 2}}},
        ],
    ],
    ids=["anthropic", "nova"],
)
def test_stream_without_metrics_has_usage_of_model(chunks: list[Any]) -> None:
    meter = UsageMeter()
    for chunk in chunks:
        read_model_chunk(json.dumps(chunk).encode(), meter)
    assert meter.compute_usage(prompt_tokens=99) == Usage(5, 7, False, 2, None)


@pytest.mark.parametrize(("detailed", "usd"), [(1000, 6024), (0, 3774)])
def test_cache_write_for_an_hour_of_converse_has_its_price(detailed: int, usd: int) -> None:
    details = [{"ttl": "1h", "inputTokens": detailed}, {"ttl": "5m", "inputTokens": 1000 - detailed}]
    usage = {"inputTokens": 3, "outputTokens": 1, "totalTokens": 1004, "cacheWriteInputTokens": 1000}
    answer = {"usage": {**usage, "cacheDetails": details}}
    price = Price(input=3, output=15, cache_write=3.75, items={"cache_write_1h_tokens": 6})
    adapter = BedrockAdapter("botocore")
    for read, part in ((adapter.read_answer, answer), (adapter.read_chunk, {"metadata": answer})):
        meter = UsageMeter()
        read(part, meter)
        counted = meter.compute_usage(prompt_tokens=99)
        assert dict(counted.items) == ({"cache_write_1h_tokens": detailed} if detailed else {})
        assert counted[:5] == (1003, 1, False, None, 1000)
        assert Prices({"claude": price}).compute_cost("aws.bedrock", ["claude"], counted) == (usd, ())


def test_cache_write_for_an_hour_of_an_invoke_stream_is_read() -> None:
    meter = UsageMeter()
    usage = {"input_tokens": 3, "cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_1h_input_tokens": 9}}
    metrics = {"inputTokenCount": 3, "outputTokenCount": 1, "cacheWriteInputTokenCount": 9}
    start = {"type": "message_start", "message": {"usage": usage}}
    for chunk in (start, {"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics}):
        read_model_chunk(json.dumps(chunk).encode(), meter)
    assert meter.compute_usage(99) == Usage(12, 1, False, None, 9, items=(BilledItem("cache_write_1h_tokens", 9),))


def test_broken_invoke_stream_is_charged_by_its_length() -> None:
    meter = UsageMeter()
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}
    delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 900}}
    for chunk in (start, delta):
        read_model_chunk(json.dumps(chunk).encode(), meter)
    assert meter.compute_usage(prompt_tokens=99) == Usage(3, 5, True)


@each_colour
def test_embedding_has_no_output_tokens(colour: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    call(colour, server, "invoke_model", modelId=EMBED, body=json.dumps({"inputText": PROMPT}))
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage == Usage(5, 0, False)
    assert len(scheduling.spans(f"embeddings {EMBED}")) == 1


def test_file_as_body_is_read_and_sent_whole(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    call("sync", server, "invoke_model", modelId=LLAMA, body=io.BytesIO(json.dumps(BODIES[LLAMA]).encode()))
    assert [request.body for request in server.requests()] == [BODIES[LLAMA]]
    (span,) = scheduling.spans("text_completion ")
    assert (span.attributes or {})["gen_ai.request.max_tokens"] == 64


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        (f":foundation-model/{HAIKU}", HAIKU),
        (f"123456789012:inference-profile/{SONNET}", SONNET),
        ("123456789012:application-inference-profile/a1b2", "application-inference-profile/a1b2"),
    ],
)
def test_arn_is_named_without_its_account(resource: str, name: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    arn = f"arn:aws:bedrock:us-east-1:{resource}"
    call("sync", server, "converse", modelId=arn, messages=MESSAGES)
    assert [request.model for request in server.requests()] == [arn]
    (spent,) = scheduling.seen.of(Spent)
    assert (spent.spending.usd is None) == ("application" in name)
    (span,) = scheduling.spans(f"chat {name}")
    assert (span.attributes or {})["gen_ai.request.model"] == name


@each_colour
def test_guardrail_is_the_finish_reason(colour: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    answer = {
        "output": {"message": {"role": "assistant", "content": [{"text": "no"}]}},
        "stopReason": "guardrail_intervened",
        "usage": {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0},
        "metrics": {"latencyMs": 1},
    }
    server.throttle(1, status=200, body=answer)
    guardrail = {"guardrailIdentifier": "gr-1", "guardrailVersion": "1"}
    call(colour, server, "converse", modelId=HAIKU, messages=MESSAGES, guardrailConfig=guardrail)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.finish_reasons == ("content_filter",)
    assert spent.spending.usage == Usage(0, 0, False)


# What is not scheduled.


@each_colour
@pytest.mark.parametrize(
    ("operation", "params"),
    [
        ("count_tokens", {"modelId": HAIKU, "input": {"converse": {"messages": MESSAGES}}}),
        (
            "apply_guardrail",
            {
                "guardrailIdentifier": "gr1",
                "guardrailVersion": "1",
                "source": "INPUT",
                "content": [{"text": {"text": PROMPT}}],
            },
        ),
    ],
)
def test_operation_without_inference_passes(
    operation: str, params: Any, colour: str, server: LlmServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled(capacity=1)
    if not hasattr(make_bedrock(base_url=server.url("bedrock")), operation):
        pytest.skip("this botocore is older than the operation")
    with suppress(ClientError):  # the server has no guardrails
        call(colour, server, operation, **params)
    assert not scheduling.seen.of(Submitted)


def test_other_services_pass(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    session = boto3.Session(region_name=REGION, **CREDENTIALS)
    with pytest.raises(ClientError, match="404"):
        session.client("dynamodb", endpoint_url=server.url("bedrock")).list_tables()
    assert not scheduling.seen.of(Submitted)


def test_anthropic_client_for_bedrock_is_scheduled_once(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    with anthropic.AnthropicBedrock(
        aws_access_key="key", aws_secret_key="secret", aws_region=REGION, base_url=server.url("bedrock")
    ) as client:
        client.messages.create(model=HAIKU, max_tokens=64, messages=[{"role": "user", "content": PROMPT}])
    scheduling.settled(1)
    assert [request.operation for request in server.requests()] == ["InvokeModel"]


def test_client_made_before_install_is_scheduled(server: LlmServer, scheduled: Scheduled) -> None:
    client = make_bedrock(base_url=server.url("bedrock"))
    scheduling = scheduled(capacity=1)
    server.throttle(1)
    client.converse(modelId=HAIKU, messages=MESSAGES)
    scheduling.settled(1)
    assert len(scheduling.seen.of(Suspended)) == 1


# Refusals and retries.


@each_colour
@pytest.mark.parametrize("mode", ["standard", "legacy", "adaptive"])
def test_each_retry_mode_frees_slot(mode: str, colour: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(1, retry_after=0.25)
    config = {"retries": {"mode": mode, "max_attempts": 3}}
    call(colour, server, "converse_stream", config, modelId=HAIKU, messages=MESSAGES)
    scheduling.settled(1)
    assert [request.status for request in server.requests()] == [429, 200]
    assert len(scheduling.seen.of(Suspended)) == 1
    assert len(scheduling.seen.of(Granted)) == 2
    assert [(event.status, event.retry_after) for event in scheduling.seen.of(Throttled)] == [(429, 0.25)]


@each_colour
@pytest.mark.parametrize("mode", ["standard", "legacy"])
def test_refusal_without_retry_keeps_slot(mode: str, colour: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(1, status=503)
    config = {"retries": {"mode": mode, "total_max_attempts": 1}}
    with pytest.raises(ClientError, match="ServiceUnavailable"):
        call(colour, server, "converse", config, modelId=HAIKU, messages=MESSAGES)
    scheduling.settled(1)
    assert not scheduling.seen.of(Suspended)
    assert [event.status for event in scheduling.seen.of(Throttled)] == [503]
    assert not scheduling.seen.of(Spent)


def test_daily_limit_is_a_spend_limit(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(1, message="Too many tokens per day, please wait before trying again.")
    with pytest.raises(ClientError):
        call("sync", server, "converse", {"retries": {"total_max_attempts": 1}}, modelId=HAIKU, messages=MESSAGES)
    assert [event.kind for event in scheduling.seen.of(Throttled)] == [ThrottleKind.SPEND]


@each_colour
@pytest.mark.parametrize("after_chunks", [1, 3])
def test_throttle_in_stream_ends_it(after_chunks: int, colour: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.throttle(1, after_chunks=after_chunks)
    with pytest.raises(EventStreamError, match="throttlingException"):
        call(colour, server, "converse_stream", modelId=HAIKU, messages=MESSAGES)
    scheduling.settled(1)
    assert [(event.status, event.kind) for event in scheduling.seen.of(Throttled)] == [(429, ThrottleKind.LOAD)]
    # A stream that is refused before its first word costs nothing.
    assert len(scheduling.seen.of(Spent)) == (after_chunks > 1)


@each_colour
def test_read_timeout_is_reported_and_charged(colour: str, server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.hold()
    config = {"read_timeout": 0.5, "retries": {"total_max_attempts": 1}}
    with pytest.raises(ReadTimeoutError):
        call(colour, server, "converse", config, modelId=HAIKU, messages=MESSAGES)
    scheduling.settled(1)
    assert [event.kind for event in scheduling.seen.of(Throttled)] == [ThrottleKind.TIMEOUT]
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.usage is not None
    assert spent.spending.usage.estimated


# Streams.


def test_dropped_stream_disconnects(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.hold(after_chunks=2)
    client = make_bedrock(base_url=server.url("bedrock"))
    gc.disable()
    try:
        answer = client.converse_stream(modelId=HAIKU, messages=MESSAGES)
        next(iter(answer["stream"]))
        assert scheduling.active() == 1
        del answer
        scheduling.seen.wait_for(Released)
        server.wait_for(finished=1)
    finally:
        gc.enable()
    scheduling.settled(1)


@pytest.mark.skipif(AIOBOTOCORE is None, reason="aiobotocore is not installed")
def test_dropped_async_stream_disconnects(server: LlmServer, scheduled: Scheduled) -> None:
    scheduling = scheduled(capacity=1)
    server.hold(after_chunks=2)

    async def drop_stream() -> None:
        client = AsyncBedrock(base_url=server.url("bedrock"))
        answer = await (await client.open_client()).converse_stream(modelId=HAIKU, messages=MESSAGES)
        async for _ in answer["stream"]:
            break
        assert scheduling.active() == 1
        del answer
        await scheduling.seen.await_event(Released)
        await asyncio.to_thread(server.wait_for, finished=1)
        await client.close()

    gc.disable()
    try:
        asyncio.run(drop_stream())
    finally:
        gc.enable()
    scheduling.settled(1)


def test_stream_keeps_class_and_can_be_read_in_parts(server: LlmServer, scheduled: Scheduled) -> None:
    from botocore.eventstream import EventStream

    scheduling = scheduled(capacity=1)
    client = make_bedrock(base_url=server.url("bedrock"))
    stream = client.converse_stream(modelId=HAIKU, messages=MESSAGES)["stream"]
    assert isinstance(stream, EventStream)
    first = next(iter(stream))
    assert scheduling.active() == 1
    assert [*first] == ["messageStart"]
    assert "metadata" in list(stream)[-1]
    scheduling.settled(1)


# Budgets.


def write_downgrade(folder: Path, model: str, cheaper: str) -> Path:
    settings = folder / "loco.toml"
    settings.write_text(f'[downgrade]\n"{model}" = ["{cheaper}"]\n')
    return settings


@each_colour
def test_downgrade_replaces_model_id(colour: str, server: LlmServer, scheduled: Scheduled, tmp_path: Path) -> None:
    config = write_downgrade(tmp_path, SONNET, NOVA)
    scheduled(capacity=1, budgets="*=0.05", budget_on_exceeded="downgrade", config=config)
    call(colour, server, "converse_stream", modelId=SONNET, messages=MESSAGES, inferenceConfig={"maxTokens": 10_000})
    assert [request.model for request in server.requests()] == [NOVA]


@each_colour
@pytest.mark.parametrize(("cheaper", "is_sent"), [(HAIKU, True), (NOVA, False)])
def test_invoke_is_downgraded_within_its_family(
    cheaper: str, is_sent: bool, colour: str, server: LlmServer, scheduled: Scheduled, tmp_path: Path
) -> None:
    config = write_downgrade(tmp_path, SONNET, cheaper)
    scheduled(capacity=1, budgets="*=0.05", budget_on_exceeded="downgrade", config=config)
    body = json.dumps({**BODIES[SONNET], "max_tokens": 10_000})
    if is_sent:
        call(colour, server, "invoke_model", modelId=SONNET, body=body)
        assert [request.model for request in server.requests()] == [cheaper]
    else:
        with pytest.raises(BudgetExceededError):
            call(colour, server, "invoke_model", modelId=SONNET, body=body)
        assert not server.requests()


# Bodies, by family of models.


@pytest.mark.parametrize(
    ("model", "body", "operation", "most"),
    [
        ("mistral.mistral-7b-instruct-v0:2", {"prompt": PROMPT, "max_tokens": 9}, "text_completion", 9),
        ("cohere.command-r-v1:0", {"message": PROMPT, "max_tokens": 9, "p": 0.5}, "chat", 9),
        ("cohere.command-text-v14", {"prompt": PROMPT, "max_tokens": 9, "num_generations": 2}, "text_completion", 18),
        ("cohere.embed-english-v3", {"texts": [PROMPT], "input_type": "search_query"}, "embeddings", None),
        ("anthropic.claude-v2", {"prompt": PROMPT, "max_tokens_to_sample": 9}, "text_completion", 9),
        ("openai.gpt-oss-20b-1:0", {"messages": MESSAGES, "max_completion_tokens": 9}, "chat", 9),
        ("amazon.nova-pro-v1:0", {"messages": MESSAGES, "inferenceConfig": {"max_new_tokens": 9}}, "chat", 9),
    ],
)
def test_invoke_body_is_weighed_by_family(model: str, body: Any, operation: str, most: int | None) -> None:
    found, neutral = neutralise_invoke({"body": json.dumps(body)}, model)
    assert found == operation
    assert find_max_output_tokens(neutral) == most
    assert 8 <= estimate_tokens(neutral) <= 16


@pytest.mark.parametrize("body", [b"\x89PNG", "no JSON", "[1]", None, object()])
def test_invoke_body_of_other_format_weighs_nothing(body: Any) -> None:
    assert neutralise_invoke({"body": body}, HAIKU) == ("text_completion", {})


@pytest.mark.parametrize(
    ("block", "tokens"),
    [
        ({"image": {"format": "png", "source": {"bytes": b"x" * 90_000}}}, 1000),
        ({"document": {"format": "pdf", "name": "a", "source": {"bytes": b"x" * 90_000}}}, 3000),
        ({"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://bucket/key"}}}}, 3000),
        ({"document": {"format": "txt", "name": "a", "source": {"text": "x" * 300}}}, 100),
        ({"toolUse": {"toolUseId": "tooluse_0", "name": "x" * 30, "input": {"y" * 30: "z" * 30}}}, 30),
        ({"toolResult": {"toolUseId": "tooluse_0", "content": [{"json": {"y" * 30: "z" * 30}}]}}, 20),
        ({"cachePoint": {"type": "default"}}, 0),
    ],
)
def test_converse_block_weighs_by_kind(block: Any, tokens: int) -> None:
    neutral = neutralise_converse({"messages": [{"role": "user", "content": [block]}]})
    assert estimate_tokens(neutral) == tokens + 4


@pytest.mark.parametrize(
    ("model", "family"),
    [
        (HAIKU, "anthropic"),
        (SONNET, "anthropic"),
        (f"arn:aws:bedrock:us-east-1::foundation-model/{HAIKU}", "anthropic"),
        (NOVA, "amazon.nova"),
        ("eu.amazon.nova-pro-v1:0", "amazon.nova"),
        (TITAN, "amazon.titan-text"),
        (EMBED, "amazon.titan-embed"),
        ("cohere.embed-english-v3", "cohere.embed"),
        ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2", None),
        ("m", None),
    ],
)
def test_family_is_vendor_and_kind(model: str, family: str | None) -> None:
    found = find_family(model)
    assert found == family or (found or "").startswith(f"{family}.")
