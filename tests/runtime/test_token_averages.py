"""What is expected of a call, from those before it."""

import math
import threading
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_otel._runtime.token_averages import PredictedUsage, TokenAverages
from loco_otel.events import Usage


class Settled(NamedTuple):
    """One call: its prompt as estimated, and what it took."""

    estimated: int
    read: int
    written: int


COUNTS = st.integers(min_value=0, max_value=100_000_000)
CALLS = st.builds(Settled, COUNTS, COUNTS.filter(bool), COUNTS)
AGENTS = st.sampled_from(["analyst", "writer", "gpt-4o", ""])
MODELS = st.sampled_from(["gpt-4o", "analyst", "", None])


def learnt(*calls: Settled, agent: str = "analyst", model: str | None = "gpt-4o") -> TokenAverages:
    averages = TokenAverages()
    learn(averages, *calls, agent=agent, model=model)
    return averages


def learn(averages: TokenAverages, *calls: Settled, agent: str = "analyst", model: str | None = "gpt-4o") -> None:
    for call in calls:
        assert averages.record_usage(agent, model, call.estimated, Usage(call.read, call.written))


def expected(
    averages: TokenAverages, prompt: int, agent: str = "analyst", model: str | None = "gpt-4o"
) -> PredictedUsage:
    return averages.predict_usage(agent, model, prompt)


def test_estimate_is_unchanged_before_the_first_call():
    assert expected(TokenAverages(), 1200) == (1200, 0, False)


def test_first_call_sets_the_ratio_and_the_answer_length():
    averages = learnt(Settled(1000, 700, 300))

    assert expected(averages, 1000) == (700, 300, True)
    assert expected(averages, 5000) == (3500, 300, True)


def test_first_eight_calls_count_equally():
    averages = learnt(*[Settled(100, 100, written) for written in (0, 800, 0, 0, 0, 0, 0, 0)])

    assert expected(averages, 100) == (100, 100, True)


def test_later_call_moves_the_averages_by_an_eighth():
    averages = learnt(*[Settled(100, 100, 800)] * 100)

    learn(averages, Settled(100, 100, 0))
    assert expected(averages, 100).output_tokens == 700
    learn(averages, *[Settled(100, 100, 0)] * 4)
    assert expected(averages, 100).output_tokens == pytest.approx(400, rel=0.05)
    learn(averages, *[Settled(100, 100, 0)] * 12)
    assert expected(averages, 100).output_tokens == pytest.approx(80, rel=0.05)


def test_short_prompt_does_not_decide_for_long_ones():
    averages = learnt(*[Settled(5, 50, 10), Settled(5000, 5000, 10)] * 20)

    assert expected(averages, 5000).input_tokens == pytest.approx(5000, rel=0.02)


@given(st.lists(CALLS, max_size=30), CALLS, COUNTS)
def test_constant_use_is_converged_to_from_any_start(before, call, prompt):
    averages = learnt(*before, *[call] * 300)

    read, written, _ = expected(averages, prompt)
    factor = call.read / max(1, call.estimated)
    assert written == pytest.approx(call.written, rel=1e-6, abs=1)
    assert read == pytest.approx(min(max(1, prompt) * factor, 1e8), rel=1e-6, abs=1)


@given(st.lists(CALLS, min_size=1, max_size=30), COUNTS)
def test_expectation_lies_between_the_extremes(calls, prompt):
    read, written, known = expected(learnt(*calls), prompt)

    assert known
    assert min(call.written for call in calls) <= written <= max(call.written for call in calls)
    factors = [call.read / max(1, call.estimated) for call in calls]
    least, most = (min(max(1, prompt) * factor, 1e8) for factor in (min(factors), max(factors)))
    assert least * (1 - 1e-9) - 1 <= read <= most * (1 + 1e-9) + 1


