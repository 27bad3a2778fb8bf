"""Slots that lie idle: when they are lent, to which waiter, and that nothing is lost."""

import pytest

from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.reconfiguration import set_resource
from loco_otel._core.recovery import rebuild_state
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.events import GrantReason, Request
from loco_otel.testing import ManualClock

GRANTED, WAITING, ENDED = State.GRANTED, State.WAITING, State.RELEASED
PATIENCE = 10.0


class House:
    """A scheduler of three resources, and holders that go away."""

    def __init__(self, **capacities: int) -> None:
        self.core = Scheduler({"a": 1, "b": 1, "c": 9, **capacities}, FifoPolicy, max_hold=10_000.0)

    def ask(self, *resources: str, at: float = 0.0) -> Ticket:
        ticket = Ticket(Request("agent", 1000, resources or ("a",)))
        self.core.submit(ticket, at)
        return ticket

    def leave(self, *tickets: Ticket) -> None:
        """Nobody reads them from now on."""
        for ticket in tickets:
            ticket.idle_after = PATIENCE

    def end(self, *tickets: Ticket) -> None:
        for ticket in tickets:
            self.core.release(ticket, 0.0)
        pools = self.core.resources.pools.values()
        assert all((pool.used, pool.sharer_count, pool.leases) == (0, 0, {}) for pool in pools)
        assert self.core.count_waiting() == 0


def test_waiter_shares_a_slot_that_is_idle_for_long() -> None:
    house = House()
    idle = house.ask()
    house.leave(idle)
    waiter = house.ask()
    house.core.run_due_actions(PATIENCE - 0.1)
    assert waiter.state is WAITING
    house.core.run_due_actions(PATIENCE)

    assert (waiter.state, waiter.reason, waiter.lender) == (GRANTED, GrantReason.REENTRANT, idle)
    assert house.core.resources.pools["a"].used == 1
    house.end(idle, waiter)


def test_idle_slot_admits_twice_as_many_each_time_in_order() -> None:
    house = House()
    idle = house.ask()
    house.leave(idle)
    waiters = [house.ask() for _ in range(8)]
    granted = []
    for visit in range(1, 5):
        house.core.run_due_actions(visit * PATIENCE)
        house.core.run_due_actions(visit * PATIENCE)
        granted.append([waiter.state for waiter in waiters].count(GRANTED))
        house.leave(*waiters)

    assert granted == [1, 3, 7, 8]
    assert {waiter.lender for waiter in waiters} == {idle}
    assert [waiter.state for waiter in waiters[:3]] == [GRANTED] * 3
    house.end(*waiters, idle)


def test_idle_slots_admit_one_again_once_the_others_ended() -> None:
    house = House()
    idle = house.ask()
    house.leave(idle)
    waiters = [house.ask() for _ in range(7)]
    for visit in (1, 2):
        house.core.run_due_actions(visit * PATIENCE)
        house.leave(*waiters)
    for ended in (idle, *waiters[:2]):
        house.core.release(ended, 2 * PATIENCE)
    house.core.run_due_actions(3 * PATIENCE)

    assert [waiter.state for waiter in waiters[3:]] == [GRANTED, WAITING, WAITING, WAITING]
    house.end(*waiters)


def test_wakeup_is_when_the_last_lease_becomes_idle() -> None:
    house = House(a=2)
    first, second = house.ask(), house.ask(at=0.25)
    house.leave(first, second)
    house.core.run_due_actions(0.5)
    assert house.core.compute_next_wakeup() == 10_000.0, "no ticket waits"
    waiter = house.ask(at=0.5)
    house.core.run_due_actions(1.0)
    assert house.core.compute_next_wakeup() == PATIENCE + 0.25
    house.core.run_due_actions(PATIENCE + 0.25)

    assert waiter.state is GRANTED
    house.core.run_due_actions(PATIENCE + 0.25)
    assert house.core.compute_next_wakeup() == 10_000.0
    house.end(first, second, waiter)


