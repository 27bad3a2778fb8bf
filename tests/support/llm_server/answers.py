"""Types shared by the provider APIs, and the token counts of every answer."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from .http1 import Request

_WORDS = ("fair", "winds", "and", "following", "seas")
_TEXT_KEYS = ("text", "content", "contents", "parts", "input", "inputText", "prompt")


@dataclass
class Settings:
    """What every answer contains. The defaults are restored by a reset."""

    output_tokens: int = len(_WORDS)
    """Words, and tokens, of each answer. A stream sends one word per chunk."""
    cached_tokens: int = 0
    """Input tokens that are reported as read from a prompt cache, at most all of them."""
    reasoning_tokens: int = 0
    """Tokens that are reported as thinking, in addition to `output_tokens`."""
    delay: float = 0.0
    """Seconds before each response."""
    chunk_delay: float = 0.0
    """Seconds before each chunk of a stream but the first."""


@dataclass(frozen=True)
class Usage:
    """Token counts of one answer; each API reports them with its own names and sums."""

    input_tokens: int
    """All input tokens, cached ones included: the number of words of the prompt."""
    cached_tokens: int
    output_tokens: int
    """Tokens of the text, without `reasoning_tokens`."""
    reasoning_tokens: int

    @property
    def uncached_tokens(self) -> int:
        return self.input_tokens - self.cached_tokens

    @property
    def billed_output_tokens(self) -> int:
        return self.output_tokens + self.reasoning_tokens

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.billed_output_tokens


@dataclass(frozen=True)
class Operation:
    """What a request asks for."""

    name: str
    """The provider's name of the operation, such as `chat.completions` or `ConverseStream`."""
    model: str
    streamed: bool = False
    generates: bool = True
    """Whether a model works on it, so that it counts as a request in progress. False for token counts."""


@dataclass(frozen=True)
class Answer:
    """A response: one body, or the chunks of a stream."""

    chunks: tuple[bytes, ...]
    headers: Mapping[str, str]
    streamed: bool = False
    status: int = 200


@dataclass(frozen=True)
class Refusal:
    """An error response that a test has scripted."""

    status: int = 429
    kind: str | None = None
    """The provider's error code. None selects the code that belongs to the status."""
    message: str = "Too many requests, please wait before trying again."
    retry_after: float | None = None
    """Seconds, sent where this provider sends them."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    """A body that replaces the provider's."""


class Api(Protocol):
    """One provider API."""

    name: str

    def parse(self, request: Request) -> Operation | None:
        """Return the operation of a request, or None if it belongs to another API."""

    def answer(self, request: Request, operation: Operation, settings: Settings) -> Answer:
        """Return a successful answer."""

    def refuse(self, operation: Operation, refusal: Refusal) -> Answer:
        """Return an error response in the provider's format."""

    def refuse_in_stream(self, operation: Operation, refusal: Refusal) -> bytes:
        """Return the chunk that reports an error in a stream whose status was 200."""


def answer_words(settings: Settings) -> list[str]:
    """Return the words of an answer; all but the first begin with a space."""
    words = (_WORDS[index % len(_WORDS)] for index in range(settings.output_tokens))
    return [word if index == 0 else f" {word}" for index, word in enumerate(words)]


def measure_usage(settings: Settings, *prompt: Any) -> Usage:
    """Return the usage of an answer to a prompt, given as the parts of the request that contain text."""
    input_tokens = sum(len(text.split()) for text in _find_texts(prompt))
    cached_tokens = min(settings.cached_tokens, input_tokens)
    return Usage(input_tokens, cached_tokens, settings.output_tokens, settings.reasoning_tokens)


def _find_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _find_texts(item)
    elif isinstance(value, dict):
        for key in _TEXT_KEYS:
            yield from _find_texts(value.get(key))


def json_answer(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a whole JSON response."""
    return Answer((json.dumps(body).encode(),), {"content-type": "application/json", **(headers or {})}, status=status)


def sse_answer(events: Iterator[bytes] | list[bytes], headers: Mapping[str, str] | None = None) -> Answer:
    """Return a stream of server-sent events."""
    return Answer(tuple(events), {"content-type": "text/event-stream", **(headers or {})}, streamed=True)


def sse_event(data: Any, event: str | None = None) -> bytes:
    """Return one server-sent event; a string is sent as it is."""
    text = data if isinstance(data, str) else json.dumps(data)
    name = "" if event is None else f"event: {event}\n"
    return f"{name}data: {text}\n\n".encode()


def retry_after_header(refusal: Refusal) -> dict[str, str]:
    """Return the scripted headers, with `retry-after` if the refusal has a delay."""
    delay = {} if refusal.retry_after is None else {"retry-after": f"{refusal.retry_after:g}"}
    return {**delay, **refusal.headers}