@given(st.lists(st.tuples(AGENTS, MODELS, CALLS), max_size=40))
def test_pairs_do_not_learn_from_each_other(calls):
    together = TokenAverages()
    for agent, model, call in calls:
        learn(together, call, agent=agent, model=model)

    for pair in {(agent, model) for agent, model, _ in calls} | {("nobody", None)}:
        alone = TokenAverages()
        learn(alone, *[call for *its, call in calls if tuple(its) == pair], agent=pair[0], model=pair[1])
        assert together.predict_usage(*pair, 1234) == alone.predict_usage(*pair, 1234)


@given(st.lists(CALLS, max_size=20), st.integers() | st.floats() | st.none() | st.text() | st.booleans())
def test_impossible_figures_are_not_learnt(calls, odd):
    averages = learnt(*calls)
    before = expected(averages, 100)

    if type(odd) is not int or not 0 < odd <= 100_000_000:
        assert not averages.record_usage("analyst", "gpt-4o", 100, Usage(odd, 5))
    if type(odd) is not int or not 0 <= odd <= 100_000_000:
        assert not averages.record_usage("analyst", "gpt-4o", 100, Usage(5, odd))
    assert not averages.record_usage("analyst", "gpt-4o", 100, Usage(50, 50, estimated=True))
    assert expected(averages, 100) == before


@pytest.mark.parametrize("tokens", [math.nan, math.inf, -1, 10**400, "7", True, None])
def test_values_that_are_no_numbers_are_not_learnt(tokens):
    assert not TokenAverages().record_usage("analyst", "gpt-4o", 100, Usage(tokens, 1))
    assert not TokenAverages().record_usage("analyst", "gpt-4o", 100, Usage(1, tokens))


def test_zero_input_is_ignored_and_zero_output_is_learnt():
    assert not TokenAverages().record_usage("analyst", "gpt-4o", 100, Usage(0, 7))
    assert expected(learnt(Settled(100, 50, 0)), 100) == (50, 0, True)


def test_zero_estimate_divides_nothing_by_zero():
    assert expected(learnt(Settled(0, 4000, 7)), 0) == (4000, 7, True)
    assert expected(learnt(Settled(0, 100_000_000, 7)), 10**9).input_tokens == 100_000_000


def known_of(averages: TokenAverages, agents: int) -> list[int]:
    return [agent for agent in range(agents) if expected(averages, 1, agent=str(agent)).learnt]


@pytest.mark.parametrize("most", [1, 2, 7, 150])
def test_most_recent_pairs_are_kept_up_to_the_limit(most):
    averages = TokenAverages(most)
    for agent in range(5 * most):
        learn(averages, Settled(1, 1, agent), agent=str(agent))
        known = known_of(averages, agent + 1)
        assert len(known) <= most
        assert known == list(range(agent + 1 - len(known), agent + 1))
        assert len(known) >= min(agent + 1, most // 2)
        if agent > 3 * most > 100:
            break


def test_thousand_pairs_are_kept_by_default():
    averages = TokenAverages()
    for agent in range(3000):
        learn(averages, Settled(1, 1, 1), agent=str(agent))

    assert 500 <= len(known_of(averages, 3000)) <= 1000


def test_active_caller_is_not_evicted():
    averages = learnt(*[Settled(1, 1, 800)] * 8, agent="old hand")
    for agent in range(5000):
        learn(averages, Settled(1, 1, 1), agent=str(agent))
        if agent % 400 == 0:
            learn(averages, Settled(1, 1, 800), agent="old hand")

    assert expected(averages, 1, agent="old hand") == (1, 800, True)


def test_concurrent_threads_never_read_a_partial_average():
    averages = TokenAverages(20)
    odd: list[PredictedUsage] = []

    def work(number: int) -> None:
        mine = Settled(100, 50 * number, 10 * number)
        for step in range(2000):
            learn(averages, mine, agent=str(number))
            seen = expected(averages, 100, agent=str(number))
            if seen not in {(50 * number, 10 * number, True), (100, 0, False)}:
                odd.append(seen)
            learn(averages, Settled(1, 1, 1), agent=f"{number} {step % 3}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert odd == []
    for number in range(1, 5):
        learn(averages, Settled(100, 50 * number, 10 * number), agent=str(number))
        assert expected(averages, 100, agent=str(number)) == (50 * number, 10 * number, True)
