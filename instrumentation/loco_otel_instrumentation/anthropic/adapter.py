"""Translates between Anthropic's SDK and the scheduler."""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import Asked, Description, Meter, fields, stainless

_OPERATIONS = {"/messages": "chat", "/complete": "text_completion"}

_PROVIDERS = {"Bedrock": "aws.bedrock", "AWS": "aws.bedrock", "Vertex": "gcp.vertex_ai"}

_SPENT = frozenset({"enforced_spend_limit_reached", "credit_balance_too_low"})

_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
"""Anthropic counts the three apart; `gen_ai.usage.input_tokens` means their sum."""


class AnthropicAdapter:
    """See `loco_otel.patching.Adapter`."""

    sdk = "anthropic"

    def describe(self, client: Any, options: Any) -> Description | None:
        """Tell what a request is about to do; None when it is no call of a model."""
        return stainless.describe(options, _OPERATIONS, stainless.provider_of(client, _PROVIDERS, "anthropic"))

    def ask_usage(self, options: Any) -> Asked | None:  # noqa: ARG002 - the protocol's
        """Ask for nothing: every stream tells its usage."""
        return None

    def read_answer(self, answer: Any, meter: Meter) -> None:
        """Note the usage in a whole answer."""
        known = fields(answer)
        usage = known.get("usage")
        if usage is not None:
            _read_input(known, meter)
            meter.output_tokens = fields(usage).get("output_tokens")

    def read_chunk(self, chunk: Any, meter: Meter) -> None:
        """Note what one event of a stream says."""
        known = fields(chunk)
        if known.get("type") == "content_block_delta":
            delta = fields(known["delta"])
            text = delta.get("text") or delta.get("partial_json") or delta.get("thinking")
            meter.characters += len(text or "")
        else:
            self.read_usage(chunk, meter)

    def read_usage(self, chunk: Any, meter: Meter) -> None:
        """Note of one event only the provider's figures."""
        known = fields(chunk)
        kind = known.get("type")
        if kind == "message_start":
            _read_input(fields(known["message"]), meter)
        elif kind == "message_delta":
            # Cumulative, and the last word on it.
            meter.output_tokens = fields(known["usage"]).get("output_tokens")

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:
        """Tell from the JSON of a 429 whether a spending limit is reached."""
        inner = error.get("error", error)
        details = inner.get("details") if isinstance(inner, Mapping) else None
        return isinstance(details, Mapping) and details.get("error_code") in _SPENT


def _read_input(message: Mapping[str, Any], meter: Meter) -> None:
    meter.model = message.get("model")
    known = fields(message.get("usage"))
    if known.get("input_tokens") is not None:
        meter.input_tokens = sum(known.get(name) or 0 for name in _INPUT)
