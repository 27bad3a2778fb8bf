"""The `fair` policy: its bound, what idle time and corrections are worth, and what it remembers."""

import random
from collections.abc import Mapping
from fractions import Fraction

import pytest
from effort import scale
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loco_otel._core.fast_paths import try_release_fast, try_submit_fast
from loco_otel._core.policies.base import Candidate, Policy
from loco_otel._core.policies.fair import MAX_IDLE_AGENTS, FairPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.reconfiguration import set_policy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import DEFAULT_RESOURCE, Granted, Outcome, Request, Spending

RIVALS = ("f", "m")
OTHERS = ("other-1", "other-2", "other-3")
HEAVIEST = 9000


class Contest:
    """Two rivals that always have two waiters each, among others that come and go, and what each was served.

    Service counts from the grant, by the request's weight; at the settlement it is corrected. Cores made by `policy`
    without a guard.
    """

    def __init__(self, capacity: int, shares: Mapping[str, int], policy: Policy | None = None) -> None:
        self.core = Scheduler(
            {DEFAULT_RESOURCE: capacity}, lambda: policy or FairPolicy(shares), max_wait_ticks=0, max_waiters=10**6
        )
        self.shares = shares
        self.served = dict.fromkeys(RIVALS, Fraction(0))
        self.largest = dict.fromkeys(RIVALS, Fraction(0))
        self.worst = Fraction(0)
        """The greatest correction of one call."""
        self.gaps: list[Fraction] = []
        self.steps = 0
        self.waiters: list[Ticket] = []
        self.holders = [self.ask("first", 1000) for _ in range(capacity)]

    def ask(self, agent: str, weight: int) -> Ticket:
        ticket = Ticket(Request(agent, weight))
        self.core.submit(ticket, 0.0)
        if ticket.state is State.WAITING:
            self.waiters.append(ticket)
        return ticket

    def keep_waiting(self, weight: int) -> None:
        for rival in RIVALS:
            while sum(each.request.agent == rival for each in self.waiters) < 2:
                self.ask(rival, weight)

    def release(self, number: int, error: int) -> None:
        """End a call that cost this much more than its weight, and count the grants."""
        ticket = self.holders.pop(number % len(self.holders))
        error = max(error, 1 - ticket.request.weight)
        if error:
            self.core.record_spending(ticket, Spending(None, ticket.request.weight + error, None), 0.0)
            self.worst = max(self.worst, self.count(ticket, abs(error), 1 if error > 0 else -1))
        self.core.release(ticket, 0.0)
        for granted in self.core.decided:
            self.holders.append(granted)
            self.waiters.remove(granted)
            size = self.count(granted, granted.request.weight)
            agent = granted.request.agent
            self.largest[agent] = max(self.largest.get(agent, size), size)
        self.core.decided.clear()
        self.steps += 1
        self.gaps.append(self.served["f"] - self.served["m"])

    def count(self, ticket: Ticket, weight: int, sign: int = 1) -> Fraction:
        """Note service, or its correction, and return its size by the agent's share; nothing of the others counts."""
        agent = ticket.request.agent
        if agent not in RIVALS:
            return Fraction(0)
        size = Fraction(weight * 1000, self.shares.get(agent, 1000))
        self.served[agent] += sign * size
        return size

    def cancel(self, number: int) -> None:
        others = [each for each in self.waiters if each.request.agent in OTHERS]
        if others:
            waiter = others[number % len(others)]
            self.core.cancel(waiter, 0.0)
            self.waiters.remove(waiter)
            self.core.decided.clear()

    @property
    def widest(self) -> Fraction:
        """By how much the service of the two differed at most, between any two moments."""
        return max(self.gaps, default=Fraction(0)) - min(self.gaps, default=Fraction(0))

    @property
    def rounding(self) -> Fraction:
        """Tags are rounded to a thousandth of a milli-weight, once for each grant and settlement."""
        return Fraction(2 * self.steps, 1000)


weights = st.sampled_from([1, 700, 1000, 2000, HEAVIEST])
moves = st.lists(
    st.one_of(
        st.tuples(st.just("release"), st.integers(0, 5), weights),
        st.tuples(st.just("arrive"), st.integers(0, 2), weights),
        st.tuples(st.just("cancel"), st.integers(0, 9), weights),
    ),
    min_size=10,
    max_size=120,
)
shares = st.fixed_dictionaries({rival: st.sampled_from([1, 250, 1000, 1001, 3000, 1_000_000]) for rival in RIVALS})


