"""The exception of a ticket that was not granted."""

from loco_otel._core.ticket import State, Ticket
from loco_otel.errors import (
    AcquireRejectedError,
    AcquireTimeoutError,
    BackpressureError,
    BudgetExceededError,
    DeadlineExceededError,
    ShutdownError,
)
from loco_otel.events import MILLI, Outcome

_REJECTIONS: dict[Outcome | None, tuple[type[AcquireRejectedError], str]] = {
    Outcome.TIMEOUT: (
        AcquireTimeoutError,
        "{agent!r} timed out after {timeout} s waiting for a slot of {resource!r} (LOCO_ACQUIRE_TIMEOUT or `timeout`)",
    ),
    Outcome.DEADLINE: (
        DeadlineExceededError,
        "{agent!r} cannot get a slot of {resource!r} by its deadline (as_agent(deadline=...)); it waited {waited:g} s",
    ),
    Outcome.BACKPRESSURE: (
        BackpressureError,
        "Too many waiters for {resource!r}: {agent!r} was rejected (LOCO_MAX_WAITERS)",
    ),
    Outcome.SHUTDOWN: (ShutdownError, "The scheduler is shutting down: {agent!r} was rejected"),
}
_DENIED = (Outcome.BUDGET, Outcome.STOPPED, Outcome.LIMIT)
"""Outcomes whose error the ticket has."""
_CANCELLED = (AcquireRejectedError, "The request of {agent!r} for {resource!r} was cancelled")


def raise_if_rejected(ticket: Ticket) -> None:
    """Raise the rejection of a ticket; no-op if it was granted.

    Raises:
        AcquireRejectedError: the subclass of the ticket's outcome.

    """
    if ticket.state is State.GRANTED:
        return
    request = ticket.request
    resource = ",".join(request.resources)
    if ticket.outcome in _DENIED:
        denial = ticket.denial or BudgetExceededError(
            request.agent, None, None, request.weight / MILLI, resource=resource
        )
        if isinstance(denial, AcquireRejectedError):
            denial.waited = ticket.waited_seconds
        raise denial
    error, text = _REJECTIONS.get(ticket.outcome, _CANCELLED)
    raise error(
        text.format(
            agent=request.agent, resource=resource, timeout=request.timeout, waited=round(ticket.waited_seconds, 3)
        ),
        agent=request.agent,
        resource=resource,
        waited=ticket.waited_seconds,
    )
