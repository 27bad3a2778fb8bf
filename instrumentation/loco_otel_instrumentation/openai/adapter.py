"""Translates between OpenAI's SDK and the scheduler."""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import (
    CallDescription,
    ExtendedRequest,
    UsageMeter,
    accept_no_model,
    as_mapping,
    get_field,
    stainless,
)
from loco_otel.patching.dialects.openai_chat import (
    find_added_usage,
    read_completion,
    read_completion_chunk,
    read_text_chunk,
    read_tools,
    read_usage,
)
from loco_otel.patching.dialects.provider_hosts import find_provider
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
    find_provider,
)

_DEPLOYMENT_PATH = "/deployments/"
"""Part of the base URL of an Azure client for one deployment: that deployment's model answers each request."""

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


class OpenAIAdapter:
    """See `loco_otel.patching.Adapter`."""

    sdk = "openai"

    def describe_call(self, client: Any, options: Any) -> CallDescription | None:
        """Describe a request; return None if it calls no model."""
        description = _ENDPOINTS.describe_request(client, options)
        if description is not None and _DEPLOYMENT_PATH in getattr(description.url, "path", ""):
            return description._replace(accepts_model=accept_no_model)
        return description

    def request_usage(self, options: Any) -> ExtendedRequest | None:
        """Request the usage of a stream of completions. The Responses API always sends it."""
        return stream_usage.request_stream_usage(options)

    def with_model(self, options: Any, model: str | None) -> Any:
        """Return a request that is sent with another model."""
        return stainless.replace_model(options, model)

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Read the usage of a whole answer."""
        known = as_mapping(answer)
        choices = known.get("choices")
        if choices is None:
            _read_response(known, meter)
            return
        read_completion(known, choices, meter)

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Read one event of a stream: a chunk of a completion, or an event of the Responses API."""
        known = getattr(chunk, "__dict__", chunk)
        choices = known.get("choices")
        if choices is None:
            _read_responses_event(known, meter)
        elif meter.model is None or not read_text_chunk(known, choices, meter):
            read_completion_chunk(known, choices, meter)
            if known.get("usage") is None and (usage := find_added_usage(chunk)) is not None:
                read_usage(usage, meter)

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Read only the usage that the provider reports in one event."""
        known = as_mapping(chunk)
        usage = known.get("usage")
        if usage is None:
            if (response := known.get("response")) is not None:
                # An event of the Responses API, not a chunk of a completion.
                known = as_mapping(response)
                usage = known.get("usage")
            else:
                usage = find_added_usage(chunk)
        if usage is not None:
            meter.service_tier = known.get("service_tier")
            read_usage(usage, meter)

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:
        """Return whether the JSON of a 429 means that the account has no credit."""
        inner = error.get("error", error)
        return isinstance(inner, Mapping) and (
            inner.get("code") in _SPEND_LIMIT_CODES or inner.get("type") in _SPEND_LIMIT_CODES
        )

    def read_error_status(self, error: Mapping[str, object]) -> int | None:
        """Return the HTTP status that corresponds to an error within a stream."""
        return _STREAM_ERROR_STATUSES.get(str(error.get("code"))) or _STREAM_ERROR_STATUSES.get(str(error.get("type")))


def _read_responses_event(known: Mapping[str, Any], meter: UsageMeter) -> None:
    delta = known.get("delta")
    if isinstance(delta, str):
        meter.characters += len(delta)
        return
    response = known.get("response")
    if response is not None:
        _read_response(as_mapping(response), meter)


def _read_response(known: Mapping[str, Any], meter: UsageMeter) -> None:
    """Read an answer of the Responses API, or a list of embeddings."""
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
