"""Who is calling: the name under which a request queues.

In this order: `as_agent`, the readers that instrumentations add, `gen_ai.agent.name` on the current span (as agent
frameworks set it), `LOCO_AGENT_ID`, the service's name. Tenant, team, workflow and session that `as_agent` does not say
come from OpenTelemetry's baggage: `loco.tenant`, `loco.team`, `loco.workflow`, `loco.session`.
"""

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple, Self

from opentelemetry import baggage, trace
from opentelemetry.context import Context

from loco_otel._telemetry.current_context import get_current

AGENT_NAME = "gen_ai.agent.name"
UNKNOWN_AGENT = "unknown"


class Identity(NamedTuple):
    """Who calls, and for whom."""

    agent: str
    tenant: str | None = None
    team: str | None = None
    workflow: str | None = None
    session: str | None = None


_BAGGAGE_KEYS = tuple([f"loco.{name}" for name in Identity._fields[1:]])
_MAX_NAME_LENGTH = 200
"""Characters of a name from baggage, which may come with a request from anywhere."""

explicit_identities: ContextVar[tuple[tuple["as_agent", Identity], ...]] = ContextVar("loco_otel_agent", default=())
"""The `as_agent` bodies that the code here runs in, and who calls there; the innermost last."""

readers: list[Callable[[], str | None]] = []
"""Ways to ask an agent framework who is running; the first that knows is believed."""


class as_agent:  # noqa: N801 - reads as a phrase: `with as_agent("analyst"):`
    """Say who makes the calls in a `with` body, in this thread or task and in those that inherit its context.

    One object may be entered any number of times, by several threads and tasks at once too.

    Args:
        agent: the name under which its calls queue, wait and spend.
        tenant: for whom it works.
        team: to whom its spending is charged beside it.
        workflow: which work its calls belong to.
        session: which conversation or run of it.

    What is not said is as in the `as_agent` body around it.

    Raises:
        ValueError: a name is none.

    """

    __slots__ = ("_identity",)

    def __init__(
        self,
        agent: str,
        *,
        tenant: str | None = None,
        team: str | None = None,
        workflow: str | None = None,
        session: str | None = None,
    ) -> None:
        self._identity = Identity(validate_agent_name(agent), tenant, team, workflow, session)
        for name, value in zip(Identity._fields[1:], self._identity[1:], strict=True):
            if value is not None and not (isinstance(value, str) and value):
                raise ValueError(f"{name} must be a name or None, not {value!r}")

    def __enter__(self) -> Self:
        said = explicit_identities.get()
        identity = self._identity
        if said:
            around = said[-1][1]
            identity = Identity(identity.agent, *map(_first_non_none, identity[1:], around[1:]))
        explicit_identities.set((*said, (self, identity)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        said = explicit_identities.get()
        for index in reversed(range(len(said))):
            if said[index][0] is self:
                explicit_identities.set((*said[:index], *said[index + 1 :]))
                return
        # It is not said here: a generator is closed in another context, perhaps by the garbage collector.


def validate_agent_name(agent: str) -> str:
    """Return an agent's name.

    Raises:
        ValueError: it is none.

    """
    if not (isinstance(agent, str) and agent):
        raise ValueError(f"agent must be a name, not {agent!r}")
    return agent


def resolve_identity(default: str) -> Identity:
    """Tell who is calling; `default` where nothing says so."""
    said = explicit_identities.get()
    context = get_current()
    identity = said[-1][1] if said else Identity(_resolve_agent(context, default))
    if context:
        carried = baggage.get_all(context)
        if carried:
            return Identity(
                identity.agent,
                *map(_first_non_none, identity[1:], map(_read_baggage_value, map(carried.get, _BAGGAGE_KEYS))),
            )
    return identity


def _resolve_agent(context: Context, default: str) -> str:
    for read in readers:
        agent = read()
        if agent:
            return agent
    if context:  # else there is no span in it
        attributes = getattr(trace.get_current_span(context), "attributes", None)
        if attributes:
            agent = attributes.get(AGENT_NAME)
            if agent:
                return str(agent)
    return default


def _first_non_none(said: str | None, otherwise: str | None) -> str | None:
    return otherwise if said is None else said


def _read_baggage_value(value: object) -> str | None:
    return str(value)[:_MAX_NAME_LENGTH] or None if value is not None else None
