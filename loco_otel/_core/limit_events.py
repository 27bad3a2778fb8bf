"""Events of resources: changes of their slots, and gates that close.

An operation may change a limit or a reservation several times. Listeners need what holds until the next operation, so
each operation ends with a comparison of the state with that of the last event. Nothing is compared while nothing is
observed.
"""

from collections.abc import Iterable
from math import inf

from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Resources
from loco_otel._core.slot_pool import SlotPool
from loco_otel.events import Event, GateCause, Gated, Limited


def append_limit_events(events: list[Event], resources: Resources, pools: Iterable[SlotPool], now: float) -> None:
    """Append an event for each limit and gate of these pools that differs from its last event."""
    # A queue set of several resources reserves slots of all of them.
    affected = resources.pools.values() if any(pool.is_contested for pool in pools) else pools
    for pool in affected:
        limit = pool.total_capacity, pool.reference, pool.reserved_for, pool.processes
        if limit != pool.reported_limit:
            pool.reported_limit = limit
            events.append(_build_limited(pool, now))
        if pool.paused_until != pool.reported_pause:
            pool.reported_pause = pool.paused_until
            until = max(pool.paused_until, now)
            events.append(Gated(now, pool.name, GateCause.BACKOFF, until, pool.pause_header))
        if pool.is_gated:
            for queue_set in resources.list_queue_sets(pool):
                _append_gate_events(events, queue_set, now)


def repeat_limit_events(resources: Resources) -> None:
    """Make the next operation at each resource emit its limits again, as there is another listener."""
    for pool in resources.pools.values():
        pool.reported_limit = None
        pool.reported_pause = 0.0
    for queue_set in resources.queue_sets.values():
        queue_set.reported_gate = None


def _append_gate_events(events: list[Event], queue_set: QueueSet, now: float) -> None:
    gate, reported = queue_set.gate, queue_set.reported_gate
    if gate == reported:
        return
    queue_set.reported_gate = gate
    names = tuple(pool.name for pool in queue_set.pools)
    if gate is not None:
        events.append(Gated(now, gate.resource, gate.cause, gate.until, queue=names))
    elif reported is not None:
        events.append(Gated(now, reported.resource, reported.cause, now, queue=names))


def _build_limited(pool: SlotPool, now: float) -> Limited:
    owner = pool.reserved_for
    return Limited(
        now,
        pool.name,
        None if pool.total_capacity == inf else int(pool.total_capacity),
        None if pool.reference == inf else int(pool.reference),
        tuple(each.name for each in owner.pools) if isinstance(owner, QueueSet) else None,
        pool.processes,
    )
