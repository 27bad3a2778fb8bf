"""Tokens are counted right in each shape in which providers send them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from anthropic import Anthropic
from echo_server import EchoServer
from loco_otel_instrumentation.openai.adapter import OpenAIAdapter
from openai import OpenAI
from openai._models import FinalRequestOptions
from openai.types.chat import ChatCompletionChunk
from sdk_calls import CHAT, MESSAGE
from sdk_scheduling import Scheduled, Scheduling

from loco_otel.events import Spent, Usage
from loco_otel.patching import UsageMeter

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


def test_half_an_emoji_in_a_requested_model_becomes_valid() -> None:
    options = FinalRequestOptions(method="post", url="/chat/completions", json_data={"model": "m\ud83e \ud83d\ude00"})
    description = OpenAIAdapter().describe_call(object(), options)
    assert description is not None
    assert description.model == "m\ufffd \U0001f600"
