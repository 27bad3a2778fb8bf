"""Who is calling: the name under which a request queues.

Agent, workflow and session come, each from the first source that knows it, from: `as_agent`, what an agent framework
pushed, the frameworks' readers by rank, the current span (`gen_ai.agent.name`, `gen_ai.workflow.name`,
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
    """Who calls, and for whom."""

    agent: str
    tenant: str | None = None
    team: str | None = None
    workflow: str | None = None
    session: str | None = None


_NOBODY = (None,) * len(Identity._fields)
_BAGGAGE_KEYS = tuple([f"loco.{name}" for name in Identity._fields[1:]])

explicit_identities: ContextVar[tuple[tuple["as_agent", Identity], ...]] = ContextVar("loco_otel_agent", default=())
"""The `as_agent` bodies that the code here runs in, and who calls there; the innermost last."""


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
        others = (tenant, team, workflow, session)
        for name, value in zip(Identity._fields[1:], others, strict=True):
            if value is not None and not (isinstance(value, str) and value):
                raise ValueError(f"{name} must be a name or None, not {value!r}")
        self._identity = Identity(
            validate_agent_name(agent),
            *[None if value is None else replace_surrogates(value) for value in others],
        )

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
    """Return an agent's name, as valid Unicode.

    Raises:
        ValueError: it is none.

    """
    if not (isinstance(agent, str) and agent):
        raise ValueError(f"agent must be a name, not {agent!r}")
    return str(replace_surrogates(agent))


def resolve_identity(default: str) -> Identity:
    """Return who is calling; `default` is the agent where no source knows it."""
    said = explicit_identities.get()
    context = get_current()
    has_frameworks = agent_readers.readers or pushed_identities.get()
    # The fast path: without frameworks, spans and baggage there is nothing to merge.
    if not context and not has_frameworks:
        return said[-1][1] if said else Identity(default)
    agent, tenant, team, workflow, session = said[-1][1] if said else _NOBODY
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


def _first_non_none(said: str | None, otherwise: str | None) -> str | None:
    return otherwise if said is None else said


def _convert_name(value: object) -> str | None:
    return None if value is None else clean_name(str(value))
