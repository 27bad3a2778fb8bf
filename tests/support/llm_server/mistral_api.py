"""Mistral's conversations. Its chat completions are `openai_api`'s."""

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

_CONVERSATION = "conv_0"
_CONNECTOR_TOKENS = 3
_TIME = "2030-01-01T00:00:00Z"


class ConversationsApi:
    """Serves `POST /mistral/v1/conversations`, and the streams of both."""

    name = "conversations"

    def parse(self, request: Request) -> Operation | None:
        """Return the operation of a request, or None if it belongs to another API."""
        if request.method != "POST" or "/v1/conversations" not in request.path:
            return None
        body = request.json()
        return Operation("conversations", str(body.get("model") or body.get("agent_id")), bool(body.get("stream")))

    def answer(self, request: Request, operation: Operation, settings: Settings) -> Answer:
        """Return a conversation's outputs, or its events. A connector has added 3 tokens to its prompt."""
        usage = measure_usage(settings, request.json().get("inputs"))
        words = answer_words(settings)
        if operation.streamed:
            return sse_answer(_stream(operation.model, usage, words))
        output = {"type": "message.output", **_describe(operation.model), "content": "".join(words)}
        return json_answer(
            {
                "object": "conversation.response",
                "conversation_id": _CONVERSATION,
                "outputs": [output],
                "usage": _describe_usage(usage),
            }
        )

    def refuse(self, operation: Operation, refusal: Refusal) -> Answer:
        """Return an error response."""
        return json_answer(_describe_error(refusal), status=refusal.status, headers=retry_after_header(refusal))

    def refuse_in_stream(self, operation: Operation, refusal: Refusal) -> bytes:
        """Return the event that reports an error."""
        error = {"type": "conversation.response.error", "message": refusal.message, "code": refusal.status}
        return sse_event(error, error["type"])


def _stream(model: str, usage: Usage, words: list[str]) -> Iterator[bytes]:
    yield _event({"type": "conversation.response.started", "conversation_id": _CONVERSATION, "created_at": _TIME})
    for word in words:
        yield _event({"type": "message.output.delta", **_describe(model), "content": word, "created_at": _TIME})
    yield _event({"type": "conversation.response.done", "usage": _describe_usage(usage), "created_at": _TIME})


def _event(data: dict[str, Any]) -> bytes:
    return sse_event(data, data["type"])


def _describe(model: str) -> dict[str, Any]:
    return {"id": "msg_0", "role": "assistant", "model": model, "output_index": 0, "content_index": 0}


def _describe_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens + _CONNECTOR_TOKENS,
        "connector_tokens": _CONNECTOR_TOKENS,
        "connectors": {"web_search": 1},
    }


def _describe_error(refusal: Refusal) -> dict[str, Any]:
    return {"object": "error", "type": refusal.kind or "invalid_request", "message": refusal.message}