def play(contest: Contest, game: list[tuple[str, int, int]], errors: list[int]) -> None:
    contest.keep_waiting(1000)
    for turn, (move, number, weight) in enumerate(game):
        if move == "release":
            contest.release(number, errors[turn % len(errors)])
        elif move == "arrive":
            contest.ask(OTHERS[number], weight)
        else:
            contest.cancel(number)
        contest.keep_waiting(weight)


@settings(max_examples=scale(150), deadline=None)
@given(st.integers(1, 5), shares, moves)
def test_two_waiters_get_equal_service_within_one_request(
    capacity: int, shares: dict[str, int], game: list[tuple[str, int, int]]
) -> None:
    contest = Contest(capacity, shares)
    play(contest, game, [0])

    assert contest.widest <= contest.largest["f"] + contest.largest["m"] + contest.rounding


@settings(max_examples=scale(150), deadline=None)
@given(st.integers(1, 5), shares, moves, st.lists(st.integers(-HEAVIEST, 3 * HEAVIEST), min_size=1, max_size=20))
@example(1, {"f": 250, "m": 1}, [("release", 0, 1)] * 9, [1000])  # an error as large as the call itself
def test_corrections_widen_the_gap_by_no_more_than_the_errors(
    capacity: int, shares: dict[str, int], game: list[tuple[str, int, int]], errors: list[int]
) -> None:
    contest = Contest(capacity, shares)
    play(contest, game, errors)

    bound = contest.largest["f"] + contest.largest["m"] + 2 * capacity * contest.worst
    assert contest.widest <= bound + contest.rounding


def test_gap_at_equal_shares_is_at_most_two_largest_requests() -> None:
    """Over a long time, so that an error in each step would add up."""
    widest = Fraction(0)
    for seed in range(10):
        chance = random.Random(seed)
        contest = Contest(3, {})
        contest.keep_waiting(HEAVIEST)
        for _ in range(400):
            contest.release(chance.randrange(3), 0)
            contest.keep_waiting(chance.choice((1, 1000, HEAVIEST)))
        assert contest.widest <= 2 * HEAVIEST
        widest = max(widest, contest.widest)
    assert widest >= HEAVIEST


def test_gap_under_load_has_no_bound() -> None:
    """Were this to fail, the tests above would prove nothing."""
    contest = Contest(1, {}, LoadPolicy(1.0, random.Random(1).random))
    contest.ask("f", HEAVIEST)
    contest.keep_waiting(1000)
    for _ in range(100):
        contest.release(0, 0)
        contest.ask("f", HEAVIEST)
        contest.keep_waiting(1000)

    assert contest.widest > 10 * HEAVIEST


def test_double_share_gets_double_service() -> None:
    contest = Contest(2, {"f": 2000})
    contest.keep_waiting(1000)
    grants = {"f": 0, "m": 0, "first": 0}
    for _ in range(300):
        contest.release(0, 0)
        grants[contest.holders[-1].request.agent] += 1
        contest.keep_waiting(1000)

    assert (grants["f"], grants["m"]) == (200, 100)


# -- one agent at a time ----------------------------------------------------------------------------------------------


class Desk:
    """A scheduler under `fair`, the order in which it grants, without listeners."""

    def __init__(self, capacity: int = 1, shares: Mapping[str, int] | None = None, guard: int = 0) -> None:
        self.core = Scheduler({DEFAULT_RESOURCE: capacity}, lambda: FairPolicy(shares or {}), max_wait_ticks=guard)

    @property
    def policy(self) -> FairPolicy:
        policy = self.core.resources.get_queue_set((DEFAULT_RESOURCE,)).policy
        assert isinstance(policy, FairPolicy)
        return policy

    def ask(self, agent: str, weight: int = 1000, *, quiet: bool = False, admission: bool = False) -> Ticket:
        ticket = Ticket(Request(agent, weight, admission=admission))
        if not (quiet and try_submit_fast(self.core, ticket, 0.0)):
            assert not quiet
            self.core.submit(ticket, 0.0)
        return ticket

    def end(self, ticket: Ticket, weight: int | None = None) -> None:
        if weight is not None:
            self.core.record_spending(ticket, Spending(None, weight, None), 0.0)
        if not try_release_fast(self.core, ticket, 0.0):
            self.core.release(ticket, 0.0)

    def serve(self, holder: Ticket) -> list[str]:
        """Release one after another until none holds; return the order of the grants."""
        order = []
        while True:
            self.core.decided.clear()
            self.end(holder)
            if not self.core.decided:
                return order
            (holder,) = self.core.decided
            order.append(holder.request.agent)


