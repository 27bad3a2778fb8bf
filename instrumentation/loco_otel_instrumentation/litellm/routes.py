"""Where LiteLLM sends a call: the provider, the model without a prefix, and the address."""

import sys
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from loco_otel.patching import parse_address
from loco_otel.patching.dialects.provider_hosts import find_provider

_MAX_ROUTES = 256

_PROVIDERS = MappingProxyType(
    {
        "azure": "azure.ai.openai",
        "azure_text": "azure.ai.openai",
        "azure_ai": "azure.ai.inference",
        "bedrock": "aws.bedrock",
        "bedrock_converse": "aws.bedrock",
        "bedrock_mantle": "aws.bedrock",
        "cohere_chat": "cohere",
        "fireworks_ai": "fireworks",
        "gemini": "gcp.gemini",
        "hosted_vllm": "vllm",
        "mistral": "mistral_ai",
        "codestral": "mistral_ai",
        "text-completion-codestral": "mistral_ai",
        "nvidia_nim": "nvidia",
        "ollama_chat": "ollama",
        "text-completion-openai": "openai",
        "together_ai": "together",
        "vertex_ai": "gcp.vertex_ai",
        "vertex_ai_beta": "gcp.vertex_ai",
        "watsonx": "ibm.watsonx.ai",
        "watsonx_text": "ibm.watsonx.ai",
        "xai": "x_ai",
    }
)
"""`gen_ai.provider.name` by LiteLLM's name of a provider, where they differ."""
_OWN_PROTOCOLS = frozenset({"openai", "anthropic", "text-completion-openai"})
"""Providers whose protocol others speak, at hosts of theirs."""


class Route(NamedTuple):
    """Where a call is sent."""

    provider: str
    """As `gen_ai.provider.name` has it."""
    model: str
    """As the provider names it."""
    address: Any
    """With `host`, `port` and `scheme`; None where it is the provider's own."""


@lru_cache(_MAX_ROUTES)
def find_route(model: str, provider: str | None, api_base: str | None) -> Route:
    """Return where a model of a name is, as LiteLLM determines it.

    Args:
        model: with or without a prefix.
        provider: LiteLLM's name of it, if the program gave one.
        api_base: the URL that the program gave.

    """
    name, found, base = _ask_litellm(model, provider, api_base)
    address = parse_address(str(base)) if base else None
    own = _PROVIDERS.get(found, found)
    if found in _OWN_PROTOCOLS and address is not None:
        own = find_provider(address) or own
    return Route(own, name, address)


def _ask_litellm(model: str, provider: str | None, api_base: str | None) -> tuple[str, str, str | None]:
    try:
        name, found, _, base = sys.modules["litellm"].get_llm_provider(
            model=model, custom_llm_provider=provider, api_base=api_base
        )
    except Exception:  # an unknown model: the call itself will fail with it, or a callback replaces it
        found, _, name = model.rpartition("/")
        return name, provider or found or "litellm", api_base
    return name, found, api_base or base
