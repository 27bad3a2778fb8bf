"""Costs, waits and tokens of a scheduler's agents, in the form of loco-agent's API."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

from loco_otel._core.fairness import jains_index
from loco_otel._fork import ForkSafeLock
from loco_otel.compat.agent import Agent
from loco_otel.compat.resource import SharedResource
from loco_otel.compat.task import Task

_HISTORY_LIMIT = 1000
"""Token counts kept per agent, and task types with a learnt weight."""

TOKENS = 1000
"""Tokens of a weight of 1.0."""


class MeasuredScheduler(Protocol):
    """A scheduler whose metrics are computed."""

    resource: SharedResource

    @property
    def agents(self) -> Mapping[str, Agent]:
        """All agents by name."""


def jains_fairness(values: Iterable[float]) -> float:
    """Return Jain's index of the values above 0; 1.0 if there is none.

    Values of 0 are ignored, as in loco-agent; `ResourceSnapshot.fairness` includes them.

    Example:
        >>> jains_fairness([1.0, 1.0]), jains_fairness([])
        (1.0, 1.0)

    """
    return jains_index([value for value in values if value > 0])


class SchedulerMetrics:
    """Costs, waits and tokens by agent. Totals include all tasks; lists keep the last 1000.

    **Learnt weights.** `record_actual_tokens` averages the actual tokens of each type of task. A task of that type
    without a stated weight gets the average as its weight when it is queued; 1000 tokens are 1.0.

    Args:
        scheduler: the measured scheduler.
        ema_alpha: the share of the latest value in an average.

    """

    def __init__(self, scheduler: MeasuredScheduler, ema_alpha: float = 0.3) -> None:
        self._scheduler = scheduler
        self._ema_alpha = ema_alpha
        self._lock = ForkSafeLock()
        self._costs: dict[str, float] = {}
        self._pending_costs: deque[tuple[str, float]] = deque()
        """Costs that are not yet added."""
        self._averages: dict[str, float] = {}
        self._tokens: dict[str, deque[int]] = {}
        self._total_tokens = 0

    def cost_by_agent(self) -> dict[str, float]:
        """Return the total weight of each agent's completed tasks."""
        return dict(self._sum_costs())

    def total_cost(self) -> float:
        """Return the cost of all agents."""
        return sum(self.cost_by_agent().values())

    def agent_cost(self, agent_id: str) -> float:
        """Return the cost of one agent."""
        return self._sum_costs().get(agent_id, 0.0)

    def record_task_cost(self, agent_id: str, cost: float) -> None:
        """Add to the cost of an agent. The scheduler calls this at the release of each task that did not fail."""
        # No lock on the hot path: appending is atomic.
        self._pending_costs.append((agent_id, cost))
        if len(self._pending_costs) > _HISTORY_LIMIT:
            self._sum_costs()

    def _sum_costs(self) -> dict[str, float]:
        with self._lock:
            while self._pending_costs:
                agent_id, cost = self._pending_costs.popleft()
                self._costs[agent_id] = self._costs.get(agent_id, 0.0) + cost
            return self._costs

    def wait_time_by_agent(self) -> dict[str, float]:
        """Return the mean wait of each agent's completed tasks in ticks; agents without any are omitted."""
        agents = self._scheduler.agents.values()
        done = {agent.agent_id: agent.completed_tasks for agent in agents}
        return {agent_id: tasks.waited / tasks.total for agent_id, tasks in done.items() if tasks.total}

    def completed_by_agent(self) -> dict[str, int]:
        """Return the number of tasks that each agent has completed without failure."""
        agents = self._scheduler.agents.values()
        return {agent.agent_id: agent.completed_tasks.total - agent.completed_tasks.failed for agent in agents}

    def resource_utilization(self) -> float:
        """Return the fraction of slots in use."""
        return self._scheduler.resource.utilization

    def queue_depth_by_agent(self) -> dict[str, float]:
        """Return the total weight of the tasks in each agent's list."""
        return {agent.agent_id: agent.queue_depth_weighted for agent in self._scheduler.agents.values()}

    def record_actual_tokens(self, agent_id: str, task: Task, actual_tokens: int) -> None:
        """Record the actual tokens of a task."""
        with self._lock:
            self._total_tokens += actual_tokens
            self._tokens.setdefault(agent_id, deque(maxlen=_HISTORY_LIMIT)).append(actual_tokens)
            kind, share = task.task_type, self._ema_alpha
            before = self._averages.pop(kind, None)
            average = float(actual_tokens) if before is None else share * actual_tokens + (1 - share) * before
            self._averages[kind] = average
            if len(self._averages) > _HISTORY_LIMIT:
                del self._averages[next(iter(self._averages))]

    def empirical_weight(self, task_type: str) -> float | None:
        """Return the average tokens of tasks of a type; None before the first record."""
        return self._averages.get(task_type)

    def learnt_weight(self, task_type: str) -> float | None:
        """Return that average as a weight of at least 1.0; None before the first record."""
        average = self._averages.get(task_type)
        return None if average is None else max(1.0, average / TOKENS)

    def actual_tokens_by_agent(self) -> dict[str, list[int]]:
        """Return the last 1000 token counts of each agent."""
        return {agent_id: list(tokens) for agent_id, tokens in self._tokens.items()}

    def total_actual_tokens(self) -> int:
        """Return the sum of all recorded tokens."""
        return self._total_tokens
