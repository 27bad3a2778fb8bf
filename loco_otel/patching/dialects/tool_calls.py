"""Reads from a request the tool calls whose results it carries: the model asked for them in its last turn.

All dialects have messages or items in a list, the last turn's calls near its end, and their results behind them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from loco_otel._budgets.run_table import ToolCall
from loco_otel.patching.adapter import as_mapping

_TURN_FIELDS = ("messages", "input", "contents", "chat_history")
"""The field of a body that has its turns: of chat completions, Anthropic and Bedrock; of responses; of Gemini."""
_PART_FIELDS = ("content", "parts")
_MODEL_ROLES = frozenset({"assistant", "model", "chatbot"})
_RESULT_ROLES = frozenset({"tool", "function"})
_CALL_TYPES = frozenset({"function_call", "custom_tool_call", "tool_use"})
_RESULT_TYPES = frozenset({"function_call_output", "custom_tool_call_output", "tool_result", "function_result"})
_CALL_FIELDS = ("function_call", "functionCall", "toolUse")
"""The field of a part that is a call, in Gemini's two spellings and in Bedrock's."""
_RESULT_FIELDS = ("function_response", "functionResponse", "toolResult")
_IGNORED_TYPES = frozenset({"reasoning"})
_MESSAGE_ROLES = frozenset({"user", "system", "developer"})


def read_tool_calls(body: Mapping[str, object]) -> tuple[ToolCall, ...]:
    """Return the tool calls of the model's last turn, if the request continues it with their results; else nothing.

    Never raises.
    """
    with suppress(Exception):  # an unreadable object in the body
        for field in _TURN_FIELDS:
            turns = body.get(field)
            if isinstance(turns, (list, tuple)) and turns:
                return tuple(_list_last_calls(turns))
    return ()


def _list_last_calls(turns: Sequence[Any]) -> Iterator[ToolCall]:
    """Yield the calls from the end on. The program may have put messages behind their results."""
    has_messages = has_results = has_calls = False
    for index in range(len(turns) - 1, -1, -1):
        fields = as_mapping(turns[index])
        calls = list(_list_calls(fields))
        role = _get_role(fields)
        if calls and has_results:
            # A call without an id is not recognized in the request that carries the messages too.
            yield from (_mark(call, index) for call in calls if call.marker is not None or not has_messages)
            if role in _MODEL_ROLES:
                return  # the whole turn; of responses each call is an item of its own
            has_calls = True
        elif _is_result(fields):
            if has_calls:
                return  # of an earlier turn
            has_results = True
        elif not has_results and role in _MESSAGE_ROLES:
            has_messages = True
        elif fields.get("type") not in _IGNORED_TYPES:
            return


def _mark(call: ToolCall, index: int) -> ToolCall:
    """Return a call that is equal in a request that is sent again or continued. Some servers give every call one id."""
    return call if call.marker is None else call._replace(marker=(call.marker, index))


def _get_role(fields: Mapping[str, Any]) -> str:
    return str(getattr(fields.get("role"), "value", fields.get("role"))).lower()


def _is_result(fields: Mapping[str, Any]) -> bool:
    if _get_role(fields) in _RESULT_ROLES or fields.get("type") in _RESULT_TYPES:
        return True
    parts = map(as_mapping, _list_parts(fields))
    return any(part.get("type") in _RESULT_TYPES or any(part.get(name) for name in _RESULT_FIELDS) for part in parts)


def _list_calls(fields: Mapping[str, Any]) -> Iterator[ToolCall]:
    """Yield the calls that a turn, or an item of one, consists of."""
    if fields.get("type") in _CALL_TYPES:
        yield _make_call(fields)
    for call in fields.get("tool_calls") or ():
        known = as_mapping(call)
        yield _make_call({**as_mapping(known.get("function") or known), "id": known.get("id")})
    if fields.get("function_call"):  # the first form of chat completions
        yield _make_call(as_mapping(fields["function_call"]))
    for part in _list_parts(fields):
        known = as_mapping(part)
        if known.get("type") in _CALL_TYPES:
            yield _make_call(known)
        for name in _CALL_FIELDS:
            if known.get(name):
                yield _make_call(as_mapping(known[name]))


def _list_parts(fields: Mapping[str, Any]) -> Sequence[Any]:
    for name in _PART_FIELDS:
        parts = fields.get(name)
        if isinstance(parts, (list, tuple)):
            return parts
    return ()


def _make_call(known: Mapping[str, Any]) -> ToolCall:
    arguments = next((known[name] for name in ("arguments", "input", "args", "parameters") if name in known), None)
    marker = known.get("call_id") or known.get("id") or known.get("toolUseId")
    return ToolCall(str(known.get("name")), arguments, marker)
