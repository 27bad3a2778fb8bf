"""So many requests, or tokens, in a minute: a token bucket.

The bucket holds a minute's worth, is full at the start and fills evenly. A grant takes what the request is expected to
need; once its real need is known the difference is taken or given back, so the bucket may be in debt for a while. What
needs more than a whole bucket may go when the bucket is full.
"""

_MINUTE = 60.0


class Rate:
    """A token bucket. `now` is the scheduler's clock, in seconds.

    Args:
        per_minute: what flows in, and what the bucket holds.

    """

    __slots__ = ("_at", "_level", "per_minute")

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._level = per_minute
        self._at = 0.0

    def opens_at(self, amount: float, now: float) -> float:
        """Return when there is as much as is needed; `now` or before when there is."""
        missing = min(amount, self.per_minute) - self._filled(now)
        return now if missing <= 0 else now + missing * _MINUTE / self.per_minute

    def take(self, amount: float, now: float) -> None:
        """Take what a request needs; a negative amount gives back."""
        self._level = min(self.per_minute, self._filled(now) - amount)
        self._at = now

    def _filled(self, now: float) -> float:
        return min(self.per_minute, self._level + max(0.0, now - self._at) * self.per_minute / _MINUTE)
