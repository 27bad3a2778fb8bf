"""Where an agent's tasks queue: the line of a resource, behind its engine."""

from collections.abc import Callable

from loco_otel._core.backlog import Backlog
from loco_otel._core.queue_set import Line
from loco_otel._engine.in_process import InProcessEngine
from loco_otel.compat.task import Task
from loco_otel.events import Request

_MOST_REQUESTS = 256
"""Kept for use again, as most tasks of an agent are alike."""


class Station:
    """One agent's place in a line.

    Args:
        engine: hosts the line.
        line: in which the agent's tasks count.
        resource: what they ask for, as the core names it.
        agent_id: whose tasks.
        admission: whether somebody keeps a budget.

    """

    __slots__ = ("_admission", "_requests", "_resources", "agent_id", "edit", "engine", "line", "plain")

    def __init__(self, engine: InProcessEngine, line: Line, resource: str, agent_id: str, *, admission: bool) -> None:
        self.engine = engine
        self.line = line
        self.agent_id = agent_id
        self._resources = (resource,)
        self._admission = admission
        self._requests: dict[tuple[int, str], Request] = {}
        self.plain = Request(agent_id, 0, self._resources, admission=admission)
        """What a holder asks for that takes its work from the queue."""
        self.edit = engine.edit

    def request(self, task: Task) -> Request:
        """Say what a task asks for."""
        if task.labels is not None:
            return self._made(task)
        key = (task.milli, task.task_type)
        request = self._requests.get(key)
        if request is None:
            if len(self._requests) >= _MOST_REQUESTS:
                self._requests.clear()
            request = self._requests[key] = self._made(task)
        return request

    def attach(self, backlog: Backlog, change: Callable[[], None]) -> None:
        """Begin to count a backlog."""

        def begin() -> None:
            change()
            self.line.set_backlog(self.agent_id, backlog)

        self.edit(begin)

    def detach(self, backlog: Backlog, change: Callable[[], None]) -> None:
        """Count it no more."""

        def end() -> None:
            if self.line.backlogs.get(self.agent_id) is backlog:
                self.line.set_backlog(self.agent_id, None)
            change()

        self.edit(end)

    def ask_for_admission(self, admission: bool) -> None:  # noqa: FBT001 - the one thing it says
        """Say whether somebody keeps a budget from now on; requests made before say what they said."""
        self._admission = admission
        self._requests = {}
        self.plain = self.plain._replace(admission=admission)

    def _made(self, task: Task) -> Request:
        return Request(
            self.agent_id,
            task.milli,
            self._resources,
            admission=self._admission,
            task_type=task.task_type,
            labels=task.labels,
        )
