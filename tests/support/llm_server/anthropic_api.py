"""Anthropic's messages; Bedrock's InvokeModel uses the same bodies."""

from collections.abc import Iterator
from typing import Any

from .answers import (
    Answer,
    Operation,
    Refusal,
    Settings,
    Usage,
    answer_words,
    json_answer,
    measure_usage,
    retry_after_header,
    sse_answer,
    sse_event,
)
from .http1 import Request

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_RATE_LIMITS = {
    "anthropic-ratelimit-requests-limit": "1000",
    "anthropic-ratelimit-requests-remaining": "999",
    "anthropic-ratelimit-requests-reset": "2030-01-01T00:00:00Z",
    "anthropic-ratelimit-tokens-limit": "100000",
    "anthropic-ratelimit-tokens-remaining": "99000",
    "anthropic-ratelimit-tokens-reset": "2030-01-01T00:00:00Z",
    "request-id": "req_0",
}


class AnthropicApi:
    """Serves `/v1/messages` and `/v1/messages/count_tokens`, under any prefix."""

    name = "anthropic"

    def parse(self, request: Request) -> Operation | None:
        """Return the operation of a request, or None if it belongs to another API."""
        body = request.json()
        if request.path.endswith("/messages/count_tokens"):
            return Operation("messages.count_tokens", str(body.get("model")), generates=False)
        if request.path.endswith("/messages"):
            return Operation("messages", str(body.get("model")), bool(body.get("stream")))
        return None

    def answer(self, request: Request, operation: Operation, settings: Settings) -> Answer:
        """Return a message, its events, or a token count."""
        body = request.json()
        usage = measure_usage(settings, body.get("system"), body.get("messages"))
        if not operation.generates:
            return json_answer({"input_tokens": usage.input_tokens})
        if operation.streamed:
            events = list_events(operation.model, usage, answer_words(settings))
            return sse_answer([sse_event(event, event["type"]) for event in events], _RATE_LIMITS)
        return json_answer(describe_message(operation.model, usage, answer_words(settings)), headers=_RATE_LIMITS)

    def refuse(self, operation: Operation, refusal: Refusal) -> Answer:
        """Return an error response. `kind="enforced_spend_limit_reached"` is a budget instead of a rate limit."""
        body = refusal.body if refusal.body is not None else _describe_error(refusal)
        return json_answer(body, status=refusal.status, headers=retry_after_header(refusal))

    def refuse_in_stream(self, operation: Operation, refusal: Refusal) -> bytes:
        """Return the `error` event of a stream."""
        return sse_event(_describe_error(refusal), "error")


def describe_message(model: str, usage: Usage, words: list[str]) -> dict[str, Any]:
    """Return a whole message."""
    content = [{"type": "text", "text": "".join(words)}]
    return _message(model, content, "end_turn", _describe_usage(usage, usage.billed_output_tokens))


def list_events(model: str, usage: Usage, words: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the events of a streamed message: three before the text, one per word, three after it.

    The first event has the input tokens, the last but one the output tokens.
    """
    yield {"type": "message_start", "message": _message(model, [], None, _describe_usage(usage, 1))}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "ping"}
    for word in words:
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
    yield {"type": "content_block_stop", "index": 0}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": usage.billed_output_tokens}}
    yield {"type": "message_stop"}


def _message(model: str, content: list[Any], reason: str | None, usage: dict[str, int]) -> dict[str, Any]:
    return {
        "id": "msg_0",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _describe_usage(usage: Usage, output_tokens: int) -> dict[str, int]:
    # Anthropic's input tokens are those that are neither read from nor written to a cache.
    return {
        "input_tokens": usage.uncached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": output_tokens,
    }


def _describe_error(refusal: Refusal) -> dict[str, Any]:
    kind = _KINDS.get(refusal.status, "api_error")
    error: dict[str, Any] = {"type": kind, "message": refusal.message}
    if refusal.kind is not None and not refusal.kind.endswith("_error"):
        error["details"] = {"error_code": refusal.kind}
    elif refusal.kind is not None:
        error["type"] = refusal.kind
    return {"type": "error", "error": error, "request_id": "req_0"}
