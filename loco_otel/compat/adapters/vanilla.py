"""The adapter for plain async functions."""

import inspect
from collections.abc import Callable
from typing import Any

from loco_otel.compat.adapters.base import BaseAdapter
from loco_otel.compat.agent import Agent
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.compat.task import Task


class VanillaAdapter(BaseAdapter):
    """Runs tasks with a handler per agent: `async def handler(agent_id, task)`, or a sync function.

    Args:
        scheduler: the scheduler of the slots.

    """

    def __init__(self, scheduler: AsyncLOCOScheduler) -> None:
        self._scheduler = scheduler
        self._handlers: dict[str, Callable[..., Any]] = {}

    async def register_agent(self, agent_id: str, handler: Callable[..., Any]) -> Agent:
        """Add an agent and its handler.

        Raises:
            ValueError: an agent has this name.

        """
        agent = Agent(agent_id)
        self._scheduler.register_agent(agent)
        self._handlers[agent_id] = handler
        return agent

    async def submit_task(self, agent_id: str, task: Task) -> None:
        """Queue a task."""
        await self._scheduler.submit_task(agent_id, task)

    async def on_scheduled(self, agent_id: str, task: Task) -> Any:
        """Call the handler.

        Raises:
            ValueError: the agent was not registered here.

        """
        handler = self._handlers.get(agent_id)
        if handler is None:
            raise ValueError(f"Unknown agent: {agent_id} has no handler")
        outcome = handler(agent_id, task)
        return await outcome if inspect.isawaitable(outcome) else outcome

    async def on_completed(self, agent_id: str, task: Task, result: Any) -> None:
        """Do nothing. A hook for subclasses."""

    async def run_next(self, agent_id: str, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - loco-agent's
        """Run the agent's oldest task under a slot, and return its result.

        Args:
            agent_id: the agent.
            timeout: seconds to wait for the slot; None waits without a limit.

        Raises:
            ValueError: no agent has this name.
            RuntimeError: it has no queued task.

        """
        if not self._scheduler.get_agent(agent_id).tasks.backlog:
            raise RuntimeError(f"Agent {agent_id!r} has no tasks to run")
        lease = self._scheduler.acquire(agent_id, timeout=timeout)
        async with lease as task:
            if task is None:
                raise RuntimeError(f"Agent {agent_id!r} has no tasks to run: another caller took the last one")
            result = await self.on_scheduled(agent_id, task)
        await self.on_completed(agent_id, task, result)
        return result

    async def run_all(self, agent_id: str) -> list[Any]:
        """Run all queued tasks of the agent, one after the other, and return their results."""
        results = []
        while self._scheduler.get_agent(agent_id).tasks.backlog:
            results.append(await self.run_next(agent_id))
        return results
