"""The load policy step by step: each step serves one agent and returns the scores. For replays and tests."""

import random
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any, NamedTuple

from loco_otel._config.settings import OPTIMIZE_FOR_ALPHA
from loco_otel._core.policies.load import compute_load
from loco_otel.compat.agent import Agent, Clock
from loco_otel.compat.task import Task

__all__ = ["OPTIMIZE_FOR_ALPHA", "LOCOScheduler", "StepResult"]

_DEFAULT_GOAL = "balanced"


class StepResult(NamedTuple):
    """The result of one step."""

    selected_agent: Agent | None
    served_task: Task | None
    scores: dict[str, float]


class LOCOScheduler:
    """Serves one task per step, of the agent with the highest load, and ages the others.

    It applies the bare formula: above alpha 0.5 agents starve.

    Args:
        agents: the agents with their tasks.
        alpha: share of Q in the load, from 0 to 1.
        optimize_for: a word for alpha, see `OPTIMIZE_FOR_ALPHA`; the default is `balanced`.
        max_history: steps that `history` keeps.
        seed: the seed of the draws between equal agents.

    Raises:
        ValueError: alpha is invalid.

    Example:
        >>> scheduler = LOCOScheduler([Agent('a', tasks=[Task()]), Agent('b', tasks=[Task(weight=3.0)])], alpha=1.0)
        >>> scheduler.compute_load_scores()['b']
        1.0

    """

    def __init__(
        self,
        agents: Iterable[Agent],
        *,
        alpha: float | None = None,
        optimize_for: str | None = None,
        max_history: int = 10000,
        seed: int | None = None,
    ) -> None:
        self.alpha = chosen_alpha(alpha, optimize_for)
        self.agents = {agent.agent_id: agent for agent in agents}
        self.history: deque[dict[str, Any]] = deque(maxlen=max_history)
        self._clock = Clock()
        self._random = random.Random(seed)  # noqa: S311 - breaks ties, keeps no secret
        self._ids = count()
        for agent in self.agents.values():
            agent.tasks.follow(self._clock)

    @property
    def tick(self) -> int:
        """The number of steps so far."""
        return self._clock.tick

    def get_agent(self, agent_id: str) -> Agent:
        """Return an agent.

        Raises:
            ValueError: no agent has this name.

        """
        try:
            return self.agents[agent_id]
        except KeyError:
            raise ValueError(f"Unknown agent: {agent_id}") from None

    def new_task(self, weight: float = 1.0, task_type: str = "default") -> Task:
        """Create a task that arrives now; ids count from 0."""
        return Task(str(next(self._ids)), weight, self.tick, task_type=task_type)

    def compute_load_scores(self) -> dict[str, float]:
        """Return the load of each agent that has tasks."""
        tick = self.tick
        queues = {
            agent.agent_id: (agent.tasks.backlog.weight, tick - work.birth)
            for agent in self.agents.values()
            if (work := agent.tasks.backlog.find_oldest_work()) is not None
        }
        weight = max((weight for weight, _ in queues.values()), default=0)
        age = max((age for _, age in queues.values()), default=0)
        return {agent_id: compute_load(self.alpha, own[0], weight, own[1], age) for agent_id, own in queues.items()}

    def select_agent(self, scores: Mapping[str, float]) -> Agent | None:
        """Return the agent with the highest score, at random among equals; None without scores."""
        if not scores:
            return None
        greatest = max(scores.values())
        first = [agent_id for agent_id, score in scores.items() if score == greatest]
        return self.get_agent(self._random.choice(first))

    def total_tasks_remaining(self) -> int:
        """Return the number of queued tasks."""
        return sum(len(agent.tasks) for agent in self.agents.values())

    def mean_wait_time(self, agent_id: str) -> float:
        """Return the mean age at which an agent's tasks were served; 0.0 before the first."""
        completed = self.get_agent(agent_id).completed_tasks
        return completed.waited / completed.total if completed.total else 0.0

    def _step(self, arrivals: Mapping[str, Iterable[Task]] | None = None) -> StepResult:
        """Add arriving tasks, serve one, and age the others by a tick."""
        for agent_id, tasks in (arrivals or {}).items():
            self.get_agent(agent_id).tasks.extend(tasks)
        scores = self.compute_load_scores()
        agent = self.select_agent(scores)
        served = None if agent is None else agent.serve_oldest_task()
        tick = self.tick
        self._clock.tick += 1
        self.history.append(
            {
                "tick": tick,
                "scores": scores,
                "served_agent_id": None if agent is None else agent.agent_id,
                "served_task_id": None if served is None else served.task_id,
                "served_task_age": None if served is None else served.age,
                "queue_depths": {agent.agent_id: len(agent.tasks) for agent in self.agents.values()},
                "dmax_vals": {agent.agent_id: agent.dmax for agent in self.agents.values()},
            }
        )
        return StepResult(agent, served, scores)


def chosen_alpha(alpha: float | None, optimize_for: str | None) -> float:
    """Return the alpha of two alternative arguments.

    Raises:
        ValueError: both are given, or one is invalid.

    """
    if alpha is not None and optimize_for is not None:
        raise ValueError("Pass alpha or optimize_for, not both")
    if alpha is not None:
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha must be in [0.0, 1.0], not {alpha!r}")
        return alpha
    goal = _DEFAULT_GOAL if optimize_for is None else optimize_for
    if goal not in OPTIMIZE_FOR_ALPHA:
        raise ValueError(f"optimize_for must be one of {list(OPTIMIZE_FOR_ALPHA)}, not {goal!r}")
    return OPTIMIZE_FOR_ALPHA[goal]
