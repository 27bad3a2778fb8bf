"""Any sequence of operations: the scheduler does what the model does, and keeps its promises after every step."""

from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from math import inf

from effort import scale
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from policy_model import HALF_LIFE, SHARES, TENANT_SHARES, Attained, Drawn, TwoLayers
from resource_model import HOLDS, Record, Resource
from scheduler_model import SchedulerModel

from loco_otel._core.fast_paths import try_release_fast, try_submit_fast
from loco_otel._core.policies.base import Key, Policy, tenant_of
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.las import LasPolicy
from loco_otel._core.policies.tenants import TenantPolicy
from loco_otel._core.priority_level import PriorityLevel
from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityRule, PriorityRules
from loco_otel._core.reconfiguration import set_max_hold, set_policy
from loco_otel._core.recovery import rebuild_state
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import (
    Bypassed,
    Event,
    Gated,
    Granted,
    GrantReason,
    Limited,
    Outcome,
    Priority,
    Rejected,
    Released,
    Request,
    RequestEvent,
    SlotTaken,
    Spending,
    Spent,
    Submitted,
    Suspended,
    Usage,
    Waiting,
)

PLACES = ("thread-1", "thread-2", "thread-3")
CHEAP = Spending(Usage(10, 20), 30, "gpt")
DEAR = Spending(Usage(1000, 2000), 7000, "gpt")

