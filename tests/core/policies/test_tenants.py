"""Tenants: fair among them, the chosen policy within each, and two agents of one name kept apart."""

import random
from collections.abc import Callable, Mapping

import pytest

from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.policies.tenants import TenantPolicy
from loco_otel._core.reconfiguration import set_policy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import Ticket
from loco_otel.events import DEFAULT_RESOURCE, AgentSnapshot, Granted, GrantReason, Request, Spending

POLICIES: Mapping[str, Callable[[], Policy]] = {
    "load": lambda: LoadPolicy(0.5, random.Random(3).random),
    "fair": lambda: FairPolicy({"chat": 2000}),
    "fifo": FifoPolicy,
}

Who = tuple[str | None, str]


class House:
    """A scheduler whose slots are all held by somebody else."""

    def __init__(
        self, policy: str = "fifo", *, capacity: int = 1, shares: Mapping[str, int] | None = None, guard: int = 0
    ) -> None:
        self.core = Scheduler(
            {DEFAULT_RESOURCE: capacity}, POLICIES[policy], max_wait_ticks=guard, tenant_shares=shares or {}
        )
        self.core.observed = True
        self.line = self.core.resources.get_queue_set((DEFAULT_RESOURCE,))
        self.holders = [self.ask(None, "first") for _ in range(capacity)]

    def ask(self, tenant: str | None, agent: str, weight: int = 1000) -> Ticket:
        ticket = Ticket(Request(agent, weight, tenant=tenant))
        self.core.submit(ticket, 0.0)
        return ticket

    def next(self, weight: int | None = None) -> Who:
        """End the call that is under way the longest; return whose turn it was."""
        ended = self.holders.pop(0)
        if weight is not None:
            self.core.record_spending(ended, Spending(None, weight, None), 0.0)
        self.core.release(ended, 0.0)
        (granted,) = self.core.decided
        self.core.decided.clear()
        self.holders.append(granted)
        return granted.request.tenant, granted.request.agent

    def order(self, count: int) -> list[Who]:
        return [self.next() for _ in range(count)]


@pytest.mark.parametrize("policy", POLICIES)
def test_tenants_get_equal_service_for_any_count_of_agents(policy: str) -> None:
    house = House(policy)
    for agent in range(8):
        for _ in range(5):
            house.ask("many", f"agent-{agent}", 3000)
    for _ in range(10):
        house.ask("one", "agent", 3000)
    turns = [tenant for tenant, _ in house.order(20)]

    assert (turns.count("many"), turns.count("one")) == (10, 10)


def test_double_share_gets_double_service() -> None:
    house = House("load", shares={"acme": 2000})
    for _ in range(30):
        for tenant in ("acme", "beta"):
            house.ask(tenant, "agent")
    turns = [tenant for tenant, _ in house.order(30)]

    assert (turns.count("acme"), turns.count("beta")) == (20, 10)


def test_newcomer_passes_the_burst_of_another_tenant() -> None:
    house = House("load")
    for _ in range(100):
        house.ask("acme", "batch")
    house.ask("beta", "chat")

    assert ("beta", "chat") in house.order(2)


def test_callers_without_a_tenant_are_one_tenant() -> None:
    house = House("fifo")
    for agent in ("a", "b", "c"):
        house.ask(None, agent)
        house.ask("acme", agent)
    house.ask("", "d")

    assert [tenant for tenant, _ in house.order(7)] == [None, "acme", None, "acme", None, "acme", ""]


@pytest.mark.parametrize("policy", POLICIES)
def test_chosen_policy_decides_within_a_tenant(policy: str) -> None:
    def inner_order(tenant: str | None) -> list[str]:
        house = House(policy)
        chance = random.Random(5)
        if tenant:
            house.ask("other", "agent")
        for _ in range(40):
            house.ask(tenant, chance.choice(("chat", "batch", "batch")), chance.choice((1000, 5000)))
        order = house.order(41 if tenant else 40)
        return [agent for name, agent in order if name == tenant]

    assert inner_order("acme") == inner_order(None)


def test_scores_are_normalised_within_a_tenant() -> None:
    house = House("load")
    house.ask("acme", "light", 1000)
    house.ask("acme", "heavy", 2000)
    house.ask("beta", "giant", 90_000)
    scores = {each.agent: each.score for each in house.core.start_snapshot(0.0).build_snapshot().resources[0].agents}
    house.next()

    assert scores == {"first": None, "light": 0.25, "heavy": 0.5, "giant": 0.5}
    granted = house.core.events[-1]
    assert isinstance(granted, Granted)
    assert (granted.ticket.request.agent, granted.score, granted.alpha, granted.policy) == ("heavy", 1.0, 0.5, "load")


