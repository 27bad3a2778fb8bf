"""Translates between requests of an HTTP client and the scheduler.

The form of an answer is found in the answer: what is at a host, or in front of it, is not known beforehand.
"""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import CallDescription, ExtendedRequest, UsageMeter, accept_no_model
from loco_otel.patching.dialects import anthropic_messages, openai_chat, openai_responses
from loco_otel.patching.http_hosts import is_http_host
from loco_otel.patching.http_request import read_json_object, replace_json_values
from loco_otel_instrumentation.http.endpoints import find_endpoint, find_host_provider, find_model

_MESSAGE = "message"
"""The type of Anthropic's answers."""
_MESSAGE_EVENTS = frozenset({"message_start", "content_block_delta", "message_delta"})
"""The types of the events of Anthropic's streams that are read."""
_RESPONSE_EVENT = "response."
"""What the types of the events of OpenAI's Responses API begin with."""


class HttpAdapter:
    """See `loco_otel.patching.Adapter`. A request is that of `send`, an answer is plain JSON.

    Args:
        package: the name of the HTTP client.

    """

    def __init__(self, package: str) -> None:
        self.sdk = package

    def describe_call(self, _: Any, request: Any) -> CallDescription | None:
        """Describe a request; return None if it is no call of a model, or goes to another host."""
        if request.method != "POST" or not is_http_host(request.url):
            return None
        body = read_json_object(request)
        if body is None:
            return None
        url = request.url
        endpoint = find_endpoint(url.path, body)
        model, is_in_path = find_model(url.path, body)
        # The answer to one in the background comes before the model begins.
        if endpoint is None or model is None or (body.get("background") and not body.get("stream")):
            return None
        return CallDescription(
            find_host_provider(url.host) or endpoint.provider or url.host,
            endpoint.operation,
            model,
            body,
            url,
            accepts_model=accept_no_model if is_in_path or endpoint.provider is None else None,
        )

    def request_usage(self, _: Any) -> ExtendedRequest | None:
        """Return None: the program reads bytes, from which nothing can be taken out again."""
        return None

    def with_model(self, request: Any, model: str | None) -> Any:
        """Return a request that is sent with another model."""
        return replace_json_values(request, {"model": model})

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Note what a whole answer contains; nothing of one of an unknown form."""
        if not isinstance(answer, dict):
            return
        choices = answer.get("choices")
        if answer.get("type") == _MESSAGE:
            anthropic_messages.read_message(answer, meter)
        elif isinstance(choices, list):
            openai_chat.read_completion(answer, choices, meter)
        elif isinstance(answer.get("usage"), dict):
            openai_responses.read_response(answer, meter)

    def read_chunk(self, event: Mapping[str, Any], meter: UsageMeter) -> None:
        """Note what an event of a stream contains; nothing of one of an unknown form."""
        kind, choices = str(event.get("type")), event.get("choices")
        if isinstance(choices, list):
            openai_chat.read_completion_chunk(event, choices, meter)
            if event.get("usage") is None:
                openai_chat.read_usage(openai_chat.find_added_usage(event), meter)
        elif kind in _MESSAGE_EVENTS:
            anthropic_messages.read_event(event, meter)
        elif kind.startswith(_RESPONSE_EVENT):
            openai_responses.read_responses_event(event, meter)

    def read_usage(self, event: Mapping[str, Any], meter: UsageMeter) -> None:
        """Note only the provider's figures."""
        kind, choices = str(event.get("type")), event.get("choices")
        if isinstance(choices, list):
            openai_chat.read_usage(event.get("usage") or openai_chat.find_added_usage(event), meter)
        elif kind in _MESSAGE_EVENTS:
            anthropic_messages.read_event_usage(event, meter)
        elif kind.startswith(_RESPONSE_EVENT) and "response" in event:
            openai_responses.read_responses_event(event, meter)

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:
        """Return whether the JSON of a 429 means that the account has no credit."""
        return openai_responses.is_spend_limit(error) or anthropic_messages.is_spend_limit(error)

    def read_error_status(self, _: Mapping[str, object]) -> int | None:
        """Return None: an error within a stream is the program's to read."""
        return None
