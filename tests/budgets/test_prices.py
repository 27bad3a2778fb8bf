"""What calls cost: the published prices to the micro-dollar, and those of the settings."""

import logging
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from effort import scale
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_otel._budgets.prices import Prices
from loco_otel._config.budget_rules import Price
from loco_otel.events import Usage

MODELS = sorted(
    {
        (provider.id, model.id)
        for provider in get_snapshot().providers
        if provider.id in {"openai", "anthropic", "google", "azure", "groq", "mistral", "deepseek"}
        for model in provider.models
        if provider.find_model(model.id) is model
        and (price := model.get_prices(datetime.now(UTC))).input_mtok is not None
        and price.requests_kcount is None
    }
)


@given(
    model=st.sampled_from(MODELS),
    fresh=st.integers(0, 400_000),
    read=st.integers(0, 100_000),
    written=st.integers(0, 100_000),
    output=st.integers(0, 50_000),
    tier=st.sampled_from([None, "flex", "priority", "batch", "default"]),
)
@settings(max_examples=scale(300), deadline=None)
def test_cost_equals_the_published_prices(
    model: tuple[str, str], fresh: int, read: int, written: int, output: int, tier: str | None
) -> None:
    provider, name = model
    context = None if tier is None else {"processing": "batch"} if tier == "batch" else {"service_tier": tier}
    theirs = TheirUsage(
        input_tokens=fresh + read + written,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )
    exact = calc_price(theirs, name, provider_id=provider, price_context=context).total_price * 1_000_000
    ours = (
        Prices()
        .compute_cost(provider, [name], Usage(fresh + read + written, output, False, read, written), service_tier=tier)
        .usd
    )
    assert ours is not None
    assert 0 <= ours - exact < 1, "rounded up to the micro-dollar"


@pytest.mark.parametrize(
    ("provider", "model", "host"),
    [
        ("azure.ai.openai", "gpt-4o", "harbour.openai.azure.com"),
        ("aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", None),
        ("gcp.vertex_ai", "claude-sonnet-4@20250514", None),
        ("openai", "llama-3.3-70b-versatile", "api.groq.com"),
        ("gcp.gemini", "models/gemini-2.5-flash", "generativelanguage.googleapis.com"),
        ("openai", "gpt-4o-2024-08-06", "127.0.0.1"),
    ],
)
def test_models_are_found_under_names_of_each_cloud(provider: str, model: str, host: str | None) -> None:
    assert (Prices().compute_cost(provider, [model], Usage(1000, 1000), host=host).usd or 0) > 100


def test_answering_model_is_priced_before_the_requested_one() -> None:
    mini, full = (Prices().compute_cost("openai", [name], Usage(1000, 0)).usd for name in ("gpt-4o-mini", "gpt-4o"))
    assert Prices().compute_cost("openai", ["gpt-4o-mini", "gpt-4o"], Usage(1000, 0)).usd == mini
    assert Prices().compute_cost("openai", ["our-router", "gpt-4o"], Usage(1000, 0)).usd == full
    assert Prices().compute_cost("openai", [None, "gpt-4o"], Usage(1000, 0)).usd == full


def test_configured_prices_precede_and_names_precede_globs() -> None:
    own = {
        "our-*": Price(input=Decimal(1), output=Decimal(2)),
        "our-big": Price(input=Decimal(10), output=Decimal(20), cache_read=Decimal("0.5")),
        "gpt-4o": Price(input=Decimal(0), output=Decimal(0)),
    }
    prices = Prices(own)
    assert prices.compute_cost("openai", ["our-small"], Usage(1000, 500)).usd == 2000
    assert prices.compute_cost("openai", ["our-big"], Usage(1000, 500, False, 400)).usd == 6000 + 200 + 10_000
    assert prices.compute_cost("openai", ["gpt-4o"], Usage(1000, 500)).usd == 0


def test_price_of_a_deployment_precedes_that_of_its_model() -> None:
    prices = Prices({"harbour-chat": Price(input=Decimal(1), output=Decimal(1))})
    azure = {"provider": "azure.ai.openai", "usage": Usage(1000, 1000), "host": "x.openai.azure.com"}
    assert prices.compute_cost(models=("gpt-4o-2024-08-06", "harbour-chat"), **azure).usd == 2000  # type: ignore[arg-type]
    assert prices.compute_cost(models=("gpt-4o-2024-08-06", "another"), **azure).usd == 12_500  # type: ignore[arg-type]


def test_missing_price_is_none_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    prices = Prices()
    with caplog.at_level(logging.WARNING, "loco_otel"):
        assert [prices.compute_cost("openai", ["harbour-1"], Usage(1, 1)).usd for _ in range(3)] == [None] * 3
        assert prices.compute_cost("openai", [None], Usage(1, 1)).usd is None
    assert [record.getMessage() for record in caplog.records] == [
        "the price of openai harbour-1 is unknown: its calls count in weight only (add it to [prices] in the settings)",
        "the price of openai None is unknown: its calls count in weight only (add it to [prices] in the settings)",
    ]
