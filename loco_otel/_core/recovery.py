"""Deriving everything again from the tickets' states, after an interrupted operation or in the child of a fork."""

from collections.abc import Mapping
from types import MappingProxyType

from loco_otel._core.deadlock import DeadlockDetector
from loco_otel._core.limit_events import repeat_limit_events
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket

_NO_LENDERS: Mapping[str, Ticket] = MappingProxyType({})


def rebuild_state(core: Scheduler, now: float) -> None:
    """Derive queues, leases and counts from the tickets' states, after an operation that was interrupted.

    All decided tickets are woken again, as the wake of some may be lost. Events of that operation may be lost.
    """
    core.events = []
    core.remote.notes = []
    core.remote.restore_unanswered(core.tickets.values())
    core.deadlines.clear_entries()
    core.deadlock_detector = DeadlockDetector()
    live = [ticket for ticket in core.tickets.values() if not ticket.state.is_ended and ticket.state is not State.NEW]
    core.resources.clear_state(live)
    repeat_limit_events(core.resources)
    core.has_learnt = any(pool.has_learnt for pool in core.resources.pools.values())
    for seq, ticket in list(core.tickets.items()):
        if ticket.state.is_ended or ticket.state is State.NEW:
            del core.tickets[seq]
        if ticket.wake is not None and ticket.state is not State.WAITING:
            core.decided.append(ticket)
    # Waiters first: the queue set of another ticket may have to be created again, which removes those without waiters.
    for ticket in sorted(core.tickets.values(), key=lambda each: each.state is not State.WAITING):
        _restore_ticket(core, ticket)
    core.grant_all_waiting(now)


def end_all_tickets(core: Scheduler) -> None:
    """End and remove all tickets; capacities, policy and ticks stay. For the child of a fork."""
    for ticket in list(core.tickets.values()):
        ticket.state = State.RELEASED
    core.tickets = {}
    rebuild_state(core, 0.0)


def _restore_ticket(core: Scheduler, ticket: Ticket) -> None:
    queue_set = core.resources.get_queue_set(ticket.request.resources)
    if ticket.state.is_holding:
        ticket.request = ticket.resolve_request()
        ticket.lenders = {name: lender for name, lender in ticket.lenders.items() if lender.state.is_holding}
        for pool in queue_set.pools:
            pool.add_lease(ticket)
    elif ticket.state is State.WAITING:
        ticket.lenders = _NO_LENDERS
        if ticket.backlog is not None:
            ticket.work = None
        core.enqueue_ticket(queue_set, ticket)
