"""Ollama's API: lines of JSON, the last of which has the token counts."""

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
)
from .http1 import Request

_PREFIX = "/ollama/api/"
_NAMES = ("chat", "generate", "embed")
_HEADERS = {"content-type": "application/x-ndjson"}


class OllamaApi:
    """Serves `/ollama/api/chat`, `generate` and `embed`. Chat and generation are streamed unless the body denies it."""

    name = "ollama"

    def parse(self, request: Request) -> Operation | None:
        """Return the operation of a request, or None if it belongs to another API."""
        name = request.path.removeprefix(_PREFIX)
        if name not in _NAMES:
            return None
        body = request.json()
        return Operation(name, str(body.get("model")), name != "embed" and bool(body.get("stream", True)))

    def answer(self, request: Request, operation: Operation, settings: Settings) -> Answer:
        """Return a whole answer, or its lines."""
        body = request.json()
        usage = measure_usage(settings, body.get("messages"), body.get("prompt"), body.get("input"))
        words = answer_words(settings)
        if operation.name == "embed":
            return json_answer({"model": operation.model, "embeddings": [[0.5]], **_describe_prompt(usage)})
        if operation.streamed:
            return Answer(tuple(_stream(operation, usage, words)), _HEADERS, streamed=True)
        return json_answer(_finish(operation, usage, "".join(words)))

    def refuse(self, operation: Operation, refusal: Refusal) -> Answer:
        """Return an error response."""
        return json_answer({"error": refusal.message}, status=refusal.status, headers=retry_after_header(refusal))

    def refuse_in_stream(self, operation: Operation, refusal: Refusal) -> bytes:
        """Return the line that reports an error."""
        return _line({"error": refusal.message})


def _stream(operation: Operation, usage: Usage, words: list[str]) -> Iterator[bytes]:
    for word in words:
        yield _line({**_describe(operation, word), "done": False})
    yield _line(_finish(operation, usage, ""))


def _finish(operation: Operation, usage: Usage, text: str) -> dict[str, Any]:
    counts = {**_describe_prompt(usage), "eval_count": usage.output_tokens, "eval_duration": 1}
    return {**_describe(operation, text), "done": True, "done_reason": "stop", **counts}


def _describe(operation: Operation, text: str) -> dict[str, Any]:
    content = (
        {"response": text} if operation.name == "generate" else {"message": {"role": "assistant", "content": text}}
    )
    return {"model": operation.model, "created_at": "2030-01-01T00:00:00Z", **content}


def _describe_prompt(usage: Usage) -> dict[str, int]:
    return {"total_duration": 1, "load_duration": 1, "prompt_eval_count": usage.input_tokens}


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"
