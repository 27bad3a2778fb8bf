"""Requests the usage of a stream of completions if the program did not, and removes it from what the program reads.

OpenAI sends the usage of a stream only if `stream_options.include_usage` is true: in one additional chunk, the last,
which has no choices. A program that did not request it may read `choices[0]` of every chunk.
"""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import ExtendedRequest, as_mapping, stainless

_COMPLETION_PATHS = ("/chat/completions", "/completions")
_STREAM_OPTIONS = "stream_options"


def request_stream_usage(options: Any) -> ExtendedRequest | None:
    """Return a stream's options with `include_usage`; None if the program has set it, or it cannot be set."""
    body = options.json_data
    if not isinstance(body, Mapping) or body.get("stream") is not True:
        return None
    if not stainless.get_path(options).endswith(_COMPLETION_PATHS):
        return None
    place = "json_data"
    if (extra := getattr(options, "extra_json", None)) and _STREAM_OPTIONS in extra:
        # What the program gave as `extra_body` replaces the same key of the body.
        place, body = "extra_json", extra
    wishes = body.get(_STREAM_OPTIONS) or {}
    if not isinstance(wishes, Mapping) or "include_usage" in wishes:
        return None
    changed = {**body, _STREAM_OPTIONS: {**wishes, "include_usage": True}}
    return ExtendedRequest(options.model_copy(update={place: changed}), _UsageStripper().strip_chunk)


class _UsageStripper:
    """Removes the usage from one stream that contains it only because loco-otel requested it."""

    __slots__ = ("_is_unasked",)

    def __init__(self) -> None:
        self._is_unasked = False
        """Whether the server sends usage beside text, which no server does because of `include_usage`."""

    def strip_chunk(self, chunk: Any) -> bool:
        """Remove the usage from a chunk; return True if the program must not receive the chunk."""
        known = as_mapping(chunk)
        if known.get("usage") is not None:
            if choices := known.get("choices"):
                # Some servers put it into the chunk that ends the last choice, which the program requires.
                if not all(as_mapping(choice).get("finish_reason") for choice in choices):
                    self._is_unasked = True
                return False
            return not self._is_unasked
        if "usage" in known and not self._is_unasked:
            # If it was requested, all other chunks have `usage: null`.
            if isinstance(chunk, dict):
                del chunk["usage"]
            else:
                chunk.model_fields_set.discard("usage")
        return False
