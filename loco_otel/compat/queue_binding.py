"""The binding of an agent's tasks to the queue of a resource, through its engine."""

from collections.abc import Callable
from functools import partial

from loco_otel._core.backlog import Backlog
from loco_otel._engine.in_process import InProcessEngine
from loco_otel._engine.resource_view import ResourceView
from loco_otel.compat.task import Task
from loco_otel.events import Request

_MAX_REQUESTS = 256
"""Requests that are cached, as most tasks of an agent have the same weight and type."""


class QueueBinding:
    """Binds the tasks of one agent to the queue of a resource.

    Args:
        engine: the engine of the resource.
        resource: the resource that the tasks need.
        agent_id: the agent.
        admission: whether a budget must admit the requests.

    """

    __slots__ = (
        *("_admission", "_requests", "_resources", "agent_id", "edit", "engine", "plain_request", "refresh_agent"),
        "resource",
    )

    def __init__(self, engine: InProcessEngine, resource: ResourceView, agent_id: str, *, admission: bool) -> None:
        self.engine = engine
        self.resource = resource
        self.agent_id = agent_id
        self._resources = (resource.name,)
        self._admission = admission
        self._requests: dict[tuple[int, str], Request] = {}
        self.plain_request = Request(agent_id, 0, self._resources, admission=admission)
        """The request of a ticket that takes its work from the queue."""
        self.edit = resource.update_loads
        """Runs a change of the tasks as one operation of the engine."""
        self.refresh_agent = partial(resource.refresh_agent, agent_id)
        """Updates the policy after a change of the tasks. To be called within `edit`."""

    def get_request(self, task: Task) -> Request:
        """Return the request of a task."""
        if task.labels is not None:
            return self._make_request(task)
        key = (task.milli, task.task_type)
        request = self._requests.get(key)
        if request is None:
            if len(self._requests) >= _MAX_REQUESTS:
                self._requests.clear()
            request = self._requests[key] = self._make_request(task)
        return request

    def attach_backlog(self, backlog: Backlog, change: Callable[[], None]) -> None:
        """Run a change, and count a backlog from then on, in one operation."""
        self.resource.set_backlog(self.agent_id, backlog, change)

    def detach_backlog(self, backlog: Backlog, change: Callable[[], None]) -> None:
        """Stop counting a backlog, and run a change, in one operation."""
        self.resource.remove_backlog(self.agent_id, backlog, change)

    def set_admission(self, admission: bool) -> None:  # noqa: FBT001 - the only argument
        """Set whether later requests need the admission of a budget; earlier ones are unchanged."""
        self._admission = admission
        self._requests = {}
        self.plain_request = self.plain_request._replace(admission=admission)

    def _make_request(self, task: Task) -> Request:
        return Request(
            self.agent_id,
            task.milli,
            self._resources,
            admission=self._admission,
            task_type=task.task_type,
            labels=task.labels,
        )
