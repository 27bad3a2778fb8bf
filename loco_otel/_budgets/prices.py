"""The cost of a call in micro-USD, by the prices of `genai-prices` and of the settings.

A cost is a few integer products, and equals that of `genai-prices` to the micro-dollar.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from importlib import import_module
from typing import NamedTuple

from loco_otel._budgets.published_prices import SNAPSHOT_MODULE, find_published_rates
from loco_otel._budgets.rates import PICO_PER_MICRO, PriceSteps, Rates, find_unpriced, price_usage
from loco_otel._config.budget_rules import Price
from loco_otel.events import Usage
from loco_otel.money import REPORTED_CHARGE, BilledItem

_logger = logging.getLogger("loco_otel")

_MAX_WARNINGS = 1000


class CallCost(NamedTuple):
    """What a call costs."""

    usd: int | None
    """Micro-USD, rounded up; None if the model's price is unknown."""
    unpriced: tuple[str, ...] = ()
    """Kinds of what the cost leaves out or contains at a rate that is too low."""


class Prices:
    """Computes the cost of calls. Thread-safe without a lock.

    Args:
        own: prices by model name or glob, which take precedence over published ones. An exact name precedes the globs,
            and globs apply in their order.

    """

    def __init__(self, own: Mapping[str, Price] | None = None) -> None:
        self._configured_rates = {name: _make_rates(price) for name, price in (own or {}).items()}
        self._warned: set[tuple[str | None, ...]] = set()
        """What was logged: provider and model, or these and a kind of `BilledItem`."""

    def compute_cost(
        self,
        provider: str | None,
        models: Sequence[str | None],
        usage: Usage,
        *,
        host: str | None = None,
        service_tier: str | None = None,
        in_finalizer: bool = False,
    ) -> CallCost:
        """Return what a call costs. A model whose price is unknown is logged once, as is each kind without a price.

        A charge that the provider reports precedes published prices, but not those of the settings.

        Args:
            provider: the value of `gen_ai.provider.name`.
            models: as the provider answered and as the call named it. The first with a price in the settings is used,
                else the first with a published one.
            usage: its tokens, and what else is billed; cached ones are part of the input, reasoning ones part of the
                output.
            host: the server of the call, which identifies a provider that serves another's protocol.
            service_tier: `batch`, `flex`, `priority` or `fast`, if the answer has one.
            in_finalizer: log nothing and load nothing.

        """
        named = [model for model in models if model is not None]
        rates = self._find_configured_rates(named)
        charge = None
        if rates is None:
            charge = _find_reported_charge(usage.items) if usage.items else None
            # A router may report 0 for a model that it has no price of.
            if charge:
                return CallCost(charge)
            if in_finalizer and SNAPSHOT_MODULE not in sys.modules:
                return CallCost(charge)
            rates = find_published_rates(provider, named, host, service_tier)
        subject = provider, named[-1] if named else None
        if rates is None:
            if charge is None and not in_finalizer:
                self._warn_once("the price of {0} {1} is unknown: its calls count in weight only", *subject)
            return CallCost(charge)
        unpriced: tuple[str, ...] = ()
        if usage.items or service_tier is not None:
            unpriced = find_unpriced(rates, usage, service_tier)
            if not in_finalizer:
                for kind in unpriced:
                    self._warn_once(
                        "the price of {2} of {0} {1} is unknown: its calls cost more than is charged to their budgets",
                        *subject,
                        kind,
                    )
        return CallCost(price_usage(rates, usage), unpriced)

    def load_snapshot(self) -> None:
        """Load the published prices, which takes a third of a second and is not possible in a finalizer. Idempotent."""
        if SNAPSHOT_MODULE not in sys.modules:
            import_module(SNAPSHOT_MODULE)

    def _find_configured_rates(self, models: Sequence[str]) -> Rates | None:
        # All names are tried before published prices: a deployment answers with the name of the model behind it.
        own = self._configured_rates
        if own:
            for model in models:
                name = model if model in own else next((glob for glob in own if fnmatchcase(model, glob)), None)
                if name is not None:
                    return own[name]
        return None

    def _warn_once(self, message: str, *subject: str | None) -> None:
        if subject not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(subject)
            _logger.warning("%s (add it to [prices] in the settings)", message.format(*subject))


def _find_reported_charge(items: Sequence[BilledItem]) -> int | None:
    return next((amount for kind, amount in items if kind == REPORTED_CHARGE), None)


def _make_rates(price: Price) -> Rates:
    entry, answer = _convert_token_price(price.input), _convert_token_price(price.output)
    return Rates(
        input=entry,
        output=answer,
        cache_read=entry if price.cache_read is None else _convert_token_price(price.cache_read),
        cache_write=entry if price.cache_write is None else _convert_token_price(price.cache_write),
        reasoning=answer,
        request=0,
        items={
            kind: _convert_token_price(usd if kind.endswith("_tokens") else usd * PICO_PER_MICRO)
            for kind, usd in price.items.items()
        },
    ).with_flat_flag()


def _convert_token_price(usd_per_million: Decimal) -> PriceSteps:
    # 1 USD per million tokens is 10^-6 USD, a million pico-USD, per token.
    return ((0, round(usd_per_million * PICO_PER_MICRO)),)
