"""The Claude Agent SDK, whose child process `claude` calls the models."""

from loco_otel.patching import LocoInstrumentor, Target
from loco_otel_instrumentation.claude_agent_sdk import hooks

__all__ = ["ClaudeAgentInstrumentor"]

_CLIENT = "claude_agent_sdk.client"
_QUERY = "claude_agent_sdk._internal.query"


class ClaudeAgentInstrumentor(LocoInstrumentor):
    """Schedules turns, of `query` and of `ClaudeSDKClient`: one slot from the prompt to its `ResultMessage`."""

    sdk = "claude_agent_sdk"
    requires = "claude-agent-sdk >= 0.2.82, < 0.3"
    not_covered = ("single requests of a turn", "their retries")

    def list_targets(self) -> tuple[Target, ...]:
        """Return where a turn begins and ends, and where the child process has this one run a tool or a hook."""
        return (
            Target("claude_agent_sdk._internal.client", "InternalClient", "process_query", hooks.wrap_query),
            Target(_CLIENT, "ClaudeSDKClient", "connect", hooks.wrap_connect),
            Target(_CLIENT, "ClaudeSDKClient", "query", hooks.wrap_client_query),
            Target(_CLIENT, "ClaudeSDKClient", "receive_messages", hooks.wrap_receive),
            Target(_CLIENT, "ClaudeSDKClient", "disconnect", hooks.wrap_disconnect),
            Target(_QUERY, "Query", "start", hooks.wrap_start),
            Target(_QUERY, "Query", "_handle_control_request", hooks.wrap_control_request),
        )
