"""Reads the answers and stream chunks of OpenAI's chat completions, which several providers send.

Each function takes the fields of a parsed object, or plain JSON where a body was read raw.
"""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching.adapter import UsageMeter, as_mapping, get_field


def read_completion(known: Mapping[str, Any], choices: Any, meter: UsageMeter) -> None:
    """Note what a whole answer contains."""
    meter.model = known.get("model")
    meter.response_id = known.get("id")
    meter.service_tier = known.get("service_tier")
    reasons = [as_mapping(choice).get("finish_reason") for choice in choices]
    meter.finish_reasons = tuple([reason for reason in reasons if reason])
    read_usage(known.get("usage"), meter)


def read_text_chunk(known: Mapping[str, Any], choices: Any, meter: UsageMeter) -> bool:
    """Count the text of a chunk that contains nothing else, as most do. Return False, and note nothing, for others."""
    try:
        (choice,) = choices
        inside = choice.__dict__
        said = inside["delta"].__dict__
        if said["refusal"] or said["tool_calls"] or inside["finish_reason"] or known["usage"]:
            return False
        meter.characters += len(said["content"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def read_completion_chunk(known: Mapping[str, Any], choices: Any, meter: UsageMeter) -> None:
    """Note what any chunk contains."""
    if meter.model is None:
        meter.model = known.get("model")
        meter.response_id = known.get("id")
    for choice in choices:
        inside = as_mapping(choice)
        meter.characters += _count_characters(inside)
        reason = inside.get("finish_reason")
        if reason:
            meter.finish_reasons = (*meter.finish_reasons, reason)
    tier = known.get("service_tier")
    if tier is not None:
        meter.service_tier = tier
    usage = known.get("usage")
    if usage is not None:
        read_usage(usage, meter)


def find_added_usage(chunk: Any) -> Any:
    """Return the usage of a chunk whose own field has none: Groq's `x_groq.usage`, Moonshot's of a choice."""
    own = get_field(chunk, "x_groq")
    if own is not None:
        return as_mapping(own).get("usage")
    for choice in as_mapping(chunk).get("choices") or ():
        usage = get_field(choice, "usage")
        if usage is not None:
            return usage
    return None


def _count_characters(choice: Mapping[str, Any]) -> int:
    delta = choice.get("delta")
    if delta is None:
        return len(choice.get("text") or "")
    known = as_mapping(delta)
    length = len(known.get("content") or "")
    if known.get("refusal"):
        length += len(known["refusal"])
    for call in known.get("tool_calls") or ():
        function = as_mapping(as_mapping(call).get("function"))
        length += len(function.get("arguments") or "") + len(function.get("name") or "")
    return length


def read_usage(usage: Any, meter: UsageMeter) -> None:
    """Note the provider's figures; a no-op where there are none."""
    known = as_mapping(usage)
    read = known.get("prompt_tokens", known.get("input_tokens"))
    if read is None:
        return
    meter.input_tokens = read
    # Embeddings have no output, and say nothing of it.
    meter.output_tokens = known.get("completion_tokens", known.get("output_tokens")) or 0
    details = known.get("prompt_tokens_details") or known.get("input_tokens_details")
    if details is not None:
        within = as_mapping(details)
        meter.cache_read_tokens = within.get("cached_tokens")
        meter.cache_write_tokens = within.get("cache_write_tokens")
    if meter.cache_read_tokens is None:
        # DeepSeek's name, and Moonshot's.
        hits = get_field(usage, "prompt_cache_hit_tokens")
        meter.cache_read_tokens = get_field(usage, "cached_tokens") if hits is None else hits
    details = known.get("completion_tokens_details") or known.get("output_tokens_details")
    if details is not None:
        reasoning = meter.reasoning_tokens = as_mapping(details).get("reasoning_tokens")
        # xAI counts them beside the output of chat completions: the total decides.
        if reasoning and (known.get("total_tokens") or 0) >= read + meter.output_tokens + reasoning:
            meter.output_tokens += reasoning
