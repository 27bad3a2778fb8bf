"""The identity of the caller: the name under which a request queues.

Agent, workflow and session are each taken from the first source that has a value: `as_agent`, the identity that a
framework pushed, the frameworks' readers by rank, the current span (`gen_ai.agent.name`, `gen_ai.workflow.name`,
`gen_ai.conversation.id`), OpenTelemetry's baggage (`loco.workflow`, `loco.session`), and for the agent `LOCO_AGENT_ID`
and the service's name. Tenant and team come from `as_agent`, or else from baggage (`loco.tenant`, `loco.team`).
"""

from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple, Self

from opentelemetry import baggage, trace

from loco_otel._runtime import agent_readers
from loco_otel._runtime.agent_readers import clean_name, pushed_identities, read_frameworks, replace_surrogates
from loco_otel._telemetry.current_context import get_current

_AGENT_NAME = "gen_ai.agent.name"
_WORKFLOW_NAME = "gen_ai.workflow.name"
_CONVERSATION_ID = "gen_ai.conversation.id"
UNKNOWN_AGENT = "unknown"


class Identity(NamedTuple):
    """The agent of a call, with its tenant, team, workflow and session."""

    agent: str
    tenant: str | None = None
    team: str | None = None
    workflow: str | None = None
    session: str | None = None


_UNKNOWN = (None,) * len(Identity._fields)
_BAGGAGE_KEYS = tuple([f"loco.{name}" for name in Identity._fields[1:]])

explicit_identities: ContextVar[tuple[tuple["as_agent", Identity], ...]] = ContextVar("loco_otel_agent", default=())
"""The `as_agent` bodies around the current code, each with its identity; the innermost last."""


class as_agent:  # noqa: N801 - reads as a phrase: `with as_agent("analyst"):`
    """Set the identity of the calls in a `with` body, in this thread or task and in those that inherit its context.

    Reentrant and thread-safe: one object may be entered any number of times, also concurrently. An argument that is
    None keeps the value of the enclosing `as_agent` body.

    Args:
        agent: the agent's name: its calls queue, wait and spend under it.
        tenant: the tenant of the agent.
        team: the team that is also charged.
        workflow: the workflow that the calls belong to.
        session: the conversation or run.

    Raises:
        ValueError: a name is not a non-empty string.

    Example:
        >>> import loco_otel
        >>> with as_agent('analyst'), loco_otel.slot():
        ...     [agent.agent for agent in loco_otel.snapshot().resources[0].agents]
        ['analyst']

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
        others = (tenant, team, workflow, session)
        for name, value in zip(Identity._fields[1:], others, strict=True):
            if value is not None and not (isinstance(value, str) and value):
                raise ValueError(f"{name} must be a non-empty string or None, not {value!r}")
        self._identity = Identity(
            replace_surrogates(validate_agent_name(agent)),
            *[None if value is None else replace_surrogates(value) for value in others],
        )

    def __enter__(self) -> Self:
        entered = explicit_identities.get()
        identity = self._identity
        if entered:
            around = entered[-1][1]
            identity = Identity(identity.agent, *map(_first_non_none, identity[1:], around[1:]))
        explicit_identities.set((*entered, (self, identity)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        entered = explicit_identities.get()
        for index in reversed(range(len(entered))):
            if entered[index][0] is self:
                explicit_identities.set((*entered[:index], *entered[index + 1 :]))
                return
        # This context never entered it: a generator can be closed in another context, for example by a finalizer.


def validate_agent_name(agent: str) -> str:
    """Return the name of an agent.

    Raises:
        ValueError: it is not a non-empty string.

    """
    if not (isinstance(agent, str) and agent):
        raise ValueError(f"agent must be a non-empty string, not {agent!r}")
    return agent


def resolve_identity(default: str) -> Identity:
    """Return the identity of the caller; `default` is the agent if no source has one."""
    entered = explicit_identities.get()
    context = get_current()
    has_frameworks = agent_readers.readers or pushed_identities.get()
    # Fast path, equal to the code below: without frameworks, spans and baggage there is nothing to merge.
    if not context and not has_frameworks:
        return entered[-1][1] if entered else Identity(default)
    agent, tenant, team, workflow, session = entered[-1][1] if entered else _UNKNOWN
    if has_frameworks and not (agent and workflow and session):
        found = read_frameworks()
        agent, workflow, session = agent or found.agent, workflow or found.workflow, session or found.session
    if context:
        if not (agent and workflow and session):
            attributes = getattr(trace.get_current_span(context), "attributes", None)
            if attributes:
                agent = agent or _convert_name(attributes.get(_AGENT_NAME))
                workflow = workflow or _convert_name(attributes.get(_WORKFLOW_NAME))
                session = session or _convert_name(attributes.get(_CONVERSATION_ID))
        carried = baggage.get_all(context)
        if carried:
            tenant, team, workflow, session = map(
                _first_non_none,
                (tenant, team, workflow, session),
                map(_convert_name, map(carried.get, _BAGGAGE_KEYS)),
            )
    return Identity(agent or default, tenant, team, workflow, session)


def _first_non_none(value: str | None, otherwise: str | None) -> str | None:
    return otherwise if value is None else value


def _convert_name(value: object) -> str | None:
    return None if value is None else clean_name(str(value))
