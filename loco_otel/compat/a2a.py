"""The scheduler as a participant of the Agent2Agent protocol: its card, its two skills, and a server.

`create_app` is a server whose tasks run under slots. `handle_task` only queues a task for an agent that acquires the
slot itself.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from loco_otel._version import __version__
from loco_otel.compat.a2a_payload import make_task, require_agent_name
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.errors import ShutdownError

PROTOCOL_VERSION = "1.0"
"""Of A2A, as the card states it."""

_TEXT = "text/plain"


class A2ASchedulerAgent:
    """Presents a scheduler to other agents.

    Args:
        scheduler: the scheduler.
        name: name of the agent in its card.
        description: of the agent in its card.
        url: where its JSON-RPC endpoint is served.

    """

    def __init__(
        self,
        scheduler: AsyncLOCOScheduler,
        name: str = "loco-scheduler",
        description: str = "Load-aware scheduling for multi-agent systems",
        url: str = "",
    ) -> None:
        self.scheduler = scheduler
        self.name = name
        self.description = description
        self.url = url

    def agent_card(self) -> dict[str, Any]:
        """Return the agent's card as JSON.

        It has the required fields of A2A 1.0, those of 0.3, and loco-agent's `capabilities.scheduling`, which A2A does
        not define and its SDK ignores.
        """
        return {
            "name": self.name,
            "description": self.description,
            "url": self.url,
            "preferredTransport": "JSONRPC",
            "protocolVersion": PROTOCOL_VERSION,
            "supportedInterfaces": [
                {"url": self.url, "protocolBinding": "JSONRPC", "protocolVersion": PROTOCOL_VERSION}
            ],
            "version": __version__,
            "capabilities": {"scheduling": True, "streaming": True, "pushNotifications": False},
            "defaultInputModes": [_TEXT],
            "defaultOutputModes": [_TEXT],
            "skills": [
                {
                    "id": "schedule_task",
                    "name": "Schedule task",
                    "description": "Runs a task when the load of its agent is the highest among those that wait.",
                    "tags": ["scheduling", "llm"],
                    "inputModes": [_TEXT],
                    "outputModes": [_TEXT],
                },
                {
                    "id": "get_status",
                    "name": "Get status",
                    "description": "Returns agents, queued and completed tasks, utilization and costs.",
                    "tags": ["scheduling", "status"],
                    "inputModes": [_TEXT],
                    "outputModes": ["application/json"],
                },
            ],
        }

    async def handle_task(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Queue a task for an agent, which runs it under `acquire`. Raises nothing for an invalid payload.

        Args:
            payload: `agent_id`, and optionally `weight` and `task_type`.

        Returns:
            `status` `accepted` with `agent_id`, `task_id`, `weight` and `queue_depth`, the agent's queued weight; or
            `status` `error` with a `message`.

        """
        try:
            agent_id = require_agent_name(payload)
            task = make_task(payload)
            await self.scheduler.submit_task(agent_id, task)
        except (TypeError, ValueError, ShutdownError) as error:
            return {"status": "error", "message": str(error)}
        return {
            "status": "accepted",
            "agent_id": agent_id,
            "task_id": task.task_id,
            "weight": task.weight,
            "queue_depth": self.scheduler.get_agent(agent_id).queue_depth_weighted,
        }

    def get_status(self) -> dict[str, Any]:
        """Return the state of the scheduler as JSON."""
        scheduler = self.scheduler
        agents = tuple(scheduler.agents.values())
        costs = scheduler.metrics.cost_by_agent()
        return {
            "status": "shutting down" if scheduler.closed else "running",
            "agents": len(agents),
            "total_pending_tasks": sum(len(agent.tasks) for agent in agents),
            "total_completed_tasks": sum(scheduler.metrics.completed_by_agent().values()),
            "resource_utilization": scheduler.resource.utilization,
            "alpha": scheduler.alpha,
            "logical_tick": scheduler.logical_tick,
            "cost_summary": {"total": sum(costs.values()), "by_agent": costs},
        }

    def create_app(self, handler: Callable[[str, Any], Awaitable[str]], *, task_store: Any = None) -> Any:
        """Return an ASGI application that serves the card and the JSON-RPC endpoint of A2A.

        Each message is a task that runs `handler` under a slot, and is reported until its end; see
        `compat/a2a_server.py`.

        Args:
            handler: called with the message's text and the SDK's `RequestContext`; returns the answer.
            task_store: keeps the tasks, an `a2a.server.tasks.TaskStore`; by default in memory, the finished ones until
                1000 others have finished since.

        Raises:
            ImportError: a2a-sdk or its HTTP server is not installed.

        """
        try:
            from loco_otel.compat import a2a_server  # noqa: PLC0415 - requires a2a-sdk
        except ImportError as error:
            raise ImportError("create_app needs the package a2a-sdk: pip install 'loco-otel[a2a]'") from error
        return a2a_server.create_app(self, handler, task_store=task_store)
