"""What an adapter that runs an agent's tasks can do."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from loco_otel.compat.agent import Agent
from loco_otel.compat.task import Task


class BaseAdapter(ABC):
    """Knows how the tasks of some framework's agents are run."""

    @abstractmethod
    async def register_agent(self, agent_id: str, handler: Callable[..., Any]) -> Agent:
        """Add an agent, and what runs its tasks."""

    @abstractmethod
    async def submit_task(self, agent_id: str, task: Task) -> None:
        """Queue a task."""

    @abstractmethod
    async def on_scheduled(self, agent_id: str, task: Task) -> Any:
        """Run a task that has its slot, and return what comes of it."""

    @abstractmethod
    async def on_completed(self, agent_id: str, task: Task, result: Any) -> None:
        """Take note of what came of a task; its slot is free again."""
