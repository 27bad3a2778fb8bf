"""CrewAI: an agent works on a task of a crew, or is kicked off alone."""

from typing import Any

from loco_otel.patching import FrameworkHooks, IdentityHooks, PartialIdentity, Target, create_run_id

_NAME = "crewai"
_AGENT = "crewai.agent.core"
_CREW = "crewai.crew"
_FLOW = "crewai.flow.flow"
_UNNAMED_CREW = "crew"
"""The name of a crew that got none."""

_hooks = IdentityHooks(_NAME)


def create_crew_hooks() -> FrameworkHooks:
    """Return the hooks around a crew's kickoff, which is a run."""
    return FrameworkHooks(
        (
            Target(_CREW, "Crew", "kickoff", _hooks.wrap_call(_read_kickoff, is_run=True)),
            Target(_CREW, "Crew", "akickoff", _hooks.wrap_async_call(_read_kickoff, is_run=True)),
        ),
    )


def create_flow_hooks() -> FrameworkHooks:
    """Return the hook around a flow, which is a run with all crews in it."""
    return FrameworkHooks((Target(_FLOW, "Flow", "kickoff_async", _hooks.wrap_async_call(_read_kickoff, is_run=True)),))


def create_task_hooks() -> FrameworkHooks:
    """Return the hooks around a task: its agent, its guardrails, and agents of other frameworks that work on it."""
    return FrameworkHooks(
        (
            Target("crewai.task", "Task", "_execute_core", _hooks.wrap_call(_read_task)),
            Target("crewai.task", "Task", "_aexecute_core", _hooks.wrap_async_call(_read_task)),
        ),
    )


def create_agent_hooks() -> FrameworkHooks:
    """Return the hooks around an agent to which another delegates, and one that is kicked off alone."""
    call, async_call = _hooks.wrap_call(_read_agent), _hooks.wrap_async_call(_read_agent)
    return FrameworkHooks(
        (
            Target(_AGENT, "Agent", "execute_task", call),
            Target(_AGENT, "Agent", "aexecute_task", async_call),
            Target(_AGENT, "Agent", "kickoff", call),
            Target(_AGENT, "Agent", "kickoff_async", async_call),
        ),
    )


def _read_kickoff(_: Any, __: tuple[Any, ...], ___: dict[str, Any]) -> PartialIdentity:
    return PartialIdentity(run=create_run_id())


def _read_task(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PartialIdentity | None:
    agent = (args[0] if args else kwargs.get("agent")) or task.agent
    if agent is None:
        return None
    crew = getattr(agent, "crew", None)
    name = getattr(crew, "name", None)
    return PartialIdentity(
        agent=_read_role(agent), workflow=None if name == _UNNAMED_CREW else name, session=str(task.id)
    )


def _read_agent(agent: Any, _: tuple[Any, ...], __: dict[str, Any]) -> PartialIdentity:
    return PartialIdentity(agent=_read_role(agent), run=create_run_id())


def _read_role(agent: Any) -> str:
    # Programs write roles in YAML blocks, which end with a newline.
    return str(agent.role).strip()
