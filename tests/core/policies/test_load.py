"""The `load` policy against the formula, evaluated for every agent, bit for bit."""

import random

import pytest
from effort import scale
from hypothesis import given, settings
from hypothesis import strategies as st
from queued_work import QueuedWork, backlog_of

from loco_otel._core.policies import load
from loco_otel._core.policies.base import Candidate
from loco_otel._core.policies.load import LoadPolicy, compute_load
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import DEFAULT_RESOURCE, Granted, Request

COMPARISONS = 4_000
"""For each alpha."""


class Field:
    """The agents that compete, as a table, and the policy that should contain them."""

    def __init__(self, alpha: float, seed: int) -> None:
        self.chance = random.Random(seed)
        self.nonces: list[float] = []
        self.policy = LoadPolicy(alpha, self.draw)
        self.table: dict[str, tuple[int, int, float]] = {}
        """Weight, birth and nonce by agent."""

    def draw(self) -> float:
        self.nonces.append(self.chance.random())
        return self.nonces[-1]

    def put(self, agent: str, weight: int, birth: int) -> None:
        drawn = len(self.nonces)
        self.policy.update_candidate(agent, Candidate(weight, birth, (birth, 0)))
        same = agent in self.table and self.table[agent][:2] == (weight, birth)
        assert (len(self.nonces) == drawn) is same, "a nonce is drawn for each new standing, and only then"
        self.table[agent] = (weight, birth, self.table[agent][2] if same else self.nonces[-1])

    def drop(self, agent: str) -> None:
        self.policy.remove_candidate(agent)
        self.table.pop(agent, None)

    def score(self, agent: str, tick: int) -> float:
        alpha = self.policy.alpha
        weight, birth, _ = self.table[agent]
        max_weight = max(weight for weight, _, _ in self.table.values())
        max_age = max(tick - birth for _, birth, _ in self.table.values())
        by_weight = alpha * weight / max_weight if max_weight else 0.0
        by_age = (1.0 - alpha) * (tick - birth) / max_age if max_age else 0.0
        return by_weight + by_age

    def best(self, tick: int) -> str:
        def rank(agent: str) -> tuple[float, int, float]:
            _, birth, nonce = self.table[agent]
            return self.score(agent, tick), -birth, -nonce

        return max(self.table, key=rank)

    def compare(self, tick: int) -> None:
        best = self.best(tick)
        assert self.policy.pick_next(tick) == best
        for agent in (best, self.chance.choice([*self.table])):
            # As bytes: an approximation would be another argmax.
            assert self.policy.compute_score(agent, tick).hex() == self.score(agent, tick).hex()


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0, None], ids=str)
def test_winner_has_the_greatest_score(alpha: float | None) -> None:
    """None: another alpha each time. Agents come and go, few weights and births, so that there are ties."""
    field = Field(alpha or 0.0, seed=7)
    chance = random.Random(11)
    agents = [f"agent-{number}" for number in range(40)]
    tick = 0
    for _ in range(COMPARISONS):
        tick += chance.choice((0, 0, 1, 1, 1, 2, 1000 if chance.random() < 0.01 else 1))
        if alpha is None:
            field.policy.alpha = chance.choice((0.0, 0.15, 0.45, 1.0, chance.random()))
        for _ in range(chance.randrange(1, 4)):
            agent = chance.choice(agents)
            if chance.random() < 0.3:
                field.drop(agent)
            else:
                field.put(agent, chance.choice((0, 1, 2, 3, 1000, 1001, 3333)), tick - chance.choice((0, 0, 1, 2, 50)))
        if field.table:
            field.compare(tick)


standings = st.dictionaries(
    st.integers(0, 30).map(str), st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), min_size=1, max_size=12
)


@settings(max_examples=scale(200), deadline=None)
@given(standings, st.floats(0.0, 1.0), st.lists(st.integers(0, 2**40), min_size=1, max_size=4))
def test_winner_has_the_greatest_score_for_any_numbers(
    table: dict[str, tuple[int, int]], alpha: float, jumps: list[int]
) -> None:
    field = Field(alpha, seed=3)
    for agent, (weight, birth) in table.items():
        field.put(agent, weight, birth)
    tick = max(birth for _, birth in table.values())
    for jump in jumps:
        tick += jump
        field.compare(tick)


@given(st.floats(0.0, 1.0), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40))
def test_older_of_equal_weight_never_scores_less(alpha: float, weight: int, more: int, age: int, older: int) -> None:
    """What permits the policy to compare one agent for each weight; it holds although factors are rounded."""
    most, oldest = weight + more, age + older
    assert compute_load(alpha, weight, most, oldest, oldest) >= compute_load(alpha, weight, most, age, oldest)


