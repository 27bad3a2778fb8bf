"""Forecast of when a budget is exhausted."""

from loco_otel.money import BudgetStatus

_MIN_SPENDING_SECONDS = 1.0
"""Seconds of spending below which its rate is not extrapolated."""


def predict_exhaustion(standing: BudgetStatus, now: float) -> float | None:
    """Return the time at which a budget is exhausted at the rate of this period so far, in seconds since the epoch.

    Return None if nothing is spent, too little time has passed for a rate, or the period ends before.
    """
    left = standing.limit - standing.spent
    if left <= 0:
        return now
    if standing.since is None or not standing.spent or now - standing.since < _MIN_SPENDING_SECONDS:
        return None
    rate = standing.spent / (now - standing.since)
    at = now + left / rate
    return None if standing.resets_at is not None and at >= standing.resets_at else at
