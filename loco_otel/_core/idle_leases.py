"""Detection of idle leases, whose slots are lent.

A program opens several streams, by `asyncio.gather` or a pool of threads, and reads them when it has opened all. If it
opens more streams than there are slots, no code reads those that hold the slots, and their scopes do not show which
code will. The same holds for a reader that waits, between two chunks, for a thread that the scheduler cannot attribute
to it.

A lease is idle `Ticket.idle_after` seconds after its last sign of life. If all leases of a resource are idle, or
blocked by a waiter (see `_core/deadlock.py`), waiters share its slots: the first time one, then twice as many each
time. The new leases are not idle, so the next time comes when no code reads those either. As soon as one lease is
read, no slot is lent.
"""

from collections.abc import Callable, Iterator, Sequence
from math import inf
from operator import itemgetter
from typing import TypeAlias

from loco_otel._core.leases import Deadlines
from loco_otel._core.priority_level import PriorityLevel
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Resources
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import Ticket
from loco_otel.events import Priority

_UNCLAIMED_IDLE_SECONDS = 0.5
"""`Ticket.idle_after` of a slot that no context has a claim on."""

_IsBlocked: TypeAlias = Callable[[Ticket, float], bool]


def iter_idle_loans(
    resources: Resources, is_blocked: _IsBlocked, deadlines: Deadlines, now: float
) -> Iterator[tuple[Ticket, dict[str, Ticket]]]:
    """Yield each waiter that may share slots now, with the lender by resource, and set the time of the next check.

    The caller grants each waiter before it takes the next one.
    """
    idle_times = _compute_idle_times(resources, is_blocked, now)
    deadlines.idle_check_at = min((at for at in idle_times.values() if at > now), default=inf)
    # A lent slot has one lease more each time, so the number of loans doubles.
    quotas = {name: 1 + resources.pools[name].sharer_count for name, at in idle_times.items() if at <= now}
    while quotas and (loan := _find_loan(resources, quotas, now)) is not None:
        for name in loan[1]:
            quotas[name] -= 1
        yield loan


def _compute_idle_times(resources: Resources, is_blocked: _IsBlocked, now: float) -> dict[str, float]:
    """Return when all leases of a resource are idle or blocked, for each full resource that a ticket waits for."""
    idle_times: dict[str, float] = {}
    for queue_set in resources.waiting_queue_sets:
        for pool in queue_set.pools:
            if pool.name not in idle_times and pool.leases and not pool.has_room(queue_set):
                idle_times[pool.name] = _compute_idle_time(pool, is_blocked, now)
    return idle_times


def _compute_idle_time(pool: SlotPool, is_blocked: _IsBlocked, now: float) -> float:
    """Return when all leases of a pool are idle or blocked, and at least one is idle; inf if that is not known."""
    idle_at = -inf
    for lease in pool.leases.values():
        at = _get_idle_at(lease)
        if at > now and is_blocked(lease, now):
            continue
        if at == inf:
            return inf
        idle_at = max(idle_at, at)
    return inf if idle_at == -inf else idle_at


def _get_idle_at(lease: Ticket) -> float:
    is_unclaimed = lease.idle_after == inf and lease.claim is not None and lease.claim() is None
    return lease.touched_at + (_UNCLAIMED_IDLE_SECONDS if is_unclaimed else lease.idle_after)


def _find_loan(resources: Resources, quotas: dict[str, int], now: float) -> tuple[Ticket, dict[str, Ticket]] | None:
    turns: list[tuple[bool, float, int, QueueSet, Ticket, list[SlotPool]]] = []
    for queue_set in resources.waiting_queue_sets:
        full = [pool for pool in queue_set.pools if not pool.has_room(queue_set)]
        if full and all(quotas.get(pool.name) for pool in full):
            # A shared slot counts towards no ceiling.
            ticket, guarded = queue_set.select_next() or queue_set.select_capped()
            turns.append((not guarded, ticket.waiting_since, ticket.seq, queue_set, ticket, full))
    for *_, queue_set, ticket, full in sorted(turns, key=itemgetter(0, 1, 2)):
        if resources.is_ready(queue_set, ticket, now):
            return ticket, {pool.name: _find_lender(pool) for pool in full if pool.leases}
    return None


def _find_lender(pool: SlotPool) -> Ticket:
    lease = next(iter(pool.leases.values()))
    # The lender of a lease that shares is the lease that owns the slot.
    return lease.lenders.get(pool.name, lease)


def find_exempt_waiter(resources: Resources, is_blocked: _IsBlocked, now: float) -> Ticket | None:
    """Return a waiter that only the ceiling of its class delays, and none of whose class's leases can end before it.

    They are blocked by waiters, or idle. None if there is no such waiter.
    """
    for queue_set in resources.waiting_queue_sets:
        for level in queue_set.list_capped():
            ticket, _ = level.select_next(queue_set.tick, queue_set.max_wait_ticks)
            pools = [pool for pool in queue_set.pools if pool.is_capped(ticket.request.priority)]
            if resources.is_ready(queue_set, ticket, now) and not _has_active_lease(
                level, pools, ticket.request.priority, is_blocked, now
            ):
                return ticket
    return None


def iter_stuck_classes(
    resources: Resources, is_blocked: _IsBlocked, now: float
) -> Iterator[tuple[str, Priority, int, Ticket]]:
    """Yield the classes with a ceiling that have leases here, none of which can end before a waiter here.

    For the place that decides the grants of remote pools: resource, class, number of these leases, next waiter.
    """
    for queue_set in resources.waiting_queue_sets:
        for priority, level in queue_set.levels.items() if queue_set.order is not None else ():
            for pool in queue_set.pools if level else ():
                if pool.rules[priority].has_ceiling and not _has_active_lease(level, [pool], priority, is_blocked, now):
                    count = sum(lease.request.priority is priority for lease in pool.leases.values())
                    if count:
                        ticket, _ = level.select_next(queue_set.tick, queue_set.max_wait_ticks)
                        yield pool.name, priority, count, ticket


def _has_active_lease(
    level: PriorityLevel, pools: Sequence[SlotPool], priority: Priority, is_blocked: _IsBlocked, now: float
) -> bool:
    """Return whether a lease of a class is neither blocked nor idle. Amortised O(1).

    The lease that was found last is checked first. All are searched only after its end, from the latest grant on: that
    lease is seldom idle, and holds its slot longest.
    """
    found = level.active_lease
    if found is not None and any(
        _is_active(lease, is_blocked, now) for pool in pools if (lease := pool.leases.get(found)) is not None
    ):
        return True
    for pool in pools:
        for lease in reversed(pool.leases.values()):
            if lease.request.priority is priority and _is_active(lease, is_blocked, now):
                level.active_lease = lease.seq
                return True
    return False


def _is_active(lease: Ticket, is_blocked: _IsBlocked, now: float) -> bool:
    return _get_idle_at(lease) > now and not is_blocked(lease, now)
