"""How heavy a call is thought to be before it is made."""

import base64
from collections import UserDict
from collections.abc import Iterator
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from loco_otel.events import MILLI
from loco_otel.patching.request_size import estimate_tokens, estimate_weight, find_max_output_tokens

BLOB = base64.b64encode(bytes(range(256)) * 1200).decode()  # 400 kB of text, an image of 300 kB
PNG = f"data:image/png;base64,{BLOB}"


def user(content: object) -> dict[str, object]:
    """Return the body of a request with one message."""
    return {"messages": [{"role": "user", "content": content}]}


def whole_weight(model: str | None, tokens: int = 0) -> float:
    return estimate_weight(model, tokens) / MILLI


# Tiers.


@pytest.mark.parametrize(
    ("model", "tier"),
    [
        ("claude-opus-4-20250514", 5),
        ("claude-opus-5", 5),
        ("claude-3-opus-latest", 5),
        ("us.anthropic.claude-opus-4-20250514-v1:0", 5),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-20250514-v1:0",
            5,
        ),
        ("claude-sonnet-4-20250514", 2),
        ("claude-3-5-sonnet@20240620", 2),
        ("anthropic/claude-sonnet-5", 2),
        ("claude-haiku-4-5-20251001", 1),
        ("anthropic/claude-3.5-haiku", 1),
        ("claude-instant-1.2", 1),
        ("claude-2.1", 2),
        ("o1", 5),
        ("o1-preview", 5),
        ("o3", 5),
        ("O3", 5),
        ("azure/o3-2025-04-16", 5),
        ("o3-pro", 5),
        ("gpt-5-pro", 5),
        ("gpt-5.5-pro-2026-01-01", 5),
        ("o4-mini", 2),
        ("o3-mini-2025-01-31", 2),
        ("gpt-4o", 3),
        ("gpt-4o-2024-08-06", 3),
        ("chatgpt-4o-latest", 3),
        ("my-gpt4o-prod", 3),
        ("gpt_4o_eastus", 3),
        ("gpt-4.1", 3),
        ("gpt-4-turbo", 3),
        ("gpt-5", 3),
        ("gpt-5.5-2026-01-01", 3),
        ("gpt-4.1-mini", 2),
        ("gpt-5-mini", 2),
        ("gpt-4o-mini", 1),
        ("gpt-4o-mini-2024-07-18", 1),
        ("ft:gpt-4o-mini-2024-07-18:acme:opus:abc", 1),
        ("prod-gpt4o-mini", 1),
        ("gpt-4.1-nano", 1),
        ("gpt-5-nano", 1),
        ("gpt-5-nano-2025-08-07", 1),
        ("gpt-3.5-turbo-0125", 1),
        ("gpt-35-turbo", 1),
        ("gemini-2.5-pro", 3),
        ("models/gemini-3-pro-preview", 3),
        ("gemini-1.5-pro", 2),
        ("models/gemini-2.5-flash", 2),
        ("gemini-flash-latest", 2),
        ("gemini-2.5-flash-lite", 1),
        ("gemini-2.0-flash-001", 1),
        ("gemini-1.5-flash", 1),
        ("text-embedding-3-large", 1),
        ("models/gemini-embedding-001", 1),
        ("amazon.titan-embed-text-v2:0", 1),
        ("amazon.titan-text-express-v1", 1),
        ("amazon.nova-pro-v1:0", 2),
        ("us.meta.llama3-1-70b-instruct-v1:0", 3),
        ("llama-3.1-8b-instant", 2),
        ("minimax-m1", 2),
        ("octopus-7b", 2),
        ("ft:", 2),
        ("something-new", 2),
        ("", 2),
        (None, 2),
    ],
)
def test_the_family_decides_however_the_model_is_named(model, tier):
    assert whole_weight(model) == tier


@pytest.mark.parametrize(
    ("tokens", "weight"),
    [(-5, 3), (0, 3), (999, 3), (1000, 3), (1166, 3), (1167, 4), (1500, 5), (2000, 6), (100_000, 300)],
)
def test_beyond_a_thousand_tokens_the_weight_grows_with_them_in_whole_steps(tokens, weight):
    assert whole_weight("gpt-4o", tokens) == weight


@given(st.text(), st.integers(min_value=-1000, max_value=10**9))
def test_an_estimate_is_a_whole_weight_of_at_least_one(model, tokens):
    weight = estimate_weight(model, tokens)

    assert type(weight) is int
    assert weight >= MILLI
    assert weight % MILLI == 0


def test_a_fixed_weight_replaces_the_whole_estimate():
    assert estimate_weight("claude-opus-5", 500_000, {"claude-opus-5": 1.5}) == 1500
    assert estimate_weight("claude-opus-5", 500_000, {"claude-*": 4}) == 4000
    assert estimate_weight("claude-opus-5", 0, {"gpt-*": 4}) == 5000


def test_the_name_goes_before_the_globs_and_those_in_their_order():
    fixed = {"*": 9.0, "gpt-4o*": 8.0, "gpt-4o": 7.0}

    assert estimate_weight("gpt-4o", 0, fixed) == 7000
    assert estimate_weight("gpt-4o-mini", 0, fixed) == 9000
    assert estimate_weight("gpt-4o-mini", 0, dict(reversed(fixed.items()))) == 8000
    assert estimate_weight(None, 0, fixed) == 9000


