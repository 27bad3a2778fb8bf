"""Pools whose slots are granted by another place: the core keeps the tickets, and leaves notes."""

import pytest

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.fast_paths import try_release_fast, try_submit_fast
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.provider_pause import record_rate_limits, record_throttling
from loco_otel._core.recovery import rebuild_state
from loco_otel._core.remote import RemoteChange, RemoteGrant
from loco_otel._core.remote_grants import (
    PoolReport,
    QueueReport,
    advance_remote_pool,
    apply_remote_grant,
    confirm_waiting,
    refuse_immediate,
    switch_pools,
    update_remote_pool,
    update_remote_queue,
)
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import Gate, PoolShare
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import (
    GateCause,
    Granted,
    GrantReason,
    Limited,
    Outcome,
    RateLimits,
    Released,
    Request,
    Spending,
    Submitted,
    Suspended,
    Throttled,
    ThrottleKind,
    Usage,
    Waiting,
)
from loco_otel.snapshots import CapacityMode

GRANT = RemoteGrant(
    GrantReason.SCORE, tick=40, waited_ticks=3, total_waited_ticks=7, score=0.5, alpha=0.25,
    queue_weight=9000, queue_age=12, policy="load",
)  # fmt: skip


@pytest.fixture
def core() -> Scheduler:
    core = Scheduler({"llm": 2}, FifoPolicy, max_waiters=1)
    switch_pools(core, {"llm": PoolShare(2)}, 0.0, is_remote=True)
    core.observed = True
    return core


def submit(core: Scheduler, agent: str = "a", timeout: float | None = None) -> Ticket:
    ticket = Ticket(Request(agent, 1000, ("llm",), timeout))
    assert not try_submit_fast(core, ticket, 0.0)
    core.submit(ticket, 0.0)
    return ticket


def notes(core: Scheduler) -> list[tuple[RemoteChange, Ticket]]:
    taken, core.remote.notes = core.remote.notes, []
    return [(note.change, note.ticket) for note in taken]


def kinds(core: Scheduler) -> list[type]:
    taken, core.events = core.events, []
    return [type(event) for event in taken if not isinstance(event, Limited)]


def test_nothing_is_granted_here_though_slots_are_free(core: Scheduler) -> None:
    ticket = submit(core)
    core.run_due_actions(100.0)
    core.grant_all_waiting(100.0)
    assert ticket.state is State.WAITING
    assert notes(core) == [(RemoteChange.REQUESTED, ticket)]


def test_a_grant_of_the_other_place_is_applied(core: Scheduler) -> None:
    ticket = submit(core)
    assert apply_remote_grant(core, ticket, GRANT, 2.0)
    assert ticket.state is State.GRANTED
    assert core.decided == [ticket]
    event = core.events[-1]
    assert isinstance(event, Granted)
    assert (event.reason, event.tick, event.waited_ticks, event.waited) == (GrantReason.SCORE, 40, 3, 2.0)
    assert (event.score, event.alpha, event.queue_weight, event.queue_age) == (0.5, 0.25, 9000, 12)
    assert event.policy == "load"
    assert ticket.waited_ticks == 7


def test_a_second_grant_changes_nothing(core: Scheduler) -> None:
    ticket = submit(core)
    apply_remote_grant(core, ticket, GRANT, 2.0)
    assert not apply_remote_grant(core, ticket, GRANT, 3.0)
    core.release(ticket, 4.0)
    assert not apply_remote_grant(core, ticket, GRANT, 5.0)
    assert core.resources.pools["llm"].used == 0


def test_each_end_leaves_one_note(core: Scheduler) -> None:
    granted, cancelled, late = submit(core), submit(core), submit(core, timeout=5.0)
    apply_remote_grant(core, granted, GRANT, 1.0)
    notes(core)
    core.record_spending(granted, Spending(Usage(1, 1), 1400, "m"), 2.0)
    core.release(granted, 2.0)
    core.cancel(cancelled, 2.0)
    core.run_due_actions(5.0)
    assert notes(core) == [(RemoteChange.ENDED, ticket) for ticket in (granted, cancelled, late)]
    assert granted.correction == 400
    core.cancel(late, 6.0)
    assert notes(core) == []


