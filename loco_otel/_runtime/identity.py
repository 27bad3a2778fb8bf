"""The identity of the caller: the name under which a request queues.

Agent, workflow and session are each taken from the first source that has a value: `as_agent`, the identity that a
framework pushed, the frameworks' readers by rank, the current span (`gen_ai.agent.name`, `gen_ai.workflow.name`,
`gen_ai.conversation.id`), OpenTelemetry's baggage (`loco.workflow`, `loco.session`), and for the agent `LOCO_AGENT_ID`
and the service's name. Tenant, team and priority come from `as_agent`, or else from baggage (`loco.tenant`,
`loco.team`, `loco.priority`); the deadline from `as_agent`. The run is that of `as_agent`, of the outermost framework,
the trace of the current span, or the session.
"""

from contextvars import ContextVar
from math import inf
from types import TracebackType
from typing import Any, NamedTuple, Self

from opentelemetry import trace
from opentelemetry.context import Context

from loco_otel import clock
from loco_otel._runtime import agent_readers
from loco_otel._runtime.agent_readers import clean_name, pushed_identities, read_frameworks, replace_surrogates
from loco_otel._telemetry.current_context import get_baggage, get_current, get_span, read_attributes
from loco_otel._telemetry.foreign_instrumentors import is_inference_span
from loco_otel.events import Priority

_AGENT_NAME = "gen_ai.agent.name"
_WORKFLOW_NAME = "gen_ai.workflow.name"
_CONVERSATION_ID = "gen_ai.conversation.id"
UNKNOWN_AGENT = "unknown"


class Identity(NamedTuple):
    """The origin of a call: its agent, what the agent works for, and how urgent the call is."""

    agent: str
    """Of an `as_agent` body, empty if that leaves it to the other sources."""
    tenant: str | None = None
    team: str | None = None
    workflow: str | None = None
    session: str | None = None
    run: str | None = None
    """The piece of work that the call belongs to, with all that it started."""
    priority: Priority | None = None
    """None is `Priority.NORMAL`."""
    deadline: float | None = None
    """The time of `clock.monotonic` by which the call must have its slot."""


_UNKNOWN = Identity("")
_BAGGAGE_KEYS = ("loco.tenant", "loco.team", "loco.workflow", "loco.session")
_BAGGAGE_PRIORITY = "loco.priority"
_PRIORITIES = {str(priority): priority for priority in Priority}

