"""So many requests, or tokens, in a minute: a token bucket.

The bucket holds a minute's worth, is full at the start and fills evenly. A grant takes what the request is expected to
need; once its real need is known the difference is taken or given back, so the bucket may be in debt for a while. What
needs more than a whole bucket may go when the bucket is full.
"""

_MINUTE = 60.0


def compute_refill_delay(needed: float, left: float, size: float | None, full_in: float) -> float:
    """Return in how many seconds a provider's own bucket will hold what is needed, by what it tells of it.

    Args:
        needed: how much.
        left: how much there is.
        size: how much there is in a full one; where that is not told, only a full one is sure to be enough.
        full_in: seconds until it is full.

    """
    if left >= needed:
        return 0.0
    if size is None or size <= left:
        return full_in
    return full_in * min(1.0, (needed - left) / (size - left))


class TokenBucket:
    """A token bucket. `now` is the scheduler's clock, in seconds.

    Args:
        per_minute: what flows in, and what the bucket holds.

    """

    __slots__ = ("_level_and_time", "per_minute")

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._level_and_time = per_minute, 0.0
        """What there was, and when. One value, so that nobody sees the one without the other."""

    def compute_available_at(self, amount: float, now: float) -> float:
        """Return when there is as much as is needed; `now` or before when there is."""
        missing = min(amount, self.per_minute) - self._compute_level(now)
        return now if missing <= 0 else now + missing * _MINUTE / self.per_minute

    def take_tokens(self, amount: float, now: float) -> None:
        """Take what a request needs; a negative amount gives back."""
        self._level_and_time = min(self.per_minute, self._compute_level(now) - amount), now

    def _compute_level(self, now: float) -> float:
        level, at = self._level_and_time
        return min(self.per_minute, level + max(0.0, now - at) * self.per_minute / _MINUTE)
