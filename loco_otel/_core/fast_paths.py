"""Submit and release in one step, and the release to a waiter of the same resource: the hot path.

Each function leaves the state and the events that the operation of the same name in `Scheduler` leaves, or returns
False and changes nothing. `tests/core/test_fast_paths.py` compares them.
"""

from math import inf

from loco_otel._core.event_builders import build_free_grant
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import GrantReason, Priority, Released, Spending, Spent, Submitted

# Bound once: on 3.11 each access to an enum's member costs as much as a call.
_FREE = GrantReason.FREE
_ADMITTING = State.ADMITTING
_GRANTED = State.GRANTED
_NORMAL = Priority.NORMAL
_GUARD = GrantReason.GUARD
_RELEASED = State.RELEASED
_SCORE = GrantReason.SCORE


def try_submit_fast(core: Scheduler, ticket: Ticket, now: float) -> bool:
    """Do what `Scheduler.submit` does, if a slot is free."""
    request = ticket.request
    resources = core.resources
    queue_set = resources.queue_sets.get(request.resources) or resources.get_queue_set(request.resources)
    pool = queue_set.fast_pool
    if pool is None or pool.used >= pool.capacity or pool.is_gated or pool.reserved_for is not None:
        return False
    backlog, observed = ticket.backlog, core.observed
    if core.closed or (request.admission and (observed or backlog is not None)):
        return False
    if observed and (backlog is not None or ticket.explain or pool.reported_limit is None):
        return False
    if request.priority is not _NORMAL or request.deadline is not None:
        return False
    seq = ticket.seq
    core.tickets[seq] = ticket
    ticket.birth = queue_set.tick
    ticket.reason = _FREE
    ticket.waiting_since = ticket.granted_at = ticket.touched_at = now
    if backlog is None:
        ticket.state = _ADMITTING if request.admission else _GRANTED
    else:
        backlog.bind_oldest_work(ticket)
        ticket.state = _GRANTED
        ticket.request = ticket.resolve_request()
    pool.leases[seq] = ticket
    pool.used += 1
    deadlines = core.deadlines
    if deadlines.lease_check_at == inf:
        deadlines.lease_check_at = now + deadlines.max_hold
    if queue_set.is_metered:
        queue_set.charge_ticket(ticket, now)
    if observed:
        ticket.waiting_tick = queue_set.tick
        core.events += (Submitted(now, ticket), build_free_grant(queue_set, ticket, now))
    return True


def try_release_fast(core: Scheduler, ticket: Ticket, now: float, spending: Spending | None = None) -> bool:
    """Do what `Scheduler.record_spending` and `Scheduler.release` do, if no ticket waits.

    Args:
        core: the scheduler.
        ticket: the lease to end.
        now: the time; any number if nothing is observed.
        spending: what its call took.

    """
    request, resources = ticket.request, core.resources
    queue_set = resources.queue_sets.get(request.resources) or resources.get_queue_set(request.resources)
    pool = queue_set.fast_pool
    if pool is None or pool.sharer_count or pool.is_gated or queue_set.waiting or pool.is_contested:
        return False
    if ticket.state is not _GRANTED or queue_set.is_metered:
        return False
    observed = core.observed
    if observed and (pool.reported_limit is None or queue_set.tuner is not None):
        return False
    # Only with classes has a lease another class, or a charge of its own: without them this costs one comparison.
    if queue_set.order is not None and (request.priority is not _NORMAL or ticket.charged_order is not None):
        return False
    if observed:
        if spending is not None:
            ticket.correction = spending.weight - request.weight
            core.events.append(Spent(now, ticket, spending))
            ticket.spending_recorded = ticket.spending_recorded or spending.usage is not None
        core.events.append(Released(now, ticket, now - ticket.granted_at, False))  # expired
    seq = ticket.seq
    ticket.state = _RELEASED
    ticket.scopes = ()
    del core.tickets[seq]
    del pool.leases[seq]
    pool.used -= 1
    queue_set.tick += 1
    pool.recently_served.append(((request.tenant, request.agent) if request.tenant else request.agent, request.weight))
    return True


def try_hand_over(core: Scheduler, ticket: Ticket, now: float) -> bool:
    """Do what `Scheduler.release` does, if the slot passes to a waiter and nothing is observed."""
    request, resources = ticket.request, core.resources
    queue_set = resources.queue_sets.get(request.resources) or resources.get_queue_set(request.resources)
    pool = queue_set.single_pool
    if pool is None or pool.is_contested or pool.is_gated or pool.sharer_count or pool.adaptive_limit is not None:
        return False
    if core.observed or core.has_priorities or queue_set.order is not None or queue_set.tuner is not None:
        return False
    if not queue_set.waiting or pool.used != pool.capacity or ticket.state is not _GRANTED:
        return False
    if queue_set.is_metered or ticket.charged_by is not None or ticket.charged_order is not None:
        return False
    tick = queue_set.tick + 1
    waiter, guarded = queue_set.normal.select_next(tick, queue_set.max_wait_ticks)
    wanted = waiter.request
    if waiter.explain or waiter.repeated or waiter.backlog is not None or wanted.deadline is not None:
        return False
    ticket.state = _RELEASED
    ticket.scopes = ()
    del core.tickets[ticket.seq]
    del pool.leases[ticket.seq]
    queue_set.tick = tick
    pool.recently_served.append(((request.tenant, request.agent) if request.tenant else request.agent, request.weight))
    core.dequeue_ticket(queue_set, waiter)
    waiter.reason = _GUARD if guarded else _SCORE
    waiter.waited_ticks = tick - waiter.birth
    waiter.granted_at = waiter.touched_at = now
    waiter.state = _ADMITTING if wanted.admission else _GRANTED
    pool.leases[waiter.seq] = waiter
    deadlines = core.deadlines
    if deadlines.lease_check_at == inf:
        deadlines.lease_check_at = now + deadlines.max_hold
    core.decided.append(waiter)
    if core.deadlock_detector:
        core.resolve_deadlocks(now)
    return True
