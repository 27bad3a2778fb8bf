"""Which requests are calls of a model: by path, and by the fields of their body."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from loco_otel.patching.address import Address
from loco_otel.patching.dialects.provider_hosts import find_provider


class Endpoint(NamedTuple):
    """What a path serves."""

    operation: str
    """As `gen_ai.operation.name` has it."""
    provider: str | None
    """The provider whose form the body has: that of a host that nothing else is known of."""


_ENDPOINTS = {
    "chat/completions": Endpoint("chat", "openai"),
    "completions": Endpoint("text_completion", "openai"),
    "responses": Endpoint("chat", "openai"),
    "responses/compact": Endpoint("chat", "openai"),
    "embeddings": Endpoint("embeddings", "openai"),
    "messages": Endpoint("chat", "anthropic"),
}
"""By the end of the path."""
_PROMPT_OPERATIONS = {
    "messages": "chat",
    "input": "generate_content",
    "prompt": "text_completion",
    "contents": "generate_content",
}
"""The operation of other paths, by the field that has the prompt."""
_OTHER_ENDS = frozenset({"batches", "count_tokens", "countTokens", "input_tokens", "moderations", "tokenize"})
"""Ends of paths whose requests have a model and a prompt too, and do not generate."""
_MODEL_IN_PATH = re.compile(r"/models/([^/:]+):(?:stream)?[gG]enerateContent$|/deployments/([^/]+)/")
"""Of Gemini and of Azure."""


def find_endpoint(path: str, body: Mapping[str, Any]) -> Endpoint | None:
    """Return what a request asks for; None if it calls no model."""
    field = next((name for name in _PROMPT_OPERATIONS if name in body), None)
    *_, before, end = ("", *re.split("[/:]", path.rstrip("/")))
    if field is None or end in _OTHER_ENDS:
        return None
    return _ENDPOINTS.get(f"{before}/{end}") or _ENDPOINTS.get(end) or Endpoint(_PROMPT_OPERATIONS[field], None)


def find_model(path: str, body: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Return the model that answers a request, None without one, and whether the path selects it."""
    found = _MODEL_IN_PATH.search(path)
    named = body.get("model")
    if isinstance(named, str):
        return named, found is not None
    return (None, False) if found is None else (found.group(1) or found.group(2), True)


@lru_cache(64)
def find_host_provider(host: str) -> str | None:
    """Return the provider behind a host; None if it is not known."""
    return find_provider(Address("https", host, None))
