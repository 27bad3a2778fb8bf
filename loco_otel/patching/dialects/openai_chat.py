"""Reads the answers and stream chunks of OpenAI's chat completions, which several providers send.

Each function takes the fields of a parsed object, or plain JSON where a body was read raw.
"""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching.adapter import UsageMeter, as_mapping, get_field, merge_fields

_INPUT_DETAILS = {
    "audio_tokens": "input_audio_tokens",
    "image_tokens": "input_image_tokens",
    "video_tokens": "input_video_tokens",
}
_CACHE_WRITE_DETAILS = {"ttl_12h_tokens": "cache_write_12h_tokens"}
_OUTPUT_DETAILS = {"audio_tokens": "output_audio_tokens", "image_tokens": "output_image_tokens"}
_TOOL_KINDS = {
    "web_search_call": "web_searches",
    "file_search_call": "storage_searches",
    "code_interpreter_call": "code_executions",
    "image_generation_call": "image_generations",
}
"""The kind of a billed item, by the type of an output item of the Responses API."""
_ADDED_KINDS = {
    "citation_tokens": "output_citation_tokens",  # Perplexity, these two
    "num_search_queries": "web_searches",
    "prompt_audio_seconds": "input_audio_seconds",  # Mistral
}
_ADDED_TOOLS = {
    "web_search_calls": "web_searches",  # xAI, these five
    "x_search_calls": "social_searches",
    "code_interpreter_calls": "code_executions",
    "file_search_calls": "storage_searches",
    "document_search_calls": "storage_searches",
    "web_search_requests": "web_searches",  # OpenRouter
}
_GEMINI_PREFIX = "gemini-"
_XAI_TICKS = 10**10
"""Parts of a USD in which xAI reports a charge."""


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
        content = said["content"]
        # Without content it may be reasoning. That beside content, as in one chunk of a stream at most, is not counted.
        if not content or said["refusal"] or said["tool_calls"] or inside["finish_reason"] or known["usage"]:
            return False
        meter.characters += len(content)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def read_completion_chunk(known: Mapping[str, Any], choices: Any, meter: UsageMeter) -> None:
    """Note what any chunk contains."""
    if meter.model is None:
        meter.model = known.get("model")
        meter.response_id = known.get("id")
    for choice in choices:
        inside = merge_fields(choice)  # LiteLLM's classes of choices and deltas declare nearly nothing
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
    known = merge_fields(delta)
    length = len(known.get("content") or "")
    # DeepSeek's and vLLM's name, then Groq's and OpenRouter's. Some send the same text under both.
    length += len(known.get("reasoning_content") or known.get("reasoning") or "")
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
    details = details or known.get("input_token_details")  # of transcriptions
    if details is not None:
        within = as_mapping(details)
        meter.cache_read_tokens = within.get("cached_tokens")
        meter.cache_write_tokens = within.get("cache_write_tokens")
        _read_items(details, _INPUT_DETAILS, meter)
        if (by_age := within.get("cache_write_tokens_details")) is not None:
            _read_items(by_age, _CACHE_WRITE_DETAILS, meter)
    if meter.cache_read_tokens is None:
        # DeepSeek's name, and Moonshot's.
        hits = get_field(usage, "prompt_cache_hit_tokens")
        meter.cache_read_tokens = get_field(usage, "cached_tokens") if hits is None else hits
    total = known.get("total_tokens") or 0
    details = known.get("completion_tokens_details") or known.get("output_tokens_details")
    if details is not None:
        reasoning = meter.reasoning_tokens = as_mapping(details).get("reasoning_tokens")
        _read_items(details, _OUTPUT_DETAILS, meter)
        # xAI counts them beside the output of chat completions: the total decides.
        if reasoning and total >= read + meter.output_tokens + reasoning:
            meter.output_tokens += reasoning
    elif total > read + meter.output_tokens and _is_gemini(meter.model):
        # Gemini counts its thoughts in the total alone.
        meter.reasoning_tokens = total - read - meter.output_tokens
        meter.output_tokens = total - read
    added = usage if isinstance(usage, dict) else getattr(usage, "__pydantic_extra__", None)
    if added:
        _read_additions(added, meter)


def _is_gemini(model: str | None) -> bool:
    return model is not None and model.rpartition("/")[2].startswith(_GEMINI_PREFIX)


def read_tools(items: Any, meter: UsageMeter) -> None:
    """Count the calls of tools that the server made, in the output of an answer of the Responses API."""
    counts: dict[str, int] = {}
    for item in items:
        known = as_mapping(item)
        kind = _TOOL_KINDS.get(known.get("type") or "")
        # Opening a page, and searching it, are free of charge.
        if kind is not None and (get_field(get_field(item, "action"), "type") or "search") == "search":
            counts[kind] = counts.get(kind, 0) + 1
    for kind, count in counts.items():
        meter.set_item(kind, count)


def _read_items(details: Any, kinds: Mapping[str, str], meter: UsageMeter) -> None:
    known = merge_fields(details)
    for name, kind in kinds.items():
        amount = known.get(name)
        if amount:
            meter.set_item(kind, amount)


def _read_additions(added: Mapping[str, Any], meter: UsageMeter) -> None:
    """Note what routers and providers add to OpenAI's usage."""
    cost = added.get("cost")
    if isinstance(cost, Mapping):
        meter.set_reported_charge(cost.get("total_cost"))  # Perplexity
    elif isinstance(cost, (int, float)):
        # OpenRouter; with the program's own key, what its provider charges comes on top.
        own_key = added.get("cost_details") if added.get("is_byok") else None
        upstream = as_mapping(own_key).get("upstream_inference_cost")
        meter.set_reported_charge(cost + upstream if isinstance(upstream, (int, float)) else cost)
    if (ticks := added.get("cost_in_usd_ticks")) is not None:
        meter.set_reported_charge(ticks, _XAI_TICKS)
    _read_items(added, _ADDED_KINDS, meter)
    for place in ("server_side_tool_usage_details", "server_tool_use"):
        if (tools := added.get(place)) is not None:
            _read_items(tools, _ADDED_TOOLS, meter)
