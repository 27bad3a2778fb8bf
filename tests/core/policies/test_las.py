"""Least attained service: the order, the bound, and what is remembered."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_otel._core.policies import las
from loco_otel._core.policies.base import Candidate
from loco_otel._core.policies.las import LasPolicy
from loco_otel._core.policies.tenants import TenantPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import DEFAULT_RESOURCE, Request, Spending


class Desk:
    """A scheduler with one slot under `las`, between runs."""

    def __init__(self, *, guard: int = 0, half_life: float = 60.0, idle_timeout: float = 600.0) -> None:
        self.core = Scheduler(
            {DEFAULT_RESOURCE: 1},
            lambda: LasPolicy({"dear": 2000}, half_life=half_life, idle_timeout=idle_timeout),
            max_wait_ticks=guard,
            by_run=True,
        )
        self.now = 1_000_000.0

    def ask(self, run: str, weight: int = 1000, agent: str = "agent", tenant: str | None = None) -> Ticket:
        ticket = Ticket(Request(agent, weight, run=run, tenant=tenant))
        self.core.submit(ticket, self.now)
        return ticket

    def end(self, ticket: Ticket, weight: int | None = None) -> list[str | None]:
        """Release a ticket, and return the runs that are granted then."""
        if weight is not None:
            self.core.record_spending(ticket, Spending(None, weight, None), self.now)
        self.core.release(ticket, self.now)
        decided, self.core.decided = self.core.decided, []
        return [each.request.run for each in decided]

    def serve(self, run: str, weight: int, agent: str = "agent") -> None:
        self.end(self.ask(run, weight, agent))

    @property
    def accounts(self) -> set[str]:
        policy = self.core.resources.get_queue_set((DEFAULT_RESOURCE,)).policy
        assert isinstance(policy, LasPolicy)
        return {str(key[1]) for key in policy._accounts}


def test_run_that_has_attained_least_is_next() -> None:
    desk = Desk()
    desk.serve("long", 9000)
    desk.serve("short", 1000)
    holder = desk.ask("holder")
    for run in ("long", "short", "new"):
        desk.ask(run)

    assert desk.end(holder) == ["new"]


def test_real_cost_replaces_the_estimate() -> None:
    desk = Desk()
    first, second = desk.ask("cheap", 9000), desk.ask("dear", 1000)
    assert desk.end(first, weight=100) == ["dear"]
    third = desk.ask("holder")
    assert desk.end(second, weight=5000) == ["holder"]
    desk.ask("dear")
    desk.ask("cheap")
    assert desk.end(third) == ["cheap"]


def test_share_of_the_calls_agent_applies_to_its_run() -> None:
    desk = Desk()
    desk.serve("of dear", 3000, agent="dear")
    desk.serve("of other", 2000, agent="other")
    holder = desk.ask("holder")
    desk.ask("of other", agent="other")
    desk.ask("of dear", agent="dear")

    assert desk.end(holder) == ["of dear"]


def test_equals_and_calls_of_one_run_are_oldest_first() -> None:
    desk = Desk()
    holder = desk.ask("holder")
    tickets = [desk.ask(run) for run in ("a", "a", "b")]
    order = []
    for _ in tickets:
        order += desk.end(holder)
        holder = next(ticket for ticket in tickets if ticket.state is State.GRANTED)

    assert order == ["a", "b", "a"]


def test_service_halves_with_each_half_life() -> None:
    for elapsed, expected in ((59.0, "fresh"), (61.0, "old")):
        desk = Desk(half_life=60.0)
        desk.serve("old", 2000)
        desk.now += elapsed
        desk.serve("fresh", 1000)
        holder = desk.ask("holder")
        desk.ask("old")
        desk.ask("fresh")
        assert desk.end(holder) == [expected]


def test_order_is_kept_over_thousands_of_half_lives() -> None:
    desk = Desk(half_life=1.0, idle_timeout=float("inf"))
    desk.serve("ancient", 10**9)
    for _ in range(5):
        desk.now += 400.0
        desk.serve("big", 2000)
        desk.serve("small", 1000)
        holder = desk.ask("holder")
        big, small = desk.ask("big"), desk.ask("small")
        assert desk.end(holder) == ["small"]
        assert desk.end(small) == ["big"]
        desk.end(big)
    holder = desk.ask("holder")
    desk.ask("big")
    desk.ask("ancient")
    assert desk.end(holder) == ["ancient"]


def test_silent_runs_are_forgotten() -> None:
    desk = Desk(idle_timeout=100.0)
    desk.serve("silent", 5000)
    desk.now += 60.0
    desk.serve("busy", 5000)
    holder = desk.ask("holder")
    desk.ask("waits")
    desk.now += 60.0
    desk.end(holder)

    assert desk.accounts == {"busy", "holder", "waits"}


def test_no_more_idle_runs_are_kept_than_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(las, "MAX_IDLE_ACCOUNTS", 10)
    desk = Desk()
    for number in range(100):
        desk.serve(f"run-{number}", 1000)

    assert desk.accounts == {f"run-{number}" for number in range(89, 100)}


def test_tenant_that_is_idle_keeps_its_runs() -> None:
    desk = Desk(idle_timeout=100.0)
    first, second = desk.ask("any", tenant="acme"), desk.ask("long", 9000, tenant="acme")
    desk.end(first)
    desk.end(second)
    holder = desk.ask("holder", tenant="acme")
    desk.ask("long", tenant="acme")
    desk.ask("new", tenant="acme")
    assert desk.end(holder) == ["new"], "the tenant had neither waiters nor calls between"

    policy = desk.core.resources.get_queue_set((DEFAULT_RESOURCE,)).policy
    assert isinstance(policy, TenantPolicy)
    for ticket in list(desk.core.tickets.values()):
        desk.core.cancel(ticket, desk.now)
    assert set(policy._dormant) == {"acme"}
    desk.now += 101.0
    desk.end(desk.ask("other"))
    assert "acme" not in policy._tenants


def test_score_does_not_fade_by_calls_of_other_tenants() -> None:
    policy = TenantPolicy(lambda: LasPolicy({}, half_life=1.0), {})
    policy.charge_grant(("acme", "a"), "a", 1000, 0.0)
    policy.adjust_charge(("acme", "a"), "a", 0, 0.0, 0.0)
    assert set(policy._dormant) == {"acme"}
    policy.charge_grant(("beta", "b"), "b", 1000, 5.0)
    policy.update_candidate(("acme", "a"), Candidate(1000, 0, (0, 1)))
    assert policy.compute_score(("acme", "a"), 0) == -1.0


def test_guard_bounds_the_wait_of_a_long_run() -> None:
    desk = Desk(guard=5)
    desk.serve("long", 10**6)
    holder = desk.ask("holder-0")
    waiting = desk.ask("long")
    for number in range(1, 20):
        following = desk.ask(f"new-{number}")
        desk.end(holder)
        if waiting.state is State.GRANTED:
            break
        holder = following
    assert (waiting.state, waiting.waited_ticks) == (State.GRANTED, 5)


@given(st.integers(0, 2**32), st.integers(2, 6), st.sampled_from([float("inf"), 50.0]))
@settings(max_examples=100, deadline=None)
def test_no_run_passes_by_more_than_the_bound(seed: int, runs: int, half_life: float) -> None:
    """While i waits, j is granted at most max(0, a - a_j) + l_j, all halved to the moment at which i began to wait."""
    rng = random.Random(seed)
    policy = LasPolicy({}, half_life=half_life)
    served = dict.fromkeys(map(str, range(runs)), 0.0)
    largest = dict.fromkeys(served, 0.0)
    begun = {key: (dict(served), dict.fromkeys(served, 0.0)) for key in served}
    for number, key in enumerate(served):
        policy.update_candidate(key, Candidate(1000, 0, (0, number)))
    for now in range(100):
        key = str(policy.pick_next(0))
        weight = rng.choice((100, 1000, 7000))
        served_now = weight * 2.0 ** (now / half_life)
        largest[key] = max(largest[key], served_now)
        for other, (start, passed) in begun.items():
            if other != key:
                passed[key] += served_now
                room = max(0.0, start[other] - start[key])
                assert passed[key] <= (room + largest[key]) * (1 + 1e-9)
        policy.charge_grant(key, key, weight, float(now))
        served[key] += served_now
        policy.update_candidate(key, Candidate(1000, 0, (now + 1, runs + now)))
        begun[key] = (dict(served), dict.fromkeys(served, 0.0))


def test_tenant_idle_for_a_thousand_half_lives_is_granted() -> None:
    desk = Desk(half_life=0.5, idle_timeout=1e6)
    holder = desk.ask("first", tenant="busy")
    waiter = desk.ask("old", tenant="idle")
    desk.end(holder)
    desk.end(waiter)
    desk.now += 1000
    holder = desk.ask("second", tenant="busy")
    waiter = desk.ask("old", tenant="idle")
    desk.core.observed = True
    assert desk.end(holder) == ["old"]
    assert waiter.state is State.GRANTED
