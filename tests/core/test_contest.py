"""The order and the guards of competing queue sets are those that a comparison of all of them would find."""

import random
from collections.abc import Iterator, Sequence

import pytest

from loco_otel._core import resources
from loco_otel._core.contest import Contest, Rank
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.reconfiguration import set_policy
from loco_otel._core.recovery import rebuild_state
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Outcome, Priority, Request

RUNS, BATCHES, STEPS = 400, 4, 80
NAMES = "abcd"
GUARDS = (0, 1, 3, 8)


class ComparedContest(Contest):
    """Compares each answer with all queue sets of the pools."""

    __slots__ = ("answers",)

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0

    def iter_ranks(self, pools: Sequence[SlotPool]) -> Iterator[Rank]:
        found = list(super().iter_ranks(pools))
        assert [rank[:2] for rank in found] == sorted(self.rank_all(pools))
        self.answers += len(found) > 1
        return iter(found)

    def list_overdue(self, pools: Sequence[SlotPool]) -> list[Rank]:
        found = super().list_overdue(pools)
        overdue = [
            (oldest.waiting_since, oldest.seq)
            for each in self.list_queue_sets(pools)
            if (oldest := each.find_oldest_waiter()) is not None
            and 0 < each.max_wait_ticks <= each.tick - oldest.birth
            and each.select_next() is not None
        ]
        assert [rank[:2] for rank in found] == sorted(overdue)
        reserving = {each for each in self.list_queue_sets(pools) if each.has_reservation}
        assert reserving <= {rank.queue_set for rank in found}
        self.answers += bool(found)
        return found

    def rank_all(self, pools: Sequence[SlotPool]) -> list[tuple[float, int]]:
        oldest = [each.find_oldest_waiter() for each in self.list_queue_sets(pools)]
        return [(ticket.waiting_since, ticket.seq) for ticket in oldest if ticket is not None]


class Program:
    """Does something at random, of which each operation of the scheduler is compared."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        limits = {name: chance.randrange(1, 4) for name in NAMES[:3]}
        self.core = Scheduler(
            limits, FifoPolicy, max_wait_ticks=chance.choice(GUARDS), make_unknown_pool=lambda name: SlotPool(name, 1)
        )
        self.now = 0.0
        self.tickets: list[Ticket] = []

    def run_step(self) -> None:
        chance, core = self.chance, self.core
        self.now += chance.choice((0.0, 0.5))
        ticket = chance.choice(self.tickets) if self.tickets else None
        step = chance.random()
        if ticket is None or step < 0.45:
            self.submit()
        elif step < 0.7:
            core.release(ticket, self.now)
        elif step < 0.8:
            core.cancel(ticket, self.now)
        elif step < 0.87:
            core.suspend_ticket(ticket, self.now)
        elif step < 0.94:
            core.resume_ticket(ticket, self.now)
        elif step < 0.96:
            core.set_capacity(chance.choice(NAMES[:3]), chance.randrange(1, 4), self.now)
        elif step < 0.98:
            set_policy(core, FifoPolicy, chance.choice(GUARDS), self.now)
        else:
            core.reject_waiting(self.tickets[::3], Outcome.BUDGET, self.now)
            if ticket.state is State.WAITING:
                ticket.state = State.SUSPENDED  # as an interrupted operation leaves it
            rebuild_state(core, self.now)
        self.tickets = [ticket for ticket in self.tickets if not ticket.state.is_ended]

    def submit(self) -> None:
        names = tuple(self.chance.sample(NAMES, self.chance.choice((1, 1, 2, 3))))
        priority = self.chance.choice(list(Priority)) if self.chance.random() < 0.05 else Priority.NORMAL
        ticket = Ticket(Request(self.chance.choice("xyz"), resources=names, priority=priority))
        self.tickets.append(ticket)
        self.core.submit(ticket, self.now)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_order_and_guards_equal_those_of_all(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    contests: list[ComparedContest] = []

    def make_contest() -> ComparedContest:
        contests.append(ComparedContest())
        return contests[-1]

    monkeypatch.setattr(resources, "Contest", make_contest)
    for run in range(RUNS // BATCHES):
        monkeypatch.setattr(resources, "_MAX_QUEUE_SETS", 4 if run % 2 else 1000)
        program = Program(random.Random(f"contest {batch} {run}"))
        for _ in range(STEPS):
            program.run_step()
        while program.tickets:
            program.core.cancel(program.tickets.pop(), program.now)
        assert program.core.count_waiting() == 0
    assert sum(contest.answers for contest in contests) > 100


def test_a_removed_queue_set_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_MAX_QUEUE_SETS", 3)
    core = Scheduler({"hub": 1}, FifoPolicy, make_unknown_pool=lambda name: SlotPool(name, 1))
    holder = Ticket(Request("a", resources=("hub",)))
    core.submit(holder, 0.0)
    for number in range(20):
        waiter = Ticket(Request("a", resources=("hub", f"r{number}")))
        core.submit(waiter, 0.0)
        assert waiter.state is State.WAITING
        core.cancel(waiter, 0.0)
    contest = core.resources._contest
    kept = set(core.resources.queue_sets.values())
    assert contest._ranks.keys() <= kept
    assert contest._queue_sets.keys() | contest._guard_checks.keys() <= core.resources.pools.keys()
