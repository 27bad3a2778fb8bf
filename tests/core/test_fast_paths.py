"""`try_submit_fast`, `try_release_fast` and `try_hand_over` leave the state that `submit` and `release` leave."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from effort import scale
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_otel._core.fast_paths import try_hand_over, try_release_fast, try_submit_fast
from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityRule
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import GrantReason, Priority, Request, Spending, Usage

POLICIES: dict[str, Callable[[], Policy]] = {
    "fifo": FifoPolicy,
    "fair": lambda: FairPolicy({"a": 2000}),
    "load": lambda: LoadPolicy(0.5, iter(range(100)).__next__),
}

Step = tuple[str, int, str, tuple[str, ...], bool, Priority]

SPENDING = Spending(Usage(9, 3, estimated=False), 1500, "model")
ESTIMATED = Spending(None, 500, None)


def _draw_steps(
    kinds: tuple[str, ...], resources: tuple[tuple[str, ...], ...], priorities: tuple[Priority, ...], size: int
) -> st.SearchStrategy[list[Step]]:
    step = st.tuples(
        st.sampled_from(kinds),
        st.integers(0, 23),
        st.sampled_from("abc"),
        st.sampled_from(resources),
        st.booleans(),
        st.sampled_from(priorities),
    )
    return st.lists(step, min_size=size // 2, max_size=size)


STEPS = _draw_steps(
    ("submit", "release", "admit"),
    (("llm",), ("gpu",), ("llm", "gpu")),
    (Priority.NORMAL, Priority.NORMAL, Priority.NORMAL, *Priority),
    40,
)
CONTENDED_STEPS = _draw_steps(
    (*("submit",) * 5, *("release",) * 5, "admit", "admit", "park", "park", "suspend", "resume", "resize"),
    (("llm",),),
    (Priority.NORMAL,),
    60,
)


class House:
    """A scheduler, its tickets in the order in which they were submitted, and whether it tries the fast paths."""

    def __init__(self, policy: str, capacity: int | None, *, fast: bool, observed: bool = False) -> None:
        self.core = Scheduler({"llm": capacity, "gpu": 2}, POLICIES[policy], max_hold=100.0, max_wait_ticks=3)
        self.core.observed = observed
        self.fast = fast
        self.fast_count = self.handed_over = 0
        self.tickets: list[Ticket] = []

    def run_step(self, step: Step, now: float) -> None:
        kind, number, agent, resources, admission, priority = step
        spending = (None, SPENDING, ESTIMATED)[number % 3]
        if kind == "submit":
            ticket = Ticket(Request(agent, 1000 + number, resources=resources, admission=admission, priority=priority))
            ticket.scopes = (number % 3,)
            self.tickets.append(ticket)
            if self.fast and try_submit_fast(self.core, ticket, now):
                self.fast_count += 1
            else:
                self.core.submit(ticket, now)
        elif self.tickets:
            ticket = self.tickets[number % len(self.tickets)]
            if kind == "release":
                self.release(ticket, spending, now)
            else:
                operations: dict[str, Callable[[], None]] = {
                    "admit": lambda: self.core.admit_ticket(ticket, now),
                    "suspend": lambda: self.core.suspend_ticket(ticket, now),
                    "resume": lambda: self.core.resume_ticket(ticket, now),
                    "resize": lambda: self.core.set_capacity("llm", 1 + number % 3, now),
                    "park": lambda: self.core.park_ticket(ticket, (agent, number % 3)[: number // 3 % 4], now),
                }
                operations[kind]()

    def release(self, ticket: Ticket, spending: Spending | None, now: float) -> None:
        if self.fast and try_release_fast(self.core, ticket, now, spending):
            self.fast_count += 1
            return
        if spending is not None:
            self.core.record_spending(ticket, spending, now)
        if self.fast and try_hand_over(self.core, ticket, now):
            self.handed_over += 1
        else:
            self.core.release(ticket, now)

    def describe_state(self) -> object:
        """Return all that later operations depend on, with tickets by their place in the order of submission."""
        places = {ticket.seq: place for place, ticket in enumerate(self.tickets)}
        tickets = [
            (
                ticket.state, ticket.reason, ticket.outcome, ticket.birth, ticket.waited_ticks, ticket.granted_at,
                ticket.touched_at, ticket.scopes, ticket.charged_by is None, ticket.charged_order is None,
                (ticket.correction, ticket.spending_recorded, ticket.waiting_tick) if self.core.observed else None,
            )
            for ticket in self.tickets
        ]  # fmt: skip
        pools = [
            (
                pool.used, pool.sharer_count, [places[seq] for seq in pool.leases], list(pool.recently_served),
                pool.capped_slots,
            )
            for pool in self.core.resources.pools.values()
        ]  # fmt: skip
        queues = {
            names: (line.tick, line.waiting, line.fast_pool is None, line.is_metered, line.order is None)
            for names, line in self.core.resources.queue_sets.items()
        }
        listed = [places[ticket.seq] for ticket in self.core.tickets.values()]
        decided = [places[ticket.seq] for ticket in self.core.decided]
        events = [_describe_event(event, places) for event in self.core.events]
        return tickets, pools, queues, listed, self.core.compute_next_wakeup(), decided, events


def _describe_event(event: Any, places: Mapping[int, int]) -> tuple[object, ...]:
    """Return an event with the places of its tickets."""
    return type(event), *(
        places[value.seq] if isinstance(value, Ticket)
        else tuple(places[ticket.seq] for ticket in value) if name == "holders"
        else {resource: places[host.seq] for resource, host in value.items()} if name == "hosts"
        else value is None if name == "reserved_for"
        else value
        for name, value in event._asdict().items()
    )  # fmt: skip


@given(st.sampled_from(sorted(POLICIES)), st.sampled_from((None, 1, 3)), st.booleans(), STEPS)
def test_fast_and_slow_paths_leave_the_same_state(
    policy: str, capacity: int | None, observed: bool, steps: list[Step]
) -> None:
    _compare(steps, *(House(policy, capacity, fast=fast, observed=observed) for fast in (True, False)))


@settings(max_examples=scale(150))
@given(st.sampled_from(sorted(POLICIES)), st.integers(1, 3), CONTENDED_STEPS, st.booleans())
def test_release_to_a_waiter_leaves_the_same_state(
    policy: str, capacity: int, steps: list[Step], contested: bool
) -> None:
    houses = [House(policy, capacity, fast=fast) for fast in (True, False)]
    if contested:
        steps = [("submit", 0, "a", ("llm", "gpu"), False, Priority.NORMAL), *steps]
    _compare(steps, *houses)


def _compare(steps: list[Step], fast: House, slow: House) -> None:
    for now, step in enumerate(steps):
        fast.run_step(step, float(now))
        slow.run_step(step, float(now))
        assert fast.describe_state() == slow.describe_state()
        assert fast.core.start_snapshot(now).build_snapshot() == slow.core.start_snapshot(now).build_snapshot()


def call(priority: Priority = Priority.NORMAL) -> Step:
    return ("submit", 0, "a", ("llm",), False, priority)


def end(number: int) -> Step:
    return ("release", number, "a", ("llm",), False, Priority.NORMAL)


def test_free_slot_takes_both_fast_paths() -> None:
    house = House("fifo", 1, fast=True)
    house.run_step(call(), 0.0)
    house.run_step(end(0), 1.0)
    assert house.fast_count == 2


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_slot_passes_to_a_waiter_in_one_step(policy: str, observed: bool) -> None:
    house = House(policy, 1, fast=True, observed=observed)
    for _ in range(3):
        house.run_step(call(), 0.0)
    house.run_step(end(0), 1.0)
    assert [ticket.state for ticket in house.tickets] == [State.RELEASED, State.GRANTED, State.WAITING]
    assert house.handed_over == (policy != "fair" and not observed)


def test_next_waiter_shares_if_it_blocks_the_new_lease() -> None:
    house = House("fifo", 1, fast=True)
    for _ in range(3):
        house.run_step(call(), 0.0)
    _, second, third = house.tickets
    second.scopes = ("second",)
    house.core.park_ticket(third, ("second",), 0.0)
    house.run_step(end(0), 1.0)
    assert (house.handed_over, second.state, third.state) == (1, State.GRANTED, State.GRANTED)
    assert third.lender is second


@pytest.mark.parametrize("guard", [1, 2])
def test_guard_counts_the_release_that_passes_the_slot(guard: int) -> None:
    core = Scheduler({"llm": 1}, lambda: LoadPolicy(1.0, lambda: 0.0), max_wait_ticks=guard)
    holder, light, heavy = (Ticket(Request("abc"[weight], 1 + weight, ("llm",))) for weight in range(3))
    for ticket in (holder, light, heavy):
        core.submit(ticket, 0.0)
    assert try_hand_over(core, holder, 1.0)
    chosen = light if guard == 1 else heavy
    assert core.decided == [chosen]
    assert chosen.reason is (GrantReason.GUARD if guard == 1 else GrantReason.SCORE)
    assert chosen.waited_ticks == 1


def test_contested_slot_passes_by_the_slow_path() -> None:
    core = Scheduler({"llm": 1, "gpu": 1}, FifoPolicy)
    holder, wide, narrow = (Ticket(Request("a", 1, names)) for names in (("llm",), ("gpu", "llm"), ("llm",)))
    for ticket in (holder, wide, narrow):
        core.submit(ticket, 0.0)
    assert not try_hand_over(core, holder, 1.0)
    assert holder.state is State.GRANTED


@pytest.mark.parametrize("priority", [Priority.INTERACTIVE, Priority.BACKGROUND])
def test_fast_paths_return_once_no_request_waits(priority: Priority) -> None:
    house = House("fifo", 2, fast=True)
    for step in (call(), call(), call(priority)):
        house.run_step(step, 0.0)
    assert house.tickets[2].state is State.WAITING
    assert house.fast_count == 2
    for number in range(3):
        house.run_step(end(number), 1.0)
    assert house.fast_count == 3, "the second was released while none waited"
    for number in (3, 4):
        house.run_step(call(), 2.0)
        house.run_step(end(number), 3.0)
    assert house.fast_count == 7
    # Also while a request of the class holds a slot.
    house.run_step(call(priority), 4.0)
    house.run_step(call(), 4.0)
    house.run_step(end(6), 5.0)
    assert house.fast_count == 9
    assert house.tickets[5].state is State.GRANTED


def test_ceiling_of_the_normal_class_takes_no_fast_path() -> None:
    rules = {**DEFAULT_PRIORITY_RULES, Priority.NORMAL: PriorityRule(1000, slots=1)}
    core = Scheduler({"llm": 4}, FifoPolicy, priorities=rules)
    assert not try_submit_fast(core, Ticket(Request("a", 1000, ("llm",))), 0.0)
