"""The cost of a call in micro-USD, by the prices of `genai-prices` and of the settings.

`genai-prices` takes about 110 us to price one call. Its prices of a model are therefore converted, once a minute for
each model in use, to whole pico-USD per token. The cost is then a few integer products, and equals that of
`genai-prices` to the micro-dollar.
"""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

from loco_otel._config.budget_rules import Price
from loco_otel.events import Usage

_logger = logging.getLogger("loco_otel")

_SNAPSHOT_MODULE = "genai_prices.data_snapshot"
_PICO_PER_MICRO = 1_000_000
_RATES_CACHE_SECONDS = 60
"""Seconds for which a model's prices are cached: some prices change with the time of day."""
_MAX_MODELS = 1000

_PROVIDER_IDS = {
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "aws.bedrock": "aws",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "x_ai": "x-ai",
}
"""Names of `gen_ai.provider.name` that `genai-prices` spells otherwise."""

_PriceSteps: TypeAlias = tuple[tuple[int, int], ...]
"""Pico-USD per token by prompt size: (more than this many input tokens, the price of every token)."""


class _TokenRates(NamedTuple):
    input: _PriceSteps
    output: _PriceSteps
    cache_read: _PriceSteps
    cache_write: _PriceSteps
    reasoning: _PriceSteps
    request: int
    """Pico-USD for each request."""
    is_flat: bool = False
    """Whether the price is independent of the prompt's size."""

    def with_flat_flag(self) -> "_TokenRates":
        """Return the same, with `is_flat` set."""
        return self._replace(is_flat=all(len(steps) == 1 for steps in self[:5]))


class Prices:
    """Computes the cost of calls. Thread-safe without a lock.

    Args:
        own: prices by model name or glob, which take precedence over published ones. An exact name precedes the globs,
            and globs apply in their order.

    """

    def __init__(self, own: Mapping[str, Price] | None = None) -> None:
        self._configured_rates = {name: _make_rates(price) for name, price in (own or {}).items()}
        self._warned_models: set[tuple[str | None, str | None]] = set()

    def compute_cost(
        self,
        provider: str | None,
        models: Sequence[str | None],
        usage: Usage,
        *,
        host: str | None = None,
        service_tier: str | None = None,
        in_finalizer: bool = False,
    ) -> int | None:
        """Return a call's cost in micro-USD, rounded up; None if the model's price is unknown, which is logged once.

        Args:
            provider: the value of `gen_ai.provider.name`.
            models: as the provider answered and as the call named it. The first with a price in the settings is used,
                else the first with a published one.
            usage: its tokens; cached ones are part of the input, reasoning ones part of the output.
            host: the server of the call, which identifies a provider that serves another's protocol.
            service_tier: `batch`, `flex` or `priority`, if the answer has one.
            in_finalizer: log nothing and load nothing.

        """
        if in_finalizer and _SNAPSHOT_MODULE not in sys.modules:
            return None
        named = [model for model in models if model is not None]
        rates = self._find_configured_rates(named) or _find_published_rates(provider, named, host, service_tier)
        if rates is not None:
            return _price_usage(rates, usage)
        model = named[-1] if named else None
        if not in_finalizer and (provider, model) not in self._warned_models and len(self._warned_models) < _MAX_MODELS:
            self._warned_models.add((provider, model))
            _logger.warning(
                "the price of %s %s is unknown: its calls count in weight only (add it to [prices] in the settings)",
                provider,
                model,
            )
        return None

    def load_snapshot(self) -> None:
        """Load the published prices now, not with the first call, as this takes a third of a second."""
        import_module(_SNAPSHOT_MODULE)

    def _find_configured_rates(self, models: Sequence[str]) -> _TokenRates | None:
        # All names are tried before published prices: a deployment answers with the name of the model behind it.
        own = self._configured_rates
        if own:
            for model in models:
                name = model if model in own else next((glob for glob in own if fnmatchcase(model, glob)), None)
                if name is not None:
                    return own[name]
        return None


def _find_published_rates(
    provider: str | None, models: Sequence[str], host: str | None, service_tier: str | None
) -> _TokenRates | None:
    minute = int(time.time()) // _RATES_CACHE_SECONDS
    for model in models:
        rates = _load_published_rates(provider, model, host, service_tier, minute)
        if rates is not None:
            return rates
    return None


