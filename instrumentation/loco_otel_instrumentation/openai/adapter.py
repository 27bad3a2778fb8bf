"""Translates between OpenAI's SDK and the scheduler."""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import Asked, Description, Meter, fields, stainless
from loco_otel_instrumentation.openai import stream_usage

_OPERATIONS = {
    "/chat/completions": "chat",
    "/completions": "text_completion",
    "/responses": "chat",
    "/embeddings": "embeddings",
}

_PROVIDERS = {"Azure": "azure.ai.openai"}

_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


class OpenAIAdapter:
    """See `loco_otel.patching.Adapter`."""

    sdk = "openai"

    def describe(self, client: Any, options: Any) -> Description | None:
        """Tell what a request is about to do; None when it is no call of a model."""
        return stainless.describe(options, _OPERATIONS, stainless.provider_of(client, _PROVIDERS, "openai"))

    def ask_usage(self, options: Any) -> Asked | None:
        """Ask a stream of completions for its usage; the Responses API tells it anyway."""
        return stream_usage.ask_usage(options)

    def read_answer(self, answer: Any, meter: Meter) -> None:
        """Note the usage in a whole answer."""
        known = fields(answer)
        meter.model = known.get("model")
        _read_usage(known.get("usage"), meter)

    def read_chunk(self, chunk: Any, meter: Meter) -> None:
        """Note what one event of a stream says: a chunk of a completion, or an event of the Responses API."""
        known = fields(chunk)
        choices = known.get("choices")
        if choices is None:
            _read_event(known, meter)
            return
        if meter.model is None:
            meter.model = known.get("model")
        for choice in choices:
            meter.characters += _length(fields(choice))
        usage = known.get("usage")
        if usage is not None:
            _read_usage(usage, meter)

    def read_usage(self, chunk: Any, meter: Meter) -> None:
        """Note of one event only the provider's figures."""
        known = fields(chunk)
        usage = known.get("usage")
        if usage is None and (response := known.get("response")) is not None:
            # An event of the Responses API, not a chunk of a completion.
            usage = fields(response).get("usage")
        if usage is not None:
            _read_usage(usage, meter)

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:
        """Tell from the JSON of a 429 whether the account is empty."""
        inner = error.get("error", error)
        return isinstance(inner, Mapping) and (inner.get("code") in _SPENT or inner.get("type") in _SPENT)


def _length(choice: Mapping[str, Any]) -> int:
    delta = choice.get("delta")
    if delta is None:
        return len(choice.get("text") or "")
    known = fields(delta)
    length = len(known.get("content") or "") + len(known.get("refusal") or "")
    for call in known.get("tool_calls") or ():
        function = fields(fields(call).get("function"))
        length += len(function.get("arguments") or "") + len(function.get("name") or "")
    return length


def _read_event(known: Mapping[str, Any], meter: Meter) -> None:
    delta = known.get("delta")
    if isinstance(delta, str):
        meter.characters += len(delta)
        return
    response = known.get("response")
    if response is not None:
        answer = fields(response)
        meter.model = answer.get("model") or meter.model
        _read_usage(answer.get("usage"), meter)


def _read_usage(usage: Any, meter: Meter) -> None:
    known = fields(usage)
    read = known.get("prompt_tokens", known.get("input_tokens"))
    if read is not None:
        meter.input_tokens = read
        # Embeddings have no output, and say nothing of it.
        meter.output_tokens = known.get("completion_tokens", known.get("output_tokens")) or 0
