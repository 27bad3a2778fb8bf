"""Asks a stream of completions for its usage where the program did not, and keeps the answer from the program.

OpenAI tells the usage of a stream only when `stream_options.include_usage` says so, in one chunk more, the last, which
has no choices. A program that did not ask may well take `choices[0]` of every chunk.
"""

from collections.abc import Mapping
from typing import Any

from loco_otel.patching import ExtendedRequest, as_mapping, stainless

_COMPLETION_PATHS = ("/chat/completions", "/completions")
_STREAM_OPTIONS = "stream_options"


def request_stream_usage(options: Any) -> ExtendedRequest | None:
    """Return a stream's options with the wish added; None where the program has said yes or no to it, or can't."""
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
    """Strips one stream of the usage that it has only because loco-otel asked."""

    __slots__ = ("_is_unasked",)

    def __init__(self) -> None:
        self._is_unasked = False
        """Whether the server sends usage with its text, as no answer to `include_usage` does."""

    def strip_chunk(self, chunk: Any) -> bool:
        """Strip a chunk; True where the program must not get it at all."""
        known = as_mapping(chunk)
        if known.get("usage") is not None:
            if choices := known.get("choices"):
                # Some servers put it into the chunk that ends the last choice: that one the program must have.
                if not all(as_mapping(choice).get("finish_reason") for choice in choices):
                    self._is_unasked = True
                return False
            return not self._is_unasked
        if "usage" in known and not self._is_unasked:
            # Where it was asked for, all the other chunks say `usage: null`.
            if isinstance(chunk, dict):
                del chunk["usage"]
            else:
                chunk.model_fields_set.discard("usage")
        return False