@lru_cache(maxsize=_MAX_MODELS)
def _load_published_rates(
    provider: str | None, model: str, host: str | None, service_tier: str | None, minute: int
) -> _TokenRates | None:
    found = _find_model_info(provider, model, host)
    if found is None:
        return None
    context = None
    if service_tier is not None:
        context = {"processing": "batch"} if service_tier == "batch" else {"service_tier": service_tier}
    price = found.get_prices(datetime.fromtimestamp(minute * _RATES_CACHE_SECONDS, UTC), context)
    per_token = {
        name: _convert_to_steps(getattr(price, f"{name}_mtok", None))
        for name in ("input", "output", "cache_read", "cache_write", "output_reasoning")
    }
    entry, answer = per_token["input"], per_token["output"]
    if entry is None and answer is None:
        return None
    entry = entry or ((0, 0),)
    answer = answer or ((0, 0),)
    per_thousand = getattr(price, "requests_kcount", None)
    return _TokenRates(
        input=entry,
        output=answer,
        cache_read=per_token["cache_read"] or entry,
        cache_write=per_token["cache_write"] or entry,
        reasoning=per_token["output_reasoning"] or answer,
        request=0 if per_thousand is None else round(per_thousand * 10**9),
    ).with_flat_flag()


def _find_model_info(provider: str | None, model: str, host: str | None) -> Any:
    """Return the published prices of a model, found by the call's host, else its provider, else its name."""
    # Imported with the first price, unless `load_snapshot` ran.
    get_snapshot = import_module(_SNAPSHOT_MODULE).get_snapshot
    ways: list[tuple[str | None, str | None]] = []
    if host:
        ways.append((None, f"https://{host}/"))
    if provider:
        ways.append((_PROVIDER_IDS.get(provider, provider), None))
    ways.append((None, None))
    snapshot = get_snapshot()
    for provider_id, url in ways:
        try:
            return snapshot.find_provider_model(model, None, provider_id, url)[1]
        except LookupError:
            continue
    return None


def _convert_to_steps(price: Any) -> _PriceSteps | None:
    """Convert a price in USD per million tokens, plain or in tiers, to pico-USD per token."""
    if price is None:
        return None
    tiers = getattr(price, "tiers", None)
    if tiers is None:
        return ((0, _convert_to_pico(price)),)
    return ((0, _convert_to_pico(price.base)), *((tier.start, _convert_to_pico(tier.price)) for tier in tiers))


def _convert_to_pico(usd_per_million: Decimal) -> int:
    # 1 USD per million tokens is 10^-6 USD, a million pico-USD, per token.
    return round(usd_per_million * _PICO_PER_MICRO)


def _make_rates(price: Price) -> _TokenRates:
    entry, answer = ((0, _convert_to_pico(price.input)),), ((0, _convert_to_pico(price.output)),)
    return _TokenRates(
        input=entry,
        output=answer,
        cache_read=entry if price.cache_read is None else ((0, _convert_to_pico(price.cache_read)),),
        cache_write=entry if price.cache_write is None else ((0, _convert_to_pico(price.cache_write)),),
        reasoning=answer,
        request=0,
    ).with_flat_flag()


def _price_usage(rates: _TokenRates, usage: Usage) -> int:
    read = usage.cache_read_tokens or 0
    written = usage.cache_write_tokens or 0
    thought = min(usage.reasoning_tokens or 0, usage.output_tokens)
    prompt = usage.input_tokens
    price, answer = rates.input[0][1], rates.output[0][1]
    if not rates.is_flat:
        price, answer = _find_step_price(rates.input, prompt), _find_step_price(rates.output, prompt)
    pico = max(0, prompt - read - written) * price + (usage.output_tokens - thought) * answer + rates.request
    if read:
        pico += read * _find_step_price(rates.cache_read, prompt)
    if written:
        pico += written * _find_step_price(rates.cache_write, prompt)
    if thought:
        pico += thought * _find_step_price(rates.reasoning, prompt)
    return -(-pico // _PICO_PER_MICRO)


def _find_step_price(steps: _PriceSteps, prompt: int) -> int:
    """Return the price of a token: a prompt larger than a tier's start pays that tier's price for all its tokens."""
    price = steps[0][1]
    for start, step in steps[1:]:
        if prompt > start:
            price = step
    return price
