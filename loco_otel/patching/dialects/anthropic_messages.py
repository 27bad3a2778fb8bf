"""Reads Anthropic's messages and the events of their streams, and what its errors mean.

Each function takes a parsed object, or plain JSON where a body was read raw.
"""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching.adapter import UsageMeter, as_mapping, get_field, merge_fields

_SPEND_LIMIT_CODES = frozenset({"enforced_spend_limit_reached", "credit_balance_too_low"})

_STREAM_ERROR_STATUSES = {"rate_limit_error": 429, "overloaded_error": 529}

_INPUT_TOKEN_FIELDS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
"""Anthropic counts the three apart; `gen_ai.usage.input_tokens` means their sum."""

_FINISH_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_call"}
"""Stop reasons of Anthropic by the names that the conventions use."""

_FAST = "fast"
_UNRESTRICTED_GEOGRAPHIES = frozenset({None, "global", "not_available"})
"""Values of `inference_geo` at the ordinary price."""
_COMPACTION_KINDS = {
    "input_tokens": "compaction_input_tokens",
    "cache_creation_input_tokens": "compaction_cache_write_tokens",
    "cache_read_input_tokens": "compaction_cache_read_tokens",
    "output_tokens": "compaction_output_tokens",
}


def read_message(message: Any, meter: UsageMeter) -> None:
    """Read the usage of a whole answer."""
    known = as_mapping(message)
    usage = known.get("usage")
    if usage is not None:
        _read_start(message, meter)
        _read_end(message, usage, meter)


def read_event(event: Any, meter: UsageMeter) -> None:
    """Read one event of a stream."""
    known = as_mapping(event)
    if known.get("type") == "content_block_delta":
        delta = as_mapping(known["delta"])
        text = delta.get("text") or delta.get("partial_json") or delta.get("thinking")
        meter.characters += len(text or "")
    else:
        read_event_usage(event, meter)


def read_event_usage(event: Any, meter: UsageMeter) -> None:
    """Read only the usage that the provider reports in one event."""
    known = as_mapping(event)
    kind = known.get("type")
    if kind == "message_start":
        _read_start(known["message"], meter)
    elif kind == "message_delta":
        # Cumulative, and final.
        usage = known["usage"]
        _replace_input(usage, meter)
        _read_end(known["delta"], usage, meter)


def is_spend_limit(error: Mapping[str, object]) -> bool:
    """Return whether the JSON of a 429 means that a spending limit is reached."""
    inner = error.get("error", error)
    details = inner.get("details") if isinstance(inner, Mapping) else None
    return isinstance(details, Mapping) and details.get("error_code") in _SPEND_LIMIT_CODES


def read_error_status(error: Mapping[str, object]) -> int | None:
    """Return the HTTP status that corresponds to an error within a stream."""
    inner = error.get("error")
    return _STREAM_ERROR_STATUSES.get(str(inner.get("type"))) if isinstance(inner, Mapping) else None


def _read_start(message: Any, meter: UsageMeter) -> None:
    known = as_mapping(message)
    meter.model = known.get("model")
    meter.response_id = known.get("id")
    figures = merge_fields(known.get("usage"))
    if figures.get("input_tokens") is not None:
        meter.input_tokens = _sum_input(figures)
        meter.cache_read_tokens = figures.get("cache_read_input_tokens")
        meter.cache_write_tokens = figures.get("cache_creation_input_tokens")
    # Fast inference has a price of its own, whatever the tier.
    meter.service_tier = _FAST if figures.get("speed") == _FAST else figures.get("service_tier")
    written = figures.get("cache_creation")
    if written is not None:
        meter.set_item("cache_write_1h_tokens", get_field(written, "ephemeral_1h_input_tokens"))
    if figures.get("inference_geo") not in _UNRESTRICTED_GEOGRAPHIES:
        meter.set_item("inference_geo", 1)


def _replace_input(usage: Any, meter: UsageMeter) -> None:
    """Replace the input of `message_start` by the figures of a `message_delta`; those that it omits stay."""
    plain, written, read = (get_field(usage, name) for name in _INPUT_TOKEN_FIELDS)
    if not (plain or written or read):
        return  # a proxy that sends zeros here has sent the figures before
    old_written, old_read = meter.cache_write_tokens or 0, meter.cache_read_tokens or 0
    if plain is None:
        plain = max(0, (meter.input_tokens or 0) - old_written - old_read)
    if written is not None:
        meter.cache_write_tokens = written
    if read is not None:
        meter.cache_read_tokens = read
    meter.input_tokens = plain + (meter.cache_write_tokens or 0) + (meter.cache_read_tokens or 0)


def _read_end(message: Any, usage: Any, meter: UsageMeter) -> None:
    known, figures = merge_fields(message), merge_fields(usage)
    meter.output_tokens = figures.get("output_tokens")
    reason = known.get("stop_reason")
    if reason:
        meter.finish_reasons = (_FINISH_REASONS.get(reason, reason),)
    details = figures.get("output_tokens_details")
    if details is not None:
        meter.reasoning_tokens = get_field(details, "thinking_tokens")
    tools = figures.get("server_tool_use")
    if tools is not None:
        meter.set_item("web_searches", get_field(tools, "web_search_requests"))
    if known.get("container") is not None:
        meter.set_item("code_executions", 1)
    iterations = figures.get("iterations")
    if iterations:
        _read_iterations(iterations, meter)


def _read_iterations(iterations: Any, meter: UsageMeter) -> None:
    """Note the tokens that the answer's own figures leave out: of compactions, and of other models."""
    compaction = dict.fromkeys(_COMPACTION_KINDS, 0)
    other_model = written_1h = 0
    for iteration in iterations:
        known = as_mapping(iteration)
        model = known.get("model")
        if known.get("type") == "compaction":
            for name in compaction:
                compaction[name] += known.get(name) or 0
            written_1h += get_field(known.get("cache_creation"), "ephemeral_1h_input_tokens") or 0
        elif model is not None and model != meter.model:
            # An advisor, or a model that was tried first.
            other_model += _sum_input(known) + (known.get("output_tokens") or 0)
    for name, amount in compaction.items():
        meter.set_item(_COMPACTION_KINDS[name], amount)
    meter.set_item("compaction_cache_write_1h_tokens", written_1h)
    meter.set_item("other_model_tokens", other_model)


def _sum_input(usage: Mapping[str, Any]) -> int:
    return sum([usage.get(name) or 0 for name in _INPUT_TOKEN_FIELDS])
