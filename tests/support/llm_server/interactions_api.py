"""Gemini's Interactions API, in the revisions of google-genai 1.65 and of 2 and later, and its decisions."""

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

_CODES = {400: "invalid_request", 404: "not_found", 429: "resource_exhausted", 503: "unavailable"}
_TIME = "2030-01-01T00:00:00Z"


class InteractionsApi:
    """Serves `POST /VERSION/interactions` and `/VERSION/decisions`, under any prefix."""

    name = "interactions"

    def parse(self, request: Request) -> Operation | None:
        """Return the operation of a request, or None if it belongs to another API."""
        if request.method != "POST" or not request.path.endswith(("/interactions", "/decisions")):
            return None
        body = request.json()
        if request.path.endswith("/decisions"):
            return Operation("decisions", str(body.get("model")), streamed=False)
        return Operation("interactions", str(body.get("model") or body.get("agent")), bool(body.get("stream")))

    def answer(self, request: Request, operation: Operation, settings: Settings) -> Answer:
        """Return an interaction, or its events."""
        body = request.json()
        usage = measure_usage(settings, body.get("system_instruction"), body.get("input"))
        if operation.name == "decisions":
            answer = {"type": "noul", "noul": 0.9, "confidence": 0.9}
            return json_answer({"answers": dict.fromkeys(body["questions"], answer), "usage": _describe_usage(usage)})
        words = answer_words(settings)
        is_old = _is_old_revision(request)
        if operation.streamed:
            stream = _stream_old if is_old else _stream
            return sse_answer(stream(operation.model, usage, words))
        text = [{"type": "text", "text": "".join(words)}]
        output = {"outputs": text} if is_old else {"steps": [{"type": "model_output", "content": text}]}
        return json_answer({**_describe(operation.model, "completed"), **output, "usage": _describe_usage(usage)})

    def refuse(self, operation: Operation, refusal: Refusal) -> Answer:
        """Return an error response."""
        body = refusal.body if refusal.body is not None else {"error": _describe_error(refusal)}
        return json_answer(body, status=refusal.status, headers=retry_after_header(refusal))

    def refuse_in_stream(self, operation: Operation, refusal: Refusal) -> bytes:
        """Return the `error` event of a stream. The SDKs hand it to the program as an event and raise nothing."""
        return _event({"event_type": "error", "error": _describe_error(refusal)})


def _is_old_revision(request: Request) -> bool:
    """Return whether the client is of google-genai 1, whose events have other names."""
    agents = f"{request.headers.get('x-goog-api-client', '')} {request.headers.get('user-agent', '')}"
    return "google-genai-sdk/1." in agents or "GeminiNextGenAPI" in agents


def _stream(model: str, usage: Usage, words: list[str]) -> Iterator[bytes]:
    yield _event({"event_type": "interaction.created", "interaction": _describe(model, "in_progress")})
    yield _event({"event_type": "step.start", "index": 0, "step": {"type": "model_output"}})
    for word in words:
        yield _event({"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": word}})
    yield _event({"event_type": "step.stop", "index": 0})
    completed = {**_describe(model, "completed"), "usage": _describe_usage(usage)}
    yield _event({"event_type": "interaction.completed", "interaction": completed})
    yield sse_event("[DONE]", "done")


def _stream_old(model: str, usage: Usage, words: list[str]) -> Iterator[bytes]:
    yield _event({"event_type": "interaction.start", "interaction": _describe(model, "in_progress")})
    yield _event({"event_type": "content.start", "index": 0, "content": {"type": "text", "text": ""}})
    for word in words:
        yield _event({"event_type": "content.delta", "index": 0, "delta": {"type": "text", "text": word}})
    yield _event({"event_type": "content.stop", "index": 0})
    completed = {**_describe(model, "completed"), "usage": _describe_usage(usage)}
    yield _event({"event_type": "interaction.complete", "interaction": completed})
    yield sse_event("[DONE]", "done")


def _event(data: dict[str, Any]) -> bytes:
    return sse_event(data, data["event_type"])


def _describe(model: str, status: str) -> dict[str, Any]:
    return {
        "id": "int_0", "object": "interaction", "model": model, "status": status, "role": "model",
        "created": _TIME, "updated": _TIME,
    }  # fmt: skip


def _describe_usage(usage: Usage) -> dict[str, int]:
    return {
        "total_input_tokens": usage.input_tokens,
        "total_cached_tokens": usage.cached_tokens,
        "total_output_tokens": usage.output_tokens,
        "total_thought_tokens": usage.reasoning_tokens,
        "total_tokens": usage.total_tokens,
    }


def _describe_error(refusal: Refusal) -> dict[str, str]:
    code = refusal.kind or _CODES.get(refusal.status, "internal")
    return {"code": code, "message": refusal.message}
