"""Gemini's models: content, streams of it, embeddings and token counts. Vertex AI's paths end alike."""

import re
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
    sse_answer,
    sse_event,
)
from .http1 import Request

_PATH = re.compile(r"/models/(?P<model>[^/]+):(?P<method>[A-Za-z]+)$")
_GENERATING = {"generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents", "predict"}
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_DIMENSIONS = 3


class GeminiApi:
    """Serves `/VERSION/models/MODEL:METHOD`, under any prefix."""

    name = "gemini"

    def parse(self, request: Request) -> Operation | None:
        """Return the operation of a request, or None if it belongs to another API."""
        found = _PATH.search(request.path)
        if found is None or found["method"] not in {*_GENERATING, "countTokens"}:
            return None
        method = found["method"]
        return Operation(method, found["model"], method.startswith("stream"), generates=method in _GENERATING)

    def answer(self, request: Request, operation: Operation, settings: Settings) -> Answer:
        """Return content, a stream of it, embeddings or a token count."""
        body = request.json()
        prompt = body.get("contents") or body.get("content") or body.get("requests") or body.get("instances")
        usage = measure_usage(settings, body.get("systemInstruction"), prompt)
        match operation.name:
            case "countTokens":
                return json_answer({"totalTokens": usage.input_tokens})
            case "embedContent":
                return json_answer({"embedding": {"values": [0.5] * _DIMENSIONS}})
            case "batchEmbedContents":
                return json_answer({"embeddings": [{"values": [0.5] * _DIMENSIONS} for _ in body.get("requests", ())]})
            case "predict":
                return json_answer(_describe_predictions(body))
        call = _find_function_to_call(body)
        parts = [{"functionCall": call}] if call else [{"text": word} for word in answer_words(settings)]
        if operation.streamed:
            return sse_answer(_stream(operation.model, usage, parts))
        if call is None:
            parts = [{"text": "".join(answer_words(settings))}]
        return json_answer(_describe_response(operation.model, parts, usage, is_last=True))

    def refuse(self, operation: Operation, refusal: Refusal) -> Answer:
        """Return an error response. The delay is in the body: Gemini sends no `retry-after` header."""
        body = refusal.body if refusal.body is not None else _describe_error(refusal)
        return json_answer(body, status=refusal.status, headers=refusal.headers)

    def refuse_in_stream(self, operation: Operation, refusal: Refusal) -> bytes:
        """Return the event that reports an error in a stream."""
        return sse_event(_describe_error(refusal))


def _stream(model: str, usage: Usage, parts: list[dict[str, Any]]) -> Iterator[bytes]:
    for index, part in enumerate(parts):
        yield sse_event(_describe_response(model, [part], usage, is_last=index == len(parts) - 1))


def _describe_response(model: str, parts: list[Any], usage: Usage, *, is_last: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if is_last:
        candidate["finishReason"] = "STOP"
    counts = _describe_usage(usage) if is_last else {"promptTokenCount": usage.input_tokens}
    # Each chunk has usage metadata; the counts of the output are those so far, complete in the last one.
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": model, "responseId": "resp_0"}


def _describe_usage(usage: Usage) -> dict[str, int]:
    # Cached tokens are a part of the prompt's; thinking is counted apart from the candidates.
    counts = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": usage.output_tokens,
        "totalTokenCount": usage.total_tokens,
    }
    if usage.cached_tokens:
        counts["cachedContentTokenCount"] = usage.cached_tokens
    if usage.reasoning_tokens:
        counts["thoughtsTokenCount"] = usage.reasoning_tokens
    return counts


def _describe_predictions(body: dict[str, Any]) -> dict[str, Any]:
    embedding = {"values": [0.5] * _DIMENSIONS, "statistics": {"truncated": False, "token_count": 1}}
    return {"predictions": [{"embeddings": embedding} for _ in body.get("instances", ())]}


def _find_function_to_call(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return a call of the first function that is declared, unless the prompt ends with the result of a call."""
    declared = [it for tool in body.get("tools", ()) for it in tool.get("functionDeclarations", ())]
    contents = body.get("contents") or [{}]
    has_result = any("functionResponse" in part for part in contents[-1].get("parts", ()))
    return None if has_result or not declared else {"name": declared[0]["name"], "args": {}}


def _describe_error(refusal: Refusal) -> dict[str, Any]:
    status = refusal.kind or _STATUSES.get(refusal.status, "UNKNOWN")
    details: list[dict[str, Any]] = []
    if status == "RESOURCE_EXHAUSTED":
        violation = {"quotaMetric": "generate_requests", "quotaId": "RequestsPerMinutePerModel", "quotaValue": "1"}
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
    if refusal.retry_after is not None:
        delay = f"{refusal.retry_after:g}s"
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    return {"error": {"code": refusal.status, "message": refusal.message, "status": status, "details": details}}
