"""What is told of a wait that begins, and of a grant."""

from itertools import islice
from math import inf

from loco_otel._core.policies.base import key_of
from loco_otel._core.queue_set import Line
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Granted, GrantReason, Waiting

_HOLDERS_TOLD = 16


def waiting(line: Line, ticket: Ticket, now: float) -> Waiting:
    """Say how things stand as a wait begins."""
    queue = line.queues[key_of(ticket.request)]
    holders = dict.fromkeys(lease for pool in line.pools for lease in pool.leases.values())
    told = tuple(islice(holders, _HOLDERS_TOLD))
    most = min(pool.capacity for pool in line.pools)
    capacity = None if most == inf else int(most)
    return Waiting(now, ticket, queue.weight, queue.waiting, capacity, line.waiting, told)


def grant(line: Line, ticket: Ticket, reason: GrantReason, now: float) -> Granted:
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
        score=line.policy.score(key, line.tick) if compared else 0.0,
        alpha=line.policy.alpha,
        queue_weight=queue.weight if queue is not None else ticket.demand(),
        queue_age=line.tick - (ticket.born() if queue is None else queue.birth()),
        tick=line.tick,
        policy=line.policy.name,
        repeated=ticket.repeated,
    )
