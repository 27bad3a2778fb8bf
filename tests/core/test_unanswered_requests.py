"""The requests that the other place has not answered are known without a scan of all tickets, whatever happens."""

from collections.abc import Callable

from effort import scale
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.recovery import end_all_tickets, rebuild_state
from loco_otel._core.remote import RemoteGrant
from loco_otel._core.remote_grants import (
    apply_remote_grant,
    confirm_waiting,
    refuse_immediate,
    reject_overdue,
    switch_pools,
)
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import PoolShare
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import GrantReason, Outcome, Request

GRANT = RemoteGrant(GrantReason.SCORE, 1, 0, 0, 0.0, 0.0, 1000, 0, "fifo")
CHANGES: list[Callable[[Scheduler, Ticket, float], object]] = [
    Scheduler.cancel,
    Scheduler.release,
    Scheduler.suspend_ticket,
    Scheduler.resume_ticket,
    Scheduler.resume_ticket,
    lambda core, ticket, now: core.reject_waiting((ticket,), Outcome.BUDGET, now),
]
ANSWERS: list[Callable[[Scheduler, Ticket, float], object]] = [
    lambda core, ticket, now: apply_remote_grant(core, ticket, GRANT, now),
    lambda core, ticket, now: confirm_waiting(core, ticket, 0, now),
    lambda core, ticket, now: confirm_waiting(core, ticket, 1, now),
    refuse_immediate,
    reject_overdue,
]


class RemotePool(RuleBasedStateMachine):
    """One pool, which another place decides, or the core while that is away."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Scheduler({"llm": 2}, FifoPolicy, max_waiters=4)
        self.now = 0.0
        self.tickets: list[Ticket] = []
        self.switch(is_remote=True, is_away=False)

    @rule(timeout=st.sampled_from([None, None, 0, 1.0]), deadline=st.sampled_from([None, None, 0.0, 2.0]))
    def submit(self, timeout: float | None, deadline: float | None) -> None:
        deadline = None if deadline is None else self.now + deadline
        self.tickets.append(Ticket(Request("a", 1000, ("llm",), timeout, deadline=deadline)))
        self.core.submit(self.tickets[-1], self.now)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), change=st.sampled_from(CHANGES))
    def change(self, data: st.DataObject, change: Callable[[Scheduler, Ticket, float], object]) -> None:
        change(self.core, data.draw(st.sampled_from(self.tickets)), self.now)

    @precondition(lambda self: self.tickets and self.core.remote.is_deciding)
    @rule(data=st.data(), answer=st.sampled_from(ANSWERS))
    def answer(self, data: st.DataObject, answer: Callable[[Scheduler, Ticket, float], object]) -> None:
        answer(self.core, data.draw(st.sampled_from(self.tickets)), self.now)

    @rule(seconds=st.sampled_from([0.5, 2.0]))
    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.core.run_due_actions(self.now)

    @rule(is_remote=st.booleans(), is_away=st.booleans())
    def switch(self, is_remote: bool, is_away: bool) -> None:
        is_away = is_remote and is_away
        switch_pools(self.core, {"llm": PoolShare(2)}, self.now, is_remote=is_remote, is_away=is_away)

    @rule()
    def recover(self) -> None:
        self.core.remote.unanswered = {0}  # an operation was interrupted anywhere
        rebuild_state(self.core, self.now)

    @rule()
    def fork(self) -> None:
        end_all_tickets(self.core)

    @invariant()
    def unanswered_requests_are_those_of_a_scan(self) -> None:
        waiting = [ticket for ticket in self.core.tickets.values() if ticket.state is State.WAITING]
        assert self.core.remote.unanswered == {ticket.seq for ticket in waiting if ticket.is_unanswered}


TestRemotePool = RemotePool.TestCase
TestRemotePool.settings = settings(max_examples=scale(100), stateful_step_count=40, deadline=None)
