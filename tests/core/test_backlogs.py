"""Work apart from its waiters: after each operation the policy compares what the queues and backlogs hold."""

import random
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from queued_work import QueuedWork

from loco_otel._core.backlog import Backlog
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.recovery import rebuild_state
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import DEFAULT_RESOURCE, Outcome, Request

AGENTS = ("a", "b", "c")
_LIVE = State.WAITING, State.ADMITTING, State.GRANTED


def has_ticket(*states: State) -> Callable[["BacklogMachine"], bool]:
    return lambda machine: any(ticket.state in states for ticket in machine.tickets)


class BacklogMachine(RuleBasedStateMachine):
    """One resource under `load`, whose agents queue work and request slots in any order."""

    @initialize(capacity=st.integers(1, 2))
    def begin(self, capacity: int) -> None:
        self.core = Scheduler({DEFAULT_RESOURCE: capacity}, lambda: LoadPolicy(0.25, random.Random(1).random))
        self.queue_set = self.core.resources.get_queue_set((DEFAULT_RESOURCE,))
        self.pieces: dict[str, list[QueuedWork]] = {agent: [] for agent in AGENTS}
        self.backlogs = {agent: Backlog(pieces) for agent, pieces in self.pieces.items()}
        self.tickets: list[Ticket] = []
        for agent, backlog in self.backlogs.items():
            self.queue_set.set_backlog(agent, backlog)

    @rule(
        agent=st.sampled_from(AGENTS),
        works=st.lists(st.tuples(st.sampled_from([1000, 3000]), st.integers(0, 9)), max_size=2),
        requests=st.lists(st.booleans(), max_size=2),
    )
    def arrive(self, agent: str, works: list[tuple[int, int]], requests: list[bool]) -> None:
        for milli, age in works:
            work = QueuedWork(self.queue_set.tick - age, milli, agent=agent)
            self.pieces[agent].append(work)
            self.backlogs[agent].add_work(work)
            self.queue_set.refresh_agent(agent)
        for admission in requests:
            ticket = Ticket(Request(agent, 0, admission=admission))
            ticket.backlog = self.backlogs[agent]
            self.tickets.append(ticket)
            self.core.submit(ticket, 0.0)

    def pick_ticket(self, data: st.DataObject, *states: State) -> Ticket:
        return data.draw(st.sampled_from([ticket for ticket in self.tickets if ticket.state in states]))

    @precondition(has_ticket(State.ADMITTING))
    @rule(data=st.data(), outcome=st.sampled_from([None, *Outcome]))
    def decide(self, data: st.DataObject, outcome: Outcome | None) -> None:
        ticket = self.pick_ticket(data, State.ADMITTING)
        if outcome is None:
            self.core.admit_ticket(ticket, 0.0)
        else:
            self.core.refuse_admission(ticket, outcome, 0.0)

    @precondition(has_ticket(State.GRANTED))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        ticket = self.pick_ticket(data, State.GRANTED)
        pieces = self.pieces[ticket.request.agent]
        pieces[:] = [work for work in pieces if work is not ticket.work]
        self.core.release(ticket, 0.0)

    @precondition(has_ticket(*_LIVE))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.core.cancel(self.pick_ticket(data, *_LIVE), 0.0)

    @rule()
    def recover(self) -> None:
        rebuild_state(self.core, 0.0)

    @invariant()
    def policy_compares_what_is_queued(self) -> None:
        policy = self.queue_set.policy
        assert isinstance(policy, LoadPolicy)
        queues = self.queue_set.queues.values()
        candidates = [(queue.key, queue.build_candidate()) for queue in queues]
        fresh = {key: (candidate.birth, candidate.weight) for key, candidate in candidates if candidate is not None}
        assert {key: (birth, weight) for key, (birth, _, weight, *_) in policy._entries.items()} == fresh

    @invariant()
    def work_is_queued_or_bound_once(self) -> None:
        for agent, pieces in self.pieces.items():
            queued = [work for work in pieces if work.entry is not None]
            assert self.backlogs[agent].count == len(queued)
            assert self.backlogs[agent].weight == sum(work.milli for work in queued)


TestBacklogs = BacklogMachine.TestCase
