"""The tokens of a request's body: an estimate of its prompt, and the limit of its answer.

No tokenizer is used: one that works offline is larger than loco-otel itself. A third of the UTF-8 bytes is more than
the tokens of prose, code, Chinese and Russian, and less than those of JSON. The scheduler compares calls, so a biased
estimate is enough; `_runtime.token_averages` corrects it.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from loco_otel._telemetry.inference import MAX_OUTPUT_FIELDS
from loco_otel.events import MAX_TOKENS

_NUMBER_TYPES = (int, float)
_LIST_TYPES = (list, tuple)
_BINARY_TYPES = (bytes, bytearray, memoryview)

_BYTES_PER_TOKEN = 3
_MESSAGE_TOKENS = 4
_MAX_VALUES = 100_000
"""The most values counted in one body: bounds the time for a body that contains itself."""

_MESSAGE_FIELDS = frozenset({"messages", "input"})
_PROMPT_FIELDS = {
    **dict.fromkeys(("prompt", "system", "instructions", "suffix", "prediction", *_MESSAGE_FIELDS), False),
    **dict.fromkeys(("tools", "functions", "response_format", "text", "questions"), True),
    **dict.fromkeys(("output_format", "output_config"), True),
}
"""Fields of a body that reach the model; True if they reach it as JSON, so that their keys are text too."""
_JSON_FIELDS = frozenset({"input", "arguments", "variables"})
"""Fields of a message that reach the model as JSON."""

_NON_TEXT_FIELDS = frozenset(
    {
        *("type", "role", "status", "media_type", "detail", "cache_control", "annotations", "logprobs"),
        *("id", "call_id", "file_id", "item_id", "tool_call_id", "tool_use_id"),
        *("signature", "encrypted_content"),
    }
)
"""Fields of a message that are not text to the model."""

_IMAGE_TOKENS, _AUDIO_TOKENS, _DOCUMENT_TOKENS, _VIDEO_TOKENS, _REDACTED_TOKENS = 1000, 1000, 3000, 3000, 1000
_TOKENS_BY_MEDIA = {
    **dict.fromkeys(("image", "image_url", "image_file", "input_image"), _IMAGE_TOKENS),
    **dict.fromkeys(("image_generation_call", "computer_screenshot"), _IMAGE_TOKENS),
    **dict.fromkeys(("audio", "audio_url", "input_audio", "output_audio"), _AUDIO_TOKENS),
    **dict.fromkeys(("file", "input_file", "document", "container_upload"), _DOCUMENT_TOKENS),
    **dict.fromkeys(("video", "video_url", "input_video"), _VIDEO_TOKENS),
    "redacted_thinking": _REDACTED_TOKENS,
}
"""Tokens of a part that is not text, by its type. A flat amount: its bytes do not determine its tokens."""
_TEXT_SOURCES = ("text", "content")
"""Types of the source of a document that is text."""
_MEDIA_TYPE_FIELDS = frozenset({"media_type", "mime_type", "mimeType", "format"})
"""Fields that accompany base64 or bytes in `data`."""
_BASE64_FIELDS = frozenset({"file_data", "image_data", "b64_json"})
_DATA_URL_PREFIXES = ("data:", "DATA:")
_DATA_URL = re.compile(r"data:(\w+)/[\w.+-]+[;,]", re.IGNORECASE)


def estimate_tokens(body: Mapping[str, object]) -> int:
    """Return the estimated number of tokens of a request's prompt.

    Reads the bodies of OpenAI's chat completions, completions, responses and embeddings, and of Anthropic's messages.
    An image, a recording, a document or bytes count a flat amount of any size. An iterator counts nothing, as it can
    be read only once. Never raises.
    """
    prompt = _PromptCounter()
    with suppress(Exception):  # an unreadable object in the body: the partial count is used
        prompt.count_body(body)
    return prompt.tokens - (-prompt.text_bytes // _BYTES_PER_TOKEN)


def find_max_output_tokens(body: Mapping[str, object]) -> int | None:
    """Return the most tokens that all answers to a request can have together; None if it sets no limit."""
    for field in MAX_OUTPUT_FIELDS:
        most = body.get(field)
        if type(most) is int and most >= 0:
            return min(most * _count_answers(body), MAX_TOKENS)
    return None


def _count_answers(body: Mapping[str, object]) -> int:
    """Return how many answers are generated, those of `best_of` included that are not sent."""
    each = max([count for count in (body.get("n"), body.get("best_of")) if type(count) is int], default=1)
    prompt = body.get("prompt")
    several = (
        isinstance(prompt, _LIST_TYPES) and prompt and type(prompt[0]) is not int
    )  # else one prompt, given as tokens
    return max(1, each) * (len(prompt) if several and isinstance(prompt, _LIST_TYPES) else 1)


class _PromptCounter:
    """Counts the values of a body without recursion.

    Attributes:
        text_bytes: bytes of UTF-8.
        tokens: of all that is not text.

    """

    __slots__ = ("_pending", "text_bytes", "tokens")

    def __init__(self) -> None:
        self.text_bytes = 0
        self.tokens = 0
        self._pending: list[tuple[object, bool]] = []  # a value, and whether its keys are text too

    def count_body(self, body: Mapping[str, object]) -> None:
        """Count a whole body."""
        todo = self._pending
        for key, value in body.items():
            if key in _PROMPT_FIELDS and not (key in _MESSAGE_FIELDS and self._add_messages(value)):
                todo.append((value, _PROMPT_FIELDS[key]))
        for _ in range(_MAX_VALUES):
            if not todo:
                return
            value, is_json = todo.pop()
            if isinstance(value, str):
                self._add_string(value)
            elif isinstance(value, _NUMBER_TYPES):
                self.tokens += 1
            elif isinstance(value, _LIST_TYPES):
                self._add_items(value, is_json=is_json)
            elif isinstance(value, _BINARY_TYPES):
                self.tokens += _DOCUMENT_TOKENS
            elif (fields := _get_fields(value)) is not None:
                self._add_fields(fields, is_json=is_json)

    def _add_messages(self, messages: object) -> bool:
        """Count messages, and their contents if each is a role and a text, as in most calls; else return False."""
        self.tokens += _MESSAGE_TOKENS * _count_messages(messages)
        if type(messages) is not list:
            return False
        text = 0
        for message in messages:
            if type(message) is not dict or len(message) != 2 or "role" not in message:  # noqa: PLR2004 - these two
                return False
            content = message.get("content")
            if type(content) is not str or content[:5] in _DATA_URL_PREFIXES:
                return False
            text += len(content) if content.isascii() else _count_utf8_bytes(content)
        self.text_bytes += text
        return True

    def _add_string(self, value: str) -> None:
        if value.startswith(_DATA_URL_PREFIXES) and (url := _DATA_URL.match(value)):
            self.tokens += _TOKENS_BY_MEDIA.get(url[1].lower(), _DOCUMENT_TOKENS)
        else:
            self.text_bytes += _count_utf8_bytes(value)

    def _add_items(self, items: Sequence[object], *, is_json: bool) -> None:
        if items and type(items[0]) is int:  # a prompt given as tokens
            self.tokens += len(items)
        else:
            self._pending += [(item, is_json) for item in items[:_MAX_VALUES]]

    def _add_fields(self, fields: Mapping[str, object], *, is_json: bool) -> None:
        if (media := _count_media_tokens(fields, is_json=is_json)) is not None:
            self.tokens += media
            return
        for key, value in list(fields.items()):
            if is_json:
                self._add_string(str(key))
            elif key in _NON_TEXT_FIELDS:
                continue
            if key in _BASE64_FIELDS and isinstance(value, (str, *_BINARY_TYPES)):
                self.tokens += _DOCUMENT_TOKENS
            else:
                self._pending.append((value, is_json or key in _JSON_FIELDS))


def _count_media_tokens(fields: Mapping[str, object], *, is_json: bool) -> int | None:
    """Return the tokens of a part that is not text; None for others."""
    kind = fields.get("type")
    if not isinstance(kind, str):
        kind = ""
    if not is_json and kind in _TOKENS_BY_MEDIA:
        source = fields.get("source")
        is_text = isinstance(source, Mapping) and source.get("type") in _TEXT_SOURCES
        return None if is_text else _TOKENS_BY_MEDIA[kind]
    is_media = isinstance(fields.get("data"), (str, *_BINARY_TYPES)) and not _MEDIA_TYPE_FIELDS.isdisjoint(fields)
    return _TOKENS_BY_MEDIA.get(kind, _IMAGE_TOKENS) if is_media and kind != "text" else None


def _get_fields(value: object) -> Mapping[str, object] | None:
    """Return the fields of a mapping or of a pydantic model, such as an SDK's answer; None for others."""
    if isinstance(value, (dict, Mapping)):  # dict first: the check of an ABC is slow
        return value
    return vars(value) if hasattr(type(value), "__pydantic_validator__") else None


def _count_messages(value: object) -> int:
    if isinstance(value, _LIST_TYPES) and value and _get_fields(value[0]) is not None:
        return len(value)
    return 0


def _count_utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
