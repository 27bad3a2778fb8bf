"""What happens to a request, and how the scheduler stands: the values that all layers share.

Events are past tense and immutable; `at` is the scheduler's clock in seconds. Weights are milli-weights: integers,
so that sums are exact (a weight of 1.0 is 1000). Events are NamedTuples because they are made on the hot path: a
frozen dataclass costs five times as much.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeAlias

from loco_otel.money import Action, BudgetStatus

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
    """Why this request, and why now."""

    FREE = "free"
    """A slot was free and nobody waited."""
    SCORE = "score"
    """The policy chose it among the waiters."""
    GUARD = "guard"
    """It was the oldest waiter, and beyond the longest wait allowed."""
    REENTRANT = "reentrant"
    """Every holder waited for a call of its own, so this one shares a holder's slot."""


class WaitReason(StrEnum):
    """What a request waits for, as its wait begins."""

    SLOTS = "slots"
    """Every slot is held, or other requests of the same queue set wait already: more capacity helps."""
    RESERVED = "reserved"
    """The free slot is reserved for a request of several resources that has waited too long."""
    RATE_LIMIT = "rate_limit"
    """A slot is free, and the requests or tokens of this minute are used up."""
    PROVIDER_PAUSE = "provider_pause"
    """The provider asked for a pause."""
    BUDGET = "budget"
    """It was rejected while it waited, as its budget was used up."""


class ThrottleKind(StrEnum):
    """What a provider's refusal means."""

    LOAD = "load"
    """Too much at once: slow down."""
    TIMEOUT = "timeout"
    """No answer in time: it may have too much to do."""
    SPEND = "spend"
    """A spending limit or an empty account: slowing down will not help."""


class BypassReason(StrEnum):
    """Why a call went out without being scheduled."""

    INTERNAL_ERROR = "internal_error"
    UNSUPPORTED_RUNTIME = "unsupported_runtime"


class Request(NamedTuple):
    """What is asked of the scheduler: the waiter is the request, so it carries all that its turn depends on."""

    agent: str
    weight: int = MILLI
    """Milli-weights."""
    resources: tuple[str, ...] = (DEFAULT_RESOURCE,)
    """All or none of them, in one step."""
    timeout: float | None = None
    """Seconds that it may wait; 0 takes a free slot or nothing."""
    admission: bool = False
    """Ask whoever keeps the budgets, after the slot and before the call."""
    tenant: str | None = None
    task_type: str = "default"
    provider: str | None = None
    model: str | None = None
    labels: Mapping[str, str] | None = None
    settles: bool = False
    """A `Spent` will follow, unless the call fails."""
    context: object = None
    """The listeners' own; nothing else looks inside."""
    tokens: int = 0
    """What prompt and answer are expected to have, for limits in tokens."""


class Usage(NamedTuple):
    """Tokens of one call, as the provider counts them."""

    input_tokens: int
    output_tokens: int
    estimated: bool = False
    """True where the provider gave no figures, or the body broke off before it did."""
    cache_read_tokens: int | None = None
    """Of the input, those that the provider had in its cache; None where it does not say."""
    cache_write_tokens: int | None = None
    """Of the input, those that it put there."""
    reasoning_tokens: int | None = None
    """Of the output, those that the model thought with."""


class Spending(NamedTuple):
    """What one call took."""

    usage: Usage | None
    weight: int
    """Milli-weights."""
    model: str | None
    """As the provider answered."""
    response_id: str | None = None
    """The provider's name for its answer."""
    finish_reasons: tuple[str, ...] = ()
    """Why the model stopped, one for each choice."""
    usd: int | None = None
    """Micro-USD; None where the model's price is not known."""
    remaining: int | None = None
    """Micro-USD that the tightest of its budgets in USD has left, reservations apart; None without one."""
    action: Action | None = None
    """What a budget without room for it did with it."""
    sent_model: str | None = None
    """The model that it was sent with, where that is not the one that the program named."""
    service_tier: str | None = None
    """`batch`, `flex`, `priority`, where the provider says so: it has prices of its own."""


class RateLimits(NamedTuple):
    """What a provider's headers say is left of requests and tokens, of how many, and in how many seconds of all."""

    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    requests_reset: float | None = None
    tokens_reset: float | None = None
    requests_limit: int | None = None
    tokens_limit: int | None = None


class TicketView(Protocol):
    """A ticket as listeners may see it: who asks, and under which id."""

    @property
    def id(self) -> str:
        """Unique among all processes."""

    @property
    def request(self) -> Request:
        """What was asked."""


class Submitted(NamedTuple):
    """A request reached the scheduler."""

    at: float
    ticket: TicketView


