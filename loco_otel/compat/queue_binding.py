"""Where an agent's tasks queue: the line of a resource, behind its engine."""

from collections.abc import Callable

from loco_otel._core.backlog import Backlog
from loco_otel._core.queue_set import QueueSet
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.compat.task import Task
from loco_otel.events import Request

_MAX_REQUESTS = 256
"""Kept for use again, as most tasks of an agent are alike."""


class QueueBinding:
    """One agent's place in a line.

    Args:
        engine: hosts the line.
        line: in which the agent's tasks count.
        resource: what they ask for, as the core names it.
        agent_id: whose tasks.
        admission: whether somebody keeps a budget.

    """

    __slots__ = ("_admission", "_requests", "_resources", "agent_id", "edit", "engine", "plain_request", "queue_set")

    def __init__(
        self, engine: InProcessEngine, line: QueueSet, resource: str, agent_id: str, *, admission: bool
    ) -> None:
        self.engine = engine
        self.queue_set = line
        self.agent_id = agent_id
        self._resources = (resource,)
        self._admission = admission
        self._requests: dict[tuple[int, str], Request] = {}
        self.plain_request = Request(agent_id, 0, self._resources, admission=admission)
        """What a holder asks for that takes its work from the queue."""
        self.edit = engine.update_loads

    def get_request(self, task: Task) -> Request:
        """Say what a task asks for."""
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
        """Begin to count a backlog."""

        def begin() -> None:
            change()
            self.queue_set.set_backlog(self.agent_id, backlog)

        self.edit(begin)

    def detach_backlog(self, backlog: Backlog, change: Callable[[], None]) -> None:
        """Count it no more."""

        def end() -> None:
            if self.queue_set.backlogs.get(self.agent_id) is backlog:
                self.queue_set.set_backlog(self.agent_id, None)
            change()

        self.edit(end)

    def set_admission(self, admission: bool) -> None:  # noqa: FBT001 - the one thing it says
        """Say whether somebody keeps a budget from now on; requests made before say what they said."""
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