def test_newcomer_passes_a_burst() -> None:
    """The seed's fault D10: a burst of 1000 by batch, then one by chat, which was served last of 1001."""
    desk = Desk()
    holder = desk.ask("batch")
    for _ in range(999):
        desk.ask("batch")
    desk.ask("chat")

    assert ["batch", *desk.serve(holder)].index("chat") == 1


@pytest.mark.parametrize("quiet", [True, False])
def test_grant_of_a_free_slot_counts_as_service(quiet: bool) -> None:
    desk = Desk(capacity=2)
    holders = [desk.ask("greedy", quiet=quiet) for _ in range(2)]
    desk.ask("greedy")
    desk.ask("modest")
    desk.end(holders[0])

    assert [ticket.request.agent for ticket in desk.core.decided] == ["modest"]


def test_idle_time_earns_nothing() -> None:
    desk = Desk()
    idle = desk.ask("idle")
    desk.ask("busy")
    for _ in range(50):
        desk.ask("busy")
    desk.core.decided.clear()
    desk.end(idle)
    for _ in range(30):
        (holder,) = desk.core.decided
        desk.core.decided.clear()
        desk.end(holder)
    for _ in range(10):
        desk.ask("idle")

    assert desk.serve(desk.core.decided[0])[:8] == ["idle", "busy"] * 4


def test_service_while_others_were_idle_is_not_owed() -> None:
    desk = Desk()
    holder = desk.ask("alone")
    for _ in range(50):
        desk.ask("alone")
    for _ in range(40):
        desk.core.decided.clear()
        desk.end(holder)
        (holder,) = desk.core.decided
    for _ in range(10):
        desk.ask("newcomer")

    assert desk.serve(holder)[:6] == ["newcomer", "alone"] * 3


def test_agent_above_its_estimate_pays_for_it() -> None:
    desk = Desk(capacity=2)
    dear, cheap = desk.ask("dear"), desk.ask("cheap")
    for _ in range(4):
        desk.ask("dear")
        desk.ask("cheap")
    desk.end(dear, weight=4000)
    desk.end(cheap, weight=1000)

    order = [ticket.request.agent for ticket in desk.core.decided]
    assert order == ["cheap", "cheap"]


def test_overcharge_is_returned_while_the_agent_waits() -> None:
    desk = Desk()
    holder = desk.ask("agent", weight=9000)
    desk.ask("agent")
    for _ in range(3):
        desk.ask("other")
    desk.end(holder, weight=1)

    assert desk.serve(desk.core.decided[0]) == ["agent", "other", "other"]


def test_equal_tags_are_served_by_oldest_waiter() -> None:
    desk = Desk()
    holder = desk.ask("first")
    oldest = desk.ask("a")
    for agent in ("b", "a", "c"):
        desk.ask(agent)
    desk.core.cancel(oldest, 0.0)

    assert desk.serve(holder) == ["b", "a", "c"]


def test_refused_call_costs_nothing() -> None:
    desk = Desk()
    refused = desk.ask("agent", weight=9000, admission=True)
    desk.ask("agent")
    desk.ask("other")
    assert refused.state is State.ADMITTING
    before = desk.policy._accounts["agent"].tag
    desk.core.refuse_admission(refused, Outcome.BUDGET, 0.0)

    assert (before, desk.policy._accounts["agent"].tag) == (9_000_000, 0)


def test_call_is_charged_once_however_often_it_pauses() -> None:
    desk = Desk()
    other = desk.ask("other")
    call = desk.ask("agent")
    desk.end(other)
    tag = desk.policy._accounts["agent"].tag
    for _ in range(3):
        desk.core.suspend_ticket(call, 0.0)
        desk.core.resume_ticket(call, 0.0)
        assert call.state is State.GRANTED
    assert desk.policy._accounts["agent"].tag == tag
    desk.core.suspend_ticket(call, 0.0)
    desk.core.cancel(call, 0.0)
    assert desk.policy._accounts == {}


def test_shared_and_guarded_grants_are_charged() -> None:
    desk = Desk(guard=1)
    holder = desk.ask("first")
    for _ in range(3):
        desk.ask("heavy", weight=9000)
    desk.ask("light")
    desk.core.observed = True
    desk.end(holder)
    desk.end(desk.core.decided[-1])

    grants = [event for event in desk.core.events if isinstance(event, Granted)]
    assert [(grant.ticket.request.agent, grant.score) for grant in grants] == [("heavy", 0.0), ("heavy", -9.0)]
    assert desk.policy._accounts["heavy"].tag == 18_000 * 1000


