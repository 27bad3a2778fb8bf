"""Cohere's API: version 2, whose streams are events, and version 1, whose streams are lines of JSON."""

import json
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

_PREFIX = "/cohere/"
_PATHS = ("v1/chat", "v2/chat", "v1/embed", "v2/embed")
_OWN_TOKENS = 60
"""Tokens of Cohere's own instructions, which are not billed."""


class CohereApi:
    """Serves chat and embeddings under `/cohere/v1` and `/cohere/v2`."""

    name = "cohere"

    def parse(self, request: Request) -> Operation | None:
        """Return the operation of a request, or None if it belongs to another API."""
        path = request.path.removeprefix(_PREFIX)
        if path not in _PATHS:
            return None
        body = request.json()
        return Operation(path, str(body.get("model")), bool(body.get("stream")))

    def answer(self, request: Request, operation: Operation, settings: Settings) -> Answer:
        """Return a whole answer, or its events."""
        body = request.json()
        usage = measure_usage(settings, body.get("messages"), body.get("message"), body.get("texts"))
        words = answer_words(settings)
        if operation.name.endswith("embed"):
            meta = {"meta": {"billed_units": {"input_tokens": usage.input_tokens}}}
            return json_answer({"id": "0", "response_type": "embeddings_by_type", "embeddings": _VECTORS, **meta})
        if operation.name == "v2/chat":
            if operation.streamed:
                return sse_answer(_stream_events(usage, words))
            content = [{"type": "text", "text": "".join(words)}]
            message = {"role": "assistant", "content": content}
            end = {"finish_reason": "COMPLETE", "usage": _describe_usage(usage)}
            return json_answer({"id": "chat_0", "message": message, **end})
        if operation.streamed:
            return Answer(
                tuple(_stream_lines(usage, words)), {"content-type": "application/stream+json"}, streamed=True
            )
        return json_answer(_describe_response(usage, words))

    def refuse(self, operation: Operation, refusal: Refusal) -> Answer:
        """Return an error response."""
        return json_answer({"message": refusal.message}, status=refusal.status, headers=retry_after_header(refusal))

    def refuse_in_stream(self, operation: Operation, refusal: Refusal) -> bytes:
        """Return the end of a stream that reports an error."""
        if operation.name == "v1/chat":
            return _line({"event_type": "stream-end", "is_finished": True, "finish_reason": "ERROR", "response": {}})
        return _event({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": refusal.message}})


_VECTORS = {"float": [[0.5]]}


def _stream_events(usage: Usage, words: list[str]) -> Iterator[bytes]:
    yield _event({"type": "message-start", "id": "chat_0", "delta": {"message": {"role": "assistant"}}})
    start = {"type": "text", "text": ""}
    yield _event({"type": "content-start", "index": 0, "delta": {"message": {"content": start}}})
    for word in words:
        yield _event({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": word}}}})
    yield _event({"type": "content-end", "index": 0})
    yield _event({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": _describe_usage(usage)}})


def _stream_lines(usage: Usage, words: list[str]) -> Iterator[bytes]:
    yield _line({"is_finished": False, "event_type": "stream-start", "generation_id": "gen_0"})
    for word in words:
        yield _line({"is_finished": False, "event_type": "text-generation", "text": word})
    response = _describe_response(usage, words)
    end = {"is_finished": True, "event_type": "stream-end", "finish_reason": "COMPLETE"}
    yield _line({**end, "response": response})


def _describe_response(usage: Usage, words: list[str]) -> dict[str, Any]:
    head = {"response_id": "chat_0", "generation_id": "gen_0", "text": "".join(words), "finish_reason": "COMPLETE"}
    return {**head, "meta": _describe_usage(usage)}


def _describe_usage(usage: Usage) -> dict[str, Any]:
    counted = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    everything = {"input_tokens": usage.input_tokens + _OWN_TOKENS, "output_tokens": usage.output_tokens + 2}
    return {"billed_units": counted, "tokens": everything, "cached_tokens": usage.cached_tokens}


def _event(data: dict[str, Any]) -> bytes:
    return sse_event(data, data["type"])


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"
