"""Events of requests and snapshots of the scheduler: the values that all layers share.

Events are in past tense and immutable. `at` is the scheduler's clock in seconds. Weights are milli-weights: exact sums
of integers (a weight of 1.0 is 1000). Events are NamedTuples, as a frozen dataclass costs the hot path five times more.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeAlias

from loco_otel.money import Action, BilledItem, BudgetStatus

MILLI = 1000
"""Milli-weights in one unit of weight."""
DEFAULT_RESOURCE = "llm_api"


class Outcome(StrEnum):
    """How an acquire ended."""

    GRANTED = "granted"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    BACKPRESSURE = "backpressure"
    BUDGET = "budget"
    SHUTDOWN = "shutdown"


class GrantReason(StrEnum):
    """Why a request was granted."""

    FREE = "free"
    """A slot was free and no request waited."""
    SCORE = "score"
    """The policy chose it among the waiters."""
    GUARD = "guard"
    """It was the oldest waiter and had exceeded the longest wait allowed."""
    REENTRANT = "reentrant"
    """Every holder waited for a nested call of its own, so this request shares a holder's slot."""


class WaitReason(StrEnum):
    """What a request waits for as its wait begins; `budget` if the wait ends as its budget is used up."""

    SLOTS = "slots"
    RESERVED = "reserved"
    RATE_LIMIT = "rate_limit"
    PROVIDER_PAUSE = "provider_pause"
    BUDGET = "budget"


class ThrottleKind(StrEnum):
    """The meaning of a provider's refusal."""

    LOAD = "load"
    """Too many requests: the rate must drop."""
    TIMEOUT = "timeout"
    """No answer within the timeout: the provider may be overloaded."""
    SPEND = "spend"
    """A spending limit or an empty account: a lower rate will not help."""


class BypassReason(StrEnum):
    """Why a call was sent unscheduled."""

    INTERNAL_ERROR = "internal_error"
    UNSUPPORTED_RUNTIME = "unsupported_runtime"


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


class RateLimits(NamedTuple):
    """The rate limits in headers of a provider: what remains, the limits, and seconds until all reset."""

    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    requests_reset: float | None = None
    tokens_reset: float | None = None
    requests_limit: int | None = None
    tokens_limit: int | None = None


class TicketView(Protocol):
    """A ticket as listeners see it: its id and its request."""

    @property
    def id(self) -> str:
        """Unique across processes."""

    @property
    def request(self) -> Request:
        """The request that the ticket was created for."""


class Submitted(NamedTuple):
    """A request reached the scheduler."""

    at: float
    ticket: TicketView


class Waiting(NamedTuple):
    """The request was queued."""

    at: float
    ticket: TicketView
    queue_weight: int
    """Qi: milli-weights that its agent has queued, this request included."""
    position: int
    """Position in its agent's own queue; 1 is next."""
    capacity: int | None
    """Slots of the resource; None if it waits for a rate limit only."""
    waiting: int
    """Requests that wait for the resource, including this one."""
    holders: tuple[TicketView, ...]
    """Tickets that hold the resource, at most 16."""
    reason: WaitReason = WaitReason.SLOTS


class Granted(NamedTuple):
    """The request was admitted.

    Example:
        >>> def handle(event: Event) -> None:
        ...     if isinstance(event, Granted):
        ...         print(event.at, event.waited)

    """

    at: float
    ticket: TicketView
    reason: GrantReason
    waited: float
    """Seconds of this wait."""
    waited_ticks: int
    """Ticks of this wait."""
    score: float
    """The score L at the grant; under `fair` the weights by which its agent is behind V, negative if ahead; 0 if no
    requests were compared.
    """
    alpha: float
    queue_weight: int
    """Qi before the grant, in milli-weights."""
    queue_age: int
    """Di before the grant, in ticks."""
    tick: int
    policy: str
    repeated: bool
    """True for a wait after a retry's back-off: another wait of the same request."""


class Rejected(NamedTuple):
    """The request was rejected or cancelled."""

    at: float
    ticket: TicketView
    outcome: Outcome
    waited: float
    waited_ticks: int
    policy: str
    repeated: bool


class Throttled(NamedTuple):
    """The provider throttled the call."""

    at: float
    ticket: TicketView
    status: int | None
    """None if there was no answer in time."""
    kind: ThrottleKind
    retry_after: float | None
    """Seconds, if the provider sent them."""
    limits: RateLimits | None


class Suspended(NamedTuple):
    """The request returned its slot for a retry's back-off."""

    at: float
    ticket: TicketView
    held: float
    """Seconds that it held the slot."""


class Spent(NamedTuple):
    """The call ended with this cost."""

    at: float
    ticket: TicketView
    spending: Spending


