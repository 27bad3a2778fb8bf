"""A concurrency limit that adapts to a provider's refusals.

Without any refusal there is no limit. The first one sets it to half of the requests in flight. From then on it is
additive increase, multiplicative decrease (D.-M. Chiu, R. Jain: "Analysis of the Increase and Decrease Algorithms for
Congestion Avoidance in Computer Networks", 1989), with a memory:

- A refusal halves the limit, once for all requests that were in flight together: a request that was granted before the
  last decrease does not count.
- Below the refused level the limit grows by one with each success: within a round trip it is one below that level.
  Plain additive increase would stay at three quarters of it on average.
- It stays there for a number of successes: as many as the limit at first, twice as many after each refused probe, at
  most 128; and if a refused probe caused a pause, for 20 times the pause. Then it probes one more request. If a probe
  is followed by as many successes as the limit, the refused level is discarded, the number of successes is reset, and
  from then on the limit grows by one for as many successes as the limit.

It grows only while it delays calls: successes while slots are free do not count.
"""

from math import inf

_MAX_SUCCESSES_BETWEEN_PROBES = 128
"""Maximal number of successes between two probes: about one refusal per hundred calls at a constant limit."""
_PROBE_DELAY_FACTOR = 20
"""Time between two probes, in units of the last pause, so that long pauses do not leave the provider idle."""


class AdaptiveLimit:
    """The limit of one provider, in concurrent requests. `now` is the scheduler's clock, in seconds.

    Args:
        ceiling: the maximum of the limit.

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
        """Slots; inf before the first refusal."""
        self._refused_level = inf
        """The level at the last refusal."""
        self._decreased_at = -inf
        self._successes = 0
        """Successes at this level."""
        self._successes_required = 0
        self._probe_not_before = -inf
        """Time before which there is no probe."""
        self._is_probing = False

    @property
    def is_learnt(self) -> bool:
        """Whether the provider has ever refused a request."""
        return self._decreased_at > -inf

    @property
    def reference(self) -> float:
        """The limit that it approaches: one below the level that was refused last, or the limit if that is higher."""
        return max(self.limit, self._refused_level - 1) if self._refused_level < inf else self.limit

    def set_ceiling(self, ceiling: float) -> None:
        """Change the maximum of the limit."""
        if self.limit == self.ceiling and not self.is_learnt:
            self.limit = ceiling
        self.ceiling = ceiling
        self.limit = min(self.limit, ceiling)

    def adopt_state(self, limit: float, ceiling: float, refused_level: float, now: float, *, is_learnt: bool) -> None:
        """Go on with what another place has learnt: its limit, and the level that was refused last."""
        self.ceiling = ceiling
        self.limit = min(ceiling, limit)
        self._refused_level = refused_level
        self._decreased_at = -inf if not is_learnt else now if self._decreased_at == -inf else self._decreased_at
        self._successes = self._successes_required = 0
        self._is_probing = False

    def record_refusal(self, in_flight: int, granted_at: float, now: float, pause: float = 0.0) -> bool:
        """Record a refusal, and return whether it lowers the limit.

        Args:
            in_flight: requests in flight, including the refused one.
            granted_at: when the refused request was granted.
            now: the time.
            pause: seconds that the provider named before the next request.

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
        """Record a success, and return whether it raises the limit.

        Args:
            in_flight: requests in flight, including this one.
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
            # The provider accepts more than it refused before.
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
