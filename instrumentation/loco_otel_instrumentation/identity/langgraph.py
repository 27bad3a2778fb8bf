"""LangGraph, and LangChain's agents on it: the running node's config, which LangChain keeps in a context variable.

The config has the agent's name (`create_agent(name=...)`), the node's, and the thread's. It has no name of the graph.
"""

from typing import Any

from langchain_core.runnables.config import var_child_runnable_config

from loco_otel.patching import FrameworkHooks, IdentityHooks, PartialIdentity, Target, create_run_id

_NAME = "langgraph"
_PREGEL = "langgraph.pregel.main"


class LangGraphReader:
    """Names calls after the agent, or else the node, that makes them; the thread is their session."""

    name = _NAME
    rank = 10

    def list_targets(self) -> tuple[Target, ...]:
        """Return nothing to wrap: the config is there to be read."""
        return ()

    def read_identity(self) -> PartialIdentity | None:
        """Return the agent or node, and the thread; None outside a graph."""
        config = var_child_runnable_config.get()
        metadata: dict[str, Any] = (config or {}).get("metadata") or {}
        if not metadata:
            return None
        thread = metadata.get("thread_id")
        return PartialIdentity(
            agent=metadata.get("lc_agent_name") or metadata.get("langgraph_node"),
            # Programs use numbers and UUIDs too.
            session=None if thread is None else str(thread),
        )


def create_graph_hooks() -> FrameworkHooks:
    """Return the hooks around an invocation of a graph, which is a run with all graphs within it.

    One of `create_agent` is named too, as the config that its reader finds may have the name of the agent around it.
    """
    hooks = IdentityHooks(_NAME)
    return FrameworkHooks(
        (
            Target(_PREGEL, "Pregel", "stream", hooks.wrap_generator(_read_invocation, is_run=True)),
            Target(_PREGEL, "Pregel", "astream", hooks.wrap_async_generator(_read_invocation, is_run=True)),
        ),
    )


def _read_invocation(graph: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PartialIdentity:
    config = (args[1] if len(args) > 1 else kwargs.get("config")) or {}
    run = config.get("run_id")
    # A config that a tool passes on has the name of the tool's agent, and replaces the graph's in the merged one.
    bound: dict[str, Any] = (getattr(graph, "config", None) or {}).get("metadata") or {}
    return PartialIdentity(agent=bound.get("lc_agent_name"), run=create_run_id() if run is None else str(run))
