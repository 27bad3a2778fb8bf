"""AutoGen: the agents of a runtime (`autogen_core`), chat agents and teams (`autogen_agentchat`)."""

from typing import Any

from loco_otel.patching import FrameworkHooks, IdentityHooks, PartialIdentity, Target, create_run_id

_NAME = "autogen"
_AGENT = "autogen_agentchat.agents._base_chat_agent"

_hooks = IdentityHooks(_NAME)


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
    """Return the hook around a team. The runtime that it starts inherits the workflow."""
    stream = _hooks.wrap_async_generator(_read_team, is_run=True)
    return FrameworkHooks(
        (Target("autogen_agentchat.teams._group_chat._base_group_chat", "BaseGroupChat", "run_stream", stream),),
    )


def _read_agent_id(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PartialIdentity:
    agent_id = args[0] if args else kwargs["ctx"]
    # The agents of a team have its id as their key and as the end of their type.
    return PartialIdentity(
        agent=agent_id.type.removesuffix(f"_{agent_id.key}"),
        session=None if agent_id.key == "default" else agent_id.key,
    )


def _read_name(agent: Any, _: tuple[Any, ...], __: dict[str, Any]) -> PartialIdentity:
    return PartialIdentity(agent=agent.name, run=create_run_id())


def _read_team(team: Any, _: tuple[Any, ...], __: dict[str, Any]) -> PartialIdentity:
    return PartialIdentity(workflow=team.name, run=create_run_id())
