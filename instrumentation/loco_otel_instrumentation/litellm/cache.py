"""Classifies answers of LiteLLM: a stream or a whole one, from a provider or from LiteLLM's own cache."""

from typing import Any

from loco_otel.patching import as_mapping, get_field

_INNER_STREAMS = ("completion_stream", "litellm_custom_stream_wrapper")
"""Attributes of streams of text and of the Responses API that are around the stream of a completion."""


def is_from_cache(answer: Any) -> bool:
    """Return whether a whole answer or a stream is from LiteLLM's cache, and no part of it from a provider."""
    known = as_mapping(answer)
    return _is_hit(answer) or any(_is_hit(known.get(name)) for name in _INNER_STREAMS)


def is_stream(answer: Any) -> bool:
    """Return whether an answer is a stream, of either colour."""
    return hasattr(type(answer), "__next__") or hasattr(type(answer), "__anext__")


def _is_hit(answer: Any) -> bool:
    hidden = getattr(answer, "_hidden_params", None)
    return bool(get_field(hidden, "cache_hit")) and not _is_merged(answer, hidden)


def _is_merged(answer: Any, hidden: Any) -> bool:
    """Return whether a provider was asked for some of the embeddings, which LiteLLM does not state.

    It measures the time of such an answer, and gives it no key, as it is several entries. An answer that is wholly
    from the cache has both, or no time.
    """
    return get_field(hidden, "cache_key") is None and getattr(answer, "_response_ms", None) is not None
