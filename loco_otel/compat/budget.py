"""Budgets of loco-agent's API: one per agent, in units of weight.

The ledger in memory keeps them, see `_budgets.accounts`: amounts reserved for tasks in flight are separate from amounts
spent, and check and reservation are one step.
"""

import math
from collections import deque
from datetime import UTC
from itertools import count
from typing import Any, Literal, get_args

from loco_otel import _fork
from loco_otel._budgets.account import Decision
from loco_otel._budgets.memory_ledger import MemoryLedger
from loco_otel._fork import ForkSafeLock
from loco_otel.errors import BudgetExceededError
from loco_otel.money import AccountKey, Action, Budget, BudgetStatus, Charge, Period, Scope, Unit

__all__ = ["BudgetExceededError", "BudgetManager"]

Mode = Literal["reject", "alert", "downgrade"]

_UNITS = 1_000_000
"""Ledger units in a weight of 1.0: integers, so that sums are exact, and finer than the scheduler's."""
_UNLIMITED = 10**30
_ALERTS = 1000


class BudgetManager:
    """Limits, spending and reservations by agent. Thread-safe; several schedulers may share it.

    Args:
        default_limit: the limit of an agent without its own; None means no limit.
        on_exceeded: `reject` raises; `alert` allows the task and records an alert; `downgrade` also makes
            `is_downgraded` return True, so that the agent can use a cheaper model.

    Raises:
        ValueError: the mode or the limit is invalid.

    Example:
        >>> budget = BudgetManager(default_limit=5.0)
        >>> budget.record_spend('analyst', 4.0)
        >>> budget.remaining('analyst')
        1.0

    """

    def __init__(self, default_limit: float | None = None, on_exceeded: str = "reject") -> None:
        if on_exceeded not in get_args(Mode):
            raise ValueError(f"on_exceeded must be one of {list(get_args(Mode))}, not {on_exceeded!r}")
        self._default_limit = None if default_limit is None else _validate_amount("default_limit", default_limit)
        self.on_exceeded = on_exceeded
        self._limits: dict[str, float] = {}
        self._ledger = MemoryLedger(lease=math.inf)
        self._reservation_ids = count()
        self._open_reservations: dict[tuple[str, int], list[str]] = {}
        """Names of reservations by agent and units; equal reservations are interchangeable."""
        self._reservation_lock = ForkSafeLock()
        self._dropped: deque[tuple[str, float]] = deque()
        self._alerts: deque[dict[str, Any]] = deque(maxlen=_ALERTS)
        self._publish_limits()
        _fork.on_child(self, _fork.ForkPhase.BUDGETS)

    def after_fork(self) -> None:
        """Drop the reservations in a forked child: their tasks are the parent's."""
        self._ledger.after_fork()
        self._open_reservations = {}

    # -- limits ---------------------------------------------------------------------------------------------------

    @property
    def default_limit(self) -> float | None:
        """The limit of an agent without its own; None means no limit."""
        return self._default_limit

    @default_limit.setter
    def default_limit(self, limit: float | None) -> None:
        self._default_limit = None if limit is None else _validate_amount("default_limit", limit)
        self._publish_limits()

    def set_limit(self, agent_id: str, max_cost: float) -> None:
        """Set an agent's limit."""
        self._limits[agent_id] = _validate_amount("max_cost", max_cost)
        self._publish_limits()

    def remove_limit(self, agent_id: str) -> None:
        """Reset an agent to the default limit."""
        self._limits.pop(agent_id, None)
        self._publish_limits()

    def get_limit(self, agent_id: str) -> float | None:
        """Return an agent's limit; None means no limit."""
        return self._limits.get(agent_id, self._default_limit)

    def _publish_limits(self) -> None:
        default = _UNLIMITED if self._default_limit is None else round(self._default_limit * _UNITS)
        limits = [(None, default), *((agent, round(limit * _UNITS)) for agent, limit in self._limits.items())]
        self._ledger.set_budgets(
            [Budget(Scope.AGENT, agent, limit, Unit.WEIGHT, thresholds=()) for agent, limit in limits], UTC
        )

    # -- operations of programs -----------------------------------------------------------------------------------

    def spent(self, agent_id: str) -> float:
        """Return the amount that an agent has spent, without reservations."""
        return self._read_status(agent_id).spent / _UNITS

    def reserved(self, agent_id: str) -> float:
        """Return the amount that is reserved for an agent's tasks in flight."""
        return self._read_status(agent_id).reserved / _UNITS

    def remaining(self, agent_id: str) -> float | None:
        """Return the limit less the amount spent, without reservations; None means no limit."""
        limit = self.get_limit(agent_id)
        return None if limit is None else max(0.0, limit - self.spent(agent_id))

    def check(self, agent_id: str, task_cost: float) -> bool:
        """Return whether the limit has room for a cost beside the amounts spent and reserved. Reserves nothing.

        Raises:
            BudgetExceededError: it has no room, and the mode is `reject`.

        """
        charge = _make_charge(agent_id, _convert_to_units("task_cost", task_cost))
        self._cancel_dropped()
        return self._apply_decision(charge, self._ledger.check_estimate(charge, 0.0, (), include_reserved=True))

    def record_spend(self, agent_id: str, cost: float) -> None:
        """Add to the amount that an agent has spent."""
        self._ledger.settle_reservation("", _make_charge(agent_id, _convert_to_units("cost", cost)), 0.0)

    def is_downgraded(self, agent_id: str) -> bool:
        """Return whether an agent has exhausted its budget and should use a cheaper model."""
        limit = self.get_limit(agent_id)
        return self.on_exceeded == "downgrade" and limit is not None and self.spent(agent_id) >= limit

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """The last 1000 tasks that exceeded a limit and were allowed."""
        return list(self._alerts)

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Return limit, spent and remaining of each agent with its own limit or with spending."""
        spenders = [standing.key.key for standing in self._ledger.read_statuses(0.0) if standing.since is not None]
        return {
            agent_id: {
                "limit": self.get_limit(agent_id),
                "spent": self.spent(agent_id),
                "remaining": self.remaining(agent_id),
            }
            for agent_id in dict.fromkeys([*self._limits, *spenders])
        }

    def reset(self, agent_id: str) -> None:
        """Set the amount that an agent has spent to 0. Reservations stay."""
        self._ledger.reset_account(_make_account_key(agent_id))

    def reset_all(self) -> None:
        """Set the amounts that all agents have spent to 0."""
        for standing in self._ledger.read_statuses(0.0):
            self._ledger.reset_account(standing.key)

    # -- operations of schedulers ---------------------------------------------------------------------------------

    def reserve(self, agent_id: str, task_cost: float) -> bool:
        """Check and reserve in one step; return False if the limit is exceeded and the task is allowed.

        Raises:
            BudgetExceededError: the limit is exceeded, and the mode is `reject`. Nothing is reserved.

        """
        units = _convert_to_units("task_cost", task_cost)
        charge = _make_charge(agent_id, units)
        self._cancel_dropped()
        name = str(next(self._reservation_ids))
        passing = () if self.on_exceeded == "reject" else (Action.REJECT,)
        within = self._apply_decision(charge, self._ledger.reserve_estimate(name, charge, 0.0, passing))
        with self._reservation_lock:
            self._open_reservations.setdefault((agent_id, units), []).append(name)
        return within

    def settle(self, agent_id: str, task_cost: float, *, spent: bool) -> None:
        """End a reservation: convert it to spending, or cancel it after a failure."""
        units = _convert_to_units("task_cost", task_cost)
        name = self._pop_reservation(agent_id, units)
        if spent:
            self._ledger.settle_reservation(name, _make_charge(agent_id, units), 0.0)
        else:
            self._ledger.cancel_reservation(name, 0.0)

    def give_back_later(self, agent_id: str, task_cost: float) -> None:
        """Cancel a reservation with the next operation. For finalizers: takes no lock."""
        self._dropped.append((agent_id, task_cost))

    def _pop_reservation(self, agent_id: str, units: int) -> str:
        """Remove and return one of an agent's reservations of this amount; "" if there is none."""
        with self._reservation_lock:
            alike = self._open_reservations.get((agent_id, units))
            if alike is None:
                return ""
            name = alike.pop()
            if not alike:
                del self._open_reservations[agent_id, units]
            return name

    def _cancel_dropped(self) -> None:
        while self._dropped:
            agent_id, cost = self._dropped.popleft()
            self.settle(agent_id, cost, spent=False)

    def _read_status(self, agent_id: str) -> BudgetStatus:
        return self._ledger.read_status(_make_account_key(agent_id), 0.0)

    def _apply_decision(self, charge: Charge, decision: Decision) -> bool:
        if not decision.exceeded:
            return True
        agent_id, standing = charge.agent, decision.exceeded[0]
        limit = self.get_limit(agent_id)
        current, task_cost = (standing.spent + standing.reserved) / _UNITS, charge.weight / _UNITS
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


def _make_account_key(agent_id: str) -> AccountKey:
    return AccountKey(Scope.AGENT, agent_id, Unit.WEIGHT, Period.TOTAL)


def _make_charge(agent_id: str, units: int) -> Charge:
    return Charge(agent_id, None, None, None, None, units)


def _validate_amount(name: str, value: float) -> float:
    """Return an amount.

    Raises:
        ValueError: it is not a finite number of at least 0.

    """
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
    return value


def _convert_to_units(name: str, value: float) -> int:
    return round(_validate_amount(name, value) * _UNITS)
