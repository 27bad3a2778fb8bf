"""Requests for several resources: all or none, in turn, and never passed for ever."""

import pytest

from loco_otel._core import resources
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.recovery import rebuild_state
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import GrantReason, Priority, Request

GRANTED, WAITING = State.GRANTED, State.WAITING
BOTH = ("gpu", "llm")


class House:
    """A scheduler with an LLM and a GPU, and a clock that advances with each step."""

    def __init__(self, *, guard: int = 0, llm: int = 1, gpu: int = 1) -> None:
        self.core = Scheduler({"llm": llm, "gpu": gpu}, FifoPolicy, max_wait_ticks=guard)
        self.now = 0.0

    def ask(self, *resources: str, agent: str = "a", places: tuple[str, ...] = ()) -> Ticket:
        self.now += 1
        ticket = Ticket(Request(agent, resources=resources))
        ticket.scopes = places
        self.core.submit(ticket, self.now)
        return ticket

    def block(self, ticket: Ticket, *places: str) -> None:
        self.core.park_ticket(ticket, places, self.now)

    def end(self, ticket: Ticket) -> None:
        self.now += 1
        self.core.cancel(ticket, self.now)

    @property
    def used(self) -> dict[str, int]:
        return {name: pool.used for name, pool in self.core.resources.pools.items()}


def test_waiter_for_the_rest_holds_nothing() -> None:
    house = House()
    holder = house.ask("llm")
    wide = house.ask(*BOTH)
    assert (wide.state, house.used) == (WAITING, {"llm": 1, "gpu": 0})
    other = house.ask("gpu")
    assert other.state is GRANTED, "the GPU is free, and nobody who fits waits for it"

    house.end(holder)
    assert (wide.state, house.used) == (WAITING, {"llm": 0, "gpu": 1})
    house.end(other)
    assert (wide.state, house.used) == (GRANTED, {"llm": 1, "gpu": 1})
    house.end(wide)
    assert house.used == {"llm": 0, "gpu": 0}


def test_queue_with_the_oldest_waiter_goes_first() -> None:
    house = House()
    holder = house.ask("gpu")
    wide = house.ask(*BOTH)
    narrow = house.ask("gpu")

    house.end(holder)
    assert (wide.state, narrow.state) == (GRANTED, WAITING)
    house.end(wide)
    assert narrow.state is GRANTED


def test_wide_request_is_not_passed_for_ever() -> None:
    house = House(guard=3)
    holders = [house.ask("llm"), house.ask("gpu")]
    wide = house.ask(*BOTH)
    passed = 0
    # Others ask for each of both without end, and never at the same time.
    while wide.state is WAITING:
        for index, name in enumerate(("llm", "gpu")):
            following = house.ask(name)
            house.end(holders[index])
            passed += following.state is GRANTED
            holders[index] = following
        assert passed < 10
    assert wide.reason is GrantReason.GUARD


def test_two_reserved_requests_do_not_deadlock() -> None:
    core = Scheduler(dict.fromkeys("abc", 1), FifoPolicy, max_wait_ticks=1)
    holders = [Ticket(Request("x", resources=(name,))) for name in "abc"]
    wide = [Ticket(Request("y", resources=pair)) for pair in (("a", "b"), ("b", "c"), ("a", "c"))]
    for ticket in (*holders, *wide):
        core.submit(ticket, 0.0)
    for holder in holders:
        core.cancel(holder, 1.0)
    for _ in wide:
        (served,) = [ticket for ticket in wide if ticket.state is GRANTED]
        core.cancel(served, 2.0)
    assert all(ticket.state is State.RELEASED for ticket in wide)


def test_reserved_slots_of_a_leaver_are_freed() -> None:
    house = House(guard=1, llm=2)
    holders = [house.ask("llm"), house.ask("gpu")]
    wide = house.ask(*BOTH)
    house.end(holders.pop(0))
    narrow = house.ask("llm")
    late = house.ask("llm")
    assert (wide.state, narrow.state, late.state) == (WAITING, GRANTED, WAITING), "one slot is kept"
    house.end(wide)
    assert late.state is GRANTED


def test_reservation_passes_to_the_next_guard_with_a_grant() -> None:
    """The selection after a grant, within the same release, is still one of guards."""
    house = House(guard=1)
    house.core.resources.add_resource("disk", 1)
    holder = house.ask("llm")
    first, second = house.ask("gpu", "llm"), house.ask("disk", "llm")
    house.end(holder)
    assert (first.state, second.state) == (GRANTED, WAITING)
    assert house.ask("disk").state is WAITING, "it is reserved"
    house.end(first)
    assert second.state is GRANTED


def test_holders_that_block_each_other_share() -> None:
    house = House()
    first = house.ask("llm", places=("reader 1",))
    second = house.ask("gpu", places=("reader 2",))
    within_first = house.ask("gpu", places=("child 1",))
    house.block(within_first, "reader 1")
    assert within_first.state is WAITING, "the holder of the GPU can still end"
    within_second = house.ask("llm", places=("child 2",))
    house.block(within_second, "reader 2")

    shared = [ticket for ticket in (within_first, within_second) if ticket.state is GRANTED]
    assert [ticket.reason for ticket in shared] == [GrantReason.REENTRANT], "one is enough"
    for ticket in (within_first, first, within_second, second):
        house.end(ticket)
    assert house.used == {"llm": 0, "gpu": 0}


def test_unknown_and_repeated_names_are_rejected() -> None:
    house = House()
    with pytest.raises(KeyError, match="'tpu' is no resource; there are 'llm', 'gpu'"):
        house.ask("tpu")
    with pytest.raises(ValueError, match="each once"):
        house.ask("llm", "llm")
    with pytest.raises(ValueError, match="at least one"):
        house.ask()


def test_order_of_names_does_not_matter() -> None:
    house = House()
    holder = house.ask("llm")
    first, second = house.ask("llm", "gpu"), house.ask("gpu", "llm")
    assert house.core.count_waiting() == 2
    house.end(holder)
    assert (first.state, second.state) == (GRANTED, WAITING)
    house.end(first)
    assert second.state is GRANTED


def test_larger_limit_exceeds_no_other_limit() -> None:
    """Pools that a request has created have no queue set of their own."""
    house = House()
    house.core = Scheduler({}, FifoPolicy, make_unknown_pool=lambda name: SlotPool(name, 1))
    holder, wide = house.ask(*BOTH), house.ask(*BOTH)

    house.core.set_capacity("gpu", 2, house.now)
    assert (wide.state, house.used) == (WAITING, {"llm": 1, "gpu": 1})
    house.end(holder)
    assert (wide.state, house.used) == (GRANTED, {"llm": 1, "gpu": 1})


def test_recovery_keeps_the_queue_sets_of_waiters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among as many others as make each new one remove those without waiters."""
    monkeypatch.setattr(resources, "_MAX_QUEUE_SETS", 1)
    core = Scheduler({"hub": 1}, FifoPolicy, make_unknown_pool=lambda name: SlotPool(name, 1))
    for name in "ab":
        paused = Ticket(Request("a", resources=("hub", name)))
        core.submit(paused, 0.0)
        core.suspend_ticket(paused, 0.0)
    core.submit(Ticket(Request("a", resources=("hub",))), 0.0)
    waiter = Ticket(Request("a", resources=("hub", "c"), priority=Priority.BACKGROUND))
    core.submit(waiter, 0.0)
    queue_set = core.resources.get_queue_set(("hub", "c"))

    rebuild_state(core, 0.0)
    assert core.resources.get_queue_set(("hub", "c")) is queue_set
    assert (waiter.state, queue_set.waiting) == (WAITING, 1)
