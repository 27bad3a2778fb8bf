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


each_dialect = pytest.mark.parametrize(
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


@each_dialect
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


@each_dialect
def test_messages_behind_the_results_hide_no_calls(field: str, turns: list[Any], has_ids: bool) -> None:
    longer = turns
    for role in ("user", "system", "developer"):
        longer = [*longer, {"role": role, "content": "Analyse the result."}]
        # Equal markers: the calls count once. Without ids they cannot be recognized.
        assert read_tool_calls({field: longer}) == (read_tool_calls({field: turns}) if has_ids else ())
    answered = [*turns, {"role": "assistant", "content": "At noon."}, {"role": "user", "content": "And low water?"}]
    assert read_tool_calls({field: answered}) == ()


def fc(number: int) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"c{number}", "name": "search", "arguments": f'{{"q": {number}}}'}


def out(number: int) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": "noon"}


def gemini_turns(number: int) -> list[dict[str, Any]]:
    """Return a call and its result without their roles, as the SDK permits."""
    call = {"id": f"c{number}", "name": "search", "args": f'{{"q": {number}}}'}
    return [
        {"parts": [{"functionCall": call}]},
        {"parts": [{"functionResponse": {"name": "search", "response": {}}}]},
    ]


@pytest.mark.parametrize(
    ("field", "turns", "expected"),
    [
        ("input", [ASK, fc(1), out(1), {"type": "reasoning", "summary": []}, fc(2), out(2)], {2}),
        ("input", [ASK, fc(1), out(1), fc(2), out(2), ASK], {2}),
        ("input", [ASK, fc(1), out(1), fc(2), fc(3), out(2), out(3)], {2, 3}),
        ("input", [fc(1), out(1), {"type": "reasoning"}, fc(2), {"type": "reasoning"}, fc(3), out(2), out(3)], {2, 3}),
        ("contents", [*gemini_turns(1), *gemini_turns(2)], {2}),
    ],
    ids=["reasoning", "message", "parallel", "interleaved", "gemini"],
)
def test_calls_of_earlier_turns_are_not_read_again(field: str, turns: list[Any], expected: set[int]) -> None:
    assert {call.arguments for call in read_tool_calls({field: turns})} == {f'{{"q": {it}}}' for it in expected}


def test_objects_of_an_sdk_are_read() -> None:
    call = SimpleNamespace(id="1", function=SimpleNamespace(name="search", arguments=JSON))
    turn = SimpleNamespace(role="assistant", content=None, tool_calls=[call])
    (read,) = read_tool_calls({"messages": [ASK, turn, {"role": "tool", "content": "noon"}]})
    assert (read.name, read.arguments) == ("search", JSON)


@pytest.mark.parametrize("turns", [None, "When?", [], [1], [None, {}], [{"role": "tool", "content": 5}], iter([])])
def test_any_body_is_read(turns: object) -> None:
    assert read_tool_calls({"messages": turns}) == ()
