"""An A2A server whose tasks are scheduled: submitted, working under a slot, then completed, failed or canceled.

The caller's agent is `agent_id` in the metadata of its message or request, else the served agent. Calls of patched SDKs
in the handler run under the task's slot, with that agent, the A2A context as their session and the task as their run.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.events import EventQueue
from a2a.server.owner_resolver import resolve_user_scope
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskStore, TaskUpdater
from a2a.types import a2a_pb2
from google.protobuf.json_format import MessageToDict, ParseDict  # type: ignore[import-untyped] # no stubs
from starlette.applications import Starlette

from loco_otel._runtime.identity import as_agent
from loco_otel.compat.a2a_payload import make_task, read_agent_name
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.compat.functions import run_under_lease
from loco_otel.errors import AcquireRejectedError

_MAX_AGENTS = 1000
"""Agents beyond those that a caller may add to the scheduler by naming them."""
_MAX_FINISHED_TASKS = 1000
_FINISHED_STATES = frozenset(
    {
        a2a_pb2.TASK_STATE_COMPLETED,
        a2a_pb2.TASK_STATE_FAILED,
        a2a_pb2.TASK_STATE_CANCELED,
        a2a_pb2.TASK_STATE_REJECTED,
    }
)

Handler = Callable[[str, RequestContext], Awaitable[str]]


class ServedAgent(Protocol):
    """The agent that a server presents: `compat.a2a.A2ASchedulerAgent`."""

    name: str
    scheduler: AsyncLOCOScheduler

    def agent_card(self) -> dict[str, Any]:
        """Return its card as JSON."""


def create_app(
    agent: ServedAgent, handler: Handler, path: str = "/", *, task_store: TaskStore | None = None
) -> Starlette:
    """Return an ASGI application that serves an agent's card and its JSON-RPC endpoint.

    Args:
        agent: the agent, and the scheduler of its tasks.
        handler: runs a task, and returns its answer.
        path: of the endpoint.
        task_store: keeps the tasks; by default a `RecentTaskStore`.

    """
    card = make_card(agent)
    store = RecentTaskStore() if task_store is None else task_store
    requests = DefaultRequestHandler(SchedulingExecutor(agent, handler), store, card)
    return Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(requests, path)])


def make_card(agent: ServedAgent) -> a2a_pb2.AgentCard:
    """Return an agent's card as the SDK's message."""
    card: a2a_pb2.AgentCard = ParseDict(agent.agent_card(), a2a_pb2.AgentCard(), ignore_unknown_fields=True)
    return card


class RecentTaskStore(InMemoryTaskStore):
    """Keeps in memory the tasks that have not finished, and the 1000 that finished last."""

    def __init__(self) -> None:
        super().__init__()
        self._finished: dict[tuple[str, str], ServerCallContext] = {}
        """By owner and task, a context of the owner; that which was saved last is last."""

    async def save(self, task: a2a_pb2.Task, context: ServerCallContext) -> None:
        """Save a task, and drop the finished tasks that are too many."""
        await super().save(task, context)
        key = (resolve_user_scope(context), task.id)
        self._finished.pop(key, None)
        if task.status.state in _FINISHED_STATES:
            self._finished[key] = ServerCallContext(user=context.user)
        while len(self._finished) > _MAX_FINISHED_TASKS:
            oldest = next(iter(self._finished))
            await super().delete(oldest[1], self._finished.pop(oldest))

    async def delete(self, task_id: str, context: ServerCallContext) -> None:
        """Delete a task. No-op if there is none."""
        self._finished.pop((resolve_user_scope(context), task_id), None)
        await super().delete(task_id, context)


class SchedulingExecutor(AgentExecutor):
    """Runs each task of a server under a slot of a scheduler.

    Args:
        agent: the served agent.
        handler: runs a task, and returns its answer.

    """

    def __init__(self, agent: ServedAgent, handler: Handler) -> None:
        self._agent = agent
        self._handler = handler

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Run a task, and report its states. A request that the scheduler rejects is reported as rejected."""
        if context.task_id is None or context.context_id is None or context.message is None:
            raise ValueError("the request has no message")
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        if context.current_task is None:
            status = a2a_pb2.TaskStatus(state=a2a_pb2.TASK_STATE_SUBMITTED)
            await event_queue.enqueue_event(
                a2a_pb2.Task(
                    id=context.task_id, context_id=context.context_id, status=status, history=[context.message]
                )
            )
        details = {**context.metadata, **MessageToDict(context.message.metadata)}
        name = self._choose_agent(details)

        async def run_task() -> str:
            await updater.start_work()
            return await self._handler(context.get_user_input(), context)

        try:
            lease = self._agent.scheduler.hold(name, make_task(details, context.task_id))
            with as_agent(name, session=context.context_id, run=context.task_id):
                answer = await run_under_lease(lease, run_task)
        except AcquireRejectedError as error:
            await updater.reject(_make_message(updater, str(error)))
        except Exception as error:
            await updater.failed(_make_message(updater, f"{type(error).__name__}: {error}"))
        else:
            await updater.add_artifact([a2a_pb2.Part(text=answer)], name="answer")
            await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Report a task as canceled. The SDK has cancelled `execute` before, which released the slot."""
        if context.task_id is not None and context.context_id is not None:
            await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()

    def _choose_agent(self, details: Mapping[str, Any]) -> str:
        """Return the caller's agent; the served one if it is not named, or if there are too many already."""
        name = read_agent_name(details)
        known = self._agent.scheduler.agents
        return self._agent.name if name is None or (name not in known and len(known) >= _MAX_AGENTS) else name


def _make_message(updater: TaskUpdater, text: str) -> a2a_pb2.Message:
    return updater.new_agent_message([a2a_pb2.Part(text=text)])
