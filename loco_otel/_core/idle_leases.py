"""When slots lie idle, and who may use them meanwhile.

A program opens several streams, by `asyncio.gather` or a pool of threads, and reads them when it has them all. Where
there are more of them than slots, nobody reads those that hold the slots, and nothing tells who will. The same goes for
a reader that waits, between two chunks, for a thread that is not known as its own.

A lease lies idle `Ticket.idle_after` seconds after its last sign of life. Where a resource has only leases that lie
idle, or that a waiter blocks (see `_core/entanglement.py`), whoever is next shares a slot. The new lease does not lie
idle, so only one is let in at a time.
"""

from collections.abc import Callable
from operator import itemgetter

from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Resources
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import Ticket


def next_borrower(
    resources: Resources, is_blocked: Callable[[Ticket], bool], now: float
) -> tuple[Ticket, dict[str, Ticket]] | None:
    """Return the waiter that may share now, and the holders that lend; None where nothing lies idle or nobody waits."""
    idle = {pool.name for pool in resources.pools.values() if pool.leases and _is_idle(pool, is_blocked, now)}
    if not idle:
        return None
    turns: list[tuple[bool, float, int, QueueSet, Ticket, list[SlotPool]]] = []
    for line in resources.queue_sets.values():
        full = [pool for pool in line.pools if not pool.has_room(line)]
        if line.waiting and full and all(pool.name in idle for pool in full):
            ticket, guarded = line.select_next()
            turns.append((not guarded, ticket.waiting_since, ticket.seq, line, ticket, full))
    for *_, line, ticket, full in sorted(turns, key=itemgetter(0, 1, 2)):
        if resources.is_ready(line, ticket, now):
            return ticket, {pool.name: _find_lender(pool) for pool in full if pool.leases}
    return None


def _is_idle(pool: SlotPool, is_blocked: Callable[[Ticket], bool], now: float) -> bool:
    some = False
    for lease in pool.leases.values():
        if lease.touched_at + lease.idle_after <= now:
            some = True
        elif not is_blocked(lease):
            return False
    return some


def _find_lender(pool: SlotPool) -> Ticket:
    lease = next(iter(pool.leases.values()))
    # A sharer's own host is the one that owns the slot.
    return lease.lenders.get(pool.name, lease)