capacities = st.sampled_from([1, 1, 1, 2, 2, 3, 4, None])
policies = st.sampled_from(["load", "load", "fair", "fair", "las", "las", "fifo"])
alphas = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])
guards = st.sampled_from([0, 0, 1, 2, 5])
holds = st.sampled_from([inf, inf, 3.0])
places = st.lists(st.sampled_from(PLACES), min_size=1, max_size=2, unique=True).map(tuple)
parked = st.one_of(st.none(), places)
requests = st.tuples(
    st.sampled_from("abcd"),
    st.sampled_from([500, 1000, 1000, 3000]),
    st.sampled_from([("llm",), ("llm",), ("llm",), ("tool",)]),
    st.sampled_from([None, None, None, None, 2.0, 2.0, 0.5, 0]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([None, None, "acme", "beta"]),
    st.sampled_from([None, "a", "run", "run-2", "run-3"]),
    st.sampled_from([Priority.NORMAL, Priority.NORMAL, *Priority]),
    st.sampled_from([None, None, None, 0.0, 1.0, 3.0]),
).map(lambda facts: Request(*facts[:6], run=facts[6], priority=facts[7], deadline=facts[8]))
"""Agent, weight, resources, timeout, admission, tenant, run, priority, seconds until the deadline."""
rules = st.sampled_from(
    [
        DEFAULT_PRIORITY_RULES,
        DEFAULT_PRIORITY_RULES,
        dict(
            zip(Priority, (PriorityRule(1000, is_strict=True), PriorityRule(3), PriorityRule(1, slots=1)), strict=True)
        ),
        dict(
            zip(
                Priority, (PriorityRule(5), PriorityRule(1, fraction=0.5), PriorityRule(1, is_strict=True)), strict=True
            )
        ),
    ]
)
crowds = st.lists(
    st.tuples(requests, places, st.sampled_from([True, True, True, False]), parked), min_size=1, max_size=4
)

STORY: dict[tuple[str, type[Event]], str] = {
    ("new", Submitted): "asked",
    ("asked", Waiting): "waiting",
    ("asked", SlotTaken): "checked",
    ("waiting", SlotTaken): "checked",
    ("paused", SlotTaken): "checked",
    ("checked", Granted): "held",
    ("checked", Rejected): "over",
    ("asked", Granted): "held",
    ("asked", Rejected): "over",
    ("waiting", Granted): "held",
    ("waiting", Rejected): "over",
    ("held", Spent): "held",
    ("held", Suspended): "paused",
    ("held", Released): "over",
    ("paused", Spent): "paused",
    ("paused", Waiting): "waiting",
    ("paused", Granted): "held",
    ("paused", Rejected): "over",
    ("paused", Released): "over",
}
"""Events of a ticket that may follow each other: each wait and each grant has one end, and nothing follows the last."""

TOLD: dict[str, tuple[State, ...]] = {
    "waiting": (State.WAITING,),
    "checked": (State.ADMITTING,),
    "held": (State.GRANTED,),
    "paused": (State.SUSPENDED,),
    "over": (State.RELEASED, State.REJECTED),
}


def has(*states: State) -> Callable[["SchedulerMachine"], bool]:
    return lambda machine: any(ticket.state in states for ticket in machine.tickets)


def seldom(machine: "SchedulerMachine") -> bool:
    """Return whether enough tickets came since for another change of the scheduler itself."""
    return machine.changes * 3 <= len(machine.tickets)


class SchedulerMachine(RuleBasedStateMachine):
    """Two resources: `llm`, of which the capacity changes, and `tool`, which must not notice."""

    @initialize(
        capacity=capacities,
        policy=policies,
        alpha=alphas,
        guard=guards,
        max_waiters=st.sampled_from([2, 50, 50]),
        max_hold=holds,
        observed=st.sampled_from([True, True, False]),
        tenants=st.booleans(),
        by_run=st.booleans(),
        urgency=st.sampled_from([False, True, True]),
        rules=rules,
    )
    def begin(
        self,
        *,
        capacity: int | None,
        policy: str,
        alpha: float,
        guard: int,
        max_waiters: int,
        max_hold: float,
        observed: bool,
        tenants: bool,
        by_run: bool,
        urgency: bool,
        rules: PriorityRules,
    ) -> None:
        self.now = 0.0
        self.urgency = urgency
        self.tenants = tenants
        self.core = Scheduler(
            {"llm": capacity, "tool": 1},
            self.make_policy(policy, alpha),
            max_wait_ticks=guard,
            max_waiters=max_waiters,
            max_hold=max_hold,
            tenant_shares=TENANT_SHARES,
            by_run=by_run,
            priorities=rules,
        )
        self.core.observed = observed
        self.pools = {name: self.core.resources.pools[name] for name in ("llm", "tool")}
        alpha = alpha if policy == "load" else 0.0
        resources = {
            name: Resource(name, pool.capacity, guard, policy, alpha, by_run, rules)
            for name, pool in self.pools.items()
        }
        self.model = SchedulerModel(resources, max_waiters=max_waiters, max_hold=max_hold, observed=observed)
        self.tickets: list[Ticket] = []
        self.story: dict[Ticket, str] = {}
        self.changes = 0
        self.most = dict.fromkeys(self.pools, inf)

    # -- the way of a ticket ------------------------------------------------------------------------------------

    @rule(crowd=crowds)
    def arrive(self, crowd: list[tuple[Request, tuple[str, ...], bool, tuple[str, ...] | None]]) -> None:
        for request, where, accepted, blocks in crowd:
            self.submit(request, where, accepted, blocks)

    def submit(self, request: Request, where: tuple[str, ...], accepted: bool, blocks: tuple[str, ...] | None) -> None:
        if not self.tenants:
            request = request._replace(tenant=None)
        if not self.urgency:
            request = request._replace(priority=Priority.NORMAL, deadline=None)
        elif request.deadline is not None:
            request = request._replace(deadline=self.now + request.deadline)
        ticket = Ticket(request)
        # A lease's own claim is one of its places too, so that tickets can be distinguished.
        ticket.scopes = (*where, ticket)
        self.tickets.append(ticket)

        def submit(core: Scheduler, now: float) -> None:
            if not try_submit_fast(core, ticket, now):
                core.submit(ticket, now)

        if accepted:
            self.step(submit, lambda model, now: model.submit(ticket, ticket.scopes or where, now))
        else:
            self.step(
                lambda core, now: core.reject_new(ticket, Outcome.BUDGET, now),
                lambda model, now: model.reject_new(ticket, now),
            )
        if ticket.state is State.WAITING and blocks is not None:
            self.let_park(ticket, blocks)

    @precondition(has(State.WAITING))
    @rule(data=st.data(), blocks=places, claims=st.booleans())
    def park(self, data: st.DataObject, blocks: tuple[str, ...], claims: bool) -> None:
        leases = [other for other in self.tickets if other.state.is_holding]
        mine: tuple[Hashable, ...] = (data.draw(st.sampled_from(leases)),) if claims and leases else ()
        self.let_park(self.pick(data, State.WAITING), (*blocks, *mine))

    @precondition(has(State.ADMITTING))
    @rule(data=st.data(), yes=st.booleans())
    def admit(self, data: st.DataObject, yes: bool) -> None:
        if yes:
            self.on_ticket(Scheduler.admit_ticket, SchedulerModel.admit_ticket, data, State.ADMITTING)
        else:
            self.on_ticket(
                lambda core, ticket, now: core.refuse_admission(ticket, Outcome.BUDGET, now),
                lambda model, ticket, now: model.refuse_admission(ticket, Outcome.BUDGET, now),
                data,
                State.ADMITTING,
            )

    @precondition(has(State.GRANTED))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.on_ticket(Scheduler.release, SchedulerModel.release, data, State.GRANTED)

    @precondition(has(State.GRANTED))
    @rule(data=st.data(), spending=st.sampled_from([None, CHEAP, DEAR]))
    def end_as_the_engine_does(self, data: st.DataObject, spending: Spending | None) -> None:
        def release(core: Scheduler, ticket: Ticket, now: float) -> None:
            if not try_release_fast(core, ticket, now, spending):
                if spending:
                    core.record_spending(ticket, spending, now)
                core.release(ticket, now)

        def released(model: SchedulerModel, ticket: Ticket, now: float) -> None:
            if spending and model.records[ticket].state is State.GRANTED:
                model.record_spending(ticket, spending, now)
            model.release(ticket, now)

        self.on_ticket(release, released, data, State.GRANTED)

    @precondition(has(State.WAITING, State.ADMITTING, State.SUSPENDED))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A holder is released rather than cancelled, as a rule."""
        states = (State.WAITING, State.ADMITTING, State.SUSPENDED)
        self.on_ticket(Scheduler.cancel, SchedulerModel.cancel, data, *states)

    @precondition(lambda self: self.tickets)
    @rule(
        data=st.data(),
        what=st.sampled_from(["admit_ticket", "release", "cancel", "suspend_ticket", "resume_ticket"]),
    )
    def come_too_late_or_too_early(self, data: st.DataObject, what: str) -> None:
        self.on_ticket(getattr(Scheduler, what), getattr(SchedulerModel, what), data, *State)

    @precondition(has(State.GRANTED))
    @rule(data=st.data())
    def suspend(self, data: st.DataObject) -> None:
        self.on_ticket(Scheduler.suspend_ticket, SchedulerModel.suspend_ticket, data, State.GRANTED)

    @precondition(has(State.SUSPENDED))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.on_ticket(Scheduler.resume_ticket, SchedulerModel.resume_ticket, data, State.SUSPENDED)

    @precondition(has(*HOLDS))
    @rule(data=st.data(), where=places)
    def move(self, data: st.DataObject, where: tuple[str, ...]) -> None:
        ticket = self.pick(data, *HOLDS)
        self.step(
            lambda core, now: core.set_scopes(ticket, (*where, ticket), now),
            lambda model, now: model.set_scopes(ticket, (*where, ticket), now),
        )

    @precondition(has(*HOLDS))
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        ticket = self.pick(data, *HOLDS)
        ticket.touched_at = self.model.records[ticket].touched_at = self.now

    # -- time, limits, the end ----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 2.0, 4.0]), look=st.booleans())
    def go_on(self, seconds: float, look: bool) -> None:
        self.now += seconds
        if look:
            self.step(Scheduler.run_due_actions, SchedulerModel.run_due_actions)
            assert self.core.compute_next_wakeup() > self.now

    @precondition(seldom)
    @rule(capacity=capacities)
    def set_capacity(self, capacity: int | None) -> None:
        self.changes += 1
        limit = inf if capacity is None else capacity
        # What is held when a capacity is lowered stays; it must not become more.
        self.most["llm"] = inf
        self.step(
            lambda core, now: core.set_capacity("llm", capacity, now),
            lambda model, now: model.set_capacity("llm", limit, now),
        )
        self.most["llm"] = max(limit, self.pools["llm"].used)

    @precondition(seldom)
    @rule(seconds=holds)
    def set_max_hold(self, seconds: float) -> None:
        self.changes += 1
        self.step(
            lambda core, now: set_max_hold(core, seconds, now), lambda model, now: model.set_max_hold(seconds, now)
        )

    @precondition(seldom)
    @rule(policy=policies, alpha=alphas, guard=guards, by_run=st.booleans(), rules=rules)
    def set_policy(self, policy: str, alpha: float, guard: int, by_run: bool, rules: PriorityRules) -> None:
        self.changes += 1

        def replace_policy(core: Scheduler, now: float) -> None:
            set_policy(
                core, self.make_policy(policy, alpha), guard, now, TENANT_SHARES, by_run=by_run, priorities=rules
            )

        self.step(
            replace_policy,
            lambda model, now: model.set_policy(
                policy, alpha if policy == "load" else 0.0, guard, now, by_run=by_run, rules=rules
            ),
        )

    @precondition(seldom)
    @rule()
    def recover(self) -> None:
        self.changes += 1
        live = [record.ticket for record in self.model.live()]
        woken = {ticket for ticket in live if ticket.wake is not None and ticket.state is not State.WAITING}
        rebuild_state(self.core, self.now)
        self.model.rebuild_state()
        # An arrival that only a ceiling delays is not compared with the leases of its class before it parks.
        self.model.exceed_ceilings(self.now)
        assert set(self.core.decided) == woken | set(self.model.decided)
        for name in self.pools:
            assert self.core_events(self.core.events, name) == self.core_events(self.model.events, name)
        if self.core.observed:
            self.tell_the_story()
        self.core.events, self.core.decided = [], []
        self.model.events, self.model.decided = [], []

    @precondition(lambda self: len(self.tickets) > 40 and seldom(self))
    @rule()
    def shutdown(self) -> None:
        self.changes += 1
        self.step(Scheduler.close, SchedulerModel.close)

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        for ticket in self.tickets:
            self.step(partial(_cancel, ticket), partial(_cancel, ticket))
        self.nothing_is_kept_of_what_ended()
        for pool in self.pools.values():
            assert (pool.used, pool.sharer_count, pool.leases) == (0, 0, {})
            assert self.core.resources.list_queue_sets(pool)[0].queues == {}
        assert self.core.tickets == {}

    # -- what always holds --------------------------------------------------------------------------------------

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        for ticket, record in self.model.records.items():
            assert (ticket.state, ticket.outcome, ticket.reason) == (record.state, record.outcome, record.reason)
            assert ticket.waited_ticks == record.waited_ticks
        standings = tuple(self.model.standing(each, self.now) for each in self.model.resources.values())
        assert self.core.start_snapshot(self.now).build_snapshot().resources == standings
        assert self.core.count_waiting() == sum(each.waiting for each in standings)

    @invariant()
    def each_lease_is_on_the_slot_that_the_model_says(self) -> None:
        for name, pool in self.pools.items():
            slots: dict[Ticket, set[Ticket]] = {}
            for lease in pool.leases.values():
                slots.setdefault(lease.lender or lease, set()).add(lease)
            told = {frozenset(each.ticket for each in slot) for slot in self.model.resources[name].slots}
            assert {frozenset(slot) for slot in slots.values()} == told
            assert pool.used == len(slots)
            assert pool.sharer_count == len(pool.leases) - len(slots)

    @invariant()
    def no_slot_is_held_beyond_the_capacity_or_idle_while_somebody_waits(self) -> None:
        for name, pool in self.pools.items():
            assert pool.used <= max(pool.capacity, self.most[name])
            line = self.core.resources.list_queue_sets(pool)[0]
            assert pool.used >= pool.capacity or all(pool.is_capped(it) for it, own in line.levels.items() if own)
            self.most[name] = max(pool.capacity, min(self.most[name], pool.used))

    @invariant()
    def only_what_was_granted_so_shares_a_slot(self) -> None:
        for pool in self.pools.values():
            own = sum(lease.reason is not GrantReason.REENTRANT for lease in pool.leases.values())
            assert own <= pool.used

    @invariant()
    def no_wait_is_longer_than_the_guard_allows(self) -> None:
        for name, pool in self.pools.items():
            line = self.core.resources.list_queue_sets(pool)[0]
            if line.max_wait_ticks and line.order is None:
                for record in self.model.resources[name].waiters:
                    assert self.core.resources.list_queue_sets(pool)[0].tick - record.since_tick <= record.allowance

    @invariant()
    def a_wake_is_planned_for_all_that_runs_out(self) -> None:
        assert self.core.compute_next_wakeup() <= self.model.compute_next_wakeup()

    @invariant()
    def nothing_is_kept_of_what_ended(self) -> None:
        live = list(self.model.live())
        assert set(self.core.tickets.values()) == {record.ticket for record in live}
        timed = [each for each in live if each.state is State.WAITING and each.deadline is not None]
        assert len(self.core.deadlines) == len(timed)
        for name, pool in self.pools.items():
            line = self.core.resources.list_queue_sets(pool)[0]
            mine = [record for record in live if record.ticket.request.resources == (name,)]
            waiters = [record for record in mine if record.state is State.WAITING]
            assert set(line.queues) == {record.key for record in waiters}
            assert (line.order is None) is (self.model.resources[name].classes is None)
            for priority, level in line.levels.items():
                own = [record for record in waiters if record.priority is priority]
                lines = {self.model.resources[name].line_of(record) for record in own}
                self.a_policy_knows_those_who_wait(name, priority, level, lines)
                assert set(level.lines) == lines
                assert len(level) == len(own)
                dated = Counter(record.tenant for record in own if record.due is not None)
                assert {tenant: len(heap) for tenant, heap in level._by_deadline.items()} == dated
        waiters = [record for record in live if record.state is State.WAITING]
        detector = self.core.deadlock_detector
        grouped = {entry[-1] for _, entry in detector._grouped.values()}
        assert grouped | set(detector._ungrouped.values()) == {each.ticket for each in waiters if each.blocks}
        assert sum(map(len, detector._groups.values())) == len(detector._grouped)
        assert sum(detector._resource_counts.values()) == len(detector._grouped) + len(detector._ungrouped)
        assert set(detector._blocked_counts) == {place for each in waiters for place in each.blocks}
        for record in self.model.records.values():
            if record.state.is_ended:
                ticket = record.ticket
                assert (ticket.scopes, ticket.age_entry, ticket.deadline_entry, ticket.due_entry) == ((), *(None,) * 3)

    def a_policy_knows_those_who_wait(
        self, name: str, priority: Priority, level: PriorityLevel, waiting: set[Key]
    ) -> None:
        """And, by service, the agents that are served or have a tag above V, and no others."""
        policy = level.policy
        accounts = self.model.resources[name].levels[priority]
        if isinstance(policy, TenantPolicy):
            assert isinstance(accounts, TwoLayers)
            known = {tenant for tenant in accounts.tags if not accounts.is_forgotten(tenant)}
            assert set(policy._tenants) - set(policy._dormant) == set(policy._tenant_order._accounts) == known
            for tenant, inner in policy._tenants.items():
                assert set(inner.entries) == {key for key in waiting if tenant_of(key) == tenant}
                if not isinstance(inner.policy, FairPolicy | LasPolicy):
                    assert set(inner.policy._entries) == set(inner.entries)
        elif isinstance(policy, FairPolicy):
            assert set(policy._accounts) == {key for key in accounts.tags if not accounts.is_forgotten(key)}
            assert len(policy._competing) == len(waiting)
        elif isinstance(policy, LasPolicy):
            assert isinstance(accounts, Attained)
            assert {key for key, account in policy._accounts.items() if account.head is not None} == waiting
            assert len(policy._competing) == len(waiting)
        else:
            assert set(policy._entries) == waiting

    # -- doing it twice -----------------------------------------------------------------------------------------

    def make_policy(self, name: str, alpha: float) -> Callable[[], Policy]:
        if name == "fair":
            return lambda: FairPolicy(SHARES)
        if name == "las":
            return lambda: LasPolicy(SHARES, half_life=HALF_LIFE)
        return FifoPolicy if name == "fifo" else lambda: Drawn(alpha)

    def pick(self, data: st.DataObject, *states: State) -> Ticket:
        return data.draw(st.sampled_from([ticket for ticket in self.tickets if ticket.state in states]))

    def let_park(self, ticket: Ticket, blocks: tuple[Hashable, ...]) -> None:
        ticket.wake = _wake
        self.step(
            lambda core, now: core.park_ticket(ticket, blocks, now),
            lambda model, now: model.park_ticket(ticket, blocks, now),
        )

    def on_ticket(
        self,
        real: Callable[[Scheduler, Ticket, float], None],
        model: Callable[[SchedulerModel, Ticket, float], None],
        data: st.DataObject,
        *states: State,
    ) -> None:
        ticket = self.pick(data, *states)
        self.step(lambda core, now: real(core, ticket, now), lambda other, now: model(other, ticket, now))

    def step(self, real: Callable[[Scheduler, float], None], model: Callable[[SchedulerModel, float], None]) -> None:
        waiting = [ticket for ticket in self.tickets if ticket.state is State.WAITING]
        real(self.core, self.now)
        model(self.model, self.now)
        for name in self.pools:
            assert self.core_events(self.core.events, name) == self.core_events(self.model.events, name)
            assert _of(self.core.decided, name) == _of(self.model.decided, name)
        assert {ticket for ticket in waiting if ticket.state is not State.WAITING} <= set(self.core.decided)
        if self.core.observed:
            self.tell_the_story()
        else:
            assert self.core.events == []
        for side in (self.core, self.model):
            side.events, side.decided = [], []

    def core_events(self, events: list[Event], name: str) -> list[RequestEvent]:
        """Return the events of one resource."""
        return [self.plain(event) for event in _of_requests(events) if event.ticket.request.resources == (name,)]

    def plain(self, event: RequestEvent) -> RequestEvent:
        """Leave out what is not promised."""
        if isinstance(event, Granted) and event.reason is GrantReason.FREE:
            # Nothing was compared.
            return event._replace(queue_weight=0, queue_age=0)
        if isinstance(event, Waiting) and self.is_out_of_turn(self.model.records[event.ticket]):
            return event._replace(position=0)
        return event

    def is_out_of_turn(self, record: Record) -> bool:
        """Return whether it brought an age along, so that its place is not the last."""
        return record.birth < record.since_tick

    def tell_the_story(self) -> None:
        for event in _of_requests(self.core.events):
            chapter = self.story.get(event.ticket, "new")
            assert (chapter, type(event)) in STORY, f"{event} after {chapter}"
            self.story[event.ticket] = STORY[chapter, type(event)]
        for ticket, chapter in self.story.items():
            assert ticket.state in TOLD[chapter]


def _cancel(ticket: Ticket, side: Scheduler | SchedulerModel, now: float) -> None:
    side.cancel(ticket, now)


def _of_requests(events: list[Event]) -> list[RequestEvent]:
    return [event for event in events if not isinstance(event, Limited | Gated | Bypassed)]


def _wake() -> None:
    pass


def _of(tickets: list[Ticket], name: str) -> list[Ticket]:
    return [ticket for ticket in tickets if ticket.request.resources == (name,)]


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=scale(100), stateful_step_count=80, deadline=None)
