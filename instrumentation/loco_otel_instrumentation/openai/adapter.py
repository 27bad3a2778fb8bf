"""Translates between OpenAI's SDK and the scheduler."""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import Asked, Description, Meter, fields, stainless
from loco_otel_instrumentation.openai import stream_usage

_ENDPOINTS = stainless.Endpoints(
    {
        "/chat/completions": "chat",
        "/completions": "text_completion",
        "/responses": "chat",
        "/responses/compact": "chat",
        "/embeddings": "embeddings",
    },
    {"Azure": "azure.ai.openai"},
    "openai",
)

_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})

_WITHIN = {"rate_limit_exceeded": 429, "server_overloaded": 503, "slow_down": 503}

_FINISHED = {"completed": "stop", "failed": "error", "cancelled": "error"}
_INCOMPLETE = {"max_output_tokens": "length"}
"""Words of the Responses API for what chat completions, and the conventions, call otherwise."""


class OpenAIAdapter:
    """See `loco_otel.patching.Adapter`."""

    sdk = "openai"

    def describe(self, client: Any, options: Any) -> Description | None:
        """Tell what a request is about to do; None when it is no call of a model."""
        return _ENDPOINTS.describe(client, options)

    def ask_usage(self, options: Any) -> Asked | None:
        """Ask a stream of completions for its usage; the Responses API tells it anyway."""
        return stream_usage.ask_usage(options)

    def with_model(self, options: Any, model: str | None) -> Any:
        """Return a request that is sent with another model."""
        return stainless.with_model(options, model)

    def read_answer(self, answer: Any, meter: Meter) -> None:
        """Note what a whole answer says."""
        known = fields(answer)
        choices = known.get("choices")
        if choices is None:
            _read_response(known, meter)
            return
        meter.model = known.get("model")
        meter.response_id = known.get("id")
        meter.service_tier = known.get("service_tier")
        reasons = [fields(choice).get("finish_reason") for choice in choices]
        meter.finish_reasons = tuple([reason for reason in reasons if reason])
        _read_usage(known.get("usage"), meter)

    def read_chunk(self, chunk: Any, meter: Meter) -> None:
        """Note what one event of a stream says: a chunk of a completion, or an event of the Responses API."""
        known = getattr(chunk, "__dict__", chunk)
        choices = known.get("choices")
        if choices is None:
            _read_event(known, meter)
        elif meter.model is None or not _read_text(known, choices, meter):
            _read_chunk(known, choices, meter)

    def read_usage(self, chunk: Any, meter: Meter) -> None:
        """Note of one event only the provider's figures."""
        known = fields(chunk)
        usage = known.get("usage")
        if usage is None and (response := known.get("response")) is not None:
            # An event of the Responses API, not a chunk of a completion.
            known = fields(response)
            usage = known.get("usage")
        if usage is not None:
            meter.service_tier = known.get("service_tier")
            _read_usage(usage, meter)

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:
        """Tell from the JSON of a 429 whether the account is empty."""
        inner = error.get("error", error)
        return isinstance(inner, Mapping) and (inner.get("code") in _SPENT or inner.get("type") in _SPENT)

    def status_within(self, error: Mapping[str, object]) -> int | None:
        """Return the HTTP status of an error whose JSON came within a stream."""
        return _WITHIN.get(str(error.get("code"))) or _WITHIN.get(str(error.get("type")))


def _read_text(known: Mapping[str, Any], choices: Any, meter: Meter) -> bool:
    """Count the text of a chunk that brings nothing else, as nearly all do. False, and nothing, for any others."""
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


def _read_chunk(known: Mapping[str, Any], choices: Any, meter: Meter) -> None:
    if meter.model is None:
        meter.model = known.get("model")
        meter.response_id = known.get("id")
    for choice in choices:
        inside = fields(choice)
        meter.characters += _length(inside)
        reason = inside.get("finish_reason")
        if reason:
            meter.finish_reasons = (*meter.finish_reasons, reason)
    tier = known.get("service_tier")
    if tier is not None:
        meter.service_tier = tier
    usage = known.get("usage")
    if usage is not None:
        _read_usage(usage, meter)


def _length(choice: Mapping[str, Any]) -> int:
    delta = choice.get("delta")
    if delta is None:
        return len(choice.get("text") or "")
    known = fields(delta)
    length = len(known.get("content") or "")
    if known.get("refusal"):
        length += len(known["refusal"])
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
        _read_response(fields(response), meter)


def _read_response(known: Mapping[str, Any], meter: Meter) -> None:
    """Note what an answer of the Responses API, or a list of embeddings, says."""
    meter.model = known.get("model") or meter.model
    meter.response_id = known.get("id")
    meter.service_tier = known.get("service_tier")
    reason = _FINISHED.get(known.get("status") or "")
    details = known.get("incomplete_details")
    if details is not None:
        said = fields(details).get("reason") or "incomplete"
        reason = _INCOMPLETE.get(said, said)
    if reason:
        meter.finish_reasons = (reason,)
    _read_usage(known.get("usage"), meter)


def _read_usage(usage: Any, meter: Meter) -> None:
    known = fields(usage)
    read = known.get("prompt_tokens", known.get("input_tokens"))
    if read is None:
        return
    meter.input_tokens = read
    # Embeddings have no output, and say nothing of it.
    meter.output_tokens = known.get("completion_tokens", known.get("output_tokens")) or 0
    details = known.get("prompt_tokens_details") or known.get("input_tokens_details")
    if details is not None:
        within = fields(details)
        meter.cache_read_tokens = within.get("cached_tokens")
        meter.cache_write_tokens = within.get("cache_write_tokens")
    details = known.get("completion_tokens_details") or known.get("output_tokens_details")
    if details is not None:
        meter.reasoning_tokens = fields(details).get("reasoning_tokens")
