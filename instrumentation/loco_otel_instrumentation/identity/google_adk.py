"""Google ADK: each agent runs in `run_async`, a generator; the invocation has the app and the session."""

from typing import Any

from loco_otel.patching import FrameworkHooks, IdentityHooks, PartialIdentity, Target

_NAME = "google_adk"
_MODULE = "google.adk.agents.base_agent"


def create_hooks() -> FrameworkHooks:
    """Return the hooks around each agent: with its callbacks, its model, its tools and its sub-agents."""
    generator = IdentityHooks(_NAME).wrap_async_generator(_read_agent)
    return FrameworkHooks(
        (
            Target(_MODULE, "BaseAgent", "run_async", generator),
            Target(_MODULE, "BaseAgent", "run_live", generator),
        ),
    )


def _read_agent(agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PartialIdentity:
    invocation = args[0] if args else kwargs["parent_context"]
    return PartialIdentity(
        agent=agent.name,
        workflow=invocation.app_name,
        session=invocation.session.id,
        run=getattr(invocation, "invocation_id", None),
    )