def test_a_release_is_noted_without_listeners_too(core: Scheduler) -> None:
    """The fast path of a release leaves no note, so it must not be taken."""
    core.observed = False
    ticket = submit(core)
    apply_remote_grant(core, ticket, GRANT, 1.0)
    notes(core)
    assert not try_release_fast(core, ticket, 2.0)
    core.release(ticket, 2.0)
    assert notes(core) == [(RemoteChange.ENDED, ticket)]


def test_a_refused_admission_frees_the_slot_elsewhere(core: Scheduler) -> None:
    ticket = Ticket(Request("a", 1000, ("llm",), None, admission=True))
    core.submit(ticket, 0.0)
    apply_remote_grant(core, ticket, GRANT, 1.0)
    assert ticket.state is State.ADMITTING
    notes(core)
    core.refuse_admission(ticket, Outcome.BUDGET, 2.0)
    assert notes(core) == [(RemoteChange.ENDED, ticket)]
    assert ticket.correction == -1000


def test_a_pause_suspends_and_requests_again(core: Scheduler) -> None:
    ticket = submit(core)
    apply_remote_grant(core, ticket, GRANT, 1.0)
    notes(core)
    core.suspend_ticket(ticket, 2.0)
    core.resume_ticket(ticket, 3.0)
    assert notes(core) == [(RemoteChange.SUSPENDED, ticket), (RemoteChange.REQUESTED, ticket)]
    core.cancel(ticket, 4.0)
    assert notes(core) == [(RemoteChange.ENDED, ticket)]


def test_a_wait_is_an_event_once_the_other_place_has_queued_it(core: Scheduler) -> None:
    quick, slow = submit(core), submit(core)
    assert kinds(core) == [Submitted, Submitted]
    apply_remote_grant(core, quick, GRANT, 1.0)
    assert not confirm_waiting(core, quick, 0, 1.0)
    assert not confirm_waiting(core, slow, 0, 1.0)
    assert not confirm_waiting(core, slow, 0, 1.0)
    assert kinds(core) == [Granted, Waiting]
    core.release(quick, 2.0)
    apply_remote_grant(core, slow, GRANT, 2.0)
    core.suspend_ticket(slow, 3.0)
    assert kinds(core) == [Released, Granted, Suspended]


def test_an_excess_of_waiters_is_rejected_once_they_are_queued(core: Scheduler) -> None:
    first, second = submit(core), submit(core)
    assert second.state is State.WAITING  # it may be granted with the first answer
    assert confirm_waiting(core, second, 1, 1.0)
    assert not confirm_waiting(core, first, 0, 1.0)
    assert (second.outcome, first.state) == (Outcome.BACKPRESSURE, State.WAITING)


def test_a_request_that_is_rejected_at_once_leaves_no_note(core: Scheduler) -> None:
    """The other place has nothing of it."""
    core.reject_new(Ticket(Request("a", 1000, ("llm",))), Outcome.BUDGET, 0.0)
    late = Ticket(Request("a", 1000, ("llm",), deadline=0.0))
    core.submit(late, 1.0)
    assert late.outcome is Outcome.DEADLINE
    assert notes(core) == []


def test_bound_of_waiters_holds_while_the_other_place_is_away(core: Scheduler) -> None:
    lease = submit(core)
    apply_remote_grant(core, lease, GRANT, 1.0)
    switch_pools(core, {"llm": PoolShare(2)}, 2.0, is_remote=True, is_away=True)
    first, second, immediate = submit(core), submit(core), submit(core, timeout=0)
    assert first.state is State.WAITING
    assert (second.outcome, immediate.outcome) == (Outcome.BACKPRESSURE, Outcome.TIMEOUT)
    assert notes(core) == [(RemoteChange.REQUESTED, first)]
    core.suspend_ticket(lease, 3.0)
    core.resume_ticket(lease, 4.0)
    assert lease.state is State.WAITING  # it was granted before
    switch_pools(core, {"llm": PoolShare(2)}, 5.0, is_remote=True)
    assert submit(core).state is State.WAITING


