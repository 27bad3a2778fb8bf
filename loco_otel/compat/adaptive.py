"""Adaptive alpha for a scheduler of the seed's API; the rule is `_core/adaptive.py`."""

from typing import TYPE_CHECKING

from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.scheduler import Scheduler

if TYPE_CHECKING:
    from loco_otel.compat.async_scheduler import AsyncLOCOScheduler


class AdaptiveAlphaTuner:
    """Lowers alpha where some agents wait far longer than others, and raises it where queues grow.

    With `auto_tune=True` a scheduler has one, which looks at each release for which somebody waits; `update` looks
    now. Whatever `max_alpha` says, alpha stays where no agent can starve: at most 0.45, and at most
    0.9 / (1 + arrivals per release).

    Args:
        scheduler: whose alpha is tuned.
        step_size: how much alpha changes at once.
        min_alpha: alpha's least.
        max_alpha: alpha's most.
        cv_threshold: the coefficient of variation of the agents' ages above which alpha falls.
        queue_growth_window: looks over which growth is seen.

    """

    def __init__(
        self,
        scheduler: "AsyncLOCOScheduler",
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
        """What it has found."""
        return self.rule.alpha

    @property
    def adjustments(self) -> list[tuple[int, float, str]]:
        """Tick, alpha and reason of the last 1000 changes."""
        return list(self.rule.adjustments)

    def update(self) -> float:
        """Look at the queues, and return alpha."""
        resource = self._scheduler.resource

        def look(core: Scheduler, _: float) -> None:
            core.resources.get_queue_set((resource.key,)).tune_alpha(self.rule)

        resource.engine.update_core(look)
        return self.rule.alpha
