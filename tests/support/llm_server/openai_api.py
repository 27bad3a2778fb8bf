"""OpenAI's chat completions and embeddings, and those of providers that differ in the usage of a stream."""

from collections.abc import Iterator
from typing import Any, Literal

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

_KINDS = {400: "invalid_request_error", 401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
_RATE_LIMITS = {
    "x-ratelimit-limit-requests": "1000",
    "x-ratelimit-remaining-requests": "999",
    "x-ratelimit-reset-requests": "60ms",
    "x-ratelimit-limit-tokens": "100000",
    "x-ratelimit-remaining-tokens": "99000",
    "x-ratelimit-reset-tokens": "600ms",
}


_CHATS = ("/chat/completions", "/agents/completions", "/fim/completions")
"""The second and the third are Mistral's."""

StreamUsage = Literal["asked", "always", "groq"]
"""Whether a stream contains its usage in a chunk of its own if the request asks for it, always in its last chunk, or
there in a field of Groq's."""


class OpenAiApi:
    """Serves `/chat/completions` and `/embeddings` of one provider.

    Args:
        name: of the API.
        prefix: of its paths; the provider without a prefix gets what is left.
        stream_usage: where the usage of a stream is.

    """

    def __init__(self, name: str, prefix: str = "", stream_usage: StreamUsage = "asked") -> None:
        self.name = name
        self._prefix = prefix
        self._stream_usage = stream_usage

    def parse(self, request: Request) -> Operation | None:
        """Return the operation of a request, or None if it belongs to another API."""
        if not request.path.startswith(self._prefix):
            return None
        if request.path.endswith("/embeddings"):
            return Operation("embeddings", str(request.json().get("model")))
        if not request.path.endswith(_CHATS):
            return None
        body = request.json()
        return Operation("chat.completions", str(body.get("model")), bool(body.get("stream")))

    def answer(self, request: Request, operation: Operation, settings: Settings) -> Answer:
        """Return a completion, or its chunks, or an embedding."""
        body = request.json()
        if operation.name == "embeddings":
            return json_answer(_embed(operation.model, measure_usage(settings, body.get("input"))))
        usage = measure_usage(settings, body.get("messages"), body.get("prompt"))
        call = _find_function_to_call(body)
        if operation.streamed:
            wanted = bool((body.get("stream_options") or {}).get("include_usage"))
            words = answer_words(settings)
            deltas = [{"tool_calls": [{"index": 0, **call}]}] if call else [{"content": word} for word in words]
            return sse_answer(self._stream(operation.model, usage, deltas, wanted), _RATE_LIMITS)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(answer_words(settings))}
        if call:
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        reason = "tool_calls" if call else "stop"
        completion: dict[str, Any] = {
            **_head(operation.model, "chat.completion"),
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
            "usage": _describe_usage(usage),
        }
        if self._stream_usage == "groq":
            completion["x_groq"] = {"id": "req_0"}
        return json_answer(completion, headers=_RATE_LIMITS)

    def _stream(self, model: str, usage: Usage, deltas: list[Any], usage_wanted: bool) -> Iterator[bytes]:
        head = _head(model, "chat.completion.chunk")
        # Without `include_usage` no chunk has the field; with it, all but the last have it as null.
        no_usage = {"usage": None} if usage_wanted and self._stream_usage == "asked" else {}
        for index, delta in enumerate(deltas):
            role = {"role": "assistant"} if index == 0 else {}
            chunk: dict[str, Any] = {**head, "choices": [_choice({**role, **delta}, None)], **no_usage}
            if index == 0 and self._stream_usage == "groq":
                chunk["x_groq"] = {"id": "req_0"}
            yield sse_event(chunk)
        reason = "tool_calls" if "tool_calls" in deltas[-1] else "stop"
        last: dict[str, Any] = {**head, "choices": [_choice({}, reason)], **no_usage}
        if self._stream_usage == "groq":
            # Groq reports the usage without being asked, in a field of its own.
            last["x_groq"] = {"id": "req_0", "usage": _describe_usage(usage)}
        elif self._stream_usage == "always":
            last["usage"] = _describe_usage(usage)
        yield sse_event(last)
        if usage_wanted and self._stream_usage != "always":
            yield sse_event({**head, "choices": [], "usage": _describe_usage(usage)})
        yield sse_event("[DONE]")

    def refuse(self, operation: Operation, refusal: Refusal) -> Answer:
        """Return an error response. `kind="insufficient_quota"` is an empty account instead of a rate limit."""
        body = refusal.body if refusal.body is not None else _describe_error(refusal)
        return json_answer(body, status=refusal.status, headers=retry_after_header(refusal))

    def refuse_in_stream(self, operation: Operation, refusal: Refusal) -> bytes:
        """Return the event that reports an error in a stream."""
        return sse_event(_describe_error(refusal), "error" if self._stream_usage == "groq" else None)


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-0", "object": kind, "created": 1, "model": model, "system_fingerprint": "fp_0"}


def _embed(model: str, usage: Usage) -> dict[str, Any]:
    figures = {"prompt_tokens": usage.input_tokens, "completion_tokens": 0, "total_tokens": usage.input_tokens}
    vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
    return {"id": "embd-0", "object": "list", "model": model, "data": [vector], "usage": figures}


def _choice(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _find_function_to_call(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return a call of the first function that is declared, unless the prompt ends with the result of a call."""
    functions = [tool["function"] for tool in body.get("tools") or () if tool.get("type") == "function"]
    messages = body.get("messages") or [{}]
    if not functions or messages[-1].get("role") == "tool":
        return None
    return {"id": "call_0", "type": "function", "function": {"name": functions[0]["name"], "arguments": "{}"}}


def _describe_usage(usage: Usage) -> dict[str, Any]:
    # Cached tokens are a part of the prompt's, and reasoning tokens of the completion's.
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.billed_output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _describe_error(refusal: Refusal) -> dict[str, Any]:
    code = refusal.kind or _KINDS.get(refusal.status, "server_error")
    kind = {"rate_limit_exceeded": "requests"}.get(code, code)
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": code}}
