"""Translates between Groq's SDK and the scheduler: OpenAI's chat completions, with the usage of streams elsewhere."""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import CallDescription, ExtendedRequest, UsageMeter, as_mapping, get_field, stainless
from loco_otel.patching.dialects.openai_chat import read_completion, read_completion_chunk, read_text_chunk, read_usage

_ENDPOINTS = stainless.Endpoints({"/chat/completions": "chat", "/embeddings": "embeddings"}, {}, "groq")

_STREAM_ERROR_STATUSES = {"rate_limit_exceeded": 429}

_TOOL_KINDS = {"search": "web_searches", "python": "code_executions"}
"""The kind of a billed item, by the type of a tool of a compound model."""


class GroqAdapter:
    """See `loco_otel.patching.Adapter`."""

    sdk = "groq"

    def describe_call(self, client: Any, options: Any) -> CallDescription | None:
        """Describe a request; return None if it is no call of a model."""
        return _ENDPOINTS.describe_request(client, options)

    def request_usage(self, _: Any) -> ExtendedRequest | None:
        """Return None: Groq's streams contain their usage without being asked for it."""
        return None

    def with_model(self, options: Any, model: str | None) -> Any:
        """Return a request that is sent with another model."""
        return stainless.replace_model(options, model)

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Note what a whole answer contains."""
        known = as_mapping(answer)
        # Embeddings have no choices.
        choices = known.get("choices") or ()
        read_completion(known, choices, meter)
        _read_tier(meter)
        for choice in choices:
            _read_tools(get_field(choice, "message"), meter)

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Note what a chunk contains: only the first and the last have `x_groq`, the last with the usage."""
        known = getattr(chunk, "__dict__", chunk)
        choices = known.get("choices") or ()
        if known.get("x_groq") is None and meter.model is not None and read_text_chunk(known, choices, meter):
            return
        read_completion_chunk(known, choices, meter)
        _read_tier(meter)
        for choice in choices:
            _read_tools(get_field(choice, "delta"), meter)
        _read_stream_usage(known, meter)

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Note only the provider's figures."""
        known = as_mapping(chunk)
        read_usage(known.get("usage"), meter)
        _read_stream_usage(known, meter)

    def is_spend_limit(self, _: Mapping[str, object]) -> bool:
        """Return False: a 429 of Groq is always a rate limit."""
        return False

    def read_error_status(self, error: Mapping[str, object]) -> int | None:
        """Return the HTTP status of an error whose JSON came within a stream."""
        inner = error.get("error", error)
        return _STREAM_ERROR_STATUSES.get(str(inner.get("code"))) if isinstance(inner, Mapping) else None


def _read_tier(meter: UsageMeter) -> None:
    if meter.service_tier == "flex":
        meter.service_tier = None  # at the price of the ordinary tier


def _read_tools(message: Any, meter: UsageMeter) -> None:
    """Count the tools that Groq ran for a compound model. A stream repeats those that it named before."""
    executed = get_field(message, "executed_tools")
    if not executed:
        return
    counts: dict[str, int] = {}
    for tool in executed:
        kind = _TOOL_KINDS.get(as_mapping(tool).get("type") or "", "tool_calls")
        counts[kind] = counts.get(kind, 0) + 1
    for kind, count in counts.items():
        meter.set_item(kind, max(count, (meter.items or {}).get(kind, 0)))


def _read_stream_usage(known: Mapping[str, Any], meter: UsageMeter) -> None:
    own = known.get("x_groq")
    if own is not None:
        read_usage(as_mapping(own).get("usage"), meter)
