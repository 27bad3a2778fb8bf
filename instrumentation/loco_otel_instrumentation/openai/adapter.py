"""Translates between OpenAI's SDK and the scheduler."""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import (
    CallDescription,
    ExtendedRequest,
    UsageMeter,
    accept_no_model,
    as_mapping,
    stainless,
)
from loco_otel.patching.dialects import openai_responses
from loco_otel.patching.dialects.openai_chat import (
    find_added_usage,
    read_completion,
    read_completion_chunk,
    read_text_chunk,
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
        "/decisions": "chat",
        "/embeddings": "embeddings",
        "/images/generations": "generate_content",
        "/images/edits": "generate_content",
        "/images/variations": "generate_content",
        "/audio/speech": "generate_content",
        "/audio/transcriptions": "generate_content",
        "/audio/translations": "generate_content",
    },
    {"Azure": "azure.ai.openai"},
    "openai",
    find_provider,
)

_DEPLOYMENT_PATH = "/deployments/"
"""Part of the base URL of an Azure client for one deployment: that deployment's model answers each request."""


class OpenAIAdapter:
    """See `loco_otel.patching.Adapter`."""

    sdk = "openai"

    def describe_call(self, client: Any, options: Any) -> CallDescription | None:
        """Describe a request; return None if it calls no model."""
        description = _ENDPOINTS.describe_request(client, options)
        if description is not None and description.body.get("background") and not description.body.get("stream"):
            return None  # its answer comes before the model begins
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
            openai_responses.read_response(known, meter)
            return
        read_completion(known, choices, meter)

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Read one event of a stream: a chunk of a completion, or an event of the Responses API."""
        known = getattr(chunk, "__dict__", chunk)
        choices = known.get("choices")
        if choices is None:
            openai_responses.read_responses_event(known, meter)
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
            meter.model = known.get("model")
            meter.service_tier = known.get("service_tier")
            read_usage(usage, meter)

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:
        """Return whether the JSON of a 429 means that the account has no credit."""
        return openai_responses.is_spend_limit(error)

    def read_error_status(self, error: Mapping[str, object]) -> int | None:
        """Return the HTTP status that corresponds to an error within a stream."""
        return openai_responses.read_error_status(error)
