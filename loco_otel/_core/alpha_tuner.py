"""Adaptive alpha: towards the oldest where ages differ much, towards the heaviest where queues grow.

    CV(D) > 0.5                  alpha - step     some agents wait far longer than others
    else Q grew by over 20 %     alpha + step     over the last releases

where CV is the standard deviation over the mean of the ages D of those that have something queued. Alpha stays in

    [low, min(high, 0.45, 0.9 / (1 + arrivals per release))]

because the load rule bounds waits only for alpha < 1 / (1 + arrivals per release), see `load.py`. Arrivals are told by
the number queued: over a time in which it grew by g, releases went by and 1 + g per release arrived.
"""

from collections import deque
from collections.abc import Sequence
from math import sqrt

_GROWTH_THRESHOLD = 1.2
_MAX_ALPHA = 0.45
_STARVATION_MARGIN = 0.9
_AGENTS_PER_RELEASE = 16
"""So many agents are looked at for each release, on average, so that a look never costs more than the releases."""
_MAX_ADJUSTMENTS = 1000


class AlphaTuner:
    """See the module.

    Args:
        alpha: where to begin.
        step: how much alpha changes at once.
        low: alpha's least.
        high: alpha's most.
        spread: the CV above which alpha falls.
        window: looks over which growth is seen.

    """

    def __init__(
        self,
        alpha: float,
        *,
        step: float = 0.01,
        low: float = 0.0,
        high: float = 0.5,
        spread: float = 0.5,
        window: int = 10,
    ) -> None:
        self.alpha = alpha
        self._step = step
        self._low = low
        self._high = high
        self._spread = spread
        self._observations: deque[tuple[int, int, int]] = deque(maxlen=window)
        self._next_tick = 0
        self.adjustments: deque[tuple[int, float, str]] = deque(maxlen=_MAX_ADJUSTMENTS)
        """Tick, alpha and reason of the last changes."""

    def is_due(self, tick: int, agents: int) -> bool:
        """Tell whether to look at so many agents now."""
        if tick < self._next_tick:
            return False
        self._next_tick = tick + 1 + agents // _AGENTS_PER_RELEASE
        return True

    def update_alpha(self, tick: int, ages: Sequence[int], weight: int, count: int) -> float:
        """Return alpha after a look at the queues.

        Args:
            tick: the time.
            ages: those of the agents that have something queued.
            weight: what all have queued together.
            count: how many pieces or requests that is.

        """
        self._observations.append((tick, weight, count))
        alpha, reason = self.alpha, ""
        if _compute_variation(ages) > self._spread:
            alpha, reason = alpha - self._step, "ages differ"
        elif (
            len(self._observations) == self._observations.maxlen
            and weight > _GROWTH_THRESHOLD * self._observations[0][1] > 0
        ):
            alpha, reason = alpha + self._step, "queues grow"
        most = min(self._high, _MAX_ALPHA, _STARVATION_MARGIN / (1 + self._estimate_arrivals()))
        if alpha > most:
            alpha, reason = most, "starvation bound"
        alpha = max(self._low, alpha)
        if alpha != self.alpha:
            self.alpha = alpha
            self.adjustments.append((tick, alpha, reason))
        return alpha

    def _estimate_arrivals(self) -> float:
        """Return arrivals per release over the looks that are remembered."""
        (since, _, before), (now, _, count) = self._observations[0], self._observations[-1]
        return max(0.0, 1.0 + (count - before) / (now - since)) if now > since else 1.0


def _compute_variation(ages: Sequence[int]) -> float:
    total = sum(ages)
    if not total:
        return 0.0
    mean = total / len(ages)
    return sqrt(sum((age - mean) ** 2 for age in ages) / len(ages)) / mean