class Released(NamedTuple):
    """The request released its slot."""

    at: float
    ticket: TicketView
    held: float | None
    """Seconds that it held the slot since the last grant; None if it held none, between two attempts."""
    expired: bool
    """True if its lease expired without activity."""


class BudgetExceeded(NamedTuple):
    """Budgets had no room for a call."""

    at: float
    ticket: TicketView
    action: Action
    """The action that was applied to the call."""
    standings: tuple[BudgetStatus, ...]
    """The budgets without room, with their status at that moment."""
    model: str | None
    """The cheaper model that the call is sent with, if any."""


class BudgetReached(NamedTuple):
    """Spending reached a threshold of a budget for the first time in its period.

    Example:
        >>> def handle(event: Event) -> None:
        ...     if isinstance(event, BudgetReached):
        ...         print(event.at, event.percent)

    """

    at: float
    ticket: TicketView
    """The agent of the call."""
    percent: int
    standing: BudgetStatus


class Bypassed(NamedTuple):
    """A call was sent unscheduled.

    Example:
        >>> Bypassed(0.5, BypassReason.INTERNAL_ERROR).at
        0.5

    """

    at: float
    reason: BypassReason


BudgetEvent: TypeAlias = BudgetExceeded | BudgetReached
Event: TypeAlias = (
    Submitted | Waiting | Granted | Rejected | Throttled | Suspended | Spent | Released | BudgetEvent | Bypassed
)


class Listener(Protocol):
    """Receives every event, in order, one at a time, outside the scheduler's lock.

    A listener that raises is logged and removed.

    Example:
        >>> events: list[Event] = []
        >>> listener: Listener = events.append
        >>> listener(Bypassed(0.5, BypassReason.INTERNAL_ERROR))
        >>> len(events)
        1

    """

    def __call__(self, event: Event, /) -> None:
        """Handle one event."""


class AgentSnapshot(NamedTuple):
    """One agent at one resource, at one moment.

    Example:
        >>> import loco_otel
        >>> with loco_otel.slot('analyst'):
        ...     [agent.agent for agent in loco_otel.snapshot().resources[0].agents]
        ['analyst']

    """

    agent: str
    waiting: int
    active: int
    queue_weight: int
    """Qi in milli-weights."""
    queue_age: int
    """Di in ticks."""
    oldest_wait: float
    """Seconds that its oldest waiter has waited."""
    score: float | None
    """L, or under `fair` the weights by which it is behind V; None if it does not compete."""
    tenant: str | None = None
    """The tenant of the agent: equal agent names of two tenants are two agents."""
    rank: int | None = None
    """Its rank among competing agents (within its tenant, if there are several), 1 is next; in a dump only."""


class TicketSnapshot(NamedTuple):
    """One request at one moment.

    Example:
        >>> import loco_otel
        >>> with loco_otel.slot('analyst'):
        ...     [ticket['state'] for ticket in loco_otel.dump().as_dict()['resources'][0]['tickets']]
        ['holding']

    """

    id: str
    agent: str
    tenant: str | None
    state: str
    """`holding`, `admitting`, `paused` (before a retry) or `waiting`."""
    resources: tuple[str, ...]
    weight: int
    """Milli-weights."""
    provider: str | None
    model: str | None
    seconds: float
    """Seconds that it has held the slot or waited; since its back-off started it does neither."""
    ticks: int
    """Seconds that it has waited."""
    time_left: float | None
    """Seconds until its wait times out; None without a timeout or when it no longer waits."""
    shares_with: str | None
    """The id of the holder whose slot it shares."""


class ResourceSnapshot(NamedTuple):
    """One resource at one moment."""

    resource: str
    policy: str
    capacity: int | None
    """None while unlimited."""
    active: int
    waiting: int
    tick: int
    alpha: float
    fairness: float
    """Jain's index of the weight served over the last grants; starved agents count as 0."""
    agents: tuple[AgentSnapshot, ...]
    pause: float = 0.0
    """Seconds for which its provider still asks for a pause."""
    pause_header: str | None = None
    """The header that states them."""


class ResourceDump(NamedTuple):
    """One resource at one moment, with its requests."""

    standing: ResourceSnapshot
    tickets: tuple[TicketSnapshot, ...]
    """Holders by their grants, then waiters in the order in which they would be granted next, then the rest."""
    left_out: int
    """Requests that the dump's limit leaves out."""


class Snapshot(NamedTuple):
    """The state of all resources at one moment; the counters are of events not delivered, and of rebuilt states."""

    at: float
    resources: tuple[ResourceSnapshot, ...]
    events_dropped: int = 0
    recoveries: int = 0