def test_zero_divided_by_zero_is_zero() -> None:
    assert compute_load(0.25, 0, 0, 0, 0) == 0.0
    assert compute_load(0.25, 4, 8, 0, 0) == 0.125
    assert compute_load(0.25, 0, 0, 4, 8) == 0.375


def test_a_pick_compares_few_of_many_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    field, chance = Field(0.25, seed=5), random.Random(5)
    weights = chance.sample(range(100_000), 2_000)
    for number, weight in enumerate(weights):
        field.put(f"agent-{number}", weight, chance.randrange(100_000))
    compared = 0

    def count(*numbers: float) -> float:
        nonlocal compared
        compared += 1
        return compute_load(*numbers)  # type: ignore[arg-type]

    monkeypatch.setattr(load, "compute_load", count)
    for tick in range(100_000, 100_100):
        winner = field.policy.pick_next(tick)
        field.drop(winner)
    assert compared < 100 * len(weights) / 4, "each pick compares a small part of them"


def test_ties_go_to_the_older_then_to_the_smaller_nonce() -> None:
    nonces = iter([0.9, 0.1, 0.5])
    policy = LoadPolicy(1.0, lambda: next(nonces))
    for agent, birth in (("late", 3), ("early", 2), ("as early", 2)):
        policy.update_candidate(agent, Candidate(1000, birth, (birth, 0)))

    assert policy.pick_next(5) == "early"
    policy.remove_candidate("early")
    assert policy.pick_next(5) == "as early"
    policy.remove_candidate("as early")
    assert policy.pick_next(5) == "late"


def test_tie_between_weights_goes_to_the_older() -> None:
    policy = LoadPolicy(0.5, lambda: 0.5)
    policy.update_candidate("heavy", Candidate(2000, 8, (8, 0)))
    policy.update_candidate("old", Candidate(1000, 6, (6, 0)))

    # 0.5 + 0.5 * 2/4 and 0.5 * 1/2 + 0.5
    assert policy.compute_score("heavy", 10) == policy.compute_score("old", 10) == 0.75
    assert policy.pick_next(10) == "old"


def test_unchanged_entry_keeps_its_nonce() -> None:
    nonces = iter([0.1, 0.9])
    policy = LoadPolicy(0.5, lambda: next(nonces))
    policy.update_candidate("first", Candidate(1000, 0, (0, 1)))
    policy.update_candidate("second", Candidate(1000, 0, (0, 2)))
    policy.update_candidate("second", Candidate(1000, 0, (0, 3)))

    assert policy.pick_next(1) == "first"


def test_agents_that_left_are_evicted() -> None:
    field = Field(0.5, seed=1)
    for number in range(1000):
        field.put(f"agent-{number}", number, number)
        field.put(f"agent-{number}", number + 1, number)
        field.drop(f"agent-{number}")
        field.drop(f"agent-{number}")

    assert field.policy._by_weight == {}
    assert field.policy._entries == {}


def test_clear_leaves_none() -> None:
    field = Field(0.5, seed=1)
    field.put("agent", 1000, 0)
    field.policy.clear_candidates()

    field.table.clear()
    field.put("other", 1, 5)
    field.compare(9)


def test_only_waiters_enter_the_normalisation() -> None:
    """The seed's fault D12: an agent with a great queue that nobody waits for made everybody else's Q vanish."""
    core = Scheduler({DEFAULT_RESOURCE: 1}, lambda: LoadPolicy(0.5, lambda: 0.5), max_wait_ticks=0)
    core.observed = True

    def submit(agent: str, weight: int) -> Ticket:
        ticket = Ticket(Request(agent, weight))
        core.submit(ticket, 0.0)
        return ticket

    line = core.resources.get_queue_set((DEFAULT_RESOURCE,))
    holder = submit("holder", 1000)
    line.set_backlog("backlog", backlog_of(*(QueuedWork(birth=0, milli=9000) for _ in range(50))))
    line.tick = 10
    old = submit("old", 1000)
    line.tick = 11
    heavy = submit("heavy", 8000)
    scores = {each.agent: each.score for each in core.start_snapshot(0.0).build_snapshot().resources[0].agents}
    core.release(holder, 0.0)

    assert scores == {"backlog": None, "heavy": 0.5, "holder": None, "old": 0.5 / 8 + 0.5}
    # The release is a tick, so the ages are 2 and 1. Over the backlog too it would be 0.05 for heavy and 0.08 for old.
    assert (heavy.state, old.state) == (State.GRANTED, State.WAITING)
    granted = core.events[-1]
    assert isinstance(granted, Granted)
    assert (granted.ticket, granted.score) == (heavy, 0.5 + 0.5 / 2)
    assert (granted.queue_weight, granted.queue_age, granted.tick) == (8000, 1, 12)
