"""The rates of one model in whole pico-USD, and the cost of a call by them."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from loco_otel.events import Usage
from loco_otel.money import REPORTED_CHARGE

PICO_PER_MICRO = 1_000_000

PriceSteps: TypeAlias = tuple[tuple[int, int], ...]
"""Pico-USD per token by prompt size: (more than this many input tokens, the price of every token)."""

SERVICE_TIER = "service_tier"
"""The kind of an unpriced service tier."""

_COUNTED_IN = {
    "cache_write_1h_tokens": "cache_write",
    "cache_write_12h_tokens": "cache_write",
    "cache_audio_read_tokens": "cache_read",
    "cache_image_read_tokens": "cache_read",
    "cache_video_read_tokens": "cache_read",
    "input_audio_tokens": "input",
    "input_image_tokens": "input",
    "input_video_tokens": "input",
    "output_audio_tokens": "output",
    "output_image_tokens": "output",
    "output_video_tokens": "output",
}
"""Kinds of `BilledItem` that are a part of a token count of `Usage`, with the rate of that count. Without a rate of
their own they have this one."""
_COUNTED_BESIDE = {
    "compaction_input_tokens": "input",
    "compaction_cache_read_tokens": "cache_read",
    "compaction_cache_write_tokens": "cache_write",
    "compaction_output_tokens": "output",
}
"""Kinds of tokens that no count of `Usage` contains, with their rate."""
_TEXT_RATED = frozenset(
    {
        "cache_audio_read_tokens",
        "cache_image_read_tokens",
        "cache_video_read_tokens",
        "input_image_tokens",
        "input_video_tokens",
    }
)
"""Those of them that providers bill like text where they publish no other rate. The rest costs more."""
_FREE_TIERS = frozenset({"auto", "default", "on_demand", "standard", "standard_only"})
"""Service tiers at the ordinary price."""


class Rates(NamedTuple):
    """The rates of one model."""

    input: PriceSteps
    output: PriceSteps
    cache_read: PriceSteps
    cache_write: PriceSteps
    reasoning: PriceSteps
    request: int
    """Pico-USD for each request."""
    items: Mapping[str, PriceSteps]
    """By kind of `BilledItem`."""
    same_as_text: frozenset[str] = _TEXT_RATED
    """Kinds of tokens that cost as much as text if `items` has no rate of them."""
    has_tier_rates: bool = True
    """Whether these are the rates of the requested service tier; False if only those of the ordinary one are known."""
    is_flat: bool = False
    """Whether the price is independent of the prompt's size."""

    def with_flat_flag(self) -> "Rates":
        """Return the same, with `is_flat` set."""
        return self._replace(is_flat=all(len(steps) == 1 for steps in self[:5]))


def price_usage(rates: Rates, usage: Usage) -> int:
    """Return the cost in micro-USD, rounded up. What has no rate costs nothing."""
    prompt, output, _, *others = usage
    if rates.is_flat and not any(others):  # as nearly always: the fast path of the lines below
        pico = max(0, prompt) * rates.input[0][1] + output * rates.output[0][1] + rates.request
        return -(-pico // PICO_PER_MICRO)
    read = usage.cache_read_tokens or 0
    written = usage.cache_write_tokens or 0
    thought = min(usage.reasoning_tokens or 0, output)
    price, answer = rates.input[0][1], rates.output[0][1]
    if not rates.is_flat:
        price, answer = _find_step_price(rates.input, prompt), _find_step_price(rates.output, prompt)
    pico = max(0, prompt - read - written) * price + (output - thought) * answer + rates.request
    if read:
        pico += read * _find_step_price(rates.cache_read, prompt)
    if written:
        pico += written * _find_step_price(rates.cache_write, prompt)
    if thought:
        pico += thought * _find_step_price(rates.reasoning, prompt)
    if usage.items:
        pico += _price_items(rates, usage)
    return -(-pico // PICO_PER_MICRO)


def _price_items(rates: Rates, usage: Usage) -> int:
    """Return what the billed items add in pico-USD: fees, and for a part of the tokens the difference of its rate."""
    prompt = usage.input_tokens
    limits = {
        "input": max(0, prompt - (usage.cache_read_tokens or 0) - (usage.cache_write_tokens or 0)),
        "output": usage.output_tokens,
        "cache_read": usage.cache_read_tokens or 0,
        "cache_write": usage.cache_write_tokens or 0,
    }
    pico = 0
    for kind, amount in usage.items:
        steps = rates.items.get(kind) or (getattr(rates, _COUNTED_BESIDE[kind]) if kind in _COUNTED_BESIDE else None)
        if steps is None:
            continue
        whole = _COUNTED_IN.get(kind)
        price = _find_step_price(steps, prompt)
        if whole is None:
            pico += amount * price
        else:
            part = min(amount, limits[whole])
            limits[whole] -= part
            pico += part * (price - _find_step_price(getattr(rates, whole), prompt))
    return pico


def find_unpriced(rates: Rates, usage: Usage, service_tier: str | None) -> tuple[str, ...]:
    """Return the kinds of what the cost leaves out, or contains at a rate that is too low."""
    priced = (rates.items, rates.same_as_text, _COUNTED_BESIDE, (REPORTED_CHARGE,))
    kinds = [kind for kind, _ in usage.items if not any(kind in each for each in priced)]
    if service_tier is not None and service_tier not in _FREE_TIERS and not rates.has_tier_rates:
        kinds.append(SERVICE_TIER)
    return tuple(kinds)


def _find_step_price(steps: PriceSteps, prompt: int) -> int:
    """Return the price of a token: a prompt larger than a tier's start pays that tier's price for all its tokens."""
    price = steps[0][1]
    for start, step in steps[1:]:
        if prompt > start:
            price = step
    return price
