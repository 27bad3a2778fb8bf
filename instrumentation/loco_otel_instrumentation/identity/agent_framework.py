"""Microsoft's Agent Framework: agents, workflows and their executors.

`run` of an agent and of a workflow returns an awaitable, or a stream whose steps run when the program iterates.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from loco_otel.patching import (
    FrameworkHooks,
    IdentityHooks,
    PartialIdentity,
    Target,
    create_run_id,
    record_reader_fault,
)

_NAME = "agent_framework"

_hooks = IdentityHooks(_NAME)


def create_agent_hooks() -> FrameworkHooks:
    """Return the hook around each agent that calls a chat client."""
    return FrameworkHooks((Target("agent_framework._agents", "RawAgent", "run", _run_agent),))


def create_workflow_hooks() -> FrameworkHooks:
    """Return the hooks around a workflow, and around each executor in it."""
    execute = _hooks.wrap_async_call(_read_executor)
    return FrameworkHooks(
        (
            Target("agent_framework._workflows._workflow", "Workflow", "run", _run_workflow),
            Target("agent_framework._workflows._executor", "Executor", "execute", execute),
        ),
    )


def _run_agent(wrapped: Callable[..., Any], agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _name_result(wrapped(*args, **kwargs), _hooks.try_read(_read_agent, agent, args, kwargs))


def _run_workflow(wrapped: Callable[..., Any], workflow: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _name_result(wrapped(*args, **kwargs), _hooks.try_read(_read_workflow, workflow, args, kwargs))


def _name_result(result: Any, identity: PartialIdentity | None) -> Any:
    if identity is None:
        return result
    if hasattr(result, "__aiter__"):
        try:
            result.with_pull_context_manager(partial(_hooks.push, identity))
        except Exception as error:
            record_reader_fault(_NAME, error)
        return result
    return _await_named(result, identity)


async def _await_named(result: Any, identity: PartialIdentity) -> Any:
    with _hooks.push(identity):
        return await result


def _read_agent(agent: Any, _: tuple[Any, ...], kwargs: dict[str, Any]) -> PartialIdentity:
    session = kwargs.get("session")
    return PartialIdentity(
        agent=agent.name, session=None if session is None else session.session_id, run=create_run_id()
    )


def _read_workflow(workflow: Any, _: tuple[Any, ...], __: dict[str, Any]) -> PartialIdentity:
    return PartialIdentity(workflow=workflow.name, run=create_run_id())


def _read_executor(executor: Any, _: tuple[Any, ...], __: dict[str, Any]) -> PartialIdentity:
    return PartialIdentity(agent=executor.id)
