"""Snapshots take time in proportion to the agents, and hold the lock for a bounded number of them."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from loco_otel._core.policies.base import Key
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine import in_process
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.events import Request
from loco_otel.testing import ManualClock

AGENTS = 1300


class CountingPolicy(LoadPolicy):
    """Counts its scores, and the scans of all distinct Qs."""

    def __init__(self) -> None:
        super().__init__(0.25, lambda: 0.5)
        self.scores = self.scans = 0

    def create_scorer(self, tick: int) -> Callable[[Key], float]:
        self.scans += 1
        compute_score = super().create_scorer(tick)

        def count_score(key: Key) -> float:
            self.scores += 1
            return compute_score(key)

        return count_score


def crowd(tenants: int = 0) -> tuple[Scheduler, CountingPolicy]:
    """Return a scheduler with one lease, and a waiter of each of many agents with distinct weights."""
    policy = CountingPolicy()
    core = Scheduler({"llm": 1, "other": 1}, lambda: policy, max_wait_ticks=0)
    core.submit(Ticket(Request("holder", resources=("llm",))), 0.0)
    for number in range(AGENTS):
        tenant = f"tenant-{number % tenants}" if tenants else None
        core.submit(Ticket(Request(f"agent-{number}", number + 1, ("llm",), tenant=tenant)), 0.0)
    return core, policy


@pytest.mark.parametrize("with_tickets", [False, True])
def test_snapshot_scans_the_weights_once(with_tickets: bool) -> None:
    core, policy = crowd()
    builder = core.start_snapshot(0.0, with_tickets=with_tickets)
    agents = builder.build_dump(10)[0].standing.agents if with_tickets else builder.build_snapshot().resources[0].agents
    assert (len(agents), policy.scans, policy.scores) == (AGENTS + 1, 1, AGENTS)
    scores = {agent.agent: agent.score for agent in agents}
    assert scores["agent-0"] == policy.compute_score("agent-0", 0)
    assert scores[f"agent-{AGENTS - 1}"] == 0.25, "the heaviest; all are of age 0"


def test_step_reads_a_bounded_number_of_agents() -> None:
    core, policy = crowd()
    builder = core.start_snapshot(0.0, with_tickets=True)
    seen = [0, policy.scores]
    while builder.is_unfinished:
        builder.read_step()
        seen.append(policy.scores)
    assert max(after - before for before, after in pairwise(seen)) <= 500
    assert seen[-1] == AGENTS


def test_snapshot_frees_the_lock_between_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    core, _ = crowd()
    engine = InProcessEngine(core, clock=ManualClock(), timer=False)
    granted: list[State] = []

    def submit_other(_: float) -> None:
        ticket = engine.create_ticket(Request("newcomer", resources=("other",)))
        engine.submit(ticket)
        granted.append(ticket.state)
        engine.release(ticket)

    monkeypatch.setattr(in_process.time, "sleep", submit_other)
    (llm, _) = engine.take_snapshot().resources
    assert (llm.waiting, len(llm.agents)) == (AGENTS, AGENTS + 1)
    assert len(granted) >= 2
    assert set(granted) == {State.GRANTED}


def test_agent_that_leaves_between_steps_is_left_out() -> None:
    core, _ = crowd()
    last = max(core.tickets.values(), key=lambda ticket: ticket.seq)
    builder = core.start_snapshot(0.0, with_tickets=True)
    assert builder.is_unfinished
    core.cancel(last, 0.0)
    (llm, _) = builder.build_dump(10**6)
    assert len(llm.standing.agents) == AGENTS
    assert last.id not in {ticket.id for ticket in llm.tickets}


def test_dump_reads_on_after_a_step_of_ended_requests() -> None:
    core, _ = crowd()
    tickets = list(core.tickets.values())
    builder = core.start_snapshot(0.0, with_tickets=True)
    for ticket in tickets[1:1100]:
        core.cancel(ticket, 0.0)
    (llm, _) = builder.build_dump(10**6)
    assert [ticket.id for ticket in llm.tickets[1:]] == [ticket.id for ticket in reversed(tickets[1100:])]


def test_small_state_is_read_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = InProcessEngine(Scheduler({"llm": 1}, FifoPolicy), clock=ManualClock(), timer=False)
    for number in range(250):
        engine.submit(engine.create_ticket(Request(f"agent-{number}", resources=("llm",))))
    monkeypatch.setattr(in_process.time, "sleep", lambda _: pytest.fail("it pauses"))
    assert engine.take_snapshot().resources[0].waiting == 249
    assert len(engine.take_dump(1000)[0].tickets) == 250


def test_agents_of_tenants_follow_those_without() -> None:
    core, _ = crowd(tenants=2)
    agents = core.start_snapshot(0.0).build_snapshot().resources[0].agents
    assert agents[0].agent == "holder"
    assert [agent.tenant for agent in agents[1:]] == ["tenant-0"] * (AGENTS // 2) + ["tenant-1"] * (AGENTS // 2)
