"""Who is calling: the name under which a request queues.

In this order: `as_agent`, the readers that instrumentations add, `gen_ai.agent.name` on the current span (as agent
frameworks set it), `LOCO_AGENT_ID`, the service's name.
"""

from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import NamedTuple, Self

from opentelemetry import trace

AGENT_NAME = "gen_ai.agent.name"
UNKNOWN = "unknown"


class Identity(NamedTuple):
    """Who calls, and for whom."""

    agent: str
    tenant: str | None = None


_explicit: ContextVar[Identity | None] = ContextVar("loco_otel_agent", default=None)

readers: list[Callable[[], str | None]] = []
"""Ways to ask an agent framework who is running; the first that knows is believed."""


class as_agent:  # noqa: N801 - reads as a phrase: `with as_agent("analyst"):`
    """Say who makes the calls in a `with` body, in this thread or task and in those that inherit its context.

    Args:
        agent: the name under which its calls queue, wait and spend.
        tenant: for whom it works.

    """

    __slots__ = ("_identity", "_token")

    def __init__(self, agent: str, *, tenant: str | None = None) -> None:
        if not agent:
            raise ValueError("agent must be a name, not an empty string")
        self._identity = Identity(agent, tenant)
        self._token: Token[Identity | None] | None = None

    def __enter__(self) -> Self:
        self._token = _explicit.set(self._identity)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        if self._token is not None:
            _explicit.reset(self._token)


def who(default: str) -> Identity:
    """Tell who is calling; `default` where nothing says so."""
    identity = _explicit.get()
    if identity is not None:
        return identity
    for read in readers:
        agent = read()
        if agent:
            return Identity(agent)
    attributes = getattr(trace.get_current_span(), "attributes", None)
    if attributes:
        agent = attributes.get(AGENT_NAME)
        if agent:
            return Identity(str(agent))
    return Identity(default)