@pytest.mark.parametrize(("count", "most"), [(12, 6.0), (20, 7.0)])
def test_streams_opened_together_are_open_in_seconds(count: int, most: float) -> None:
    """Streams of which none is read before all are open, on an engine whose timer is due when it returns."""
    clock = ManualClock()
    engine = InProcessEngine(Scheduler({"llm": 4}, FifoPolicy), clock=clock, timer=False)
    tickets = [engine.create_ticket(Request("agent", 1000, ("llm",))) for _ in range(count)]
    for ticket in tickets:
        engine.submit(ticket)
    opened: set[Ticket] = set()
    due = engine.run_due_actions()
    while len(opened) < count and clock() < 60.0:
        opening = {each: each.granted_at + 0.3 for each in tickets if each.state is GRANTED and each not in opened}
        clock.advance(max(0.0, min([due, *opening.values()]) - clock()))
        for ticket in [ticket for ticket, at in opening.items() if at <= clock()]:
            opened.add(ticket)
            ticket.idle_after = 1.0
            engine.touch_lease(ticket)
        due = engine.run_due_actions()

    assert clock() < most


@pytest.mark.parametrize("sign", ["a sign of life", "read again", "never left"])
def test_slot_with_a_working_holder_is_not_shared(sign: str) -> None:
    house = House(a=2)
    holders = [house.ask(), house.ask()]
    house.leave(*holders[: 1 if sign == "never left" else 2])
    waiter = house.ask()
    if sign == "a sign of life":
        holders[1].touched_at = 1.0
    elif sign == "read again":
        holders[1].idle_after = float("inf")
    house.core.run_due_actions(PATIENCE + 0.5)

    assert waiter.state is WAITING
    house.core.release(holders[1], 0.0)
    assert waiter.reason is GrantReason.SCORE
    house.end(waiter, holders[0])


def test_slot_is_idle_while_its_other_holder_waits() -> None:
    house = House(a=2)
    idle, reader = house.ask(), house.ask()
    reader.scopes = ("here",)
    house.leave(idle)
    other = house.ask()
    inner = house.ask()
    house.core.park_ticket(inner, ("here",), 0.0)
    assert (other.state, inner.state) == (WAITING, WAITING), "the idle one may still end"
    house.core.run_due_actions(PATIENCE)

    assert (other.state, inner.state) == (GRANTED, WAITING)
    house.core.release(other, PATIENCE)
    house.core.run_due_actions(2 * PATIENCE)
    assert inner.state is GRANTED
    house.end(inner, reader, idle)


def test_request_of_several_shares_the_idle_and_takes_the_free() -> None:
    house = House()
    idle = house.ask("a")
    house.leave(idle)
    wide = house.ask("a", "c")
    house.core.run_due_actions(PATIENCE)

    assert (wide.state, dict(wide.lenders)) == (GRANTED, {"a": idle})
    assert (house.core.resources.pools["a"].used, house.core.resources.pools["c"].used) == (1, 1)
    house.end(wide, idle)


def test_request_of_several_waits_where_one_holder_works() -> None:
    house = House()
    idle, working = house.ask("a"), house.ask("b")
    house.leave(idle)
    wide = house.ask("a", "b")
    house.core.run_due_actions(PATIENCE)
    assert wide.state is WAITING
    house.core.release(working, PATIENCE)
    house.core.run_due_actions(2 * PATIENCE)

    assert (wide.state, dict(wide.lenders)) == (GRANTED, {"a": idle})
    house.end(wide, idle)


def test_nothing_is_granted_before_the_providers_instant() -> None:
    house = House()
    set_resource(house.core, "a", 1, 0.0, requests_per_minute=1)
    idle = house.ask()
    house.leave(idle)
    waiter = house.ask()
    house.core.run_due_actions(PATIENCE)
    assert waiter.state is WAITING
    house.core.run_due_actions(60.0)

    assert waiter.state is GRANTED
    house.end(waiter, idle)


def test_shared_slot_survives_a_recovery() -> None:
    house = House()
    idle = house.ask()
    house.leave(idle)
    waiter = house.ask()
    house.core.run_due_actions(PATIENCE)
    rebuild_state(house.core, PATIENCE)

    assert (waiter.state, waiter.lender, house.core.resources.pools["a"].used) == (GRANTED, idle, 1)
    house.end(idle, waiter)
    assert idle.state is ENDED
