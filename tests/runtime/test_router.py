"""Which resources a call needs."""

from typing import Any

import pytest

from loco_otel._config.resource_rules import ResourceRule
from loco_otel._runtime.router import Router

OPENAI = ("openai", "gpt-4o", "api.openai.com")


def route(*rules: dict[str, object], fixed: bool = False, call: tuple[Any, ...] = OPENAI) -> tuple[str, ...]:
    return Router([ResourceRule.model_validate(rule) for rule in rules], has_fixed_capacity=fixed).route_call(*call)


def test_without_rules_there_is_one_resource_or_one_for_each_host() -> None:
    assert route(fixed=True) == ("llm_api",)
    assert route() == ("openai/api.openai.com",)
    assert route(call=("anthropic", None, None)) == ("anthropic",)
    assert route(call=("openai", None, "localhost", 8000)) == ("openai/localhost:8000",)
    assert route(call=(None, None, None)) == ("llm_api",)


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ({"provider": "openai"}, True),
        ({"provider": "anthropic"}, False),
        ({"model": "gpt-*"}, True),
        ({"model": "gpt-5*"}, False),
        ({"host": "*.openai.com"}, True),
        ({"host": "*.azure.com"}, False),
        ({"provider": "openai", "model": "gpt-*", "host": "api.openai.com"}, True),
        ({"provider": "openai", "model": "o1"}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("fixed", [False, True])
def test_a_rule_matches_when_all_that_it_says_does(rule: dict[str, object], matches: bool, fixed: bool) -> None:
    default = ("llm_api",) if fixed else ("openai/api.openai.com",)
    assert route({"name": "x", **rule}, fixed=fixed) == (("x",) if matches else default)


def test_a_call_needs_all_that_match_in_the_order_of_their_names() -> None:
    rules = {"name": "tier", "model": "gpt-4*"}, {"name": "gpu", "provider": "openai"}, {"name": "other", "model": "o*"}
    assert route(*rules) == ("gpu", "tier")


def test_what_a_call_does_not_say_matches_nothing() -> None:
    assert route({"name": "x", "model": "*"}, call=("openai", None, "h")) == ("openai/h",)