inherited_run: ContextVar[str | None] = ContextVar("loco_otel_run", default=None)
"""In a thread that works for another: the run that the other has without `as_agent` and frameworks."""

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
        session: the conversation.
        run: the piece of work that the calls belong to, such as one request of a user, with all that it starts.
        priority: `interactive`, `normal` or `background`; see `docs/policies.md`.
        deadline: seconds from entering the body within which its calls must have got their slots. Later calls are
            rejected with `DeadlineExceededError`. Of nested bodies the earliest deadline applies.

    Raises:
        ValueError: a name is not a non-empty string, `priority` is none of the three, or `deadline` is no number of
            seconds of at least 0.

    Example:
        >>> import loco_otel
        >>> with as_agent('analyst'), loco_otel.slot():
        ...     [agent.agent for agent in loco_otel.snapshot().resources[0].agents]
        ['analyst']
        >>> with as_agent(run='r-1', priority='interactive', deadline=30.0):  # the agent is identified as without it
        ...     loco_otel.slot().agent
        'unknown'

    """

    __slots__ = ("_identity", "_seconds")

    def __init__(
        self,
        agent: str | None = None,
        *,
        tenant: str | None = None,
        team: str | None = None,
        workflow: str | None = None,
        session: str | None = None,
        run: str | None = None,
        priority: str | None = None,
        deadline: float | None = None,
    ) -> None:
        others = {"tenant": tenant, "team": team, "workflow": workflow, "session": session, "run": run}
        for name, value in others.items():
            if value is not None and not (isinstance(value, str) and value):
                raise ValueError(f"{name} must be a non-empty string or None, not {value!r}")
        self._seconds = None if deadline is None else _validate_deadline(deadline)
        names = map(replace_surrogates, others.values())
        identity = Identity("" if agent is None else validate_agent_name(agent), *names)
        self._identity = identity._replace(priority=None if priority is None else _validate_priority(priority))

    def __enter__(self) -> Self:
        entered = explicit_identities.get()
        identity = self._identity
        if self._seconds is not None:
            identity = identity._replace(deadline=clock.monotonic() + self._seconds)
        if entered:
            identity = _nest_identity(identity, entered[-1][1])
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
    """Return the name of an agent, as valid Unicode.

    Raises:
        ValueError: it is not a non-empty string.

    """
    if not (isinstance(agent, str) and agent):
        raise ValueError(f"agent must be a non-empty string, not {agent!r}")
    return str(replace_surrogates(agent))


def _validate_priority(priority: str) -> Priority:
    try:
        return Priority(priority)
    except ValueError:
        raise ValueError(f"priority must be one of {', '.join(Priority)} or None, not {priority!r}") from None


def _validate_deadline(seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < inf:
        raise ValueError(f"deadline must be a number of seconds of at least 0 or None, not {seconds!r}")
    return float(seconds)


def _nest_identity(identity: Identity, around: Identity) -> Identity:
    """Return the identity in an `as_agent` body within another one, whose deadline it cannot extend."""
    deadlines = [each.deadline for each in (identity, around) if each.deadline is not None]
    nested = Identity(identity.agent or around.agent, *map(_first_non_none, identity[1:], around[1:]))
    return nested._replace(deadline=min(deadlines, default=None))


def resolve_identity(default: str) -> Identity:
    """Return the identity of the caller; `default` is the agent if no source has one."""
    entered = explicit_identities.get()
    context = get_current()
    has_frameworks = agent_readers.readers or pushed_identities.get()
    # Fast path, equal to the code below: without frameworks, spans and baggage there is nothing to merge.
    if not context and not has_frameworks:
        inherited = inherited_run.get()
        if not entered:
            return Identity(default) if inherited is None else Identity(default, run=inherited)
        explicit = entered[-1][1]
        if explicit.agent and (explicit.run or not (inherited or explicit.session)):
            return explicit
        return explicit._replace(agent=explicit.agent or default, run=explicit.run or inherited or explicit.session)
    agent, tenant, team, workflow, session, run, priority, deadline = entered[-1][1] if entered else _UNKNOWN
    if has_frameworks and not (agent and workflow and session and run):
        found = read_frameworks()
        agent = agent or found.agent or ""
        workflow, session, run = workflow or found.workflow, session or found.session, run or found.run
    run = run or inherited_run.get()
    if context:
        span = get_span(context)
        run = run or _find_span_run(span)
        if not (agent and workflow and session):
            attributes = read_attributes(span)
            if attributes:
                agent = agent or _convert_name(attributes.get(_AGENT_NAME)) or ""
                workflow = workflow or _convert_name(attributes.get(_WORKFLOW_NAME))
                session = session or _convert_name(attributes.get(_CONVERSATION_ID))
        carried = get_baggage(context)
        if carried:
            tenant, team, workflow, session = map(
                _first_non_none,
                (tenant, team, workflow, session),
                map(_convert_name, map(carried.get, _BAGGAGE_KEYS)),
            )
            priority = priority or _PRIORITIES.get(str(carried.get(_BAGGAGE_PRIORITY)))
    return Identity(agent or default, tenant, team, workflow, session, run or session, priority, deadline)


def find_trace_run(context: Context) -> str | None:
    """Return the run that the current trace is, here or where this thread's work comes from; None without one."""
    run = inherited_run.get()
    return run if run is not None or not context else _find_span_run(get_span(context))


def _find_span_run(span: trace.Span) -> str | None:
    """Return the run that a span's trace is.

    An inference span without a parent is no piece of work, but one call: an instrumentation has begun it.
    """
    span_context = span.get_span_context()
    if not span_context.is_valid or (getattr(span, "parent", span) is None and is_inference_span(span)):
        return None
    return trace.format_trace_id(span_context.trace_id)


def _first_non_none(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _convert_name(value: object) -> str | None:
    return None if value is None else clean_name(str(value))
