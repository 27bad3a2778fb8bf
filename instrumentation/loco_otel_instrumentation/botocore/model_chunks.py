"""The chunks of `InvokeModelWithResponseStream`: each model's own JSON, to the last of which Bedrock adds its metrics.

Not every server that speaks Bedrock's API adds them, and a stream that is broken off has none, so the figures that the
models themselves send are read too.
"""

import json
from collections.abc import Mapping
from typing import Any

from loco_otel.patching import UsageMeter, get_field

_METRICS = "amazon-bedrock-invocationMetrics"
_FIGURES = b"oken"
"""A part of the names of all fields with figures."""

_INPUT_FIELDS = ("input_tokens", "inputTokens", "prompt_tokens", "inputTextTokenCount", "prompt_token_count")
_OUTPUT_FIELDS = (
    *("output_tokens", "outputTokens", "completion_tokens", "totalOutputTextTokenCount", "generation_token_count"),
)
_READ_FIELDS = ("cache_read_input_tokens", "cacheReadInputTokens", "cacheReadInputTokenCount")
_WRITE_FIELDS = ("cache_creation_input_tokens", "cacheWriteInputTokens", "cacheWriteInputTokenCount")


def read_model_chunk(data: bytes, meter: UsageMeter) -> None:
    """Note the figures in a chunk, and the length of one without."""
    if _FIGURES not in data:
        meter.raw_bytes += len(data)
        return
    known = json.loads(data)
    metrics = known.get(_METRICS)
    if metrics is not None:
        set_usage(
            meter,
            metrics["inputTokenCount"],
            metrics.get("outputTokenCount"),
            metrics.get("cacheReadInputTokenCount"),
            metrics.get("cacheWriteInputTokenCount"),
        )
        return
    meter.raw_bytes += len(data)
    message, metadata = known.get("message"), known.get("metadata")
    if isinstance(message, Mapping):
        usage = _get_usage(message)
        _read_input(usage, meter)  # its output tokens are those of the first word
        meter.set_item("cache_write_1h_tokens", get_field(usage.get("cache_creation"), "ephemeral_1h_input_tokens"))
        return
    usage = _get_usage(metadata if isinstance(metadata, Mapping) else known)
    _read_input(usage, meter)
    answered = _find_count(usage, _OUTPUT_FIELDS)
    if answered is not None:
        meter.output_tokens = answered


def set_usage(meter: UsageMeter, plain: int, answered: int | None, read: int | None, written: int | None) -> None:
    """Set Bedrock's figures; an answer without a count, as of an embedding, has no output.

    Args:
        meter: collects the figures.
        plain: input tokens without those of the cache.
        answered: output tokens.
        read: input tokens from the cache.
        written: input tokens to the cache.

    """
    meter.input_tokens = plain + (read or 0) + (written or 0)
    meter.output_tokens = answered or 0
    meter.cache_read_tokens, meter.cache_write_tokens = read, written


def _get_usage(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the field `usage` of a part; some models send the figures beside the text instead."""
    usage = part.get("usage")
    return usage if isinstance(usage, Mapping) else part


def _read_input(usage: Mapping[str, Any], meter: UsageMeter) -> None:
    plain = _find_count(usage, _INPUT_FIELDS)
    if plain is not None:
        meter.cache_read_tokens = _find_count(usage, _READ_FIELDS)
        meter.cache_write_tokens = _find_count(usage, _WRITE_FIELDS)
        meter.input_tokens = plain + (meter.cache_read_tokens or 0) + (meter.cache_write_tokens or 0)


def _find_count(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((usage[name] for name in names if type(usage.get(name)) is int), None)
