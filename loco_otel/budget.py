"""Budgets in units of weight, one per agent, as the seed's programs set them.

What is reserved for work under way is apart from what is spent. Check and reserve are one step, so nothing is overspent
at any concurrency: spent + reserved + cost <= limit.
"""

import logging
import math
import threading
from collections import deque
from typing import Any, Literal, get_args

from loco_otel.errors import BudgetExceededError

__all__ = ["BudgetExceededError", "BudgetManager"]

Mode = Literal["reject", "alert", "downgrade"]

_logger = logging.getLogger("loco_otel")

_UNITS = 1_000_000
"""Of what is counted in one unit of weight: integers, so that sums are exact."""
_ALERTS = 1000


class BudgetManager:
    """What each agent may spend, has spent, and has reserved. Threads may share it, and several schedulers too.

    Args:
        default_limit: of an agent without one of its own; None is none.
        on_exceeded: `reject` raises; `alert` lets the work go and remembers an alert; `downgrade` does as `alert`, and
            `is_downgraded` says that the agent should take a cheaper model.

    Raises:
        ValueError: the mode is none of these, or the limit no number of at least 0.

    """

    def __init__(self, default_limit: float | None = None, on_exceeded: str = "reject") -> None:
        if on_exceeded not in get_args(Mode):
            raise ValueError(f"on_exceeded must be one of {list(get_args(Mode))}, not {on_exceeded!r}")
        self.default_limit = None if default_limit is None else _amount("default_limit", default_limit)
        self.on_exceeded = on_exceeded
        self._lock = threading.Lock()
        self._limits: dict[str, float] = {}
        self._spent: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._dropped: deque[tuple[str, float]] = deque()
        self._alerts: deque[dict[str, Any]] = deque(maxlen=_ALERTS)

    # -- limits ---------------------------------------------------------------------------------------------------

    def set_limit(self, agent_id: str, max_cost: float) -> None:
        """Set an agent's limit."""
        self._limits[agent_id] = _amount("max_cost", max_cost)

    def remove_limit(self, agent_id: str) -> None:
        """Leave an agent with the default limit."""
        self._limits.pop(agent_id, None)

    def get_limit(self, agent_id: str) -> float | None:
        """Return an agent's limit; None for none."""
        return self._limits.get(agent_id, self.default_limit)

    # -- what is asked and told by programs -----------------------------------------------------------------------

    def spent(self, agent_id: str) -> float:
        """Return what an agent has spent, without what is under way."""
        return self._spent.get(agent_id, 0) / _UNITS

    def reserved(self, agent_id: str) -> float:
        """Return what an agent's work under way will cost."""
        return self._reserved.get(agent_id, 0) / _UNITS

    def remaining(self, agent_id: str) -> float | None:
        """Return what an agent has left, without regard to what is under way; None for no limit."""
        limit = self.get_limit(agent_id)
        return None if limit is None else max(0.0, limit - self.spent(agent_id))

    def check(self, agent_id: str, task_cost: float) -> bool:
        """Tell whether a cost is within the limit, beside what is spent and under way. Nothing is reserved.

        Raises:
            BudgetExceededError: it is not, and the mode is `reject`.

        """
        with self._lock:
            return self._check(agent_id, _units("task_cost", task_cost))

    def record_spend(self, agent_id: str, cost: float) -> None:
        """Note that an agent has spent something."""
        with self._lock:
            self._spent[agent_id] = self._spent.get(agent_id, 0) + _units("cost", cost)

    def is_downgraded(self, agent_id: str) -> bool:
        """Tell whether an agent has used up its budget and should take a cheaper model."""
        limit = self.get_limit(agent_id)
        return self.on_exceeded == "downgrade" and limit is not None and self.spent(agent_id) >= limit

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """The last 1000 times that a limit was exceeded and the work went on."""
        return list(self._alerts)

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Return limit, spent and remaining of each agent that has a limit of its own or has spent something."""
        return {
            agent_id: {
                "limit": self.get_limit(agent_id),
                "spent": self.spent(agent_id),
                "remaining": self.remaining(agent_id),
            }
            for agent_id in dict.fromkeys([*self._limits, *self._spent])
        }

    def reset(self, agent_id: str) -> None:
        """Set what an agent has spent to 0; what is under way stays reserved."""
        with self._lock:
            self._spent.pop(agent_id, None)

    def reset_all(self) -> None:
        """Set what all have spent to 0."""
        with self._lock:
            self._spent.clear()

    # -- what schedulers do ---------------------------------------------------------------------------------------

    def reserve(self, agent_id: str, task_cost: float) -> bool:
        """Check and reserve in one step; False where the limit is exceeded and the work goes on all the same.

        Raises:
            BudgetExceededError: it is exceeded, and the mode is `reject`: nothing is reserved.

        """
        units = _units("task_cost", task_cost)
        with self._lock:
            within = self._check(agent_id, units)
            self._reserved[agent_id] = self._reserved.get(agent_id, 0) + units
        return within

    def settle(self, agent_id: str, task_cost: float, *, spent: bool) -> None:
        """End a reservation: of work that is done, or of work that failed and costs nothing."""
        units = _units("task_cost", task_cost)
        with self._lock:
            self._give_back(agent_id, units)
            if spent:
                self._spent[agent_id] = self._spent.get(agent_id, 0) + units

    def give_back_later(self, agent_id: str, task_cost: float) -> None:
        """End the reservation of work that was dropped. For finalisers: takes no lock."""
        self._dropped.append((agent_id, task_cost))

    def _give_back(self, agent_id: str, units: int) -> None:
        left = self._reserved.get(agent_id, 0) - units
        if left > 0:
            self._reserved[agent_id] = left
        else:
            self._reserved.pop(agent_id, None)

    def _check(self, agent_id: str, units: int) -> bool:
        while self._dropped:
            dropped, cost = self._dropped.popleft()
            self._give_back(dropped, _units("task_cost", cost))
        limit = self.get_limit(agent_id)
        if limit is None:
            return True
        committed = self._spent.get(agent_id, 0) + self._reserved.get(agent_id, 0)
        if committed + units <= round(limit * _UNITS):
            return True
        current, task_cost = committed / _UNITS, units / _UNITS
        if self.on_exceeded == "reject":
            raise BudgetExceededError(agent_id, current, limit, task_cost)
        alert = {
            "agent_id": agent_id,
            "current": current,
            "task_cost": task_cost,
            "limit": limit,
            "action": self.on_exceeded,
        }
        self._alerts.append(alert)
        return False


def _amount(name: str, value: float) -> float:
    """Return an amount.

    Raises:
        ValueError: it is none.

    """
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
    return value


def _units(name: str, value: float) -> int:
    return round(_amount(name, value) * _UNITS)
