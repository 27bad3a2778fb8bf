"""Applies to the core what another place has decided about its remote pools (see `remote.py`)."""

from collections.abc import Mapping
from math import inf
from types import MappingProxyType
from typing import NamedTuple

from loco_otel._core import event_builders
from loco_otel._core.idle_leases import iter_idle_loans
from loco_otel._core.remote import RemoteGrant
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import Gate, PoolShare
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Outcome

Lenders = Mapping[str, Ticket]

_NO_LENDERS: Lenders = MappingProxyType({})
_TIME_ACCURACY = 0.1
"""Seconds. Each report of the same time differs by that of its travel."""


def apply_remote_grant(
    core: Scheduler, ticket: Ticket, grant: RemoteGrant, now: float, lenders: Lenders = _NO_LENDERS
) -> bool:
    """Grant a WAITING ticket, and return whether it waited: if not, a note of its end has been left before."""
    if ticket.state is not State.WAITING:
        return False
    queue_set = core.resources.get_queue_set(ticket.request.resources)
    core.resources.adopt_tick(queue_set, grant.tick)
    ticket.birth = queue_set.tick - grant.total_waited_ticks
    ticket.waiting_tick = queue_set.tick - grant.waited_ticks
    ticket.lenders = {name: lender for name, lender in lenders.items() if lender.state.is_holding}
    ticket.remote_grant = grant
    core._grant_ticket(queue_set, ticket, grant.reason, now)
    ticket.remote_grant = None
    core.emit_limits(queue_set.pools, now)
    return True


def refuse_immediate(core: Scheduler, ticket: Ticket, now: float) -> None:
    """Reject a WAITING ticket that may not wait, as no slot is free."""
    if ticket.state is State.WAITING:
        core._reject_waiter(ticket, Outcome.TIMEOUT, now)


def reject_overdue(core: Scheduler, ticket: Ticket, now: float) -> None:
    """Reject a WAITING ticket whose deadline has passed for the other place."""
    if ticket.state is State.WAITING:
        core._reject_waiter(ticket, Outcome.DEADLINE, now)


def confirm_waiting(core: Scheduler, ticket: Ticket, excess: int, now: float) -> bool:
    """Record that the other place has queued a ticket, and return whether it is rejected, as `excess` is positive.

    Only now its wait is an event: most tickets are granted with the first answer.
    """
    if not ticket.is_unanswered or ticket.state is not State.WAITING:
        return False
    core.remote.record_answer(ticket)
    if excess > 0 and not ticket.repeated:
        core._reject_waiter(ticket, Outcome.BACKPRESSURE, now)
        return True
    if core.observed:
        queue_set = core.resources.get_queue_set(ticket.request.resources)
        core.events.append(event_builders.build_waiting(queue_set, ticket, now))
    return False


class QueueReport(NamedTuple):
    """What the other place reports of the waiters for one or several remote pools."""

    tick: int
    gate: Gate | None = None
    """The rate limit that delays the next waiter of all processes."""
    alpha: float | None = None
    """Of the policy `load`."""


class PoolReport(NamedTuple):
    """What the other place reports of a remote pool."""

    capacity: float
    """inf is unlimited."""
    processes: int = 1
    """Those that share it."""
    ceiling: float = inf
    """Of an adaptive limit."""
    refused_level: float = inf
    """Of an adaptive limit."""
    is_learnt: bool = False
    """Whether the provider has refused a call of any process."""
    paused_until: float = 0.0
    pause_header: str | None = None


def update_remote_queue(core: Scheduler, names: tuple[str, ...], report: QueueReport, now: float) -> None:
    """Store what the other place reports of the waiters for these remote pools."""
    queue_set = core.resources.get_queue_set(names)
    core.resources.adopt_tick(queue_set, report.tick)
    if queue_set.remote is None:
        return
    if report.alpha is not None and queue_set.policy.name == "load":
        queue_set.adopt_alpha(report.alpha)
    gate = report.gate if queue_set.waiting else None
    if not _is_same_gate(queue_set.gate, gate):
        queue_set.gate = gate
        core.emit_limits(queue_set.pools, now)


def update_remote_pool(core: Scheduler, name: str, report: PoolReport, now: float) -> None:
    """Store what the other place reports of a remote pool."""
    pool = core.resources.pools[name]
    if not pool.is_remote:
        return
    if pool.adaptive_limit is not None:
        pool.adaptive_limit.adopt_state(
            report.capacity, report.ceiling, report.refused_level, now, is_learnt=report.is_learnt
        )
        core.has_learnt |= report.is_learnt
    if pool.total_capacity != report.capacity:
        pool.set_remote(True, PoolShare(report.capacity))
    if abs(max(pool.paused_until, now) - max(report.paused_until, now)) >= _TIME_ACCURACY:
        pool.set_reported_pause(report.paused_until, report.pause_header)
    pool.processes = report.processes
    core.emit_limits((pool,), now)


def advance_remote_pool(core: Scheduler, name: str, tick: int, processes: int, now: float) -> bool:
    """Do what `update_remote_pool` and `_queue` do for reports that differ by their tick alone from those before.

    Return False and change nothing if the pool may have changed since, or is gated, or if there is no such pool.
    """
    pool = core.resources.pools.get(name)
    if pool is None:
        return False
    queue_set = core.resources.get_queue_set((name,))
    if not pool.is_remote or pool.processes != processes or pool.paused_until > now or queue_set.gate is not None:
        return False
    if core.observed and pool.reported_limit is None:
        return False
    core.resources.adopt_tick(queue_set, tick)
    return True


def _is_same_gate(known: Gate | None, gate: Gate | None) -> bool:
    """Return whether two gates differ by nothing but the accuracy of their time."""
    if known is None or gate is None:
        return known is gate
    is_same_time = known.until == gate.until or abs(known.until - gate.until) < _TIME_ACCURACY
    return (known.resource, known.cause) == (gate.resource, gate.cause) and is_same_time


def switch_pools(
    core: Scheduler, shares: Mapping[str, PoolShare], now: float, *, is_remote: bool, is_away: bool = False
) -> None:
    """Leave the grants of these pools to the other place, which may be away, or grant these shares here.

    Tickets keep their states. Notes of changes before are removed: the other place is sent the whole state when it
    decides again.
    """
    core.remote.notes = []
    core.remote.is_deciding, core.remote.is_away = is_remote, is_away
    for name, share in shares.items():
        pool = core.resources.pools[name]
        pool.set_remote(is_remote, share)
        for queue_set in core.resources.list_queue_sets(pool):
            queue_set.remote = core.remote if is_remote else None
            queue_set.gate = None
    core.grant_all_waiting(now)
    if not is_remote:
        for ticket in core.tickets.values():
            confirm_waiting(core, ticket, 0, now)


def find_loan(core: Scheduler, now: float) -> tuple[Ticket, Lenders] | None:
    """Return the waiter that must share a slot because all leases here are blocked or idle, with the lenders.

    None if there is none. The other place decides, as leases of other processes may end.
    """
    detector = core.deadlock_detector
    loan = detector.find_borrower(core.resources, now) if detector else None
    if loan is None and core.resources.waiting:
        loan = next(iter_idle_loans(core.resources, detector.is_blocked, core.deadlines, now), None)
    return loan
