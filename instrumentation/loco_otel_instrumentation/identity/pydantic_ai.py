"""Pydantic AI: the nodes of an agent's graph that call its model and its tools.

`get_current_run_context` covers neither streams nor tools in each version, so the agent is pushed. The session is the
conversation, for which Pydantic AI makes an id per run unless the program passes one.
"""

from typing import Any

from loco_otel.patching import FrameworkHooks, IdentityHooks, PartialIdentity, Target

_NAME = "pydantic_ai"
_GRAPH = "pydantic_ai._agent_graph"
_STREAM = "pydantic_ai.models._continuation"
_TOOLS = "pydantic_ai.tool_manager"


def create_hooks() -> FrameworkHooks:
    """Return the hooks around the requests of a model, and around tools."""
    hooks = IdentityHooks(_NAME)
    call, stream = hooks.wrap_async_call(_read_graph), hooks.wrap_async_generator(_read_stream)
    return FrameworkHooks(
        (
            Target(_GRAPH, "ModelRequestNode", "run", call),
            Target(_GRAPH, "ModelRequestNode", "stream", hooks.wrap_async_context_manager(_read_graph)),
            # The request of a stream is sent when the program iterates, and tools run then.
            Target(_STREAM, "_ContinuationStreamedResponse", "_get_event_iterator", stream),
            Target(_GRAPH, "CallToolsNode", "run", call),
            Target(_TOOLS, "ToolManager", "execute_tool_call", hooks.wrap_async_call(_read_tool_manager)),
        ),
    )


def _read_graph(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PartialIdentity:
    context = args[0] if args else kwargs["ctx"]
    return PartialIdentity(
        agent=context.deps.agent.name,
        session=getattr(context.state, "conversation_id", None),
        run=getattr(context.state, "run_id", None),
    )


def _read_stream(stream: Any, _: tuple[Any, ...], __: dict[str, Any]) -> PartialIdentity | None:
    return _read_run(stream.run_context)


def _read_tool_manager(manager: Any, _: tuple[Any, ...], __: dict[str, Any]) -> PartialIdentity | None:
    return _read_run(manager.ctx)


def _read_run(context: Any) -> PartialIdentity | None:
    """Return the identity of a `RunContext`; None without one, as a model can be called without an agent."""
    if context is None or context.agent is None:
        return None
    return PartialIdentity(
        agent=context.agent.name,
        session=getattr(context, "conversation_id", None),
        run=getattr(context, "run_id", None),
    )
