"""Detection of idle leases, whose slots are lent.

A program opens several streams, by `asyncio.gather` or a pool of threads, and reads them when it has opened all. If it
opens more streams than there are slots, no code reads those that hold the slots, and their scopes do not show which
code will. The same holds for a reader that waits, between two chunks, for a thread that the scheduler cannot attribute
to it.

A lease is idle `Ticket.idle_after` seconds after its last sign of life. If all leases of a resource are idle, or
blocked by a waiter (see `_core/deadlock.py`), the next waiter shares a slot. The new lease is not idle, so only one
waiter is granted at a time.
"""

from collections.abc import Callable
from operator import itemgetter

from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Resources
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import Ticket


def find_idle_borrower(
    resources: Resources, is_blocked: Callable[[Ticket], bool], now: float
) -> tuple[Ticket, dict[str, Ticket]] | None:
    """Return the waiter that may share slots now, and the lender by resource; None if no lease is idle."""
    idle = {pool.name for pool in resources.pools.values() if pool.leases and _is_idle(pool, is_blocked, now)}
    if not idle:
        return None
    turns: list[tuple[bool, float, int, QueueSet, Ticket, list[SlotPool]]] = []
    for queue_set in resources.queue_sets.values():
        full = [pool for pool in queue_set.pools if not pool.has_room(queue_set)]
        if queue_set.waiting and full and all(pool.name in idle for pool in full):
            ticket, guarded = queue_set.select_next()
            turns.append((not guarded, ticket.waiting_since, ticket.seq, queue_set, ticket, full))
    for *_, queue_set, ticket, full in sorted(turns, key=itemgetter(0, 1, 2)):
        if resources.is_ready(queue_set, ticket, now):
            return ticket, {pool.name: _find_lender(pool) for pool in full if pool.leases}
    return None


def _is_idle(pool: SlotPool, is_blocked: Callable[[Ticket], bool], now: float) -> bool:
    found = False
    for lease in pool.leases.values():
        if lease.touched_at + lease.idle_after <= now:
            found = True
        elif not is_blocked(lease):
            return False
    return found


def _find_lender(pool: SlotPool) -> Ticket:
    lease = next(iter(pool.leases.values()))
    # The lender of a lease that shares is the lease that owns the slot.
    return lease.lenders.get(pool.name, lease)
