"""How much a provider can take at a time, found out from its refusals.

Without any refusal there is no limit. The first one sets it to half of what is in flight. From then on it is additive
increase, multiplicative decrease (D.-M. Chiu, R. Jain: "Analysis of the Increase and Decrease Algorithms for Congestion
Avoidance in Computer Networks", 1989), with a memory:

- A refusal halves the limit, once for all requests that were in flight together: one that was granted before the last
  decrease says nothing new.
- Below the level that was refused the limit climbs by one with each success: in a round trip it is back, one short of
  that level. Plain additive increase would stay at three quarters of it on average.
- There it stays until it has been patient: a limit's worth of successes at first, twice as many after each refused
  try, at most 128; and where a refused try cost a pause, for 20 times as long as that. Then it tries one more. A try
  that brings a limit's worth of successes was right: the level is forgotten, the patience is small again, and each
  limit's worth of successes adds one.

It grows only while it is what holds calls back: successes while slots are free say nothing.
"""

from math import inf

_MAX_SUCCESSES_BETWEEN_PROBES = 128
"""Successes between two tries: a refusal for each hundred calls or so, however constant the provider's limit is."""
_PROBE_DELAY_FACTOR = 20
"""Time between two tries, in pauses that the last one cost: else a provider that asks for long ones stands idle."""


class AdaptiveLimit:
    """One provider's limit, in requests at a time. `now` is the scheduler's clock.

    Args:
        ceiling: what it never exceeds.

    """

    __slots__ = (
        "_decreased_at",
        "_is_probing",
        "_probe_not_before",
        "_refused_level",
        "_successes",
        "_successes_required",
        "ceiling",
        "limit",
    )

    def __init__(self, ceiling: float = inf) -> None:
        self.ceiling = ceiling
        self.limit = ceiling
        """Slots; inf while nothing is known."""
        self._refused_level = inf
        """The level at which the provider last said no."""
        self._decreased_at = -inf
        self._successes = 0
        """Successes at this level."""
        self._successes_required = 0
        self._probe_not_before = -inf
        """No try before."""
        self._is_probing = False

    @property
    def is_learnt(self) -> bool:
        """Whether the provider has ever said no."""
        return self._decreased_at > -inf

    def set_ceiling(self, ceiling: float) -> None:
        """Change what it never exceeds."""
        if self.limit == self.ceiling and not self.is_learnt:
            self.limit = ceiling
        self.ceiling = ceiling
        self.limit = min(self.limit, ceiling)

    def record_refusal(self, in_flight: int, granted_at: float, now: float, pause: float = 0.0) -> bool:
        """Note a refusal; return True when it lowers the limit.

        Args:
            in_flight: requests that the provider has, the refused one included.
            granted_at: when the refused one was let go.
            now: the time.
            pause: seconds for which the provider wants to be left alone.

        """
        if granted_at < self._decreased_at:
            return False
        level = int(min(self.limit, max(1, in_flight)))
        wrong = self._is_probing or level >= self._refused_level
        self._successes_required = (
            min(_MAX_SUCCESSES_BETWEEN_PROBES, 2 * max(self._successes_required, level)) if wrong else level
        )
        self._probe_not_before = now + _PROBE_DELAY_FACTOR * pause if wrong else now
        self._refused_level = level
        self.limit = max(1, level // 2)
        self._decreased_at = now
        self._successes = 0
        self._is_probing = False
        return True

    def record_success(self, in_flight: int, now: float) -> bool:
        """Note a success; return True when it raises the limit.

        Args:
            in_flight: requests that the provider had, this one included.
            now: the time.

        """
        limit = self.limit
        if in_flight < limit or limit >= self.ceiling:
            return False
        self._successes += 1
        if limit < self._refused_level - 1:
            return self._increase_limit()
        if self._is_probing or self._refused_level == inf:
            if self._successes < limit:
                return False
            # It has borne more than was refused once.
            self._refused_level, self._successes_required, self._is_probing = inf, 0, False
            return self._increase_limit()
        if self._successes < max(self._successes_required, limit) or now < self._probe_not_before:
            return False
        self._is_probing = True
        return self._increase_limit()

    def _increase_limit(self) -> bool:
        self.limit = min(self.ceiling, self.limit + 1)
        self._successes = 0
        return True
