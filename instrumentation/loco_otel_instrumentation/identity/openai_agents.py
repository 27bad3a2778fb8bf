"""The OpenAI Agents SDK: each run of an agent is a span of its own, with tracing disabled too.

Its spans do not know their parents, so the agent is pushed when its span becomes current, and popped when that is
undone. The trace has the workflow and the group, which is read as the session.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from agents.tracing.scope import Scope

from loco_otel.patching import (
    PartialIdentity,
    Target,
    create_run_id,
    pop_identity,
    push_identity,
    record_reader_fault,
)

_NAME = "openai_agents"
_MODULE = "agents.tracing.scope"

_DISABLED = "no-op"
"""The name and the id of a trace with tracing disabled."""
_UNNAMED_WORKFLOWS = frozenset({"Agent workflow", _DISABLED})
"""The names of a trace that got none."""

_run_ids: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""The runs of traces without an id."""


class OpenAIAgentsReader:
    """Names calls after the agent that runs, under the trace's workflow and group."""

    name = _NAME
    rank = 20

    def list_targets(self) -> tuple[Target, ...]:
        """Return the two methods through which each span becomes current, and is no longer."""
        return (
            Target(_MODULE, "Scope", "set_current_span", _push_agent),
            Target(_MODULE, "Scope", "reset_current_span", _pop_agent),
        )

    def read_identity(self) -> PartialIdentity | None:
        """Return the current trace's workflow and group; None outside a trace."""
        trace = Scope.get_current_trace()
        if trace is None:
            return None
        return PartialIdentity(
            workflow=None if trace.name in _UNNAMED_WORKFLOWS else trace.name,
            session=getattr(trace, "group_id", None),
            run=_read_run(trace),
        )


def _read_run(trace: Any) -> str:
    run: str = trace.trace_id
    return run if run != _DISABLED else _run_ids.setdefault(trace, create_run_id())


def _push_agent(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    token = wrapped(*args, **kwargs)
    try:
        data = getattr(Scope.get_current_span(), "span_data", None)
        if data is not None and data.type == "agent":
            push_identity(token, PartialIdentity(agent=data.name))
    except Exception as error:
        record_reader_fault(_NAME, error)
    return token


def _pop_agent(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = wrapped(*args, **kwargs)
    try:
        pop_identity(args[0] if args else kwargs["token"])
    except Exception as error:
        record_reader_fault(_NAME, error)
    return result
