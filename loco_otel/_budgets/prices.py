"""What a call costs, in micro-USD: the prices of `genai-prices`, and those that the settings add or replace.

`genai-prices` takes about 110 us to price one call. What it knows of a model is therefore turned, once a minute for
each model in use, into whole pico-USD per token; from there a price is a few integer products, and the same to the
micro-dollar as its own.
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

_SNAPSHOT = "genai_prices.data_snapshot"
_PICO_PER_MICRO = 1_000_000
_FRESH = 60
"""Seconds for which what is known of a model is kept: some prices change with the time of day."""
_MOST_MODELS = 1000

_PROVIDERS = {
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

_Steps: TypeAlias = tuple[tuple[int, int], ...]
"""Pico-USD per token by the size of the prompt: (from more than so many input tokens, the price of every token)."""


class _Rates(NamedTuple):
    input: _Steps
    output: _Steps
    cache_read: _Steps
    cache_write: _Steps
    reasoning: _Steps
    request: int
    """Pico-USD for each request."""
    flat: bool = False
    """Whether the size of the prompt changes nothing."""

    def told(self) -> "_Rates":
        """Return the same, with `flat` set."""
        return self._replace(flat=all(len(steps) == 1 for steps in self[:5]))


class Prices:
    """Prices calls. For all threads, without a lock.

    Args:
        own: prices by model name or glob, which come before the published ones; the name itself goes before the
            globs, and those in their order.

    """

    def __init__(self, own: Mapping[str, Price] | None = None) -> None:
        self._own = {name: _rates_of(price) for name, price in (own or {}).items()}
        self._warned: set[tuple[str | None, str | None]] = set()

    def cost(
        self,
        provider: str | None,
        models: Sequence[str | None],
        usage: Usage,
        *,
        host: str | None = None,
        service_tier: str | None = None,
        quietly: bool = False,
    ) -> int | None:
        """Return what a call costs in micro-USD, rounded up; None where the model's price is not known: said once.

        Args:
            provider: as `gen_ai.provider.name` has it.
            models: as the provider answered and as the call named it: the first that has a price of the settings'
                counts, else the first with a published one.
            usage: its tokens; those of a cache are among the input, those of reasoning among the output.
            host: where it was sent, which tells a provider that speaks another's protocol.
            service_tier: `batch`, `flex`, `priority`, where the answer says so.
            quietly: say nothing and load nothing, as a finaliser must not.

        """
        if quietly and _SNAPSHOT not in sys.modules:
            return None
        named = [model for model in models if model is not None]
        rates = self._own_rates(named) or _published_rates(provider, named, host, service_tier)
        if rates is not None:
            return _cost(rates, usage)
        model = named[-1] if named else None
        if not quietly and (provider, model) not in self._warned and len(self._warned) < _MOST_MODELS:
            self._warned.add((provider, model))
            _logger.warning(
                "the price of %s %s is not known: its calls count in weight, until [prices] of the settings has one",
                provider,
                model,
            )
        return None

    def load(self) -> None:
        """Load what is published now, rather than when the first call is priced: it takes a third of a second."""
        import_module(_SNAPSHOT)

    def _own_rates(self, models: Sequence[str]) -> _Rates | None:
        # All names before anything published: a deployment answers under the name of the model behind it.
        own = self._own
        if own:
            for model in models:
                name = model if model in own else next((glob for glob in own if fnmatchcase(model, glob)), None)
                if name is not None:
                    return own[name]
        return None


def _published_rates(
    provider: str | None, models: Sequence[str], host: str | None, service_tier: str | None
) -> _Rates | None:
    minute = int(time.time()) // _FRESH
    for model in models:
        rates = _published(provider, model, host, service_tier, minute)
        if rates is not None:
            return rates
    return None


@lru_cache(maxsize=_MOST_MODELS)
def _published(
    provider: str | None, model: str, host: str | None, service_tier: str | None, minute: int
) -> _Rates | None:
    found = _find(provider, model, host)
    if found is None:
        return None
    context = None
    if service_tier is not None:
        context = {"processing": "batch"} if service_tier == "batch" else {"service_tier": service_tier}
    price = found.get_prices(datetime.fromtimestamp(minute * _FRESH, UTC), context)
    per_token = {
        name: _steps(getattr(price, f"{name}_mtok", None))
        for name in ("input", "output", "cache_read", "cache_write", "output_reasoning")
    }
    entry, answer = per_token["input"], per_token["output"]
    if entry is None and answer is None:
        return None
    entry = entry or ((0, 0),)
    answer = answer or ((0, 0),)
    per_thousand = getattr(price, "requests_kcount", None)
    return _Rates(
        input=entry,
        output=answer,
        cache_read=per_token["cache_read"] or entry,
        cache_write=per_token["cache_write"] or entry,
        reasoning=per_token["output_reasoning"] or answer,
        request=0 if per_thousand is None else round(per_thousand * 10**9),
    ).told()


def _find(provider: str | None, model: str, host: str | None) -> Any:
    """Return what is published of a model: by where the call went, else by whom it says it is for, else by its name."""
    # Imported at the first price, unless it was before.
    get_snapshot = import_module(_SNAPSHOT).get_snapshot
    ways: list[tuple[str | None, str | None]] = []
    if host:
        ways.append((None, f"https://{host}/"))
    if provider:
        ways.append((_PROVIDERS.get(provider, provider), None))
    ways.append((None, None))
    snapshot = get_snapshot()
    for provider_id, url in ways:
        try:
            return snapshot.find_provider_model(model, None, provider_id, url)[1]
        except LookupError:
            continue
    return None


def _steps(price: Any) -> _Steps | None:
    """Return a price in USD per million tokens, plain or in tiers, as pico-USD per token."""
    if price is None:
        return None
    tiers = getattr(price, "tiers", None)
    if tiers is None:
        return ((0, _pico(price)),)
    return ((0, _pico(price.base)), *((tier.start, _pico(tier.price)) for tier in tiers))


def _pico(usd_per_million: Decimal) -> int:
    # 1 USD per million tokens is 10^-6 USD, a million pico-USD, for each.
    return round(usd_per_million * _PICO_PER_MICRO)


def _rates_of(price: Price) -> _Rates:
    entry, answer = ((0, _pico(price.input)),), ((0, _pico(price.output)),)
    return _Rates(
        input=entry,
        output=answer,
        cache_read=entry if price.cache_read is None else ((0, _pico(price.cache_read)),),
        cache_write=entry if price.cache_write is None else ((0, _pico(price.cache_write)),),
        reasoning=answer,
        request=0,
    ).told()


def _cost(rates: _Rates, usage: Usage) -> int:
    read = usage.cache_read_tokens or 0
    written = usage.cache_write_tokens or 0
    thought = min(usage.reasoning_tokens or 0, usage.output_tokens)
    prompt = usage.input_tokens
    price, answer = rates.input[0][1], rates.output[0][1]
    if not rates.flat:
        price, answer = _at(rates.input, prompt), _at(rates.output, prompt)
    pico = max(0, prompt - read - written) * price + (usage.output_tokens - thought) * answer + rates.request
    if read:
        pico += read * _at(rates.cache_read, prompt)
    if written:
        pico += written * _at(rates.cache_write, prompt)
    if thought:
        pico += thought * _at(rates.reasoning, prompt)
    return -(-pico // _PICO_PER_MICRO)


def _at(steps: _Steps, prompt: int) -> int:
    """Return the price of a token: a prompt beyond a tier's start pays the tier's price for all its tokens."""
    price = steps[0][1]
    for start, step in steps[1:]:
        if prompt > start:
            price = step
    return price
