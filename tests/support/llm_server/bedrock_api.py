"""The runtime of Amazon Bedrock: Converse and InvokeModel, each whole and streamed, and CountTokens."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from .answers import Answer, Operation, Refusal, Settings, Usage, answer_words, json_answer, measure_usage
from .bedrock_models import describe_answer, find_prompt, list_chunks
from .eventstream import CONTENT_TYPE, encode_chunk, encode_event, encode_exception
from .http1 import Request

_PATH = re.compile(r"/model/(?P<model>[^/]+)/(?P<action>[a-z-]+)$")
_OPERATIONS = {
    "converse": "Converse",
    "converse-stream": "ConverseStream",
    "invoke": "InvokeModel",
    "invoke-with-response-stream": "InvokeModelWithResponseStream",
    "count-tokens": "CountTokens",
}
_KINDS = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
_REQUEST_ID = {"x-amzn-requestid": "00000000-0000-0000-0000-000000000000"}


class BedrockApi:
    """Serves `/model/MODEL/ACTION`, under any prefix."""

    name = "bedrock"

    def parse(self, request: Request) -> Operation | None:
        """Return the operation of a request, or None if it belongs to another API."""
        found = _PATH.search(request.path)
        name = None if found is None else _OPERATIONS.get(found["action"])
        if found is None or name is None:
            return None
        return Operation(name, unquote(found["model"]), "Stream" in name, generates=name != "CountTokens")

    def answer(self, request: Request, operation: Operation, settings: Settings) -> Answer:
        """Return an answer, a stream of messages, or a token count."""
        body, words = request.json(), answer_words(settings)
        match operation.name:
            case "CountTokens":
                return json_answer({"inputTokens": _count_tokens(body, settings)}, headers=_REQUEST_ID)
            case "Converse":
                usage = measure_usage(settings, body.get("system"), body.get("messages"))
                return json_answer(_describe_converse(usage, words), headers=_REQUEST_ID)
            case "ConverseStream":
                usage = measure_usage(settings, body.get("system"), body.get("messages"))
                return _stream_answer(_list_converse_events(usage, words))
        usage = measure_usage(settings, find_prompt(body))
        if operation.streamed:
            return _stream_answer(encode_chunk(chunk) for chunk in list_chunks(operation.model, usage, words))
        answer = describe_answer(operation.model, usage, words)
        return json_answer(answer, headers=_describe_counts(usage, has_output="embedding" not in answer))

    def refuse(self, operation: Operation, refusal: Refusal) -> Answer:
        """Return an error response."""
        body = refusal.body if refusal.body is not None else {"message": refusal.message}
        kind = refusal.kind or _KINDS.get(refusal.status, "InternalServerException")
        headers = {**_REQUEST_ID, "x-amzn-errortype": kind, **refusal.headers}
        if refusal.retry_after is not None:
            headers["x-amz-retry-after"] = f"{refusal.retry_after * 1000:.0f}"
        return json_answer(body, status=refusal.status, headers=headers)

    def refuse_in_stream(self, operation: Operation, refusal: Refusal) -> bytes:
        """Return the exception that ends a stream, such as `throttlingException`."""
        kind = refusal.kind or _KINDS.get(refusal.status, "InternalServerException")
        return encode_exception(kind[0].lower() + kind[1:], {"message": refusal.message})


def _stream_answer(messages: Iterator[bytes]) -> Answer:
    headers = {"content-type": CONTENT_TYPE, "x-amzn-bedrock-content-type": "application/json", **_REQUEST_ID}
    return Answer(tuple(messages), headers, streamed=True)


def _describe_counts(usage: Usage, *, has_output: bool) -> dict[str, str]:
    headers = {
        **_REQUEST_ID,
        "x-amzn-bedrock-invocation-latency": "2",
        "x-amzn-bedrock-input-token-count": str(usage.uncached_tokens),
    }
    if has_output:
        headers["x-amzn-bedrock-output-token-count"] = str(usage.billed_output_tokens)
    if usage.cached_tokens:
        headers["x-amzn-bedrock-cache-read-input-token-count"] = str(usage.cached_tokens)
    return headers


def _describe_usage(usage: Usage) -> dict[str, int]:
    # Converse's input tokens are without those of the cache, its total with them.
    counts = {
        "inputTokens": usage.uncached_tokens,
        "outputTokens": usage.billed_output_tokens,
        "totalTokens": usage.total_tokens,
    }
    if usage.cached_tokens:
        counts |= {"cacheReadInputTokens": usage.cached_tokens, "cacheWriteInputTokens": 0}
    return counts


def _describe_converse(usage: Usage, words: list[str]) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"text": "".join(words)}]}
    metrics = {"latencyMs": 2}
    return {
        "output": {"message": message},
        "stopReason": "end_turn",
        "usage": _describe_usage(usage),
        "metrics": metrics,
    }


def _list_converse_events(usage: Usage, words: list[str]) -> Iterator[bytes]:
    yield encode_event("messageStart", {"role": "assistant"})
    for word in words:
        yield encode_event("contentBlockDelta", {"delta": {"text": word}, "contentBlockIndex": 0})
    yield encode_event("contentBlockStop", {"contentBlockIndex": 0})
    yield encode_event("messageStop", {"stopReason": "end_turn"})
    yield encode_event("metadata", {"usage": _describe_usage(usage), "metrics": {"latencyMs": 2}})


def _count_tokens(body: Any, settings: Settings) -> int:
    wanted = body.get("input", {})
    if "converse" in wanted:
        return measure_usage(settings, wanted["converse"].get("system"), wanted["converse"]["messages"]).input_tokens
    model_body = json.loads(base64.b64decode(wanted["invokeModel"]["body"]))
    return measure_usage(settings, find_prompt(model_body)).input_tokens
