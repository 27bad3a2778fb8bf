"""How long a resource pauses for what its provider reported."""

from loco_otel._core.ticket import Ticket
from loco_otel._core.token_bucket import compute_refill_delay
from loco_otel.events import RateLimits

_MAX_PAUSE = 900.0
"""Seconds. A malformed header must not stop a program for a day."""


def compute_pause(ticket: Ticket, limits: RateLimits | None, retry_after: float | None = None) -> float:
    """Return the seconds until another request like the ticket's can succeed, at most 900.

    `retry_after` takes precedence; without it the provider's remaining requests and tokens decide.
    """
    pause = _compute_refill_pause(ticket, limits) if retry_after is None else retry_after
    return min(pause, _MAX_PAUSE) if pause > 0 else 0.0


def _compute_refill_pause(ticket: Ticket, limits: RateLimits | None) -> float:
    if limits is None:
        return 0.0
    buckets = (
        (1, limits.remaining_requests, limits.requests_limit, limits.requests_reset),
        (max(1, ticket.request.tokens), limits.remaining_tokens, limits.tokens_limit, limits.tokens_reset),
    )
    return max(
        compute_refill_delay(needed, left, limit, reset) if left is not None and reset is not None else 0.0
        for needed, left, limit, reset in buckets
    )