def test_a_name_that_looks_like_a_glob_is_a_name_first():
    assert estimate_weight("odd[1]", 0, {"odd[1]": 3}) == 3000


@pytest.mark.parametrize(("weight", "milli"), [(0.0015, 2), (1 / 3, 333), (2, 2000), (1e-9, 1)])
def test_a_fixed_weight_may_be_a_fraction(weight, milli):
    assert estimate_weight("m", 0, {"m": weight}) == milli


# Tokens.


def test_three_bytes_are_a_token_and_a_message_costs_four_more():
    assert estimate_tokens(user("x" * 3000)) == 1004
    assert estimate_tokens(user("x")) == 5
    assert estimate_tokens({"messages": [{"role": "user", "content": "abc"}] * 10}) == 50
    assert estimate_tokens(user("中" * 1000)) == 1004
    assert estimate_tokens(user("\ud800é")) == 6


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x" * 3000},
        {"prompt": ["x" * 1500, "x" * 1500]},
        {"prompt": "", "suffix": "x" * 3000},
        {"input": "x" * 3000},
        {"input": ["x" * 1500, "x" * 1500]},
        {"system": "x" * 3000},
        {"system": [{"type": "text", "text": "x" * 3000, "cache_control": {"type": "ephemeral"}}]},
        {"instructions": "x" * 3000},
        {"prediction": {"type": "content", "content": "x" * 3000}},
        {"input": list(range(1000))},
        {"input": [list(range(500)), list(range(500))]},
        {"prompt": tuple(range(1000))},
    ],
    ids="-".join,
)
def test_every_part_of_the_prompt_counts(body):
    assert estimate_tokens({"model": "m", "max_tokens": 4096, "metadata": {"a": "b" * 999}, **body}) == 1000


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": [{"type": "text", "text": "x" * 3000}]},
        {"role": "user", "content": [{"type": "input_text", "text": "x" * 3000}]},
        {"role": "assistant", "content": None, "refusal": "x" * 3000},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c" * 40, "type": "function", "function": {"arguments": "x" * 3000}}],
        },
        {"role": "tool", "tool_call_id": "c" * 40, "content": "x" * 3000},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c" * 40, "content": "x" * 3000}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "content": [{"type": "text", "text": "x" * 3000}]}],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c" * 40, "input": {"q": "x" * 2999}}]},
        {"type": "function_call", "call_id": "c" * 40, "arguments": "x" * 3000},
        {"type": "function_call_output", "call_id": "c" * 40, "output": "x" * 3000},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "x" * 3000, "signature": BLOB}]},
        {"type": "reasoning", "summary": [{"text": "x" * 3000}], "encrypted_content": BLOB},
    ],
)
@pytest.mark.parametrize("part", ["messages", "input"])
def test_text_tool_calls_and_their_results_count_and_what_surrounds_them_does_not(message, part):
    assert estimate_tokens({part: [message]}) == 1004


@pytest.mark.parametrize("part", ["tools", "functions", "response_format", "text"])
def test_definitions_count_with_their_keys(part):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["a", "b"]}},
        "strict": True,
    }
    text = "typeobjectpropertiescitytypestringenumabstrict"

    assert estimate_tokens({part: schema}) == -(-len(text) // 3) + 1
    assert estimate_tokens({part: [schema] * 300}) == 100 * len(text) + 300


IMAGES = [
    {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
    {"type": "image_url", "image_url": {"url": "https://example.com/" + "x" * 9000}},
    {"type": "input_image", "image_url": PNG},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BLOB}},
    {"type": "image", "source": {"type": "url", "url": "https://example.com/" + "x" * 9000}},
    {"type": "image", "mimeType": "image/png", "data": BLOB},
    {"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": BLOB}}]},
    {"type": "tool_use", "input": {"": {"type": "image", "mimeType": "image/png", "data": BLOB}}},
    {"type": "tool_use", "input": {"": {"": [PNG]}}},
    {"type": "input_audio", "input_audio": {"data": BLOB, "format": "wav"}},
    {"inline_data": {"mime_type": "image/png", "data": BLOB}},
    PNG,
    "DATA:image/PNG;base64," + BLOB,
]


@pytest.mark.parametrize("part", IMAGES)
def test_an_image_or_a_recording_counts_the_same_however_large(part):
    assert estimate_tokens(user([part])) == 1004
    assert estimate_tokens(user([part, part, {"type": "text", "text": "x" * 3000}])) == 3004


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": BLOB}},
        {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{BLOB}"},
        {"type": "input_file", "file_id": "file-" + "x" * 90},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": BLOB}},
        {"type": "tool_use", "input": {"": {"": {"": f"data:application/pdf;base64,{BLOB}"}}}},
        {"type": "something_new", "payload": {"file_data": BLOB}},
    ],
)
def test_a_document_counts_the_same_however_large(part):
    assert estimate_tokens(user([part])) == 3004


