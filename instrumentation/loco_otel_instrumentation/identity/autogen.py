"""AutoGen: the agents of a runtime (`autogen_core`), chat agents and teams (`autogen_agentchat`)."""

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from loco_otel.patching import FrameworkHooks, IdentityHooks, PartialIdentity, Target, create_run_id

_NAME = "autogen"
_AGENT = "autogen_agentchat.agents._base_chat_agent"

_hooks = IdentityHooks(_NAME)

_streams: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""The last stream of each team, by the team's id. It has the identity of the team while it runs."""


def create_core_hooks() -> FrameworkHooks:
    """Return the hook around each message that a runtime's agent handles."""
    context = _hooks.wrap_context_manager(_read_agent_id)
    return FrameworkHooks(
        (Target("autogen_core._message_handler_context", "MessageHandlerContext", "populate_context", context),),
    )


def create_agent_hooks() -> FrameworkHooks:
    """Return the hooks around a chat agent, which runs without a runtime too."""
    call = _hooks.wrap_async_call(_read_name, is_run=True)
    generator = _hooks.wrap_async_generator(_read_name, is_run=True)
    return FrameworkHooks(
        (
            Target(_AGENT, "BaseChatAgent", "run", call),
            Target(_AGENT, "BaseChatAgent", "run_stream", generator),
            # Programs, and agents that contain others, call it without `run`.
            Target("autogen_agentchat.agents._assistant_agent", "AssistantAgent", "on_messages_stream", generator),
        ),
    )


def create_team_hooks() -> FrameworkHooks:
    """Return the hook around a team. Its messages belong to its run, wherever the runtime was started."""
    return FrameworkHooks(
        (
            Target(
                "autogen_agentchat.teams._group_chat._base_group_chat", "BaseGroupChat", "run_stream", _wrap_team_stream
            ),
        ),
    )


def _wrap_team_stream(wrapped: Callable[..., Any], team: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    stream = _hooks.wrap_async_generator(_read_team, is_run=True)(wrapped, team, args, kwargs)
    # A team that runs already refuses to run.
    if not getattr(team, "_is_running", False):
        _streams[getattr(team, "_team_id", "")] = stream
    return stream


def _read_agent_id(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PartialIdentity:
    agent_id = args[0] if args else kwargs["ctx"]
    # The agents of a team have its id as their key and as the end of their type. A runtime that was started before the
    # team handles their messages in a context without it.
    team: PartialIdentity = getattr(_streams.get(agent_id.key), "identity", None) or PartialIdentity()
    return PartialIdentity(
        agent=agent_id.type.removesuffix(f"_{agent_id.key}"),
        workflow=team.workflow,
        run=team.run,
        session=None if agent_id.key == "default" else agent_id.key,
    )


def _read_name(agent: Any, _: tuple[Any, ...], __: dict[str, Any]) -> PartialIdentity:
    return PartialIdentity(agent=agent.name, run=create_run_id())


def _read_team(team: Any, _: tuple[Any, ...], __: dict[str, Any]) -> PartialIdentity:
    return PartialIdentity(workflow=team.name, run=create_run_id())
