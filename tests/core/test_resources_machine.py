"""Everything at once: several resources, every policy, tenants, adaptive limits, rates, pauses, sharing, interruptions.

Beside the machine whose model predicts exactly what happens (`test_scheduler_machine.py`), this one checks only what
must always hold, and that no ticket is left in the end.
"""

from math import inf
from typing import Any

from effort import scale
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.registry import POLICIES, make_policy_factory
from loco_otel._core.provider_pause import record_throttling
from loco_otel._core.reconfiguration import set_policy, set_resource
from loco_otel._core.recovery import rebuild_state
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Outcome, RateLimits, Request, Spending, Throttled, ThrottleKind, Usage

DEMANDS = [("a",), ("b",), ("c",), ("a", "b"), ("b", "c"), ("a", "b", "c"), ("c", "a")]
CAPACITIES = st.one_of(st.integers(1, 3), st.none(), st.just("auto"))
PLACES = st.lists(st.sampled_from(["p", "q", "r", "s"]), max_size=2).map(tuple)


def capacity(drawn: Any) -> int | AdaptiveLimit | None:
    return AdaptiveLimit() if drawn == "auto" else drawn


class Resources(RuleBasedStateMachine):
    """See the module."""

    @initialize(
        limits=st.tuples(CAPACITIES, CAPACITIES, CAPACITIES),
        name=st.sampled_from(POLICIES),
        guard=st.sampled_from([0, 2, 5]),
        observed=st.booleans(),
        max_waiters=st.sampled_from([3, 1000]),
    )
    def begin(self, limits: Any, name: str, guard: int, observed: bool, max_waiters: int) -> None:
        self.now = 0.0
        self.draws = iter(range(10**9))
        stated = {resource: capacity(drawn) for resource, drawn in zip("abc", limits, strict=True)}
        self.core = Scheduler(stated, self.policy(name), max_wait_ticks=guard, max_waiters=max_waiters)
        self.core.observed = observed
        self.tickets: list[Ticket] = []
        self.used = dict.fromkeys("abc", 0)

    def policy(self, name: str) -> Any:
        return make_policy_factory(name, alpha=0.3, shares={"x": 2000}, draw=lambda: next(self.draws) / 10**9)

    @property
    def pools(self) -> dict[str, SlotPool]:
        return self.core.resources.pools

    def some(self, data: st.DataObject, *states: State) -> Ticket | None:
        found = [ticket for ticket in self.tickets if ticket.state in states]
        return data.draw(st.sampled_from(found)) if found else None

    # -- what may happen ----------------------------------------------------------------------------------------

    @rule(
        who=st.sampled_from(["x", "y", "z"]),
        tenant=st.sampled_from([None, None, "t", "u"]),
        demand=st.sampled_from(DEMANDS),
        weight=st.integers(1, 4),
        timeout=st.sampled_from([None, None, None, 0, 4.0]),
        accepted=st.sampled_from([True, True, False]),
        admission=st.sampled_from([False, False, True]),
        tokens=st.integers(0, 50),
        places=PLACES,
        blocks=PLACES,
    )
    def submit(self, **drawn: Any) -> None:
        request = Request(
            drawn["who"],
            drawn["weight"] * 1000,
            drawn["demand"],
            drawn["timeout"],
            drawn["admission"],
            drawn["tenant"],
            tokens=drawn["tokens"],
        )
        ticket = Ticket(request)
        ticket.scopes = drawn["places"]
        self.tickets.append(ticket)
        if not drawn["accepted"]:
            self.core.reject_new(ticket, Outcome.BUDGET, self.now)
            return
        self.core.submit(ticket, self.now)
        if ticket.state is State.WAITING:
            self.core.park_ticket(ticket, drawn["blocks"], self.now)

    @rule(data=st.data(), how=st.sampled_from(["release", "cancel", "settle", "suspend_ticket"]))
    def end(self, data: st.DataObject, how: str) -> None:
        ticket = self.some(data, State.GRANTED, State.ADMITTING)
        if ticket is None:
            return
        if how == "settle":
            self.core.record_spending(ticket, Spending(Usage(7, 7), ticket.request.weight + 1000, None), self.now)
            self.core.release(ticket, self.now)
        else:
            getattr(self.core, how)(ticket, self.now)

    @rule(data=st.data(), yes=st.booleans())
    def decide(self, data: st.DataObject, yes: bool) -> None:
        if ticket := self.some(data, State.ADMITTING):
            if yes:
                self.core.admit_ticket(ticket, self.now)
            else:
                self.core.refuse_admission(ticket, Outcome.BUDGET, self.now)

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        if ticket := self.some(data, State.SUSPENDED):
            self.core.resume_ticket(ticket, self.now)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if ticket := self.some(data, State.WAITING, State.SUSPENDED):
            self.core.cancel(ticket, self.now)

    @rule(data=st.data(), retry_after=st.sampled_from([None, 1.0]), left=st.sampled_from([None, 0, 3]))
    def push_back(self, data: st.DataObject, retry_after: float | None, left: int | None) -> None:
        if ticket := self.some(data, State.GRANTED):
            limits = None if left is None else RateLimits(remaining_requests=left, requests_reset=2.0)
            record_throttling(self.core, Throttled(self.now, ticket, 429, ThrottleKind.LOAD, retry_after, limits))
            self.core.suspend_ticket(ticket, self.now)

    @rule(resource=st.sampled_from("abc"), drawn=CAPACITIES, rate=st.sampled_from([None, None, 30.0]))
    def set_resource(self, resource: str, drawn: Any, rate: float | None) -> None:
        set_resource(
            self.core,
            resource,
            capacity(drawn),
            self.now,
            requests_per_minute=rate,
            tokens_per_minute=rate and rate * 20,
        )

    @rule(name=st.sampled_from(POLICIES), guard=st.sampled_from([0, 2, 5]), share=st.sampled_from([1000, 3000]))
    def set_policy(self, name: str, guard: int, share: int) -> None:
        set_policy(self.core, self.policy(name), guard, self.now, {"t": share})

    @rule(seconds=st.sampled_from([0.5, 3.0]))
    def go_on(self, seconds: float) -> None:
        self.now += seconds
        self.core.run_due_actions(self.now)

    @rule()
    def recover(self) -> None:
        before = [ticket.state for ticket in self.tickets]
        rebuild_state(self.core, self.now)
        assert [ticket.state for ticket in self.tickets] == before, "nothing was broken off, so nothing was lost"

    # -- what always holds --------------------------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "core"))
    @invariant()
    def each_holds_all_that_it_asked_for_or_nothing(self) -> None:
        for name, pool in self.pools.items():
            holders = {
                ticket for ticket in self.tickets if ticket.state.is_holding and name in ticket.request.resources
            }
            assert set(pool.leases.values()) == holders
            owners = [ticket for ticket in holders if name not in ticket.lenders]
            assert pool.used == len(owners)
            assert pool.sharer_count == len(holders) - len(owners)
            assert all(ticket.lenders[name] in owners for ticket in holders if name in ticket.lenders)

    @precondition(lambda self: hasattr(self, "core"))
    @invariant()
    def no_grant_exceeds_a_capacity(self) -> None:
        for name, pool in self.pools.items():
            assert pool.used <= max(pool.capacity, self.used[name])
            self.used[name] = pool.used

    @precondition(lambda self: hasattr(self, "core"))
    @invariant()
    def nobody_waits_who_could_go(self) -> None:
        # What waits for the time has its wake planned; an operation may come before that.
        if self.core.compute_next_wakeup() > self.now:
            assert self.core.resources.select_next_grant(tuple(self.pools.values()), self.now) is None
        for pool in self.pools.values():
            if pool.reserved_for is not None:
                assert pool.reserved_for.waiting
                assert len(pool.reserved_for.pools) > 1
            if pool.token_reservation is not None:
                line, _ = pool.token_reservation
                assert line.waiting
                assert {each.token_reservation for each in line.pools} == {pool.token_reservation}, "all or none"

    @precondition(lambda self: hasattr(self, "core"))
    @invariant()
    def all_who_wait_are_in_line(self) -> None:
        waiting = [ticket for ticket in self.tickets if ticket.state is State.WAITING]
        assert self.core.count_waiting() == len(waiting)
        for line in {id(line): line for line in self.core.resources.queue_sets.values()}.values():
            for queue in line.queues.values():
                head = queue.find_head()
                mine = [ticket for ticket in waiting if ticket.age_entry is not None and head is not None]
                same = [
                    ticket
                    for ticket in mine
                    if self.core.resources.get_queue_set(ticket.request.resources) is line
                    and (ticket.request.tenant, ticket.request.agent) == (head.request.tenant, head.request.agent)  # type: ignore[union-attr]
                ]
                if same:
                    assert head is min(same, key=lambda ticket: (ticket.birth, ticket.seq))

    def teardown(self) -> None:
        """End all calls, and check that every waiter has been served."""
        if not hasattr(self, "core"):
            return
        for _ in range(20 * len(self.tickets) + 20):
            live = [ticket for ticket in self.tickets if not ticket.state.is_ended]
            if not live:
                break
            for ticket in live:
                if ticket.state is State.ADMITTING:
                    self.core.admit_ticket(ticket, self.now)
                if ticket.state is State.SUSPENDED:
                    self.core.resume_ticket(ticket, self.now)
                elif ticket.state.is_holding:
                    self.core.release(ticket, self.now)
            if (wakeup := self.core.compute_next_wakeup()) < inf:
                self.now = max(self.now, wakeup)
                self.core.run_due_actions(self.now)
        assert [ticket for ticket in self.tickets if not ticket.state.is_ended] == []
        for pool in self.pools.values():
            assert (pool.used, pool.sharer_count, pool.leases, pool.reserved_for) == (0, 0, {}, None)
            assert pool.token_reservation is None
        assert not self.core.deadlock_detector


TestResources = Resources.TestCase
TestResources.settings = settings(max_examples=scale(150), stateful_step_count=40, deadline=None)
