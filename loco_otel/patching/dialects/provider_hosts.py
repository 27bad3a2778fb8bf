"""Names the provider behind a host that speaks the protocol of OpenAI or Anthropic."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

PROVIDERS = {
    "api.openai.com": "openai",
    "*.api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "api.ai21.com": "ai21",
    "dashscope*.aliyuncs.com": "alibaba",
    "inference.baseten.co": "baseten",
    "api.cerebras.ai": "cerebras",
    "api.cloudflare.com": "cloudflare",
    "*.cloud.databricks.com": "databricks",
    "*.azuredatabricks.net": "databricks",
    "*.gcp.databricks.com": "databricks",
    "api.deepinfra.com": "deepinfra",
    "models.github.ai": "github",
    "router.huggingface.co": "huggingface",
    "*.ml.cloud.ibm.com": "ibm.watsonx.ai",
    "api.meta.ai": "meta",
    "api.minimax.*": "minimax",
    "api.minimaxi.com": "minimax",
    "*.nebius.com": "nebius",
    "api.novita.ai": "novita",
    "integrate.api.nvidia.com": "nvidia",
    "*.ai.cloud.ovh.net": "ovhcloud",
    "api.sambanova.ai": "sambanova",
    "api.scaleway.ai": "scaleway",
    "ai-gateway.vercel.sh": "vercel",
    "ark.*.volces.com": "volcengine",
    "api.voyageai.com": "voyageai",
    "api.z.ai": "zai",
    "open.bigmodel.cn": "zhipuai",
    "api.cohere.*": "cohere",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "codestral.mistral.ai": "mistral_ai",
    "api.moonshot.*": "moonshot",
    "openrouter.ai": "openrouter",
    "*.openrouter.ai": "openrouter",
    "api.perplexity.ai": "perplexity",
    "api.together.ai": "together",
    "api.together.xyz": "together",
    "api.x.ai": "x_ai",
    "*.api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "*-aiplatform.googleapis.com": "gcp.vertex_ai",
    "aiplatform.*.rep.googleapis.com": "gcp.vertex_ai",
    "bedrock-runtime.*.amazonaws.com": "aws.bedrock",
    "bedrock-mantle.*.api.aws": "aws.bedrock",
    "*.inference.ai.azure.com": "azure.ai.inference",
    "*.openai.azure.us": "azure.ai.openai",
    "*.openai.azure.com": "azure.ai.openai",
    "*.services.ai.azure.com": "azure.ai.openai",
    "*.cognitiveservices.azure.com": "azure.ai.openai",
}
"""`gen_ai.provider.name` by host or glob: the conventions' name where there is one, else the provider's own."""
_PROVIDERS_BY_PORT = {11434: "ollama"}
"""Of servers on hosts of one's own. Only ports that no other server has by default: 8000, vLLM's, is everybody's."""

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
    provider = next((name for pattern, name in PROVIDERS.items() if fnmatchcase(host, pattern)), None)
    if provider is None:
        provider = _PROVIDERS_BY_PORT.get(getattr(url, "port", None) or 0)
    if len(_provider_by_url) >= _MAX_URLS:
        _provider_by_url.clear()
    _provider_by_url[id(url)] = (url, provider)
    return provider


def find_configured_provider(table: Mapping[str, str], url: Any) -> str | None:
    """Return the provider that a table of hosts and globs has for a base URL; None if it has none.

    An entry with a port, `host:port`, is for that port alone, and precedes those without.

    Example:
        >>> from httpx import URL
        >>> find_configured_provider({"*.example": "openrouter"}, URL("https://llm.example/v1"))
        'openrouter'

    """
    host = (getattr(url, "host", None) or "").lower().rstrip(".")
    port = getattr(url, "port", None)
    for place in (host,) if port is None else (f"{host}:{port}", host):
        # A glob without a port would match one with a port too.
        entries = {entry: name for entry, name in table.items() if (":" in entry) == (":" in place)}
        found = entries.get(place) or next(
            (name for entry, name in entries.items() if fnmatchcase(place, entry.lower())), None
        )
        if found is not None:
            return found
    return None
