"""What ends a wait: the timeout and the deadline of a request, and the number of waiters."""

from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Resources
from loco_otel._core.ticket import Ticket
from loco_otel.events import Outcome, Request


def is_overdue(ticket: Ticket, now: float) -> bool:
    """Return whether the deadline of a ticket's request has come."""
    deadline = ticket.request.deadline
    return deadline is not None and deadline <= now


def compute_wait_end(request: Request, now: float) -> float | None:
    """Return when a wait that begins now ends by timeout or deadline; None if never."""
    timeout, deadline = request.timeout, request.deadline
    if timeout is None:
        return deadline
    return now + timeout if deadline is None else min(now + timeout, deadline)


def find_wait_refusal(
    resources: Resources, max_waiters: int | None, queue_set: QueueSet, ticket: Ticket
) -> Outcome | None:
    """Return why a ticket that cannot be granted now must not wait; None if it may, or if another place decides that.

    A deadline refuses it only if a provider's pause lasts until then. When slots and rate limits become free is not
    certain: leases may end at any time, and a cancelled call returns its tokens.
    """
    if queue_set.remote is not None and not queue_set.remote.is_away:
        return None
    timeout, deadline = ticket.request.timeout, ticket.request.deadline
    if timeout is not None and timeout <= 0:
        return Outcome.TIMEOUT
    own_maximum = queue_set.max_waiters
    if not ticket.repeated and (
        (max_waiters is not None and resources.waiting >= max_waiters)
        or (own_maximum is not None and queue_set.waiting >= own_maximum)
    ):
        return Outcome.BACKPRESSURE
    if deadline is not None and any(pool.paused_until >= deadline for pool in queue_set.pools):
        return Outcome.DEADLINE
    return None
