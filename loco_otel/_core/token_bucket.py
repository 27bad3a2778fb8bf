"""A limit on requests or tokens per minute: a token bucket.

The bucket holds the amount of one minute, is full at the start and fills evenly. A grant takes the estimate of a
request; once the usage is recorded the difference is taken or returned, so the level may be negative for a while. A
request that needs more than a full bucket is granted when the bucket is full.
"""

from math import inf

_MINUTE = 60.0


def compute_refill_delay(needed: float, left: float, size: float | None, full_in: float) -> float:
    """Return the seconds until a provider's own bucket holds the needed amount, from what it reported.

    Args:
        needed: the amount.
        left: the reported level.
        size: the reported size; None if not reported: then only a full bucket is certain to suffice.
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
        per_minute: the rate, and the size of the bucket.
        level: the level at a time; None is full.
        now: that time.

    """

    __slots__ = ("_level_and_time", "per_minute")

    def __init__(self, per_minute: float, level: float | None = None, now: float = 0.0) -> None:
        self.per_minute = per_minute
        self._level_and_time = per_minute if level is None else min(per_minute, level), now
        """The level, and the time at which it was computed. One value, so that both change in one assignment."""

    def compute_available_at(self, amount: float, now: float, reserved: float = 0.0) -> float:
        """Return when the amount is available; `now` or earlier if it is available now.

        `reserved` stays in the bucket for another request; inf if the bucket cannot hold both.
        """
        needed = min(amount, self.per_minute)
        if reserved:
            needed += min(reserved, self.per_minute)
            if needed > self.per_minute:
                return inf
        missing = needed - self._compute_level(now)
        return now if missing <= 0 else now + missing * _MINUTE / self.per_minute

    def compute_missing(self, now: float) -> float:
        """Return what the bucket lacks to be full."""
        return self.per_minute - self._compute_level(now)

    def take_tokens(self, amount: float, now: float) -> None:
        """Take an amount; a negative one is returned to the bucket."""
        self._level_and_time = min(self.per_minute, self._compute_level(now) - amount), now

    def _compute_level(self, now: float) -> float:
        level, at = self._level_and_time
        return min(self.per_minute, level + max(0.0, now - at) * self.per_minute / _MINUTE)