def test_a_document_of_plain_text_is_text():
    plain = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 30_000}}
    parts = {
        "type": "document",
        "source": {"type": "content", "content": [{"type": "text", "text": "x" * 30_000}]},
    }

    assert estimate_tokens(user([plain])) == 10_004
    assert estimate_tokens(user([parts])) == 10_004


def test_text_that_only_resembles_a_data_url_is_text():
    assert estimate_tokens(user("data: see the table, " + "x" * 2979)) == 1004


def test_an_answer_that_is_handed_back_counts_like_its_json():
    class Text(BaseModel):
        type: str
        text: str
        annotations: list[str] = ["x" * 999]

    class Message(BaseModel):
        id: str
        role: str
        content: list[Text]

    message = Message(id="m" * 90, role="assistant", content=[Text(type="output_text", text="x" * 3000)])

    assert estimate_tokens({"input": [message]}) == 1004


def test_any_mapping_will_do():
    message = MappingProxyType({"role": "user", "content": UserDict({"type": "text", "text": "x" * 3000})})

    assert estimate_tokens(UserDict({"messages": (message,)})) == 1004


# What is odd.


def test_what_can_be_read_only_once_is_left_alone():
    def parts() -> Iterator[dict[str, str]]:
        yield {"type": "text", "text": "x" * 3000}

    content, messages = parts(), iter([user("x")])

    assert estimate_tokens(user(content)) == 4
    assert estimate_tokens({"messages": messages, "system": "x" * 3000}) == 1000
    assert len(list(content)) == 1
    assert len(list(messages)) == 1


def test_a_body_that_contains_itself_is_measured_all_the_same():
    loop: dict[str, object] = {"role": "user"}
    loop["content"] = [loop, loop, "x"]

    assert estimate_tokens({"messages": [loop], "tools": [loop]}) > 0


def test_a_body_as_deep_as_can_be_is_measured():
    content: object = "x" * 3000
    for _ in range(50_000):
        content = [content]

    assert estimate_tokens(user(content)) == 1004


class Broken(dict[str, object]):
    def items(self):
        raise RuntimeError("no")

    def get(self, *_):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "body",
    [
        None,
        5,
        "x",
        [],
        {},
        Broken(),
        {"messages": None},
        {"messages": 5},
        {"messages": "x" * 9},
        {"messages": [None, 1.5, True, b"bytes", object(), {}, [], [[]], ""]},
        {"messages": [{"type": ["text"], "content": {5: "x", None: 1}}]},
        {"messages": [{"type": "document", "source": {"type": "text"}}, {"data": "x", 5: 5}]},
        {"tools": {5: {("a", "b"): object}}},
        {"tools": [{"type": {"type": {}}}]},
        user(Broken()),
    ],
)
def test_an_odd_body_never_raises(body):
    assert 0 <= estimate_tokens(body) < 100


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["type", "data", "format", "text", "source", "input", "content"]), inner)
    ),
)


@given(st.dictionaries(st.sampled_from(["messages", "input", "system", "tools", "prompt"]), JSON))
def test_any_json_is_measured(body):
    assert estimate_tokens(body) >= 0


# D21f: the same experiments as on the seed.


def test_d21f_a_dated_name_weighs_the_same():
    assert whole_weight("gpt-4o-mini-2024-07-18") == whole_weight("gpt-4o-mini") == 1
    assert whole_weight("gpt-5-nano") == 1


def test_d21f_an_image_does_not_weigh_like_a_book():
    body = user([{"type": "text", "text": "What is this?"}, IMAGES[0]])

    assert whole_weight("gpt-4o-mini", estimate_tokens(body)) == 1
    assert whole_weight("gpt-4o", estimate_tokens(body)) == 3


@pytest.mark.parametrize(
    "body",
    [
        {"system": "word " * 80_000, "tools": [{"name": "t", "description": "word " * 80_000}]},
        {"messages": [{"role": "system", "content": "word " * 160_000}]},
        {"instructions": "word " * 160_000, "input": "hello"},
        {"tools": [{"type": "function", "function": {"name": "t", "description": "word " * 160_000}}]},
    ],
)
def test_d21f_a_long_system_prompt_and_tools_weigh(body):
    assert 200 <= whole_weight("gpt-4o-mini", estimate_tokens({**user("hello"), **body})) <= 300


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({"prompt": "a", "max_tokens": 100}, 100),
        ({"prompt": ["a"] * 20, "max_tokens": 100}, 2000),
        ({"prompt": [1, 2, 3], "max_tokens": 100}, 100),
        ({"prompt": [[1, 2], [3]], "max_tokens": 100}, 200),
        ({"prompt": "a", "best_of": 5, "n": 2, "max_tokens": 100}, 500),
        ({"prompt": ["a", "b"], "n": 3, "max_tokens": 100}, 600),
        ({"prompt": [], "n": 0, "max_tokens": 100}, 100),
        ({"prompt": ["a", "b"]}, None),
    ],
)
def test_the_most_output_counts_all_answers_to_all_prompts(body: dict[str, object], most: int | None) -> None:
    assert find_max_output_tokens(body) == most
