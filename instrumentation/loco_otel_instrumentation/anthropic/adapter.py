"""Translates between Anthropic's SDK and the scheduler."""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import (
    CallDescription,
    ExtendedRequest,
    UsageMeter,
    is_live_tracer,
    stainless,
)
from loco_otel.patching.dialects import anthropic_messages
from loco_otel.patching.dialects.provider_hosts import find_provider

_ENDPOINTS = stainless.Endpoints(
    {"/messages": "chat", "/complete": "text_completion"},
    {"Bedrock": "aws.bedrock", "AWS": "aws.bedrock", "Vertex": "gcp.vertex_ai"},
    "anthropic",
    find_provider,
)


class AnthropicAdapter:
    """See `loco_otel.patching.Adapter`."""

    sdk = "anthropic"

    def describe_call(self, client: Any, options: Any) -> CallDescription | None:
        """Describe a request; return None if it calls no model."""
        description = _ENDPOINTS.describe_request(client, options)
        if description is None or not _has_sdk_span(client, options):
            return description
        return description._replace(has_sdk_span=True)

    def request_usage(self, options: Any) -> ExtendedRequest | None:  # noqa: ARG002 - the protocol's
        """Return None: every stream contains its usage."""
        return None

    def with_model(self, options: Any, model: str | None) -> Any:
        """Return a request that is sent with another model."""
        return stainless.replace_model(options, model)

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Read the usage of a whole answer."""
        anthropic_messages.read_message(answer, meter)

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Read one event of a stream."""
        anthropic_messages.read_event(chunk, meter)

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Read only the usage that the provider reports in one event."""
        anthropic_messages.read_event_usage(chunk, meter)

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:
        """Return whether the JSON of a 429 means that a spending limit is reached."""
        return anthropic_messages.is_spend_limit(error)

    def read_error_status(self, error: Mapping[str, object]) -> int | None:
        """Return the HTTP status that corresponds to an error within a stream."""
        return anthropic_messages.read_error_status(error)


def _has_sdk_span(client: Any, options: Any) -> bool:
    """Return whether the SDK creates a span of this call, as it does since 2.x unless that is disabled."""
    return bool(getattr(options, "span_name", None)) and is_live_tracer(getattr(client, "_tracer", None))
