"""Adaptive alpha: lower (oldest first) if ages differ much, higher (heaviest first) if queues grow.

    CV(D) > 0.5                  alpha - step     some agents wait much longer than others
    else Q grew by over 20 %     alpha + step     over the last releases

where CV is the standard deviation divided by the mean of the ages D of the agents that have requests queued. Alpha
stays in

    [low, min(high, 0.45, 0.9 / (1 + arrivals per release))]

because the load rule bounds waits only for alpha < 1 / (1 + arrivals per release), see `load.py`. Arrivals are
estimated from the number of queued requests: if it grew by g per release, 1 + g per release have arrived.
"""

from collections import deque
from collections.abc import Sequence

_GROWTH_THRESHOLD = 1.2
_MAX_ALPHA = 0.45
_STARVATION_MARGIN = 0.9
_AGENTS_PER_RELEASE = 16
"""Agents examined per release, on average, so that an update never costs more than the releases."""
_MAX_ADJUSTMENTS = 1000


class AlphaTuner:
    """See the module.

    Args:
        alpha: the initial value.
        step: the change of alpha per update.
        low: the minimum of alpha.
        high: the maximum of alpha.
        spread: the CV above which alpha falls.
        window: updates over which growth is measured.

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
        """Return whether to examine this number of agents now."""
        if tick < self._next_tick:
            return False
        self._next_tick = tick + 1 + agents // _AGENTS_PER_RELEASE
        return True

    def update_alpha(self, tick: int, ages: Sequence[int], weight: int, count: int) -> float:
        """Return alpha, updated from the state of the queues.

        Args:
            tick: the time.
            ages: of the agents that have requests queued, in ticks.
            weight: of all that is queued.
            count: number of requests or pieces of work that are queued.

        """
        self._observations.append((tick, weight, count))
        alpha, reason = self.alpha, ""
        if _is_variation_above(self._spread, ages):
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
        """Return arrivals per release over the window."""
        (since, _, before), (now, _, count) = self._observations[0], self._observations[-1]
        return max(0.0, 1.0 + (count - before) / (now - since)) if now > since else 1.0


def _is_variation_above(spread: float, ages: Sequence[int]) -> bool:
    """Return whether the CV of ages is above a number.

    From their sums, which have no rounding error up to 2**53: the order of the ages has no effect, and the shared
    engine's script gets the same result.
    """
    total, squares = float(sum(ages)), float(sum(age * age for age in ages))
    return len(ages) * squares > (1 + spread * spread) * (total * total)
