"""What is billed beside plain tokens: each kind at its published price, and what has none is named."""

import logging
from decimal import Decimal

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price

from loco_otel._budgets.prices import Prices
from loco_otel._config.budget_rules import Price
from loco_otel.events import Usage
from loco_otel.money import REPORTED_CHARGE, BilledItem


def usage(*items: tuple[str, int], read: int | None = None, written: int | None = None) -> Usage:
    return Usage(10_000, 2_000, False, read, written, None, tuple(BilledItem(*item) for item in items))


@pytest.mark.parametrize(
    ("provider", "model", "tier", "ours", "theirs"),
    [
        (
            "anthropic",
            "claude-opus-5",
            None,
            usage(("cache_write_1h_tokens", 3000), written=4000),
            {"cache_write_tokens": 4000, "cache_write_1h_tokens": 3000},
        ),
        ("anthropic", "claude-opus-5", None, usage(("web_searches", 3)), {"web_searches": 3}),
        ("anthropic", "claude-opus-5", "fast", usage(), {}),
        ("anthropic", "claude-opus-5", "batch", usage(), {}),
        ("openai", "gpt-5.5", "priority", usage(("storage_searches", 7)), {"storage_searches": 7}),
        (
            "openai",
            "gpt-audio",
            None,
            usage(("input_audio_tokens", 8000), ("output_audio_tokens", 1500)),
            {"input_audio_tokens": 8000, "output_audio_tokens": 1500},
        ),
        (
            "gcp.gemini",
            "gemini-2.5-flash",
            None,
            usage(("input_audio_tokens", 5000), ("cache_audio_read_tokens", 1000), read=1000),
            {"input_audio_tokens": 6000, "cache_audio_read_tokens": 1000, "cache_read_tokens": 1000},
        ),
        (
            "gcp.gemini",
            "gemini-3-pro-image-preview",
            None,
            usage(("output_image_tokens", 1200)),
            {"output_image_tokens": 1200},
        ),
    ],
)
def test_item_costs_what_is_published(
    provider: str, model: str, tier: str | None, ours: Usage, theirs: dict[str, int]
) -> None:
    context = {} if tier is None else {"processing": tier, "service_tier": tier, "speed": tier}
    publisher = "google" if provider == "gcp.gemini" else provider
    counted = TheirUsage(input_tokens=10_000, output_tokens=2_000, **theirs)
    exact = calc_price(counted, model, provider_id=publisher, price_context=context).total_price * 1_000_000
    prices = Prices()
    cost = prices.compute_cost(provider, [model], ours, service_tier=tier).usd
    assert cost is not None
    assert 0 <= cost - exact < 1
    plain = prices.compute_cost(provider, [model], Usage(10_000, 2_000, False, *ours[3:5])).usd
    assert plain is not None
    assert cost != plain
    assert prices.compute_cost(provider, [model], ours, service_tier=tier).unpriced == ()


@pytest.mark.parametrize(
    ("provider", "model", "tier", "ours", "kinds"),
    [
        ("openai", "gpt-4o", None, usage(("code_executions", 1)), ("code_executions",)),
        ("openai", "gpt-4o", None, usage(("input_audio_tokens", 5)), ("input_audio_tokens",)),
        ("openai", "gpt-4o", None, usage(("input_image_tokens", 5)), ()),
        ("gcp.gemini", "gemini-2.5-pro", None, usage(("input_audio_tokens", 5)), ()),
        ("anthropic", "claude-opus-5", "priority", usage(("inference_geo", 1)), ("inference_geo", "service_tier")),
        ("anthropic", "claude-opus-5", "standard", usage(), ()),
        ("openai", "gpt-4o", "default", usage(), ()),
    ],
)
def test_item_without_price_is_named_and_logged_once(
    provider: str, model: str, tier: str | None, ours: Usage, kinds: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    prices = Prices()
    with caplog.at_level(logging.WARNING, "loco_otel"):
        for _ in range(2):
            assert prices.compute_cost(provider, [model], ours, service_tier=tier).unpriced == kinds
    assert len(caplog.records) == len(kinds)
    assert all(kind in record.getMessage() for kind, record in zip(kinds, caplog.records, strict=True))
    plain = prices.compute_cost(provider, [model], usage()).usd
    assert prices.compute_cost(provider, [model], ours, service_tier=tier).usd == plain


def test_compaction_costs_as_much_as_the_answers_tokens() -> None:
    kinds = ("compaction_input_tokens", 10_000), ("compaction_output_tokens", 2_000)
    prices = Prices()
    cost = prices.compute_cost("anthropic", ["claude-opus-5"], usage()).usd
    assert cost
    assert prices.compute_cost("anthropic", ["claude-opus-5"], usage(*kinds)).usd == 2 * cost
    assert prices.compute_cost("anthropic", ["claude-opus-5"], usage(*kinds)).unpriced == ()


def test_items_above_their_whole_are_bounded_by_it() -> None:
    prices = Prices()
    whole = prices.compute_cost("openai", ["gpt-audio"], usage(("input_audio_tokens", 10_000))).usd
    assert prices.compute_cost("openai", ["gpt-audio"], usage(("input_audio_tokens", 10**9))).usd == whole


def test_reported_charge_precedes_published_price() -> None:
    prices, charged, free = Prices(), usage((REPORTED_CHARGE, 123)), usage((REPORTED_CHARGE, 0))
    assert prices.compute_cost("openrouter", ["harbour-1"], charged).usd == 123
    assert prices.compute_cost("openrouter", ["harbour-1"], free).usd == 0
    assert prices.compute_cost("openai", ["gpt-4o"], charged).usd == 123
    assert prices.compute_cost("openai", ["gpt-4o"], free).usd == prices.compute_cost("openai", ["gpt-4o"], usage()).usd
    own = Prices({"gpt-4o": Price(input=Decimal(1), output=Decimal(0))})
    assert own.compute_cost("openai", ["gpt-4o"], charged).usd == 10_000


def test_reported_charge_leaves_nothing_unpriced() -> None:
    charged = usage((REPORTED_CHARGE, 123), ("code_executions", 1))
    assert Prices().compute_cost("x_ai", ["grok-4"], charged, service_tier="priority").unpriced == ()


def test_prices_of_the_settings_may_name_items() -> None:
    price = Price(
        input=Decimal(1), output=Decimal(2), items={"input_audio_tokens": Decimal(5), "web_searches": Decimal("0.01")}
    )
    prices = Prices({"harbour-*": price})
    plain = prices.compute_cost("openai", ["harbour-1"], usage()).usd
    items = usage(("input_audio_tokens", 1000), ("web_searches", 2), ("code_executions", 1))
    assert plain == 14_000
    assert prices.compute_cost("openai", ["harbour-1"], items).usd == 14_000 + 4_000 + 20_000
    assert prices.compute_cost("openai", ["harbour-1"], items).unpriced == ("code_executions",)
