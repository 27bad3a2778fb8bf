"""What a provider reported: its refusals lower adaptive limits, and its headers pause a resource."""

from collections.abc import Iterable
from operator import itemgetter

from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._core.token_bucket import compute_refill_delay
from loco_otel.clock import StatedDelay
from loco_otel.events import RateLimits, Throttled, ThrottleKind

_MAX_PAUSE = 900.0
"""Seconds. A malformed header must not stop a program for a day."""


def record_throttling(core: Scheduler, event: Throttled) -> None:
    """Record that the provider throttled a call.

    Unless the reason is a spending limit, adaptive limits are lowered, and the call's resources grant nothing for the
    time that the provider named, or until the limit that it reported as used up is refilled.
    """
    if core.observed:
        core.events.append(event)
    ticket, now = event.ticket, event.at
    if event.limits is not None:
        store_rate_limits(core, event.ticket.request.resources, event.limits)
    if isinstance(ticket, Ticket) and ticket.state is State.GRANTED and event.kind is not ThrottleKind.SPEND:
        pause, header = compute_pause(ticket, event.limits, event.retry_after)
        queue_set = core.resources.get_queue_set(ticket.request.resources)
        core.has_learnt |= queue_set.handle_throttling(ticket, now, pause, header)
        core.emit_limits(queue_set.pools, now)


def record_rate_limits(core: Scheduler, ticket: Ticket, limits: RateLimits, now: float) -> None:
    """Store a provider's remaining limits, and pause the ticket's resources if they are too small for its like."""
    store_rate_limits(core, ticket.request.resources, limits)
    pause, header = compute_pause(ticket, limits)
    if pause and ticket.state is State.GRANTED:
        queue_set = core.resources.get_queue_set(ticket.request.resources)
        queue_set.set_pause(ticket, now, pause, header)
        core.emit_limits(queue_set.pools, now)


def store_rate_limits(core: Scheduler, resources: Iterable[str], limits: RateLimits) -> None:
    """Store what a provider reported, for snapshots. One store for each resource, so it needs no lock."""
    for name in resources:
        pool = core.resources.pools.get(name)
        if pool is not None:
            pool.reported_rates = limits


def compute_pause(
    ticket: Ticket, limits: RateLimits | None, retry_after: float | None = None
) -> tuple[float, str | None]:
    """Return the seconds until another request like the ticket's can succeed, at most 900, and the header of them.

    `retry_after` takes precedence; without it the provider's remaining requests and tokens decide.
    """
    if retry_after is None:
        pause, header = _compute_refill_pause(ticket, limits)
    else:
        pause, header = retry_after, _get_header(retry_after)
    return (min(float(pause), _MAX_PAUSE), header) if pause > 0 else (0.0, None)


def _compute_refill_pause(ticket: Ticket, limits: RateLimits | None) -> tuple[float, str | None]:
    if limits is None:
        return 0.0, None
    buckets = (
        (1, limits.remaining_requests, limits.requests_limit, limits.requests_reset),
        (max(1, ticket.request.tokens), limits.remaining_tokens, limits.tokens_limit, limits.tokens_reset),
    )
    pauses = [
        (compute_refill_delay(needed, left, limit, reset), _get_header(reset))
        for needed, left, limit, reset in buckets
        if left is not None and reset is not None
    ]
    return max(pauses, key=itemgetter(0), default=(0.0, None))


def _get_header(delay: float) -> str | None:
    return delay.header if isinstance(delay, StatedDelay) else None
