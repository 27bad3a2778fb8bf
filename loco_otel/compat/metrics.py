"""What a scheduler's agents have cost and waited, as the seed's programs ask for it."""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from loco_otel._core.fairness import jains_index
from loco_otel._fork import ForkSafeLock
from loco_otel.compat.task import Task

if TYPE_CHECKING:
    from loco_otel.compat.async_scheduler import AsyncLOCOScheduler

_HISTORY_LIMIT = 1000
"""Token counts kept of each agent, and kinds of task of which weights are learnt."""

TOKENS = 1000
"""In a weight of 1.0."""


def jains_fairness(values: Iterable[float]) -> float:
    """Return Jain's index of those values that are above 0; 1.0 when there is none.

    Those who got nothing do not count here, as in the seed; `ResourceStanding.fairness` counts them as 0.
    """
    return jains_index([value for value in values if value > 0])


class SchedulerMetrics:
    """Costs, waits and tokens by agent. Totals count everything; lists keep the last 1000.

    **Learnt weights.** `record_actual_tokens` averages what tasks of a type really take. A task of that type whose
    weight nobody stated gets that average, 1000 tokens being 1.0, when it is queued.

    Args:
        scheduler: whose metrics these are.
        ema_alpha: how much the last value counts in an average.

    """

    def __init__(self, scheduler: "AsyncLOCOScheduler", ema_alpha: float = 0.3) -> None:
        self._scheduler = scheduler
        self._ema_alpha = ema_alpha
        self._lock = ForkSafeLock()
        self._costs: dict[str, float] = {}
        self._pending_costs: deque[tuple[str, float]] = deque()
        """What is still to be added to those."""
        self._averages: dict[str, float] = {}
        self._tokens: dict[str, deque[int]] = {}
        self._total_tokens = 0

    def cost_by_agent(self) -> dict[str, float]:
        """Return the weights that each agent's completed tasks had together."""
        return dict(self._sum_costs())

    def total_cost(self) -> float:
        """Return what all agents have cost."""
        return sum(self.cost_by_agent().values())

    def agent_cost(self, agent_id: str) -> float:
        """Return what one agent has cost."""
        return self._sum_costs().get(agent_id, 0.0)

    def record_task_cost(self, agent_id: str, cost: float) -> None:
        """Add to what an agent has cost; the scheduler does, at the release of each task that did not fail."""
        # Appending is atomic, so this needs no lock: it is on the hot path.
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
        """Return the mean ticks that each agent's tasks waited, of agents that have completed any."""
        agents = self._scheduler.agents.values()
        done = {agent.agent_id: agent.completed_tasks for agent in agents}
        return {agent_id: tasks.waited / tasks.total for agent_id, tasks in done.items() if tasks.total}

    def completed_by_agent(self) -> dict[str, int]:
        """Return how many tasks each agent has completed, without those that failed."""
        agents = self._scheduler.agents.values()
        return {agent.agent_id: agent.completed_tasks.total - agent.completed_tasks.failed for agent in agents}

    def resource_utilization(self) -> float:
        """Return the part of the slots that is taken."""
        return self._scheduler.resource.utilization

    def queue_depth_by_agent(self) -> dict[str, float]:
        """Return the weight that each agent has in its list."""
        return {agent.agent_id: agent.queue_depth_weighted for agent in self._scheduler.agents.values()}

    def record_actual_tokens(self, agent_id: str, task: Task, actual_tokens: int) -> None:
        """Note how many tokens a task really took."""
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
        """Return how many tokens tasks of a type take on average; None while nothing is known."""
        return self._averages.get(task_type)

    def learnt_weight(self, task_type: str) -> float | None:
        """Return the weight that this makes, at least 1.0; None while nothing is known."""
        average = self._averages.get(task_type)
        return None if average is None else max(1.0, average / TOKENS)

    def actual_tokens_by_agent(self) -> dict[str, list[int]]:
        """Return the last 1000 counts of tokens of each agent."""
        return {agent_id: list(tokens) for agent_id, tokens in self._tokens.items()}

    def total_actual_tokens(self) -> int:
        """Return all tokens that were ever recorded."""
        return self._total_tokens
