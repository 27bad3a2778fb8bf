"""The tool calls whose results a request carries, in each dialect."""

from types import SimpleNamespace
from typing import Any

import pytest

from loco_otel.patching.dialects.tool_calls import read_tool_calls

ARGUMENTS = {"q": "tides"}
JSON = '{"q": "tides"}'
ASK: dict[str, Any] = {"role": "user", "content": "When is high water?"}


def chat(*ids: str, arguments: object = JSON) -> dict[str, Any]:
    calls = [{"id": it, "type": "function", "function": {"name": "search", "arguments": arguments}} for it in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


CHAT = [ASK, chat("1", "2"), {"role": "tool", "tool_call_id": "1", "content": "noon"}]
CHAT += [{"role": "tool", "tool_call_id": "2", "content": "noon"}]
RESPONSES = [
    ASK,
    {"type": "reasoning", "summary": []},
    {"type": "function_call", "call_id": "1", "name": "search", "arguments": JSON},
    {"type": "function_call", "call_id": "2", "name": "search", "arguments": JSON},
    {"type": "function_call_output", "call_id": "1", "output": "noon"},
    {"type": "function_call_output", "call_id": "2", "output": "noon"},
]
ANTHROPIC = [
    ASK,
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "1", "name": "search", "input": ARGUMENTS},
            {"type": "tool_use", "id": "2", "name": "search", "input": ARGUMENTS},
        ],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": it, "content": "noon"} for it in "12"]},
]
BEDROCK = [
    {"role": "user", "content": [{"text": "When?"}]},
    {
        "role": "assistant",
        "content": [{"toolUse": {"toolUseId": it, "name": "search", "input": ARGUMENTS}} for it in "12"],
    },
    {"role": "user", "content": [{"toolResult": {"toolUseId": it, "content": []}} for it in "12"]},
]
GEMINI = [
    {"role": "user", "parts": [{"text": "When?"}]},
    {"role": "model", "parts": [{"functionCall": {"name": "search", "args": ARGUMENTS}} for _ in "12"]},
    {"role": "user", "parts": [{"functionResponse": {"name": "search", "response": {}}} for _ in "12"]},
]
OLLAMA = [ASK, {"role": "assistant", "tool_calls": [{"function": {"name": "search", "arguments": ARGUMENTS}}] * 2}]
OLLAMA += [{"role": "tool", "content": "noon"}] * 2


@pytest.mark.parametrize(
    ("field", "turns", "has_ids"),
    [
        ("messages", CHAT, True),
        ("input", RESPONSES, True),
        ("messages", ANTHROPIC, True),
        ("messages", BEDROCK, True),
        ("contents", GEMINI, False),
        ("messages", OLLAMA, False),
    ],
    ids=["chat", "responses", "anthropic", "bedrock", "gemini", "ollama"],
)
def test_calls_of_the_last_turn_are_read(field: str, turns: list[Any], has_ids: bool) -> None:
    earlier = [*turns, {"role": "assistant", "content": "At noon."}, *turns]
    calls = read_tool_calls({"model": "m", field: earlier})
    assert [call.name for call in calls] == ["search", "search"]
    assert all(call.arguments in (ARGUMENTS, JSON) for call in calls)
    markers = {call.marker for call in calls}
    assert len(markers) == (2 if has_ids else 1)
    assert (None in markers) is not has_ids
    again = read_tool_calls({field: earlier})
    assert {call.marker for call in again} == markers
    if has_ids:  # some servers give every call one id
        longer = read_tool_calls({field: [*earlier, *turns]})
        assert {call.marker for call in longer}.isdisjoint(markers)
    assert read_tool_calls({field: [*turns, {"role": "user", "content": "And low water?"}]}) == ()


def test_objects_of_an_sdk_are_read() -> None:
    call = SimpleNamespace(id="1", function=SimpleNamespace(name="search", arguments=JSON))
    turn = SimpleNamespace(role="assistant", content=None, tool_calls=[call])
    (read,) = read_tool_calls({"messages": [ASK, turn, {"role": "tool", "content": "noon"}]})
    assert (read.name, read.arguments) == ("search", JSON)


@pytest.mark.parametrize("turns", [None, "When?", [], [1], [None, {}], [{"role": "tool", "content": 5}], iter([])])
def test_any_body_is_read(turns: object) -> None:
    assert read_tool_calls({"messages": turns}) == ()
