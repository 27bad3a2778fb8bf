"""Who is calling: the name under which a request queues.

In this order: `as_agent`, the readers that instrumentations add, `gen_ai.agent.name` on the current span (as agent
frameworks set it), `LOCO_AGENT_ID`, the service's name.
"""

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple, Self

from opentelemetry import trace

from loco_otel._telemetry.current import get_current

AGENT_NAME = "gen_ai.agent.name"
UNKNOWN = "unknown"


class Identity(NamedTuple):
    """Who calls, and for whom."""

    agent: str
    tenant: str | None = None


_explicit: ContextVar[tuple[Identity, ...]] = ContextVar("loco_otel_agent", default=())
"""What the `as_agent` bodies say that the code here runs in, the innermost last."""

readers: list[Callable[[], str | None]] = []
"""Ways to ask an agent framework who is running; the first that knows is believed."""


class as_agent:  # noqa: N801 - reads as a phrase: `with as_agent("analyst"):`
    """Say who makes the calls in a `with` body, in this thread or task and in those that inherit its context.

    One object may be entered any number of times, by several threads and tasks at once too.

    Args:
        agent: the name under which its calls queue, wait and spend.
        tenant: for whom it works.

    """

    __slots__ = ("_identity",)

    def __init__(self, agent: str, *, tenant: str | None = None) -> None:
        self._identity = Identity(checked_name(agent), tenant)

    def __enter__(self) -> Self:
        _explicit.set((*_explicit.get(), self._identity))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        said = _explicit.get()
        for index in reversed(range(len(said))):
            if said[index] is self._identity:
                _explicit.set((*said[:index], *said[index + 1 :]))
                return
        # It is not said here: a generator is closed in another context, perhaps by the garbage collector.


def checked_name(agent: str) -> str:
    """Return an agent's name.

    Raises:
        ValueError: it is none.

    """
    if not (isinstance(agent, str) and agent):
        raise ValueError(f"agent must be a name, not {agent!r}")
    return agent


def who(default: str) -> Identity:
    """Tell who is calling; `default` where nothing says so."""
    said = _explicit.get()
    if said:
        return said[-1]
    for read in readers:
        agent = read()
        if agent:
            return Identity(agent)
    context = get_current()
    if context:  # else there is no span in it
        attributes = getattr(trace.get_current_span(context), "attributes", None)
        if attributes:
            agent = attributes.get(AGENT_NAME)
            if agent:
                return Identity(str(agent))
    return Identity(default)