def test_a_request_that_may_not_wait_is_refused(core: Scheduler) -> None:
    core.remote.patience = 0.25
    refused, forgotten = submit(core, timeout=0), submit(core, timeout=0)
    refuse_immediate(core, refused, 0.1)
    assert refused.outcome is Outcome.TIMEOUT
    core.run_due_actions(0.2)
    assert forgotten.state is State.WAITING
    core.run_due_actions(0.25)
    assert forgotten.outcome is Outcome.TIMEOUT


def test_the_capacity_of_all_processes_is_reported(core: Scheduler) -> None:
    update_remote_pool(core, "llm", PoolReport(5), 1.0)
    update_remote_queue(core, ("llm",), QueueReport(77), 1.0)
    snapshot = core.start_snapshot(1.0).build_snapshot().resources[0]
    assert (snapshot.capacity, snapshot.tick) == (5, 77)
    assert [event.slots for event in core.events if isinstance(event, Limited)] == [5]
    core.set_capacity("llm", 9, 2.0)
    assert core.resources.pools["llm"].capacity == 0


def test_the_processes_that_share_the_slots_are_reported(core: Scheduler) -> None:
    for processes in (2, 3, 3):
        update_remote_pool(core, "llm", PoolReport(5, processes), 1.0)
    switch_pools(core, {"llm": PoolShare(1)}, 1.0, is_remote=False)
    limits = [(event.slots, event.processes) for event in core.events if isinstance(event, Limited)]
    assert limits == [(5, 2), (5, 3), (1, 1)]


def test_a_tick_never_moves_back(core: Scheduler) -> None:
    update_remote_queue(core, ("llm",), QueueReport(77), 1.0)
    update_remote_queue(core, ("llm",), QueueReport(3), 1.0)
    assert core.resources.get_queue_set(("llm",)).tick == 77


def test_report_of_a_tick_alone_advances_the_clock(core: Scheduler) -> None:
    update_remote_pool(core, "llm", PoolReport(2, processes=3), 1.0)
    assert advance_remote_pool(core, "llm", 6, 3, 2.0)
    assert core.resources.queue_sets["llm",].tick == 6
    assert not advance_remote_pool(core, "other", 6, 3, 2.0)


@pytest.mark.parametrize(
    ("report", "gate", "processes"),
    [
        (PoolReport(2, processes=3), None, 2),
        (PoolReport(2, processes=3, paused_until=9.0), None, 3),
        (PoolReport(2, processes=3), Gate("llm", GateCause.REQUESTS, 9.0), 3),
    ],
)
def test_report_after_another_change_is_not_skipped(
    core: Scheduler, report: PoolReport, gate: Gate | None, processes: int
) -> None:
    submit(core)
    update_remote_pool(core, "llm", report, 1.0)
    update_remote_queue(core, ("llm",), QueueReport(5, gate), 1.0)
    assert not advance_remote_pool(core, "llm", 6, processes, 2.0)
    assert core.resources.queue_sets["llm",].tick == 5


def test_waiters_are_granted_here_after_the_switch(core: Scheduler) -> None:
    tickets = [submit(core) for _ in range(3)]
    kinds(core)
    switch_pools(core, {"llm": PoolShare(2)}, 1.0, is_remote=False)
    assert [ticket.state for ticket in tickets] == [State.GRANTED, State.GRANTED, State.WAITING]
    assert kinds(core) == [Granted, Granted, Waiting]
    assert notes(core) == []
    core.release(tickets[0], 2.0)
    assert tickets[2].state is State.GRANTED
    assert notes(core) == []


def test_leases_stay_when_the_other_place_decides_again(core: Scheduler) -> None:
    switch_pools(core, {"llm": PoolShare(2)}, 1.0, is_remote=False)
    held = submit_here(core)
    switch_pools(core, {"llm": PoolShare(2)}, 2.0, is_remote=True)
    later = submit(core)
    core.release(held, 3.0)
    assert later.state is State.WAITING
    assert notes(core) == [(RemoteChange.REQUESTED, later), (RemoteChange.ENDED, held)]


def test_deadlocks_are_left_to_the_other_place(core: Scheduler) -> None:
    holder, nested = submit(core), submit(core)
    holder.scopes = ("thread",)
    for _ in range(2):
        apply_remote_grant(core, holder, GRANT, 1.0)
    core.park_ticket(nested, ("thread",), 1.0)
    core.run_due_actions(1000.0)
    assert nested.state is State.WAITING


