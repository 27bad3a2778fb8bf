"""Adaptive alpha for a scheduler of loco-agent's API. The rule is in `_core/alpha_tuner.py`."""

from typing import Protocol

from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel.compat.resource import SharedResource


class TunedScheduler(Protocol):
    """A scheduler whose alpha is adapted."""

    resource: SharedResource

    @property
    def alpha(self) -> float:
        """Share of Q in the load."""


class AdaptiveAlphaTuner:
    """Lowers alpha if some agents wait far longer than others, and raises it if queues grow.

    A scheduler with `auto_tune=True` runs one at each release while agents wait; `update` runs it now. Independently of
    `max_alpha`, alpha stays low enough that no agent can starve: at most 0.45, and at most 0.9 / (1 + arrivals per
    release).

    Args:
        scheduler: the scheduler whose alpha is adapted.
        step_size: the change of alpha per step.
        min_alpha: the lower bound of alpha.
        max_alpha: the upper bound of alpha.
        cv_threshold: the coefficient of variation of the agents' ages above which alpha falls.
        queue_growth_window: the number of updates over which growth is measured.

    """

    def __init__(
        self,
        scheduler: TunedScheduler,
        *,
        step_size: float = 0.01,
        min_alpha: float = 0.0,
        max_alpha: float = 0.5,
        cv_threshold: float = 0.5,
        queue_growth_window: int = 10,
    ) -> None:
        self._scheduler = scheduler
        self.rule = AlphaTuner(
            scheduler.alpha,
            step=step_size,
            low=min_alpha,
            high=max_alpha,
            spread=cv_threshold,
            window=queue_growth_window,
        )

    @property
    def alpha(self) -> float:
        """The current alpha."""
        return self.rule.alpha

    @property
    def adjustments(self) -> list[tuple[int, float, str]]:
        """Tick, alpha and reason of the last 1000 changes."""
        return list(self.rule.adjustments)

    def update(self) -> float:
        """Adapt alpha to the queues, and return it."""
        self._scheduler.resource.view.tune_alpha(self.rule)
        return self.rule.alpha
