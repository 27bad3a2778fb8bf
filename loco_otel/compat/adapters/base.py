"""The interface of an adapter that runs the tasks of agents."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from loco_otel.compat.agent import Agent
from loco_otel.compat.task import Task


class BaseAdapter(ABC):
    """Runs the tasks of one framework's agents."""

    @abstractmethod
    async def register_agent(self, agent_id: str, handler: Callable[..., Any]) -> Agent:
        """Add an agent, and the function that runs its tasks."""

    @abstractmethod
    async def submit_task(self, agent_id: str, task: Task) -> None:
        """Queue a task."""

    @abstractmethod
    async def on_scheduled(self, agent_id: str, task: Task) -> Any:
        """Run a task under its slot, and return its result."""

    @abstractmethod
    async def on_completed(self, agent_id: str, task: Task, result: Any) -> None:
        """Handle the result of a task, after the release of its slot."""