def test_recovery_drops_the_notes_of_the_interrupted_operation(core: Scheduler) -> None:
    ticket = submit(core)
    rebuild_state(core, 1.0)
    assert notes(core) == []
    assert ticket.state is State.WAITING


def adaptive_core() -> Scheduler:
    core = Scheduler({"llm": AdaptiveLimit(9)}, FifoPolicy)
    switch_pools(core, {"llm": PoolShare(9)}, 0.0, is_remote=True)
    return core


def test_reports_of_the_provider_are_left_to_the_other_place() -> None:
    core = adaptive_core()
    ticket = submit(core)
    apply_remote_grant(core, ticket, GRANT, 1.0)
    notes(core)
    record_throttling(core, Throttled(2.0, ticket, 429, ThrottleKind.LOAD, 3.0, None))
    record_rate_limits(core, ticket, RateLimits(remaining_requests=0, requests_reset=4.0), 2.0)
    core.release(ticket, 3.0)
    taken, core.remote.notes = core.remote.notes, []
    assert [(note.change, note.pause) for note in taken] == [
        (RemoteChange.REFUSED, 3.0), (RemoteChange.PAUSED, 4.0), (RemoteChange.ENDED, 0.0),
    ]  # fmt: skip
    assert ticket.has_succeeded
    assert not core.has_learnt
    assert core.resources.pools["llm"].paused_until == 0


def test_a_limit_that_all_have_learnt_is_adopted_and_shared() -> None:
    core = adaptive_core()
    report = PoolReport(4, ceiling=9, refused_level=8, is_learnt=True, paused_until=30.0, pause_header="retry-after")
    update_remote_pool(core, "llm", report, 1.0)
    snapshot = core.start_snapshot(2.0).build_snapshot().resources[0]
    assert (snapshot.capacity, snapshot.reference, snapshot.mode) == (4, 7, CapacityMode.AUTO)
    assert (snapshot.pause, snapshot.pause_header) == (28.0, "retry-after")
    assert core.has_learnt
    core.resources.clear_state([])
    assert core.resources.pools["llm"].capacity == 0
    switch_pools(core, {"llm": PoolShare(2, ceiling=4)}, 40.0, is_remote=False)
    tickets = [submit_here(core, 40.0) for _ in range(2)]
    core.release(tickets[0], 41.0)
    assert core.resources.pools["llm"].capacity == 2, "it holds its share at first"


def test_the_maximum_of_a_limit_is_shared_before_it_is_learnt() -> None:
    core = adaptive_core()
    switch_pools(core, {"llm": PoolShare(3, ceiling=3)}, 1.0, is_remote=False)
    for ticket in [submit_here(core) for _ in range(3)]:
        core.release(ticket, 2.0)
    pool = core.resources.pools["llm"]
    assert (pool.capacity, pool.has_learnt) == (3, False)


def test_the_alpha_of_all_is_adopted_and_computed_elsewhere() -> None:
    core = Scheduler({"llm": 1}, lambda: LoadPolicy(0.3, lambda: 0.5), tuner=lambda: AlphaTuner(0.3))
    switch_pools(core, {"llm": PoolShare(1)}, 0.0, is_remote=True)
    update_remote_queue(core, ("llm",), QueueReport(7, alpha=0.12), 1.0)
    queue_set = core.resources.get_queue_set(("llm",))
    tuner = queue_set.tuner
    assert tuner is not None
    ticket = submit(core)
    apply_remote_grant(core, ticket, GRANT, 1.0)
    for _ in range(9):
        submit(core)
    core.release(ticket, 2.0)
    assert (queue_set.policy.alpha, tuner.alpha) == (0.12, 0.12)
    switch_pools(core, {"llm": PoolShare(1)}, 3.0, is_remote=False)
    core.release(next(it for it in core.tickets.values() if it.state is State.GRANTED), 4.0)
    assert tuner.alpha == 0.12
    assert len(tuner._observations) == 1


def submit_here(core: Scheduler, now: float = 0.0) -> Ticket:
    ticket = Ticket(Request("a", 1000, ("llm",)))
    core.submit(ticket, now)
    assert ticket.state is State.GRANTED
    return ticket
