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
from loco_otel.patching.dialects.model_tiers import estimate_weight
from loco_otel.patching.request_size import estimate_tokens, find_max_output_tokens

BLOB = base64.b64encode(bytes(range(256)) * 1200).decode()  # 400 kB of text, an image of 300 kB
PNG = f"data:image/png;base64,{BLOB}"


def user(content: object) -> dict[str, object]:
    """Return the body of a request with one message."""
    return {"messages": [{"role": "user", "content": content}]}


def whole_weight(model: str | None, tokens: int = 0) -> float:
    return estimate_weight(model, tokens) / MILLI


# Tokens.


def test_three_bytes_are_a_token_and_a_message_costs_four():
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
def test_text_of_tool_calls_and_results_counts(message, part):
    assert estimate_tokens({part: [message]}) == 1004


@pytest.mark.parametrize("part", ["tools", "functions", "response_format", "text", "questions"])
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
def test_image_or_recording_counts_the_same_for_any_size(part):
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
def test_document_counts_the_same_for_any_size(part):
    assert estimate_tokens(user([part])) == 3004


@pytest.mark.parametrize("data", [b"x" * 90_000, bytearray(90_000), memoryview(b"x" * 90_000)])
def test_bytes_count_as_media_of_any_size(data):
    assert estimate_tokens(user(data)) == 3004
    assert estimate_tokens(user([{"type": "image", "source": {"type": "base64", "data": data}}])) == 1004
    assert estimate_tokens(user([{"inline_data": {"mime_type": "image/png", "data": data}}])) == 1004
    assert estimate_tokens(user([{"type": "file", "file": {"file_data": data}}])) == 3004


def test_document_of_plain_text_is_text():
    plain = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 30_000}}
    parts = {
        "type": "document",
        "source": {"type": "content", "content": [{"type": "text", "text": "x" * 30_000}]},
    }

    assert estimate_tokens(user([plain])) == 10_004
    assert estimate_tokens(user([parts])) == 10_004


def test_text_that_resembles_a_data_url_is_text():
    assert estimate_tokens(user("data: see the table, " + "x" * 2979)) == 1004


def test_returned_answer_counts_like_its_json():
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


def test_any_mapping_is_accepted():
    message = MappingProxyType({"role": "user", "content": UserDict({"type": "text", "text": "x" * 3000})})

    assert estimate_tokens(UserDict({"messages": (message,)})) == 1004


# What is odd.


def test_iterator_is_left_unread():
    def parts() -> Iterator[dict[str, str]]:
        yield {"type": "text", "text": "x" * 3000}

    content, messages = parts(), iter([user("x")])

    assert estimate_tokens(user(content)) == 4
    assert estimate_tokens({"messages": messages, "system": "x" * 3000}) == 1000
    assert len(list(content)) == 1
    assert len(list(messages)) == 1


def test_body_that_contains_itself_is_measured():
    loop: dict[str, object] = {"role": "user"}
    loop["content"] = [loop, loop, "x"]

    assert estimate_tokens({"messages": [loop], "tools": [loop]}) > 0


def test_deepest_body_is_measured():
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
        {"messages": [None, 1.5, True, object(), {}, [], [[]], ""]},
        {"messages": [{"type": ["text"], "content": {5: "x", None: 1}}]},
        {"messages": [{"type": "document", "source": {"type": "text"}}, {"data": "x", 5: 5}]},
        {"tools": {5: {("a", "b"): object}}},
        {"tools": [{"type": {"type": {}}}]},
        user(Broken()),
    ],
)
def test_odd_body_never_raises(body):
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


def test_d21f_image_does_not_weigh_like_a_book():
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
def test_d21f_long_system_prompt_and_tools_weigh(body):
    assert 200 <= whole_weight("gpt-4o-mini", estimate_tokens({**user("hello"), **body})) <= 300


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({"prompt": "a", "max_tokens": 100}, 100),
        ({"prompt": "a", "max_tokens": 10**40}, 100_000_000),
        ({"prompt": ["a"] * 20, "max_tokens": 100}, 2000),
        ({"prompt": [1, 2, 3], "max_tokens": 100}, 100),
        ({"prompt": [[1, 2], [3]], "max_tokens": 100}, 200),
        ({"prompt": "a", "best_of": 5, "n": 2, "max_tokens": 100}, 500),
        ({"prompt": ["a", "b"], "n": 3, "max_tokens": 100}, 600),
        ({"prompt": [], "n": 0, "max_tokens": 100}, 100),
        ({"prompt": ["a", "b"]}, None),
    ],
)
def test_maximum_output_counts_all_answers_to_all_prompts(body: dict[str, object], most: int | None) -> None:
    assert find_max_output_tokens(body) == most
