"""Slots that lie idle: when they are lent, to which waiter, and that nothing is lost."""

import pytest

from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.recovery import rebuild_state
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import GrantReason, Request

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


def test_idle_slot_admits_one_at_a_time_in_order() -> None:
    house = House()
    idle = house.ask()
    house.leave(idle)
    first, second = house.ask(), house.ask()
    house.core.run_due_actions(PATIENCE)
    house.core.run_due_actions(100 * PATIENCE)
    assert (first.state, second.state) == (GRANTED, WAITING)
    house.leave(first)
    house.core.run_due_actions(200 * PATIENCE)

    assert (second.state, second.lender) == (GRANTED, idle)
    house.end(second, idle, first)


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
    house.core.set_resource("a", 1, 0.0, requests_per_minute=1)
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