def test_grant_out_of_turn_leaves_virtual_time_unchanged() -> None:
    policy = FairPolicy({})
    for seq, agent in enumerate(("patient", "pushing")):
        policy.update_candidate(agent, Candidate(1000, 0, (0, seq)))
    for seq in (3, 4):
        policy.charge_grant("pushing", "pushing", 9000, 0.0)
        policy.update_candidate("pushing", Candidate(1000, 0, (0, seq)))
    policy.update_candidate("newcomer", Candidate(1000, 0, (0, 5)))

    assert [policy.compute_score(agent, 0) for agent in ("patient", "newcomer", "pushing")] == [0.0, 0.0, -18.0]


def test_policy_change_starts_with_clean_accounts() -> None:
    desk = Desk(capacity=2)
    holders = [desk.ask("greedy"), desk.ask("greedy")]
    desk.ask("greedy")
    desk.ask("modest")
    set_policy(desk.core, lambda: FairPolicy({}), 0, 0.0)
    desk.core.decided.clear()
    desk.end(holders[0], weight=99_000)
    desk.end(holders[1])

    assert [ticket.request.agent for ticket in desk.core.decided] == ["greedy", "modest"], "each at its place"
    assert {account.tag for account in desk.policy._accounts.values()} == {1_000_000}


# -- what it remembers ------------------------------------------------------------------------------------------------


def test_accounts_are_empty_once_all_have_left() -> None:
    desk = Desk(capacity=3)
    holders = [desk.ask(agent, weight) for agent, weight in (("a", 1000), ("b", 9000), ("c", 10))]
    for holder in holders:
        assert desk.policy._accounts
        desk.end(holder)

    assert (desk.policy._accounts, desk.policy._virtual_time, desk.policy._open_calls, len(desk.policy._idle)) == (
        {},
        0,
        0,
        0,
    )


def test_idle_agent_is_evicted_at_its_tag() -> None:
    desk = Desk()
    holder = desk.ask("idle", weight=3000)
    for _ in range(6):
        desk.ask("busy")
    known = []
    for _ in range(6):
        desk.core.decided.clear()
        desk.end(holder)
        (holder,) = desk.core.decided
        known.append("idle" in desk.policy._accounts)

    assert known == [True, True, True, False, False, False]


def test_agents_are_evicted_in_the_long_run() -> None:
    """Each comes once and never again, while one call never ends, so that the resource is never idle."""
    desk = Desk(capacity=2)
    desk.ask("long")
    for number in range(3 * MAX_IDLE_AGENTS):
        desk.end(desk.ask(f"agent-{number}"))

        assert len(desk.policy._accounts) <= MAX_IDLE_AGENTS + 2
    assert len(desk.policy._idle._heap) <= 3 * MAX_IDLE_AGENTS


def test_clear_evicts_all() -> None:
    policy = FairPolicy({})
    policy.update_candidate("waits", Candidate(1000, 0, (0, 1)))
    policy.charge_grant("served", "served", 1000, 0.0)
    policy.clear_candidates()
    policy.adjust_charge("served", "served", 500, 0.0, 0.0)
    policy.remove_candidate("waits")

    assert policy._accounts == {}
    policy.update_candidate("other", Candidate(1000, 0, (0, 2)))
    assert policy.pick_next(0) == "other"


@pytest.mark.parametrize("share", [1, 1000, 1_000_000])
def test_no_service_is_free(share: int) -> None:
    policy = FairPolicy({"agent": share})
    policy.update_candidate("agent", Candidate(1, 0, (0, 1)))
    policy.update_candidate("other", Candidate(1, 0, (0, 2)))
    policy.charge_grant("agent", "agent", 1, 0.0)
    policy.update_candidate("agent", Candidate(1, 0, (0, 3)))

    assert policy.pick_next(0) == "other"
    assert policy.compute_score("agent", 0) < policy.compute_score("other", 0) == 0.0


def test_recovery_keeps_the_credit_of_a_competing_agent() -> None:
    """A correction has lowered its tag below the virtual time."""
    policy, head = FairPolicy({}), Candidate(0, 0, (0, 1))
    policy.update_candidate("a", head)
    for _ in range(2):
        policy.charge_grant("a", "a", 1000, 0.0)
        policy.update_candidate("a", head)
    policy.adjust_charge("a", "a", -1500, 0.0, 0.0)
    credit = policy.compute_score("a", 0)
    assert credit > 0
    policy.restore_accounts(["a"], {"a"})
    policy.update_candidate("a", head)
    assert policy.compute_score("a", 0) == credit