class Waiting(NamedTuple):
    """It has to wait."""

    at: float
    ticket: TicketView
    queue_weight: int
    """Qi: milli-weights that its agent has queued, this request included."""
    position: int
    """Place in its agent's own queue; 1 is next."""
    capacity: int | None
    """Slots; None where it waits for the time alone."""
    waiting: int
    """Requests that wait for the resource, this one included."""
    holders: tuple[TicketView, ...]
    """Those that hold the resource, 16 at most."""
    reason: WaitReason = WaitReason.SLOTS


class Granted(NamedTuple):
    """It may go."""

    at: float
    ticket: TicketView
    reason: GrantReason
    waited: float
    """Seconds of this wait."""
    waited_ticks: int
    """Ticks of this wait."""
    score: float
    """L at the grant; under `fair` by how many weights its agent is behind V, negative when ahead.

    0 where nothing was compared.
    """
    alpha: float
    queue_weight: int
    """Qi before the grant, in milli-weights."""
    queue_age: int
    """Di before the grant, in ticks."""
    tick: int
    policy: str
    repeated: bool
    """True for the wait after a retry's pause: a wait more, not a request more."""


class Rejected(NamedTuple):
    """It may not go, or no longer wants to."""

    at: float
    ticket: TicketView
    outcome: Outcome
    waited: float
    waited_ticks: int
    policy: str
    repeated: bool


class Throttled(NamedTuple):
    """The provider pushed back."""

    at: float
    ticket: TicketView
    status: int | None
    """None where there was no answer in time."""
    kind: ThrottleKind
    retry_after: float | None
    """Seconds, where the provider said so."""
    limits: RateLimits | None


class Suspended(NamedTuple):
    """It gave its slot back for the length of a retry's pause."""

    at: float
    ticket: TicketView
    held: float
    """Seconds that it held the slot."""


class Spent(NamedTuple):
    """The call is over, and this is what it took."""

    at: float
    ticket: TicketView
    spending: Spending


class Released(NamedTuple):
    """The slot is free again."""

    at: float
    ticket: TicketView
    held: float | None
    """Seconds that it held the slot since the last grant; None when it held none, between two attempts."""
    expired: bool
    """True when it was taken back, for want of any sign of life."""


class BudgetExceeded(NamedTuple):
    """Budgets had no room for a call."""

    at: float
    ticket: TicketView
    action: Action
    """What was done with the call."""
    standings: tuple[BudgetStatus, ...]
    """Those budgets, as they stood."""
    model: str | None
    """With which it goes on, if it does."""


class BudgetReached(NamedTuple):
    """What was spent has reached a threshold of a budget for the first time in its period."""

    at: float
    ticket: TicketView
    """Whose call it was."""
    percent: int
    standing: BudgetStatus


class Bypassed(NamedTuple):
    """A call went out unscheduled."""

    at: float
    reason: BypassReason


BudgetEvent: TypeAlias = BudgetExceeded | BudgetReached
Event: TypeAlias = (
    Submitted | Waiting | Granted | Rejected | Throttled | Suspended | Spent | Released | BudgetEvent | Bypassed
)


class Listener(Protocol):
    """Told every event, in order, one at a time, outside the scheduler's lock.

    One that raises is logged and not told again.
    """

    def __call__(self, event: Event, /) -> None:
        """Take note of one event."""


class AgentSnapshot(NamedTuple):
    """One agent at one resource, at one moment."""

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
    """L, or under `fair` by how many weights it is behind V; where it competes."""
    tenant: str | None = None
    """For whom the agent works: agents of two tenants are two, whatever their names."""
    rank: int | None = None
    """Its place among those that compete (within its tenant, where there are several), 1 is next; in a dump only."""


class TicketSnapshot(NamedTuple):
    """One request at one moment."""

    id: str
    agent: str
    tenant: str | None
    state: str
    """`holding`, `admitting`, `paused` (before a retry), `waiting`, `queued` (nobody waits for it yet)."""
    resources: tuple[str, ...]
    weight: int
    """Milli-weights."""
    provider: str | None
    model: str | None
    seconds: float
    """That it has held, or waited; since its pause began it does neither."""
    ticks: int
    """That it has waited."""
    time_left: float | None
    """Seconds until its wait times out; None without a limit, and once it waits no more."""
    shares_with: str | None
    """The holder whose slot it shares, by id."""


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
    """Jain's index of the weight served over the last grants, starved agents counted as 0."""
    agents: tuple[AgentSnapshot, ...]


class ResourceDump(NamedTuple):
    """One resource at one moment, request by request."""

    standing: ResourceSnapshot
    tickets: tuple[TicketSnapshot, ...]
    """Holders in the order of their grants, then those that wait, in the order in which they would be granted if
    nothing else happened, then the rest."""
    left_out: int
    """Requests beyond the limit of the dump."""


class Snapshot(NamedTuple):
    """How everything stands at one moment."""

    at: float
    resources: tuple[ResourceSnapshot, ...]
