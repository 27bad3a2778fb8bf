"""What is told of a wait that begins, and of a grant."""

from itertools import islice
from math import inf

from loco_otel._core.policies.base import key_of
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Granted, GrantReason, Waiting, WaitReason

_MAX_HOLDERS = 16


def build_waiting(line: QueueSet, ticket: Ticket, now: float) -> Waiting:
    """Say how things stand as a wait begins."""
    queue = line.queues[key_of(ticket.request)]
    holders = dict.fromkeys(lease for pool in line.pools for lease in pool.leases.values())
    told = tuple(islice(holders, _MAX_HOLDERS))
    most = min(pool.capacity for pool in line.pools)
    capacity = None if most == inf else int(most)
    reason = _find_wait_reason(line, ticket, now)
    return Waiting(now, ticket, queue.weight, queue.waiting, capacity, line.waiting, told, reason)


def _find_wait_reason(line: QueueSet, ticket: Ticket, now: float) -> WaitReason:
    """Return what delays a ticket the longest: a pause delays all, a rate only what has a slot."""
    pools = line.pools
    if any(pool.paused_until > now for pool in pools):
        return WaitReason.PROVIDER_PAUSE
    if any(pool.used >= pool.capacity for pool in pools):
        return WaitReason.SLOTS
    if not all(pool.has_room(line) for pool in pools):
        return WaitReason.RESERVED
    if any(pool.is_gated and pool.compute_open_time(ticket, now) > now for pool in pools):
        return WaitReason.RATE_LIMIT
    return WaitReason.SLOTS


def build_granted(line: QueueSet, ticket: Ticket, reason: GrantReason, now: float) -> Granted:
    """Say why a ticket may go, and why now; before it leaves its line."""
    key = key_of(ticket.request)
    queue = line.queues.get(key)
    compared = ticket.state is State.WAITING and queue is not None
    return Granted(
        at=now,
        ticket=ticket,
        reason=reason,
        waited=now - ticket.waiting_since,
        waited_ticks=line.tick - ticket.waiting_tick,
        score=line.policy.compute_score(key, line.tick) if compared else 0.0,
        alpha=line.policy.alpha,
        queue_weight=queue.weight if queue is not None else ticket.compute_demand(),
        queue_age=line.tick - (ticket.find_oldest_birth() if queue is None else queue.find_birth_tick()),
        tick=line.tick,
        policy=line.policy.name,
        repeated=ticket.repeated,
    )