def test_agents_of_one_name_in_two_tenants_are_distinct() -> None:
    house = House("load", capacity=2)
    for tenant, weight in ((None, 1000), ("acme", 2000), ("acme", 3000), ("beta", 4000)):
        house.ask(tenant, "agent", weight)
    house.order(2)
    standings = house.core.start_snapshot(0.0).build_snapshot().resources[0].agents

    assert standings == (
        AgentSnapshot("agent", 0, 1, 0, 0, 0.0, None, None),
        AgentSnapshot("agent", 1, 1, 3000, 2, 0.0, 1.0, "acme"),
        AgentSnapshot("agent", 1, 0, 4000, 2, 0.0, 1.0, "beta"),
    )


def test_wait_inside_a_tenant_is_settled_there() -> None:
    """What one agent's call cost above its weight is that agent's and its tenant's."""
    house = House("fair")
    for _ in range(3):
        for agent in ("a", "b"):
            house.ask("acme", agent)
    assert house.order(1) == [("acme", "a")]
    assert house.next(weight=3000) == ("acme", "b")

    assert house.order(4) == [("acme", "b"), ("acme", "b"), ("acme", "a"), ("acme", "a")]


def test_tenant_pays_for_the_measured_usage() -> None:
    house = House("fifo")
    for _ in range(4):
        for tenant in ("acme", "beta"):
            house.ask(tenant, "agent")
    assert house.order(1) == [("acme", "agent")]
    assert house.next(weight=3000) == ("beta", "agent")

    assert [tenant for tenant, _ in house.order(5)] == ["beta", "beta", "acme", "beta", "acme"]


def test_equal_tenants_are_served_by_oldest_waiter() -> None:
    house = House("fifo")
    oldest = house.ask("acme", "a")
    for tenant, agent in (("beta", "b"), ("acme", "a"), ("acme", "c"), ("beta", "a")):
        house.ask(tenant, agent)
    house.core.cancel(oldest, 0.0)
    house.core.decided.clear()

    assert house.order(4) == [("beta", "b"), ("acme", "a"), ("acme", "c"), ("beta", "a")]


def test_guard_overrides_tenants() -> None:
    house = House("load", shares={"acme": 1_000_000}, guard=5)
    late = house.ask("beta", "chat")
    house.ask("beta", "chat")
    for _ in range(20):
        house.ask("acme", "batch")
    order = house.order(6)

    assert order.index(("beta", "chat")) == 0, "a newcomer, as everybody"
    assert late.reason is GrantReason.SCORE
    assert order[4] == ("beta", "chat")
    assert [event.reason for event in house.core.events if isinstance(event, Granted)][-2] is GrantReason.GUARD


def test_single_policy_without_tenants_keeps_no_accounts() -> None:
    house = House("load")
    house.ask(None, "a")
    assert isinstance(house.line.policy, LoadPolicy)
    house.ask("acme", "a")
    assert isinstance(house.line.policy, TenantPolicy)


@pytest.mark.parametrize("policy", POLICIES)
def test_policy_change_keeps_tenants_and_order(policy: str) -> None:
    house = House("load")
    for tenant, agent in (("acme", "a"), ("acme", "a"), ("beta", "b"), (None, "c")):
        house.ask(tenant, agent)
    set_policy(house.core, POLICIES[policy], 0, 0.0, {"acme": 3000})

    assert isinstance(house.line.policy, TenantPolicy)
    assert house.core.start_snapshot(0.0).build_snapshot().resources[0].policy == policy
    assert house.order(4) == [("acme", "a"), ("beta", "b"), (None, "c"), ("acme", "a")]


def test_alpha_applies_to_every_tenant() -> None:
    house = House("load")
    house.ask("acme", "a")
    house.line.policy.alpha = 0.125
    house.ask("beta", "b")

    policy = house.line.policy
    assert isinstance(policy, TenantPolicy)
    assert policy.alpha == house.core.start_snapshot(0.0).build_snapshot().resources[0].alpha == 0.125
    assert [tenant.policy.alpha for tenant in policy._tenants.values()] == [0.125] * 2


@pytest.mark.parametrize("policy", POLICIES)
def test_tenants_and_agents_that_left_are_evicted(policy: str) -> None:
    house = House(policy)
    for number in range(100):
        house.ask(f"tenant-{number}", f"agent-{number}")
        dropped = house.ask("acme", f"agent-{number}")
        house.ask("acme", f"agent-{number}")
        house.core.cancel(dropped, 0.0)
    house.core.decided.clear()
    house.order(200)
    assert not house.line.waiting
    house.core.release(house.holders[0], 0.0)

    policy_of_all = house.line.policy
    assert isinstance(policy_of_all, TenantPolicy)
    assert (policy_of_all._tenants, policy_of_all._tenant_order._accounts) == ({}, {})


def test_alpha_that_was_adapted_stays_with_the_first_tenant() -> None:
    house = House("load")
    house.line.adopt_alpha(0.125)
    house.ask("acme", "agent")
    assert isinstance(house.line.policy, TenantPolicy)
    assert house.line.policy.alpha == 0.125
