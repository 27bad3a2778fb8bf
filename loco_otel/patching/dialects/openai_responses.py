"""Reads the answers and events of OpenAI's Responses API, and what its errors mean.

Each function takes the fields of a parsed object, or plain JSON where a body was read raw.
"""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching.adapter import UsageMeter, as_mapping, get_field
from loco_otel.patching.dialects.openai_chat import read_tools, read_usage

_SPEND_LIMIT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})

_STREAM_ERROR_STATUSES = {"rate_limit_exceeded": 429, "server_overloaded": 503, "slow_down": 503}

_FINISH_REASONS = {"completed": "stop", "failed": "error", "cancelled": "error"}
_INCOMPLETE_REASONS = {"max_output_tokens": "length"}
"""Finish reasons of the Responses API by the names that chat completions and the conventions use."""

_IMAGE_GENERATION_KINDS = {
    "input_tokens": "image_generation_input_tokens",
    "output_tokens": "image_generation_output_tokens",
}
"""Tokens of the model that generates images, which has prices of its own."""


def read_responses_event(known: Mapping[str, Any], meter: UsageMeter) -> None:
    """Note what an event of a stream contains."""
    delta = known.get("delta")
    if isinstance(delta, str):
        meter.characters += len(delta)
        return
    response = known.get("response")
    if response is not None:
        read_response(as_mapping(response), meter)
    elif known.get("usage") is not None:  # the last event of an image or a transcription
        read_usage(known["usage"], meter)


def read_response(known: Mapping[str, Any], meter: UsageMeter) -> None:
    """Note what a whole answer contains, or a list of embeddings."""
    meter.model = known.get("model") or meter.model
    meter.response_id = known.get("id")
    meter.service_tier = known.get("service_tier")
    reason = _FINISH_REASONS.get(known.get("status") or "")
    details = known.get("incomplete_details")
    if details is not None:
        said = as_mapping(details).get("reason") or "incomplete"
        reason = _INCOMPLETE_REASONS.get(said, said)
    if reason:
        meter.finish_reasons = (reason,)
    usage = known.get("usage")
    if usage is not None:
        read_usage(usage, meter)
        read_tools(known.get("output") or (), meter)
        _read_tool_usage(known.get("tool_usage"), meter)


def _read_tool_usage(tool_usage: Any, meter: UsageMeter) -> None:
    """Note what hosted tools are billed for, where the answer reports it apart from its output."""
    if tool_usage is None:
        return
    known = as_mapping(tool_usage)
    meter.set_item("web_searches", get_field(known.get("web_search"), "num_requests"))
    images = known.get("image_gen")
    for name, kind in _IMAGE_GENERATION_KINDS.items():
        meter.set_item(kind, get_field(images, name))


def is_spend_limit(error: Mapping[str, object]) -> bool:
    """Return whether the JSON of a 429 means that the account has no credit."""
    inner = error.get("error", error)
    return isinstance(inner, Mapping) and (
        inner.get("code") in _SPEND_LIMIT_CODES or inner.get("type") in _SPEND_LIMIT_CODES
    )


def read_error_status(error: Mapping[str, object]) -> int | None:
    """Return the HTTP status that corresponds to an error within a stream; None where it is not about load."""
    return _STREAM_ERROR_STATUSES.get(str(error.get("code"))) or _STREAM_ERROR_STATUSES.get(str(error.get("type")))
