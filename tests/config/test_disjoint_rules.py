"""Which rules of `[[resources]]` one call can match."""

from fnmatch import fnmatchcase
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_otel._config.disjoint_rules import do_globs_overlap, list_overlaps
from loco_otel._config.resource_rules import ResourceRule

TEXTS = ["".join(it) for size in range(6) for it in product("ab", repeat=size)]


@given(*[st.text("ab*?", max_size=4)] * 2)
def test_globs_overlap_if_a_text_matches_both(one: str, two: str) -> None:
    texts = [*TEXTS, *(one + two, two + one)]
    is_found = any(fnmatchcase(text, one) and fnmatchcase(text, two) for text in texts)
    if is_found:
        assert do_globs_overlap(one, two)
    # Two globs of at most four characters that overlap have a common text of at most eight.
    long = ("".join(it) for size in (6, 7, 8) for it in product("ab", repeat=size))
    if not is_found and do_globs_overlap(one, two):
        assert any(fnmatchcase(text, one) and fnmatchcase(text, two) for text in long)


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ("gpt-4*", "gpt-5*", False),
        ("gpt-4*", "*-mini", True),
        ("gpt-[45]", "gpt-6", True),  # a set counts as any character
        ("gpt-[!4]", "gpt-", False),
        ("[]]", "a", True),
        ("a[", "a[", True),
        ("a[", "ab", False),
        ("", "*", True),
        ("", "?", False),
    ],
)
def test_globs_with_sets(one: str, two: str, expected: bool) -> None:
    assert do_globs_overlap(one, two) is do_globs_overlap(two, one) is expected


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ({"provider": "openai"}, {"provider": "ollama"}, False),
        ({"provider": "openai", "model": "gpt-*"}, {"model": "o*"}, False),
        ({"provider": "openai"}, {"model": "gpt-*"}, True),
        ({"provider": "openai"}, {}, False),
        ({}, {}, False),
    ],
)
def test_rules_overlap_unless_a_condition_differs(one: dict[str, str], two: dict[str, str], expected: bool) -> None:
    rules = [ResourceRule(name="one", **one), ResourceRule(name="two", **two)]
    assert list(list_overlaps(rules)) == ([("one", "two")] if expected else [])
