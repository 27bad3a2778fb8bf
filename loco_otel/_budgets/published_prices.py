"""The prices that `genai-prices` publishes, as rates.

`genai-prices` takes about 110 us to price one call. Its prices of a model are therefore converted, once a minute for
each model in use, to whole pico-USD per token.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from importlib import import_module
from typing import Any

from loco_otel._budgets.rates import PriceSteps, Rates

SNAPSHOT_MODULE = "genai_prices.data_snapshot"
_RATES_CACHE_SECONDS = 60
"""Seconds for which a model's prices are cached: some prices change with the time of day."""
_MAX_MODELS = 1000
_PICO_PER_USD = 10**12

_PROVIDER_IDS = {
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "aws.bedrock": "aws",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "moonshot": "moonshotai",
    "x_ai": "x-ai",
}
"""Names of `gen_ai.provider.name` that `genai-prices` spells otherwise."""
_FREE_PROVIDERS = frozenset({"ollama"})
"""Providers that charge nothing for a call. Others sell models of the same names."""
_NOTHING: PriceSteps = ((0, 0),)
_FREE_RATES = Rates(_NOTHING, _NOTHING, _NOTHING, _NOTHING, _NOTHING, 0, {}).with_flat_flag()
_PER_MILLION_TOKENS = "_mtok"
_UNITS = ((_PER_MILLION_TOKENS, "_tokens", 1_000_000), ("_kcount", "", 1000), ("_hours", "_seconds", 3600))
"""The end of the name of a price, the end of the name of its unit, and the units in one price."""
_TOKEN_PRICES = frozenset({"input", "output", "cache_read", "cache_write", "output_reasoning"})
_REQUESTS = "requests"
_GOOGLE = "google"
_GOOGLE_PREFIX = "models/"
"""Google's list of models has it before each name, and its API accepts both."""
_GOOGLE_INPUT = frozenset({"input_audio_tokens"})
"""Google publishes one price for all inputs of a model, unless audio has another."""


def find_published_rates(
    provider: str | None, models: Sequence[str], host: str | None, service_tier: str | None
) -> Rates | None:
    """Return the published rates of the first model that has some; None if none has."""
    if provider in _FREE_PROVIDERS:
        return _FREE_RATES
    minute = int(time.time()) // _RATES_CACHE_SECONDS
    for model in models:
        rates = _load_published_rates(provider, model, host, service_tier, minute)
        if rates is not None:
            return rates
    return None


@lru_cache(maxsize=_MAX_MODELS)
def _load_published_rates(
    provider: str | None, model: str, host: str | None, service_tier: str | None, minute: int
) -> Rates | None:
    publisher, found = _find_model_info(provider, model, host)
    if found is None:
        return None
    at = datetime.fromtimestamp(minute * _RATES_CACHE_SECONDS, UTC)
    price = found.get_prices(at, None)
    has_tier_rates = service_tier is None
    if service_tier is not None:
        # One word of a provider is one of three conditions of `genai-prices`.
        context = {"processing": service_tier, "service_tier": service_tier, "speed": service_tier}
        ordinary, price = price, found.get_prices(at, context)
        has_tier_rates = price != ordinary
    token_rates: dict[str, PriceSteps] = {}
    items: dict[str, PriceSteps] = {}
    for name, value in vars(price).items():
        for ending, unit, count in _UNITS:
            if value is not None and name.endswith(ending):
                kind = name.removesuffix(ending)
                if ending == _PER_MILLION_TOKENS and kind in _TOKEN_PRICES:
                    token_rates[kind] = _convert_to_steps(value, count)
                else:
                    items[kind + unit] = _convert_to_steps(value, count)
    entry, answer = token_rates.get("input"), token_rates.get("output")
    if entry is None and answer is None:
        return None
    entry = entry or _NOTHING
    answer = answer or _NOTHING
    request = items.pop(_REQUESTS, _NOTHING)[0][1]
    rates = Rates(
        input=entry,
        output=answer,
        cache_read=token_rates.get("cache_read") or entry,
        cache_write=token_rates.get("cache_write") or entry,
        reasoning=token_rates.get("output_reasoning") or answer,
        request=request,
        items=items,
        has_tier_rates=has_tier_rates,
    ).with_flat_flag()
    return rates._replace(same_as_text=rates.same_as_text | _GOOGLE_INPUT) if publisher == _GOOGLE else rates


def _find_model_info(provider: str | None, model: str, host: str | None) -> tuple[str | None, Any]:
    """Return a publisher's id and its prices of a model, found by the call's host, else its provider, else its name."""
    # Imported with the first price, unless `load_snapshot` ran.
    get_snapshot = import_module(SNAPSHOT_MODULE).get_snapshot
    ways: list[tuple[str | None, str | None]] = []
    if host:
        ways.append((None, f"https://{host}/"))
    if provider:
        ways.append((_PROVIDER_IDS.get(provider, provider), None))
    ways.append((None, None))
    snapshot = get_snapshot()
    name = model.removeprefix(_GOOGLE_PREFIX)
    for provider_id, url in ways:
        try:
            publisher, info = snapshot.find_provider_model(name, None, provider_id, url)
        except LookupError:
            continue
        else:
            return publisher.id, info
    return None, None


def _convert_to_steps(price: Any, count: int) -> PriceSteps:
    """Convert a price in USD for a number of units, plain or in tiers, to pico-USD per unit."""
    tiers = getattr(price, "tiers", None)
    if tiers is None:
        return ((0, _convert_to_pico(price, count)),)
    return (
        (0, _convert_to_pico(price.base, count)),
        *((tier.start, _convert_to_pico(tier.price, count)) for tier in tiers),
    )


def _convert_to_pico(usd: Decimal, count: int) -> int:
    return round(usd * _PICO_PER_USD / count)
