"""What is asked of the scheduler, and what it cost: requests and spending.

Programs import them from `loco_otel.events`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

from loco_otel.money import Action, BilledItem

MILLI = 1000
"""Milli-weights in one unit of weight."""
DEFAULT_RESOURCE = "llm_api"


class Priority(StrEnum):
    """How urgent a request is, the most urgent first.

    Example:
        >>> Priority('background') is Priority.BACKGROUND
        True

    """

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BACKGROUND = "background"


class Request(NamedTuple):
    """A request to the scheduler, with everything that its admission depends on.

    Example:
        >>> request = Request('analyst', 2 * MILLI, ('llm_api',), 30.0)
        >>> request.agent, request.resources
        ('analyst', ('llm_api',))

    """

    agent: str
    weight: int = MILLI
    """Milli-weights."""
    resources: tuple[str, ...] = (DEFAULT_RESOURCE,)
    """The resources, acquired atomically: all or none."""
    timeout: float | None = None
    """Timeout in seconds; 0 takes a free slot or fails at once."""
    admission: bool = False
    """Check the budgets after the slot is granted and before the call is sent."""
    tenant: str | None = None
    task_type: str = "default"
    provider: str | None = None
    model: str | None = None
    labels: Mapping[str, str] | None = None
    settles: bool = False
    """Whether a `Spent` event follows, unless the call fails."""
    context: object = None
    """Opaque data of the listeners; the scheduler never reads it."""
    tokens: int = 0
    """The expected input and output tokens, for token limits."""
    run: str | None = None
    """The piece of work that it belongs to."""
    priority: Priority = Priority.NORMAL
    deadline: float | None = None
    """The time of the scheduler's clock by which it must be granted."""
    session: str | None = None
    """The conversation that it belongs to."""
    workflow: str | None = None


MAX_TOKENS = 100_000_000
"""The most tokens of one call; a larger count is an error of the server."""


class Usage(NamedTuple):
    """Tokens of one call, as the provider counts them.

    Example:
        >>> Usage(120, 30).output_tokens
        30

    """

    input_tokens: int
    output_tokens: int
    estimated: bool = False
    """True if the provider reported no usage, or the body ended before it did."""
    cache_read_tokens: int | None = None
    """Input tokens read from the provider's cache; None if not reported."""
    cache_write_tokens: int | None = None
    """Input tokens written to the provider's cache."""
    reasoning_tokens: int | None = None
    """Output tokens used for reasoning."""
    items: tuple[BilledItem, ...] = ()
    """All else that the provider reports and bills."""


class Spending(NamedTuple):
    """The cost of one call.

    Example:
        >>> Spending(Usage(120, 30), 1500, 'gpt-4o').usage.input_tokens
        120

    """

    usage: Usage | None
    weight: int
    """Milli-weights."""
    model: str | None
    """The model in the provider's answer."""
    response_id: str | None = None
    """The provider's id of its answer."""
    finish_reasons: tuple[str, ...] = ()
    """Why the model stopped, one for each choice."""
    usd: int | None = None
    """Micro-USD; None if the model's price is unknown."""
    remaining: int | None = None
    """Micro-USD left in the tightest USD budget, without reservations; None without one."""
    action: Action | None = None
    """The action of a budget without room for the call."""
    sent_model: str | None = None
    """The model that the call was sent with, if it is not the one that the program named."""
    unpriced: tuple[str, ...] = ()
    """What of the call has no known price and is not in `usd`, by kind of `BilledItem`; empty without any price."""
    service_tier: str | None = None
    """The service tier of the answer, in the provider's words."""


class TicketView(Protocol):
    """A ticket as listeners see it: its id and its request."""

    @property
    def id(self) -> str:
        """Unique across processes."""

    @property
    def request(self) -> Request:
        """The request that the ticket was created for."""
