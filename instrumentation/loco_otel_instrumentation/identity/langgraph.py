"""LangGraph, and LangChain's agents on it: the running node's config, which LangChain keeps in a context variable.

The config has the agent's name (`create_agent(name=...)`), the node's, and the thread's. It has no name of the graph.
"""

from typing import Any

from langchain_core.runnables.config import var_child_runnable_config

from loco_otel.patching import PartialIdentity, Target


class LangGraphReader:
    """Names calls after the agent, or else the node, that makes them; the thread is their session."""

    name = "langgraph"
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
