"""Requests for several resources with rates: none is passed for ever, and no slot is kept free before it is time."""

import random
from collections import deque

import pytest
from effort import scale

from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.reconfiguration import set_resource
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Request

TOKENS = 30_000
GUARD = 20
WIDE = ("a", "b")


class House:
    """Two resources, the first of which allows a number of tokens a minute, in simulated time."""

    def __init__(self, a: int, b: int, guard: int = GUARD) -> None:
        self.core = Scheduler({"a": a, "b": b}, FifoPolicy, max_wait_ticks=guard)
        set_resource(self.core, "a", a, 0.0, tokens_per_minute=TOKENS)
        self.now = 0.0

    def ask(self, *resources: str, tokens: int = 0) -> Ticket:
        ticket = Ticket(Request("agent", resources=resources, tokens=tokens))
        self.core.submit(ticket, self.now)
        return ticket

    def end(self, ticket: Ticket) -> None:
        self.core.release(ticket, self.now)

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        self.core.run_due_actions(self.now)


@pytest.mark.parametrize("large", [("a",), WIDE])
@pytest.mark.parametrize("small", [("a",), WIDE])
def test_large_request_is_not_passed_for_ever(large: tuple[str, ...], small: tuple[str, ...]) -> None:
    house = House(8, 8)
    house.end(house.ask("a", tokens=1000))
    waiter = house.ask(*large, tokens=TOKENS)
    running: deque[Ticket] = deque()
    while waiter.state is State.WAITING:
        running.append(house.ask(*small, tokens=300))
        if running[0].state is State.GRANTED:
            house.end(running.popleft())
        house.go_on(0.5)
        assert house.now < 60 + GUARD, "it is passed"


def test_slot_is_not_kept_before_tokens_are_there() -> None:
    house = House(8, 1, guard=2)
    house.end(house.ask("a", tokens=TOKENS))
    wide = house.ask(*WIDE, tokens=TOKENS)
    served = 0
    narrow = house.ask("b")
    while wide.state is State.WAITING:
        assert narrow.state is State.GRANTED or house.now >= 60, "the slot stays free"
        following = house.ask("b")
        house.end(narrow)
        narrow = following
        served += 1
        house.go_on(1.0)
        assert house.now < 63
    assert served >= 59


def test_tokens_above_the_reserved_are_for_others() -> None:
    house = House(8, 1, guard=1)
    holder, other = house.ask("b"), house.ask("a")
    wide = house.ask(*WIDE, tokens=20_000)
    house.end(other)
    assert wide.state is State.WAITING, "its guard has fired, and it lacks a slot"
    assert house.ask("a", tokens=10_000).state is State.GRANTED
    assert house.ask("a", tokens=1).state is State.WAITING
    house.end(holder)
    assert wide.state is State.GRANTED


@pytest.mark.parametrize("batch", range(4))
def test_all_requests_are_served_in_time(batch: int) -> None:
    """Once its guard has fired, a request waits for a minute's tokens and one lease, after those whose guards fired."""
    for run in range(scale(6)):
        chance = random.Random(f"{batch} {run}")
        house = House(chance.randint(1, 4), chance.randint(1, 4), guard=5)
        tickets: list[Ticket] = []
        for _ in range(400):
            if chance.random() < 0.4:
                wanted = chance.choice([("a",), ("b",), WIDE])
                tickets.append(house.ask(*wanted, tokens=chance.choice([10, 200, 200, 5000, TOKENS])))
            for ticket in tickets:
                if ticket.state is State.GRANTED and chance.random() < 0.5:
                    house.end(ticket)
            house.go_on(1.0)
        waiting = [ticket for ticket in tickets if ticket.state is State.WAITING]
        for _ in range(61 * len(waiting)):
            for ticket in tickets:
                if ticket.state is State.GRANTED:
                    house.end(ticket)
            house.go_on(1.0)
        assert not [ticket for ticket in tickets if not ticket.state.is_ended]
        assert {pool.token_reservation for pool in house.core.resources.pools.values()} == {None}
