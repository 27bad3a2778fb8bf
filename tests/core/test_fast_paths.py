"""`try_submit_fast` and `try_release_fast` leave the state that `submit` and `release` leave."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loco_otel._core.fast_paths import try_release_fast, try_submit_fast
from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityRule
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Priority, Request, Spending, Usage

POLICIES: dict[str, Callable[[], Policy]] = {"fifo": FifoPolicy, "fair": lambda: FairPolicy({"a": 2000})}

Step = tuple[str, int, str, tuple[str, ...], bool, Priority]

SPENDING = Spending(Usage(9, 3, estimated=False), 1500, "model")
ESTIMATED = Spending(None, 500, None)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(("submit", "release", "admit")),
        st.integers(0, 7),
        st.sampled_from("ab"),
        st.sampled_from((("llm",), ("gpu",), ("llm", "gpu"))),
        st.booleans(),
        st.sampled_from((Priority.NORMAL, Priority.NORMAL, Priority.NORMAL, *Priority)),
    ),
    max_size=40,
)


class House:
    """A scheduler, its tickets in the order in which they were submitted, and whether it tries the fast paths."""

    def __init__(self, policy: str, capacity: int | None, *, fast: bool, observed: bool = False) -> None:
        self.core = Scheduler({"llm": capacity, "gpu": 2}, POLICIES[policy], max_hold=100.0)
        self.core.observed = observed
        self.fast = fast
        self.fast_count = 0
        self.tickets: list[Ticket] = []

    def run_step(self, step: Step, now: float) -> None:
        kind, number, agent, resources, admission, priority = step
        spending = (None, SPENDING, ESTIMATED)[number % 3]
        if kind == "submit":
            ticket = Ticket(Request(agent, 1000 + number, resources=resources, admission=admission, priority=priority))
            self.tickets.append(ticket)
            if self.fast and try_submit_fast(self.core, ticket, now):
                self.fast_count += 1
            else:
                self.core.submit(ticket, now)
        elif self.tickets:
            ticket = self.tickets[number % len(self.tickets)]
            if kind == "admit":
                self.core.admit_ticket(ticket, now)
            elif self.fast and try_release_fast(self.core, ticket, now, spending):
                self.fast_count += 1
            else:
                if spending is not None:
                    self.core.record_spending(ticket, spending, now)
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
        events = [_describe_event(event, places) for event in self.core.events]
        return tickets, pools, queues, listed, self.core.compute_next_wakeup(), len(self.core.decided), events


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
    fast, slow = (House(policy, capacity, fast=fast, observed=observed) for fast in (True, False))
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
