"""When a budget runs out."""

from loco_otel.money import BudgetStatus

_MIN_SPENDING_SECONDS = 1.0
"""Seconds that spending must have lasted for its rate to mean anything."""


def predict_exhaustion(standing: BudgetStatus, now: float) -> float | None:
    """Return when all will be spent, in seconds since the epoch, if it goes on as it has since the period's first call.

    None where it lasts: nothing is spent, it was spent in a moment, or the budget begins anew before.
    """
    left = standing.limit - standing.spent
    if left <= 0:
        return now
    if standing.since is None or not standing.spent or now - standing.since < _MIN_SPENDING_SECONDS:
        return None
    rate = standing.spent / (now - standing.since)
    at = now + left / rate
    return None if standing.resets_at is not None and at >= standing.resets_at else at
