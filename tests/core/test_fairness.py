"""Jain's index: what it is at its ends, and that it lies between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_otel._core.fairness import jains_index

shares = st.lists(st.integers(0, 10**9), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("got", "index"),
    [
        ([], 1.0),
        ([0, 0, 0], 1.0),
        ([7], 1.0),
        ([3, 3, 3, 3], 1.0),
        ([5, 0, 0, 0], 0.25),
        ([1, 1, 0, 0], 0.5),
        ([1, 2, 3], 36 / 42),
    ],
)
def test_index_equals_the_published_values(got: list[int], index: float) -> None:
    assert jains_index(got) == index


def test_any_iterable_is_accepted() -> None:
    assert jains_index(share for share in (1, 0)) == 0.5


@given(shares)
def test_index_is_least_for_one_taker_and_one_for_equals(got: list[int]) -> None:
    assert 1 / len(got) <= jains_index(got) * (1 + 1e-12)
    assert jains_index(got) <= 1.0 + 1e-12


@given(shares, st.integers(1, 1000), st.randoms(use_true_random=False))
def test_index_ignores_unit_and_order(got: list[int], unit: int, random) -> None:
    others = [share * unit for share in got]
    random.shuffle(others)

    assert jains_index(others) == pytest.approx(jains_index(got))


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20))
def test_index_counts_those_without_service(got: list[int]) -> None:
    assert jains_index([*got, 0]) < jains_index(got)
