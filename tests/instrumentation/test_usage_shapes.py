"""Tokens are counted right in each shape in which providers send them."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic import Anthropic
from echo_server import EchoServer
from groq.types.chat import ChatCompletionChunk as GroqChunk
from loco_otel_instrumentation.anthropic.adapter import AnthropicAdapter
from loco_otel_instrumentation.google_genai.adapter import GoogleGenaiAdapter
from loco_otel_instrumentation.groq.adapter import GroqAdapter
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter
from openai import APIError, OpenAI
from openai._models import FinalRequestOptions
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import Response
from sdk_calls import CHAT, MESSAGE
from sdk_scheduling import Scheduled, Scheduling

import loco_otel
from loco_otel.events import Spent, Usage
from loco_otel.money import BilledItem
from loco_otel.patching import UsageMeter
from loco_otel.patching.call_setup import start_call
from loco_otel.patching.dialects import openai_chat

Json = dict[str, Any]


@pytest.fixture(scope="module")
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def openai(echo: EchoServer) -> Iterator[OpenAI]:
    with OpenAI(api_key="fake", base_url=f"{echo.url}/v1", max_retries=0) as client:
        yield client


def completion(usage: Mapping[str, object]) -> Json:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def chunk(text: str | None = None, **more: Any) -> Json:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None if text else "stop"}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def read_usage(scheduling: Scheduling) -> Usage:
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    return spent.spending.usage


SHAPES: list[tuple[Json, Usage]] = [
    # xAI: reasoning outside completion_tokens
    (
        {
            "prompt_tokens": 12,
            "completion_tokens": 1,
            "total_tokens": 399,
            "completion_tokens_details": {"reasoning_tokens": 386},
        },
        Usage(12, 387, reasoning_tokens=386),
    ),
    # OpenAI: within them
    (
        {
            "prompt_tokens": 12,
            "completion_tokens": 387,
            "total_tokens": 399,
            "completion_tokens_details": {"reasoning_tokens": 386},
        },
        Usage(12, 387, reasoning_tokens=386),
    ),
    # no total
    (
        {"prompt_tokens": 12, "completion_tokens": 387, "completion_tokens_details": {"reasoning_tokens": 386}},
        Usage(12, 387, reasoning_tokens=386),
    ),
    # DeepSeek
    (
        {
            "prompt_tokens": 100,
            "completion_tokens": 5,
            "total_tokens": 105,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
        },
        Usage(100, 5, cache_read_tokens=64),
    ),
    # Moonshot
    (
        {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "cached_tokens": 80},
        Usage(100, 5, cache_read_tokens=80),
    ),
    # both names: the details count
    (
        {
            "prompt_tokens": 100,
            "completion_tokens": 5,
            "total_tokens": 105,
            "prompt_cache_hit_tokens": 64,
            "prompt_tokens_details": {"cached_tokens": 32},
        },
        Usage(100, 5, cache_read_tokens=32),
    ),
]


TOKENS = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}


def item(kind: str, amount: int) -> Usage:
    return Usage(100, 50, items=(BilledItem(kind, amount),))


ADDITIONS: list[tuple[Json, Usage]] = [
    # OpenRouter, with its own key and with the program's
    ({**TOKENS, "cost": 0.00014, "is_byok": False}, item("reported_usd", 140)),
    (
        {**TOKENS, "cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.25}},
        item("reported_usd", 260_000),
    ),
    (
        {**TOKENS, "cost": 0, "server_tool_use": {"web_search_requests": 2}},
        Usage(100, 50, items=(BilledItem("reported_usd", 0), BilledItem("web_searches", 2))),
    ),
    # Perplexity
    ({**TOKENS, "cost": {"input_tokens_cost": 0.1, "total_cost": 0.2}}, item("reported_usd", 200_000)),
    ({**TOKENS, "citation_tokens": 7}, item("output_citation_tokens", 7)),
    # xAI
    ({**TOKENS, "cost_in_usd_ticks": 37_756_001}, item("reported_usd", 3776)),
    ({**TOKENS, "server_side_tool_usage_details": {"x_search_calls": 3}}, item("social_searches", 3)),
    # Mistral
    ({**TOKENS, "prompt_audio_seconds": 203}, item("input_audio_seconds", 203)),
    # OpenAI
    ({**TOKENS, "completion_tokens_details": {"audio_tokens": 20}}, item("output_audio_tokens", 20)),
    # no charge
    *(({**TOKENS, "cost": cost}, Usage(100, 50)) for cost in (-1, 1e9, "0.1", None, {}, {"total_cost": "1"})),
]


@pytest.mark.parametrize(("usage", "counted"), SHAPES)
def test_usage_of_a_whole_answer_is_read(usage: Json, counted: Usage, openai: OpenAI, scheduled: Scheduled) -> None:
    scheduling = scheduled()
    openai.chat.completions.create(**CHAT, extra_body={"reply": completion(usage)})
    assert read_usage(scheduling) == counted


@pytest.mark.parametrize(("usage", "counted"), SHAPES)
def test_usage_of_a_stream_is_read(usage: Json, counted: Usage, openai: OpenAI, scheduled: Scheduled) -> None:
    scheduling = scheduled()
    reply = [chunk("hello"), chunk(), {**chunk(), "choices": [], "usage": usage}, "[DONE]"]
    list(openai.chat.completions.create(**CHAT, stream=True, extra_body={"reply": reply}))
    assert read_usage(scheduling) == counted


@pytest.mark.parametrize(("usage", "counted"), ADDITIONS)
@pytest.mark.parametrize("parse", [dict, lambda it: CompletionUsage.construct(**it)])
def test_additions_to_usage_are_billed_items(usage: Json, counted: Usage, parse: Any) -> None:
    meter = UsageMeter()
    openai_chat.read_usage(parse(usage), meter)
    assert meter.compute_usage(0) == counted


@pytest.mark.parametrize("parse", [dict, lambda it: SimpleNamespace(**it)])
def test_audio_of_a_transcription_is_a_billed_item(parse: Any) -> None:
    meter = UsageMeter()
    details = parse({"audio_tokens": 28, "text_tokens": 2})
    usage = {"input_tokens": 30, "output_tokens": 3, "total_tokens": 33, "input_token_details": details}
    OpenAIAdapter().read_answer({"text": "fair winds", "usage": parse(usage)}, meter)
    assert meter.compute_usage(0) == Usage(30, 3, items=(BilledItem("input_audio_tokens", 28),))


def test_tools_of_a_response_are_counted() -> None:
    search = {"type": "web_search_call", "id": "1", "status": "completed"}
    reply = {
        "model": "gpt-5.5",
        "usage": {"input_tokens": 100, "output_tokens": 50},
        "output": [
            {**search, "action": {"type": "search", "query": "q"}},
            {**search, "action": {"type": "open_page", "url": "u"}},
            {"type": "file_search_call"},
            {"type": "file_search_call"},
            {"type": "code_interpreter_call"},
            {"type": "message"},
        ],
    }
    for answer in (reply, Response.construct(**reply)):
        meter = UsageMeter()
        OpenAIAdapter().read_answer(answer, meter)
        assert dict(meter.compute_usage(0).items) == {"web_searches": 1, "storage_searches": 2, "code_executions": 1}


@pytest.mark.parametrize(("model", "searches"), [("gemini-2.5-flash", 1), ("gemini-3-pro-preview", 2)])
def test_grounding_of_gemini_is_counted(model: str, searches: int) -> None:
    meter = UsageMeter()
    grounding = {"webSearchQueries": ["a", "b"], "groundingChunks": [{"maps": {"uri": "u"}}]}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "trafficType": "ON_DEMAND_PRIORITY"}
    reply = {"modelVersion": model, "usageMetadata": usage, "candidates": [{"groundingMetadata": grounding}]}
    GoogleGenaiAdapter().read_answer(SimpleNamespace(body=json.dumps(reply)), meter)
    assert dict(meter.compute_usage(0).items) == {"web_searches": searches, "map_searches": 1}
    assert meter.service_tier == "priority"


@pytest.mark.parametrize("body", ["<html>", "[1]", "null", "", None])
def test_gemini_answer_that_is_no_object_is_estimated(body: str | None) -> None:
    meter, adapter = UsageMeter(), GoogleGenaiAdapter()
    for read in (adapter.read_answer, adapter.read_chunk, adapter.read_usage):
        read(SimpleNamespace(body=body), meter)
    assert meter.compute_usage(3) == Usage(3, 0, estimated=True)


def test_fast_mode_and_tools_of_anthropic_are_billed() -> None:
    meter = UsageMeter()
    first = {
        "input_tokens": 5,
        "output_tokens": 1,
        "speed": "fast",
        "service_tier": "standard",
        "inference_geo": "us",
        "cache_creation": {"ephemeral_1h_input_tokens": 4, "ephemeral_5m_input_tokens": 0},
    }
    last = {"output_tokens": 9, "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 1}}
    for event in message_events(first, last):
        AnthropicAdapter().read_chunk(event, meter)
    assert dict(meter.compute_usage(0).items) == {"cache_write_1h_tokens": 4, "inference_geo": 1, "web_searches": 3}
    assert meter.service_tier == "fast"


def test_tools_of_groq_are_counted_once() -> None:
    meter = UsageMeter()
    executed = [{"type": "search", "index": 0, "arguments": ""}, {"type": "visit", "index": 1, "arguments": ""}]
    for _ in range(2):
        piece = {"choices": [{"index": 0, "delta": {"content": None, "executed_tools": executed}}], "model": "m"}
        GroqAdapter().read_chunk({**piece, "x_groq": {"usage": TOKENS}}, meter)
    assert dict(meter.compute_usage(0).items) == {"web_searches": 1, "tool_calls": 1}


def test_underpriced_call_is_marked(openai: OpenAI, scheduled: Scheduled) -> None:
    scheduling = scheduled(count_spend=True)
    details = {"audio_tokens": 20}
    reply = {**completion({**TOKENS, "prompt_tokens_details": details}), "model": "gpt-4o"}
    openai.chat.completions.create(**{**CHAT, "model": "gpt-4o"}, extra_body={"reply": reply})
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert spent.spending.unpriced == ("input_audio_tokens",)
    assert spent.spending.usd
    (marks,) = [span.attributes for span in scheduling.spans() if "loco.spend.weight" in (span.attributes or {})]
    assert (marks or {})["loco.spend.unpriced"] == ("input_audio_tokens",)
    assert [total.unpriced for total in loco_otel.spend()] == [1]


PLAIN = {"prompt_tokens": 2300, "completion_tokens": 190, "total_tokens": 2490}
GROQ = chunk(x_groq={"id": "r", "usage": {**PLAIN, "queue_time": 0.07}})
MOONSHOT = {
    **chunk(),
    "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": {**PLAIN, "cached_tokens": 300}}],
}
ADDED = [(GROQ, Usage(2300, 190)), (MOONSHOT, Usage(2300, 190, cache_read_tokens=300))]


@pytest.mark.parametrize(("last", "counted"), ADDED)
def test_usage_in_another_field_of_a_chunk_is_read(
    last: Json, counted: Usage, openai: OpenAI, scheduled: Scheduled
) -> None:
    scheduling = scheduled()
    reply = [chunk("hello", x_groq={"id": "r"}), chunk("you"), last, "[DONE]"]
    list(openai.chat.completions.create(**CHAT, stream=True, extra_body={"reply": reply}))
    assert read_usage(scheduling) == counted


@pytest.mark.parametrize(("last", "counted"), ADDED)
@pytest.mark.parametrize("parse", [dict, lambda it: ChatCompletionChunk.construct(**it)])
def test_usage_in_another_field_is_read_where_text_is_not(last: Json, counted: Usage, parse: Any) -> None:
    meter = UsageMeter()
    for item in (chunk("hello"), last):
        OpenAIAdapter().read_usage(parse(item), meter)
    assert meter.compute_usage(0) == counted


TEXT = "x" * 400
REASONING = [
    (OpenAIAdapter, ChatCompletionChunk, {"content": "", "reasoning_content": TEXT}),  # DeepSeek
    (OpenAIAdapter, ChatCompletionChunk, {"content": None, "reasoning_content": TEXT}),  # vLLM
    (OpenAIAdapter, ChatCompletionChunk, {"content": "", "reasoning": TEXT}),  # OpenRouter
    (OpenAIAdapter, ChatCompletionChunk, {"content": None, "reasoning": TEXT, "reasoning_content": TEXT}),
    (OpenAIAdapter, ChatCompletionChunk, {"content": TEXT, "reasoning_content": None}),
    (GroqAdapter, GroqChunk, {"reasoning": TEXT}),
]


@pytest.mark.parametrize(("adapter", "kind", "delta"), REASONING)
@pytest.mark.parametrize("is_parsed", [True, False])
def test_text_of_reasoning_is_counted(adapter: Any, kind: Any, delta: Json, is_parsed: bool) -> None:
    meter = UsageMeter()
    piece = {**chunk(), "choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None}
    for _ in range(2):
        adapter().read_chunk(kind.construct(**piece) if is_parsed else piece, meter)
    assert (meter.characters, meter.has_started) == (800, True)


def test_stream_that_fails_while_it_reasons_is_charged(openai: OpenAI, scheduled: Scheduled) -> None:
    scheduling = scheduled()
    thought = {**chunk(), "choices": [{"index": 0, "delta": {"content": "", "reasoning_content": TEXT}}]}
    reply = [thought, thought, {"error": {"message": "overloaded", "code": "server_error"}}]
    with pytest.raises(APIError, match="overloaded"):
        list(openai.chat.completions.create(**CHAT, stream=True, extra_body={"reply": reply}))
    usage = read_usage(scheduling)
    assert (usage.output_tokens, usage.estimated) == (200, True)


def message_events(first: Json, last: Json) -> list[Json]:
    message = {"id": "m", "type": "message", "role": "assistant", "model": "claude", "content": [], "usage": first}
    return [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": last},
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize(
    ("first", "last", "counted"),
    [
        # a proxy that counts the input only at the end
        (
            {"input_tokens": 0, "output_tokens": 0},
            {
                "input_tokens": 33,
                "cache_creation_input_tokens": 1000,
                "cache_read_input_tokens": 8000,
                "output_tokens": 7,
            },
            Usage(9033, 7, cache_read_tokens=8000, cache_write_tokens=1000),
        ),
        # a server's tool added input
        (
            {
                "input_tokens": 2679,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 100,
                "output_tokens": 3,
            },
            {"input_tokens": 10682, "output_tokens": 510},
            Usage(10782, 510, cache_read_tokens=100, cache_write_tokens=0),
        ),
        (
            {"input_tokens": 20, "cache_read_input_tokens": 100, "output_tokens": 3},
            {"cache_read_input_tokens": 150, "output_tokens": 510},
            Usage(170, 510, cache_read_tokens=150),
        ),
        # nothing new
        (
            {"input_tokens": 20, "cache_read_input_tokens": 100, "output_tokens": 3},
            {"output_tokens": 510},
            Usage(120, 510, cache_read_tokens=100),
        ),
        ({"input_tokens": 20, "output_tokens": 3}, {"input_tokens": 0, "output_tokens": 510}, Usage(20, 510)),
    ],
)
def test_figures_of_message_delta_replace_those_of_its_start(
    first: Json, last: Json, counted: Usage, echo: EchoServer, scheduled: Scheduled
) -> None:
    scheduling = scheduled()
    with Anthropic(api_key="fake", base_url=echo.url, max_retries=0) as client:
        list(client.messages.create(**MESSAGE, stream=True, extra_body={"reply": message_events(first, last)}))
    assert read_usage(scheduling) == counted


@pytest.mark.parametrize("unasked", [True, False])
def test_usage_that_the_server_sends_unasked_stays(unasked: bool, openai: OpenAI, scheduled: Scheduled) -> None:
    scheduling = scheduled(stream_usage=True)
    more = {"usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}} if unasked else {"usage": None}
    reply = [chunk("hello", **more), chunk(**more), {**chunk(), "choices": [], "usage": PLAIN}, "[DONE]"]
    chunks = list(openai.chat.completions.create(**CHAT, stream=True, extra_body={"reply": reply}))
    assert len(chunks) == (3 if unasked else 2)
    assert read_usage(scheduling) == Usage(2300, 190)


def test_half_an_emoji_in_an_answer_becomes_valid(openai: OpenAI, scheduled: Scheduled) -> None:
    scheduling = scheduled()
    reply = {**completion(PLAIN), "model": "m\ud83e", "id": "c\ud83e"}
    options = {**CHAT, "model": "caf\u00e9"}
    openai.chat.completions.create(**options, extra_body={"reply": json.dumps(reply)})
    scheduling.settled(1)
    (spent,) = scheduling.seen.of(Spent)
    assert (spent.spending.model, spent.spending.response_id) == ("m\ufffd", "c\ufffd")
    assert spent.ticket.request.model == "caf\u00e9"


def test_half_an_emoji_in_a_requested_model_becomes_valid(scheduled: Scheduled) -> None:
    scheduled(capacity=1)
    options = FinalRequestOptions(method="post", url="/chat/completions", json_data={"model": "m\ud83e \ud83d\ude00"})
    call = start_call(OpenAIAdapter(), object(), options, None)
    assert call is not None
    # Compared as bytes: the report of a failure cannot hold half an emoji.
    assert (call.ticket.request.model or "").encode("utf-8", "surrogatepass") == "m\ufffd \U0001f600".encode()


@pytest.mark.parametrize("odd", [-7, "7", math.nan, math.inf, 10**30, [7]])
def test_impossible_counts_are_estimated(odd: Any) -> None:
    meter = UsageMeter()
    meter.input_tokens, meter.output_tokens, meter.cache_read_tokens, meter.characters = odd, odd, odd, 8
    meter.set_item("web_searches", odd)
    assert meter.compute_usage(3) == Usage(3, 2, estimated=True)


def test_count_that_is_a_float_is_rounded_up() -> None:
    meter = UsageMeter()
    meter.input_tokens, meter.output_tokens = 11.0, 7.5  # type: ignore[assignment]
    assert meter.compute_usage(3) == Usage(11, 8)


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "1" + "0" * 30, "-7"])
def test_impossible_count_spoils_no_ledger(odd: str, openai: OpenAI, scheduled: Scheduled, tmp_path: Path) -> None:
    scheduled(ledger=tmp_path / "ledger.db", budgets="*=1")
    loco_otel.configure(prices={"*": {"input": 1, "output": 1}})
    reply = json.dumps(completion(PLAIN)).replace("2300", odd)
    openai.chat.completions.create(**CHAT, extra_body={"reply": reply})
    openai.chat.completions.create(**CHAT, extra_body={"reply": completion(PLAIN)})
    (budget,), (totals,) = loco_otel.budgets(), loco_otel.spend()
    assert (totals.calls, totals.estimated, totals.usd) == (2, 1, budget.spent)
    assert 2490 < budget.spent < 3000


@pytest.mark.parametrize("odd", [["m"], {"m": 1}, 7])
def test_names_of_an_answer_that_are_no_text_are_ignored(odd: Any, openai: OpenAI, scheduled: Scheduled) -> None:
    scheduling = scheduled()
    choice = {"index": 0, "finish_reason": odd, "message": {"role": "assistant", "content": "hello"}}
    reply = {**completion(PLAIN), "model": odd, "id": odd, "service_tier": odd, "choices": [choice]}
    openai.chat.completions.create(**CHAT, extra_body={"reply": reply})
    assert read_usage(scheduling) == Usage(2300, 190)
    (spent,) = scheduling.seen.of(Spent)
    assert (spent.spending.model, spent.spending.response_id, spent.spending.finish_reasons) == (None, None, ())
    (totals,) = loco_otel.spend()
    assert (totals.calls, totals.input_tokens) == (1, 2300)
