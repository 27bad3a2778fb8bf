"""Translates between Cohere's SDK and the scheduler, for both versions of its API."""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import CallDescription, ExtendedRequest, UsageMeter, parse_address

_OPERATIONS = {
    "v2/chat": "chat",
    "v1/chat": "chat",
    "chat": "chat",
    "v1/generate": "text_completion",
    "generate": "text_completion",
    "v1/summarize": "text_completion",
    "summarize": "text_completion",
    "v2/embed": "embeddings",
    "v1/embed": "embeddings",
    "embed": "embeddings",
}
"""`gen_ai.operation.name` by path. Those without a version are of older SDKs."""
_FIELDS = {
    **{name: name for name in ("messages", "tools", "prompt", "max_tokens", "temperature", "seed", "stream")},
    **{name: name for name in ("frequency_penalty", "presence_penalty", "response_format")},
    "message": "prompt",
    "text": "prompt",
    "texts": "input",
    "inputs": "input",
    "preamble": "system",
    "chat_history": "instructions",
    "documents": "suffix",
    "num_generations": "n",
    "p": "top_p",
    "k": "top_k",
}
"""Names of fields that the toolkit reads, by Cohere's."""
_FINISH_REASONS = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_call",
    "ERROR_TOXIC": "content_filter",
    "ERROR": "error",
}
"""Its words for what the conventions call otherwise."""
_AWS_HOOKS = "cohere.aws_client"
"""The module of the hooks by which the clients for AWS send requests there."""
_MONTHLY_LIMIT = "/ month"
"""In the message of a 429 that a key for trials gets until the next month."""


class CohereAdapter:
    """See `loco_otel.patching.Adapter`. A request is the arguments of `HttpClient.request` by name, an answer JSON."""

    sdk = "cohere"

    def describe_call(self, client: Any, options: Mapping[str, Any]) -> CallDescription | None:
        """Describe a request; return None if it is no call of a model."""
        operation = _OPERATIONS.get(options.get("path") or "")
        if operation is None:
            return None
        # What the program left out is a mark of the SDK's.
        omitted = options.get("omit")
        body = {name: value for name, value in options["json"].items() if value is not omitted and value is not None}
        neutral = {_FIELDS[name]: value for name, value in body.items() if name in _FIELDS}
        model = body.get("model")
        name = model if isinstance(model, str) else None
        if _sends_to_aws(client):
            return CallDescription("aws.bedrock", operation, name, neutral)
        base = options.get("base_url") or (client.base_url() if callable(client.base_url) else None)
        return CallDescription("cohere", operation, name, neutral, parse_address(base) if base else None)

    def request_usage(self, _: Any) -> ExtendedRequest | None:
        """Return None: each stream contains its usage."""
        return None

    def with_model(self, options: Mapping[str, Any], model: str | None) -> Any:
        """Return a request that is sent with another model."""
        return {**options, "json": {**options["json"], "model": model}}

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Note what a whole answer contains."""
        meter.response_id = answer.get("response_id") or answer.get("id")
        _read_finish_reason(answer.get("finish_reason"), meter)
        _read_usage(answer.get("usage") or answer.get("meta"), meter)

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Note what an event contains, of either version of the API."""
        delta = chunk.get("delta") or {}
        message = delta.get("message") or {}
        if isinstance(message, Mapping):
            content = message.get("content")
            text = content.get("text") or content.get("thinking") if isinstance(content, Mapping) else None
            meter.characters += len(text or message.get("tool_plan") or "")
        if chunk.get("event_type") == "text-generation":
            meter.characters += len(chunk.get("text") or "")
        self.read_usage(chunk, meter)

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Note of an event only the provider's figures: the first names the answer, the last has the usage."""
        kind = chunk.get("type") or chunk.get("event_type")
        if kind in {"message-start", "stream-start"}:
            meter.response_id = chunk.get("id") or chunk.get("generation_id")
        elif kind == "message-end":
            delta = chunk.get("delta") or {}
            _read_finish_reason(delta.get("finish_reason"), meter)
            _read_usage(delta.get("usage"), meter)
        elif kind == "stream-end" or chunk.get("is_finished"):
            response = chunk.get("response") or {}
            meter.response_id = response.get("response_id") or response.get("id") or meter.response_id
            _read_finish_reason(chunk.get("finish_reason"), meter)
            _read_usage(response.get("meta"), meter)

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:
        """Return whether the calls of a month are used up: a lower rate does not end it."""
        return _MONTHLY_LIMIT in str(error.get("message"))

    def read_error_status(self, _: Mapping[str, object]) -> int | None:
        """Return None: the SDK raises errors of HTTP only."""
        return None


def _sends_to_aws(client: Any) -> bool:
    hooks = getattr(client.httpx_client, "event_hooks", None) or {}
    return any(getattr(hook, "__module__", None) == _AWS_HOOKS for hook in hooks.get("request") or ())


def _read_finish_reason(reason: str | None, meter: UsageMeter) -> None:
    if reason:
        meter.finish_reasons = (_FINISH_REASONS.get(reason, reason.lower()),)


def _read_usage(usage: Mapping[str, Any] | None, meter: UsageMeter) -> None:
    """Note the tokens that are billed; `tokens` counts those of Cohere's own instructions too."""
    counted = (usage or {}).get("billed_units") or (usage or {}).get("tokens")
    if usage is None or not counted or counted.get("input_tokens") is None:
        return
    meter.input_tokens = int(counted["input_tokens"])
    meter.output_tokens = int(counted.get("output_tokens") or 0)  # embeddings have none
    if usage.get("cached_tokens") is not None:
        meter.cache_read_tokens = int(usage["cached_tokens"])
