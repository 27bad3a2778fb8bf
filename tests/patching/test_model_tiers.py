"""The weight of a call, by its model and its tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_otel.events import MILLI
from loco_otel.patching.dialects.model_tiers import estimate_weight


def whole_weight(model: str | None, tokens: int = 0) -> float:
    return estimate_weight(model, tokens) / MILLI


@pytest.mark.parametrize(
    ("model", "tier"),
    [
        ("claude-opus-4-20250514", 5),
        ("claude-opus-5", 5),
        ("claude-3-opus-latest", 5),
        ("us.anthropic.claude-opus-4-20250514-v1:0", 5),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-20250514-v1:0",
            5,
        ),
        ("claude-sonnet-4-20250514", 2),
        ("claude-3-5-sonnet@20240620", 2),
        ("anthropic/claude-sonnet-5", 2),
        ("claude-haiku-4-5-20251001", 1),
        ("anthropic/claude-3.5-haiku", 1),
        ("claude-instant-1.2", 1),
        ("claude-2.1", 2),
        ("o1", 5),
        ("o1-preview", 5),
        ("o3", 5),
        ("O3", 5),
        ("azure/o3-2025-04-16", 5),
        ("o3-pro", 5),
        ("gpt-5-pro", 5),
        ("gpt-5.5-pro-2026-01-01", 5),
        ("o4-mini", 2),
        ("o3-mini-2025-01-31", 2),
        ("gpt-4o", 3),
        ("gpt-4o-2024-08-06", 3),
        ("chatgpt-4o-latest", 3),
        ("my-gpt4o-prod", 3),
        ("gpt_4o_eastus", 3),
        ("gpt-4.1", 3),
        ("gpt-4-turbo", 3),
        ("gpt-5", 3),
        ("gpt-5.5-2026-01-01", 3),
        ("gpt-4.1-mini", 2),
        ("gpt-5-mini", 2),
        ("gpt-4o-mini", 1),
        ("gpt-4o-mini-2024-07-18", 1),
        ("ft:gpt-4o-mini-2024-07-18:acme:opus:abc", 1),
        ("prod-gpt4o-mini", 1),
        ("gpt-4.1-nano", 1),
        ("gpt-5-nano", 1),
        ("gpt-5-nano-2025-08-07", 1),
        ("gpt-3.5-turbo-0125", 1),
        ("gpt-35-turbo", 1),
        ("gemini-2.5-pro", 3),
        ("models/gemini-3-pro-preview", 3),
        ("gemini-1.5-pro", 2),
        ("models/gemini-2.5-flash", 2),
        ("gemini-flash-latest", 2),
        ("gemini-2.5-flash-lite", 1),
        ("gemini-2.0-flash-001", 1),
        ("gemini-1.5-flash", 1),
        ("text-embedding-3-large", 1),
        ("models/gemini-embedding-001", 1),
        ("amazon.titan-embed-text-v2:0", 1),
        ("amazon.titan-text-express-v1", 1),
        ("amazon.nova-pro-v1:0", 2),
        ("us.meta.llama3-1-70b-instruct-v1:0", 3),
        ("llama-3.1-8b-instant", 2),
        ("minimax-m1", 2),
        ("octopus-7b", 2),
        ("ft:", 2),
        ("something-new", 2),
        ("", 2),
        (None, 2),
    ],
)
def test_family_decides_for_every_form_of_the_name(model, tier):
    assert whole_weight(model) == tier


@pytest.mark.parametrize(
    ("tokens", "weight"),
    [(-5, 3), (0, 3), (999, 3), (1000, 3), (1166, 3), (1167, 4), (1500, 5), (2000, 6), (100_000, 300)],
)
def test_weight_grows_in_steps_above_a_thousand_tokens(tokens, weight):
    assert whole_weight("gpt-4o", tokens) == weight


@given(st.text(), st.integers(min_value=-1000, max_value=10**9))
def test_estimate_is_a_whole_weight_of_at_least_one(model, tokens):
    weight = estimate_weight(model, tokens)

    assert type(weight) is int
    assert weight >= MILLI
    assert weight % MILLI == 0


def test_fixed_weight_replaces_the_whole_estimate():
    assert estimate_weight("claude-opus-5", 500_000, {"claude-opus-5": 1.5}) == 1500
    assert estimate_weight("claude-opus-5", 500_000, {"claude-*": 4}) == 4000
    assert estimate_weight("claude-opus-5", 0, {"gpt-*": 4}) == 5000


def test_name_precedes_globs_and_globs_keep_their_order():
    fixed = {"*": 9.0, "gpt-4o*": 8.0, "gpt-4o": 7.0}

    assert estimate_weight("gpt-4o", 0, fixed) == 7000
    assert estimate_weight("gpt-4o-mini", 0, fixed) == 9000
    assert estimate_weight("gpt-4o-mini", 0, dict(reversed(fixed.items()))) == 8000
    assert estimate_weight(None, 0, fixed) == 9000


def test_name_like_a_glob_is_a_name_first():
    assert estimate_weight("odd[1]", 0, {"odd[1]": 3}) == 3000


@pytest.mark.parametrize(("weight", "milli"), [(0.0015, 2), (1 / 3, 333), (2, 2000), (1e-9, 1)])
def test_fixed_weight_may_be_a_fraction(weight, milli):
    assert estimate_weight("m", 0, {"m": weight}) == milli


def test_d21f_dated_name_weighs_the_same():
    assert whole_weight("gpt-4o-mini-2024-07-18") == whole_weight("gpt-4o-mini") == 1
    assert whole_weight("gpt-5-nano") == 1
