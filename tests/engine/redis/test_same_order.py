"""The step script grants as the core does: the same tickets, for the same reasons, with scores equal to the bit."""

import random
from math import inf
from typing import Any

from effort import scale
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from script_pair import CLASSES, ScriptPair, draw_limits, run_step

from loco_otel._core.ticket import State
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.events import Priority

requests = st.sampled_from([None, None, 60, 7.3])
tokens = st.sampled_from([None, None, 1000, 30_000 / 7])
tenant_shares = st.sampled_from([{}, {"t1": 3000}])
shared_limits = st.builds(
    SharedLimits,
    st.sampled_from([1, 1, 2, 3, None]),
    st.just("load"),
    st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
    st.sampled_from([0, 0, 1, 2, 5]),
    requests_per_minute=requests,
    tokens_per_minute=tokens,
    capacity_max=st.sampled_from([inf, 2, 4]),
    auto_tune=st.booleans(),
    by_run=st.booleans(),
    tenant_shares=tenant_shares,
    priorities=st.sampled_from(CLASSES),
) | st.builds(
    SharedLimits,
    st.sampled_from([1, 1, 2, 3, None]),
    st.sampled_from(["fair", "fifo", "las"]),
    st.just(0.0),
    st.sampled_from([0, 0, 1, 2, 5]),
    st.sampled_from([{}, {"a": 2000, "b": 300}]),
    requests,
    tokens,
    st.sampled_from([inf, 2, 4]),
    st.just(False),
    by_run=st.booleans(),
    half_life=st.sampled_from([inf, 0.01, 4.0]),
    run_idle_timeout=st.sampled_from([0.5, 900.0]),
    tenant_shares=tenant_shares,
    priorities=st.sampled_from(CLASSES),
)


def test_script_grants_as_the_core(client: Any) -> None:
    rng, grants = random.Random(1), 0
    while grants < scale(10_000):
        others = [draw_limits(rng) for _ in range(rng.choice([0, 0, 1, 3]))]
        pair = ScriptPair(client, draw_limits(rng), others, wide_part=rng.choice([0.1, 0.5]))
        agents = [f"a{number}" for number in range(rng.choice([2, 4, 10, 40]))]
        tenants = rng.choice([[None], [None, "t1"], ["t1", "t2", "t3", None, None, None]])
        is_urgent = rng.choice([0, 0, 0.3])
        for _ in range(rng.choice([20, 50, 200])):
            for _ in range(rng.choice([1, 1, 3, 8])):
                run_step(pair, rng, agents, tenants, is_urgent)
            pair.compare()
        pair.close()
        grants += pair.grants


class PairMachine(RuleBasedStateMachine):
    """Hypothesis chooses the operations, and shrinks what differs."""

    client: Any

    @initialize(limits=shared_limits, others=st.lists(shared_limits, max_size=2))
    def begin(self, limits: SharedLimits, others: list[SharedLimits]) -> None:
        self.pair = ScriptPair(self.client, limits, others)

    @rule(
        agent=st.sampled_from("abc"),
        weight=st.sampled_from([500, 1000, 3000]),
        immediate=st.booleans(),
        tokens=st.sampled_from([0, 10, 400, 2000]),
        places=st.sets(st.integers(0, 2), min_size=1),
        caller=st.fixed_dictionaries(
            {
                "run": st.sampled_from([None, "r1", "r2"]),
                "tenant": st.sampled_from([None, None, "t1", "t2"]),
                "priority": st.sampled_from([Priority.NORMAL, *Priority]),
                "due": st.sampled_from([None, None, 1, 250, 20_000]),
            }
        ),
    )
    def submit(
        self, agent: str, weight: int, immediate: bool, tokens: int, places: set[int], caller: dict[str, Any]
    ) -> None:
        resources = tuple({self.pair.names[place % len(self.pair.names)]: None for place in sorted(places)})
        self.pair.submit(agent, weight, immediate=immediate, tokens=tokens, resources=resources, **caller)

    @rule(milliseconds=st.sampled_from([1, 250, 1000, 16_666]))
    def advance(self, milliseconds: int) -> None:
        self.pair.advance(milliseconds)

    @precondition(lambda self: self.pair.live)
    @rule(data=st.data(), correction=st.sampled_from([0, 0, -400, 900]), used=st.sampled_from([None, 0, 15, 900]))
    def end(self, data: st.DataObject, correction: int, used: int | None) -> None:
        ticket = data.draw(st.sampled_from(list(self.pair.live.values())))
        if ticket.state is State.GRANTED:
            self.pair.release(ticket, correction, used)
        elif not ticket.state.is_ended:
            self.pair.cancel(ticket)

    @precondition(lambda self: self.pair.list_tickets(State.GRANTED, State.SUSPENDED))
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.pair.list_tickets(State.GRANTED, State.SUSPENDED)))
        if ticket.state is State.GRANTED:
            self.pair.suspend(ticket)
        else:
            self.pair.resume(ticket)

    @precondition(lambda self: self.pair.list_tickets(State.GRANTED))
    @rule(data=st.data(), seconds=st.sampled_from([None, 0.2, 30.0]), is_refused=st.booleans())
    def throttle(self, data: st.DataObject, seconds: float | None, is_refused: bool) -> None:
        ticket = data.draw(st.sampled_from(self.pair.list_tickets(State.GRANTED)))
        self.pair.throttle(ticket, seconds, is_refused=is_refused)

    @rule(limits=shared_limits, place=st.integers(0, 2))
    def set_limits(self, limits: SharedLimits, place: int) -> None:
        self.pair.set_limits(limits, self.pair.names[place % len(self.pair.names)])

    @rule()
    def compare(self) -> None:
        self.pair.compare()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.compare()
            self.pair.close()


def test_script_and_core_agree_in_any_sequence(client: Any) -> None:
    machine = type("Machine", (PairMachine,), {"client": client})
    run_state_machine_as_test(machine, settings=settings(max_examples=scale(40), stateful_step_count=40, deadline=None))
