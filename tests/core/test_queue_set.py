"""The queue of one resource: which agents count, which is first, and the guard that bounds every wait."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from queued_work import QueuedWork, backlog_of

from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import DEFAULT_RESOURCE, Granted, GrantReason, Request
from loco_otel.testing import RecordingListener


def by_load(alpha: float) -> Callable[[], Policy]:
    return lambda: LoadPolicy(alpha, random.Random(5).random)


def waiter(agent: str, birth: int = 0, weight: int = 1000, state: State = State.WAITING) -> Ticket:
    ticket = Ticket(Request(agent, weight))
    ticket.birth, ticket.state = birth, state
    return ticket


def test_a_backlog_counts_for_the_load_but_does_not_compete() -> None:
    line = QueueSet(FifoPolicy, 0)
    asked = waiter("agent", birth=5, weight=300)
    line.set_backlog("agent", backlog_of(QueuedWork(birth=2, milli=700)))
    line.set_backlog("idle", backlog_of(QueuedWork(birth=0, milli=1000)))
    line.add_ticket(asked)

    agent = line.queues["agent"]
    assert (len(agent), agent.weight, agent.find_birth_tick(), agent.find_head()) == (1, 1000, 2, asked)
    assert set(line.queues) == {"agent"}
    assert line.waiting == 1
    assert line.select_next() == (asked, False)


def test_agent_with_nothing_left_is_evicted() -> None:
    line = QueueSet(by_load(0.5), 10)
    tickets = [waiter("agent"), waiter("agent"), waiter("other")]
    for ticket in tickets:
        line.add_ticket(ticket)
    for ticket in tickets:
        line.remove_ticket(ticket)

    assert line.queues == {}
    assert (line.waiting, line.find_oldest_waiter()) == (0, None)
    assert all(ticket.age_entry is None for ticket in tickets)


def test_agent_serves_its_oldest_then_its_first() -> None:
    line = QueueSet(by_load(1.0), 0)
    young, first, second, resumed = waiter("agent", 7), waiter("agent", 3), waiter("agent", 3), waiter("agent", -2)
    for ticket in (second, young, first, resumed):
        line.add_ticket(ticket)

    order = []
    while line.waiting:
        ticket, _ = line.select_next()
        line.remove_ticket(ticket)
        order.append(ticket)
    assert order == [resumed, first, second, young]


@pytest.mark.parametrize("guard", [1, 3])
def test_guard_chooses_the_oldest_at_its_tick_and_no_sooner(guard: int) -> None:
    line = QueueSet(by_load(1.0), guard)
    line.add_ticket(waiter("heavy", birth=1, weight=9000))
    oldest = waiter("light", birth=0)
    line.add_ticket(oldest)

    for line.tick in range(guard):
        ticket, guarded = line.select_next()
        assert (ticket.request.agent, guarded) == ("heavy", False)
    line.tick = guard
    assert line.select_next() == (oldest, True)


def test_policy_alone_decides_without_a_guard() -> None:
    line = QueueSet(by_load(1.0), 0)
    line.add_ticket(waiter("light"))
    line.add_ticket(waiter("heavy", weight=9000))
    line.tick = 10**9

    assert line.select_next()[0].request.agent == "heavy"


def test_guard_ignores_queued_work_without_waiters() -> None:
    line = QueueSet(by_load(0.0), 5)
    line.set_backlog("idle", backlog_of(QueuedWork(birth=0, milli=1000)))
    asked = waiter("agent", birth=90)
    line.add_ticket(asked)
    line.tick = 94

    assert line.select_next() == (asked, False)


def test_policy_change_keeps_the_waiters() -> None:
    line = QueueSet(FifoPolicy, 0)
    line.add_ticket(waiter("light", birth=0))
    line.add_ticket(waiter("heavy", birth=1, weight=9000))
    line.set_backlog("idle", backlog_of(QueuedWork(birth=0, milli=99_000)))
    assert line.select_next()[0].request.agent == "light"

    line.replace_policy(by_load(1.0))
    assert line.select_next()[0].request.agent == "heavy"


def test_clear_empties_the_queue_and_keeps_its_clock() -> None:
    line = QueueSet(by_load(0.5), 0)
    line.add_ticket(waiter("agent"))
    line.tick = 4
    line.clear_queues(())

    assert (line.queues, line.waiting, line.find_oldest_waiter(), line.tick) == ({}, 0, None, 4)
    line.add_ticket(again := waiter("agent", birth=4))
    assert line.select_next() == (again, False)


@dataclass
class Town:
    """Agents that always request more, one of them greedy, at a resource that is never idle."""

    alpha: float
    guard: int
    capacity: int
    seed: int
    most_waiting: int = 0
    listener: RecordingListener = field(default_factory=RecordingListener)

    def live(self, grants: int) -> None:
        chance = random.Random(self.seed)
        core = Scheduler({DEFAULT_RESOURCE: self.capacity}, by_load(self.alpha), max_wait_ticks=self.guard)
        core.observed = True
        line = core.resources.get_queue_set((DEFAULT_RESOURCE,))
        tickets: list[Ticket] = []

        def arrive(agent: str, weight: int) -> None:
            ticket = Ticket(Request(agent, weight))
            core.submit(ticket, 0.0)
            tickets.append(ticket)

        for number in range(12):
            arrive(f"light-{number}", 1000)
        for _ in range(grants):
            while line.waiting < 30:
                greedy = line.queues.get("greedy")
                if greedy is None or len(greedy) < 10 or chance.random() < 0.9:
                    arrive("greedy", chance.choice((5000, 9000)))
                else:
                    arrive(f"light-{chance.randrange(12)}", 1000)
            self.most_waiting = max(self.most_waiting, line.waiting)
            core.release(chance.choice([ticket for ticket in tickets if ticket.state is State.GRANTED]), 0.0)
            tickets = [ticket for ticket in tickets if not ticket.state.is_ended]
        for event in core.events:
            self.listener(event)

    @property
    def longest_wait(self) -> int:
        return max(grant.waited_ticks for grant in self.listener.of(Granted))

    @property
    def guarded(self) -> list[Granted]:
        return [grant for grant in self.listener.of(Granted) if grant.reason is GrantReason.GUARD]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("capacity", [1, 3])
@pytest.mark.parametrize(("alpha", "guard"), [(1.0, 1), (1.0, 20), (0.9, 60), (0.25, 10), (0.0, 5)])
def test_wait_is_bounded_by_the_guard_plus_the_waiters(alpha: float, guard: int, capacity: int, seed: int) -> None:
    town = Town(alpha, guard, capacity, seed)
    town.live(grants=600)

    assert town.longest_wait <= guard + town.most_waiting
    assert town.guarded, "it was never needed, so nothing was tested"


def test_greedy_agent_starves_others_without_the_guard() -> None:
    """What the guard is for; were this to fail, the test above would prove nothing."""
    town = Town(alpha=1.0, guard=0, capacity=1, seed=0)
    town.live(grants=600)

    assert not town.guarded
    agents = {grant.ticket.request.agent for grant in town.listener.of(Granted)}
    assert agents == {"greedy", "light-0"}, "the one that came while the slot was free, and the greedy one"


def test_wait_after_a_pause_is_bounded_by_the_rest_of_the_guard() -> None:
    """A retry brings its age along: two waits of one call together are no longer than one."""
    core = Scheduler({DEFAULT_RESOURCE: 1}, by_load(1.0), max_wait_ticks=10)
    core.observed = True

    def submit(agent: str, weight: int = 9000) -> Ticket:
        ticket = Ticket(Request(agent, weight))
        core.submit(ticket, 0.0)
        return ticket

    def serve(ticket: Ticket) -> int:
        """Release until the ticket is granted; return how many releases that took."""
        nonlocal holder
        ticks = 0
        while ticket.state is not State.GRANTED:
            tickets.append(submit("greedy"))
            core.release(holder, 0.0)
            holder = next(each for each in tickets if each.state is State.GRANTED)
            ticks += 1
        return ticks

    holder = submit("greedy")
    retried = submit("retried", 1000)
    tickets = [retried, *(submit("greedy") for _ in range(3))]
    assert serve(retried) == 10
    core.suspend_ticket(retried, 0.0)
    holder = next(each for each in tickets if each.state is State.GRANTED)
    core.resume_ticket(retried, 0.0)
    assert serve(retried) == 1
    assert retried.reason is GrantReason.GUARD
    waits = [event.waited_ticks for event in core.events if isinstance(event, Granted) and event.ticket is retried]
    assert waits == [10, 1]
