"""Names the provider behind a host that speaks OpenAI's protocol."""

from fnmatch import fnmatchcase
from typing import Any

_PROVIDERS = {
    "api.cerebras.ai": "cerebras",
    "api.cohere.*": "cohere",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "codestral.mistral.ai": "mistral_ai",
    "api.moonshot.*": "moonshot",
    "openrouter.ai": "openrouter",
    "api.perplexity.ai": "perplexity",
    "api.together.ai": "together",
    "api.together.xyz": "together",
    "api.x.ai": "x_ai",
    "*.api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "*-aiplatform.googleapis.com": "gcp.vertex_ai",
    "bedrock-runtime.*.amazonaws.com": "aws.bedrock",
    "*.openai.azure.com": "azure.ai.openai",
    "*.services.ai.azure.com": "azure.ai.openai",
    "*.cognitiveservices.azure.com": "azure.ai.openai",
}
"""`gen_ai.provider.name` by host or glob: the conventions' name where there is one, else the provider's own."""

_MAX_URLS = 64
_provider_by_url: dict[int, tuple[Any, str | None]] = {}
"""Answers by the identity of a client's base URL, which is kept alive here: hashing a URL takes longer than a call of
this module may."""


def find_provider(url: Any) -> str | None:
    """Return `gen_ai.provider.name` for a base URL; None for an unknown host. Thread-safe.

    Example:
        >>> from httpx import URL
        >>> find_provider(URL("https://api.deepseek.com/v1"))
        'deepseek'

    """
    known = _provider_by_url.get(id(url))
    if known is not None and known[0] is url:
        return known[1]
    host = (getattr(url, "host", None) or "").lower().rstrip(".")
    provider = next((name for pattern, name in _PROVIDERS.items() if fnmatchcase(host, pattern)), None)
    if len(_provider_by_url) >= _MAX_URLS:
        _provider_by_url.clear()
    _provider_by_url[id(url)] = (url, provider)
    return provider
