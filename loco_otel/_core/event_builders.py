"""Events that describe a wait that begins, a grant, and a rejection."""

from itertools import islice
from math import inf

from loco_otel._core.policies.base import key_of
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.remote import RemoteGrant
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Granted, GrantReason, Outcome, Rejected, Waiting, WaitReason

_MAX_HOLDERS = 16
_FREE = GrantReason.FREE  # bound once: on 3.11 each access to an enum's member costs as much as a call


def build_waiting(queue_set: QueueSet, ticket: Ticket, now: float) -> Waiting:
    """Describe a wait that begins: the ticket's queue, the capacity, the leases, and the reason."""
    queue = queue_set.queues[key_of(ticket.request)]
    # Each pool adds at most what is shown: not all leases are read, as there may be thousands.
    leases = dict.fromkeys(lease for pool in queue_set.pools for lease in islice(pool.leases.values(), _MAX_HOLDERS))
    shown = tuple(islice(leases, _MAX_HOLDERS))
    smallest = min(pool.total_capacity for pool in queue_set.pools)
    capacity = None if smallest == inf else int(smallest)
    reason = _find_wait_reason(queue_set, ticket, now)
    return Waiting(now, ticket, queue.weight, len(queue), capacity, queue_set.waiting, shown, reason)


def _find_wait_reason(queue_set: QueueSet, ticket: Ticket, now: float) -> WaitReason:
    """Return what delays a ticket the longest: a pause delays all tickets, a rate limit only those with a slot."""
    pools = queue_set.pools
    if any(pool.paused_until > now for pool in pools):
        return WaitReason.PROVIDER_PAUSE
    if queue_set.remote is not None:
        return WaitReason.SLOTS if queue_set.gate is None else WaitReason.RATE_LIMIT
    if any(pool.used >= pool.capacity for pool in pools):
        return WaitReason.SLOTS
    if not queue_set.has_room():
        return WaitReason.RESERVED
    if any(pool.is_gated and pool.compute_open_time(ticket, now, queue_set) > now for pool in pools):
        return WaitReason.RATE_LIMIT
    return WaitReason.SLOTS


def build_granted(queue_set: QueueSet, ticket: Ticket, reason: GrantReason, now: float) -> Granted:
    """Describe why a ticket is granted now. To be called before the ticket leaves its queue."""
    key = key_of(ticket.request)
    queue = queue_set.queues.get(key)
    compared = ticket.state is State.WAITING and queue is not None
    granted = Granted(
        at=now,
        ticket=ticket,
        reason=reason,
        waited=now - ticket.waiting_since,
        waited_ticks=queue_set.tick - ticket.waiting_tick,
        score=queue_set.compute_score(ticket) if compared else 0.0,
        alpha=queue_set.policy.alpha,
        queue_weight=queue.weight if queue is not None else ticket.compute_demand(),
        queue_age=queue_set.tick - (ticket.find_oldest_birth() if queue is None else queue.find_birth_tick()),
        tick=queue_set.tick,
        policy=queue_set.policy.name,
        repeated=ticket.repeated,
        slot_at=now,
        hosts=ticket.lenders,
    )
    remote, ticket.remote_grant = ticket.remote_grant, None
    if not isinstance(remote, RemoteGrant):
        return granted
    return granted._replace(
        score=remote.score,
        alpha=remote.alpha,
        queue_weight=remote.queue_weight,
        queue_age=remote.queue_age,
        policy=remote.policy,
    )


def build_free_grant(queue_set: QueueSet, ticket: Ticket, now: float) -> Granted:
    """Do what `build_granted` does for a new ticket without a backlog that gets a free slot, while none waits."""
    policy = queue_set.policy
    return Granted(
        now,
        ticket,
        _FREE,
        0.0,  # waited
        0,  # waited_ticks
        0.0,  # score
        policy.alpha,
        ticket.request.weight,
        0,  # queue_age
        queue_set.tick,
        policy.name,
        False,  # repeated
        now,  # slot_at
        ticket.lenders,
    )


def build_rejected(
    queue_set: QueueSet, ticket: Ticket, outcome: Outcome, slot_at: float | None, now: float
) -> Rejected:
    """Describe why a ticket is rejected, how long it has waited, and when it got a slot, if it had one."""
    ticks, policy = queue_set.tick - ticket.waiting_tick, queue_set.policy.name
    return Rejected(now, ticket, outcome, ticket.waited_seconds, ticks, policy, ticket.repeated, slot_at)
