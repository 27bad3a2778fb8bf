"""Events of requests and resources: the values that all layers share, with requests and snapshots.

Events are in past tense and immutable. `at` is the scheduler's clock in seconds. Weights are milli-weights: exact sums
of integers (a weight of 1.0 is 1000). Events are NamedTuples, as a frozen dataclass costs the hot path five times more.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeAlias

from loco_otel.money import Action, BudgetStatus
from loco_otel.requests import DEFAULT_RESOURCE as DEFAULT_RESOURCE
from loco_otel.requests import MAX_TOKENS as MAX_TOKENS
from loco_otel.requests import MILLI as MILLI
from loco_otel.requests import Priority as Priority
from loco_otel.requests import Request as Request
from loco_otel.requests import Spending as Spending
from loco_otel.requests import TicketView as TicketView
from loco_otel.requests import Usage as Usage
from loco_otel.snapshots import AgentSnapshot as AgentSnapshot
from loco_otel.snapshots import ResourceDump as ResourceDump
from loco_otel.snapshots import ResourceSnapshot as ResourceSnapshot
from loco_otel.snapshots import Snapshot as Snapshot
from loco_otel.snapshots import TicketSnapshot as TicketSnapshot


class Outcome(StrEnum):
    """How an acquire ended."""

    GRANTED = "granted"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    BACKPRESSURE = "backpressure"
    BUDGET = "budget"
    SHUTDOWN = "shutdown"
    STOPPED = "stopped"
    """Its run, session, agent or tenant was stopped."""
    LIMIT = "limit"
    """Its run exceeded a limit that is no budget."""
    DEADLINE = "deadline"
    """It could not be granted by its deadline."""


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


class GateCause(StrEnum):
    """What closes a gate: while it is closed no slot is granted, free or not."""

    BACKOFF = "backoff"
    """The pause that the provider asked for."""
    REQUESTS = "requests"
    """The limit of requests per minute is used up."""
    TOKENS = "tokens"
    """The limit of tokens per minute is used up."""


class ThrottleKind(StrEnum):
    """The meaning of a provider's refusal."""

    LOAD = "load"
    """Too many requests: the rate must drop."""
    TIMEOUT = "timeout"
    """No answer within the timeout: the provider may be overloaded."""
    SPEND = "spend"
    """A spending limit or an empty account: a lower rate will not help."""


THROTTLE_STATUSES = frozenset({429, 503, 529})
"""Too many requests; unavailable, which providers send when overloaded; overloaded."""


class InactiveReason(StrEnum):
    """Why the calls of an installed SDK are not scheduled."""

    DISABLED = "disabled"
    """LOCO_ENABLED is false."""
    CONFIGURATION_ERROR = "configuration_error"
    UNSUPPORTED_VERSION = "unsupported_version"
    PATCH_FAILED = "patch_failed"


class BypassReason(StrEnum):
    """Why a call was sent unscheduled."""

    INTERNAL_ERROR = "internal_error"
    UNSUPPORTED_RUNTIME = "unsupported_runtime"


class LimitReason(StrEnum):
    """What refuses a call, or would refuse it."""

    BUDGET = "budget"
    """A budget without room; of a run, one of the next four."""
    RUN_USD = "run_usd"
    RUN_WEIGHT = "run_weight"
    RUN_TOKENS = "run_tokens"
    RUN_CALLS = "run_calls"
    RUN_SECONDS = "run_seconds"
    """The time since the run's first call."""
    RUN_REPEATS = "run_repeats"
    """The number of identical tool calls of the run."""
    STOPPED = "stopped"
    """`loco_otel.stop()` or the stop file."""
    BACKPRESSURE = "backpressure"
    """`LOCO_MAX_WAITERS`."""
    TIMEOUT = "timeout"
    """`LOCO_ACQUIRE_TIMEOUT`, or the timeout of a slot."""
    DEADLINE = "deadline"
    """The deadline of `as_agent`."""


class LimitAction(StrEnum):
    """What became of a call at a limit."""

    WARNED = "warned"
    """It was allowed, half way to the limit."""
    REFUSED = "refused"
    WOULD = "would"
    """It was allowed, as `LOCO_MODE` is `observe`; else it would have been refused."""


class RateLimits(NamedTuple):
    """The rate limits in headers of a provider: what remains, the limits, and seconds until all reset."""

    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    requests_reset: float | None = None
    tokens_reset: float | None = None
    requests_limit: int | None = None
    tokens_limit: int | None = None


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


_NO_HOSTS: Mapping[str, TicketView] = MappingProxyType({})


class SlotTaken(NamedTuple):
    """The request got its slots, and its budgets are checked now: `Granted` or `Rejected` follows."""

    at: float
    ticket: TicketView
    hosts: Mapping[str, TicketView] = _NO_HOSTS
    """As in `Granted`."""


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
    """Seconds of this wait, the check of its budgets included."""
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
    slot_at: float | None = None
    """When it got its slots: earlier than `at` if its budgets were checked."""
    hosts: Mapping[str, TicketView] = _NO_HOSTS
    """The holders whose slots it shares, by resource; of other resources it has a slot of its own."""


class Rejected(NamedTuple):
    """The request was rejected or cancelled."""

    at: float
    ticket: TicketView
    outcome: Outcome
    waited: float
    waited_ticks: int
    policy: str
    repeated: bool
    slot_at: float | None = None
    """When it got its slots, if its budgets refused it then; else None."""


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


class Limited(NamedTuple):
    """The slots of a resource were set or changed, or a slot is reserved for another set of resources.

    Emitted for each resource before its first request, and at each change.
    """

    at: float
    resource: str
    slots: int | None
    """None while unlimited."""
    reference: int | None
    """The slots of which an adaptive limit withholds some: one below the level that was refused last. Else `slots`."""
    reserved_for: tuple[str, ...] | None = None
    """The resources of the requests that the next free slot is reserved for; None if it is not reserved."""
    processes: int = 1
    """Processes among which a shared engine divides the slots."""


class Gated(NamedTuple):
    """A gate was closed until a time, or for a longer or shorter time than before. It opens without another event."""

    at: float
    resource: str
    cause: GateCause
    until: float
    """`at` if the gate was opened early."""
    header: str | None = None
    """The header in which the provider asked for the pause."""
    queue: tuple[str, ...] | None = None
    """The resources of the requests that it delays; None for all requests that name the resource."""


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


class LimitDecided(NamedTuple):
    """A call was refused at a limit, or would have been, or was allowed with a warning.

    Example:
        >>> def handle(event: Event) -> None:
        ...     if isinstance(event, LimitDecided):
        ...         print(event.ticket.request.run, event.reason, event.action)

    """

    at: float
    ticket: TicketView
    reason: LimitReason
    action: LimitAction


class RunEnded(NamedTuple):
    """A framework has ended a run.

    Example:
        >>> RunEnded(0.5, 'r-1').run
        'r-1'

    """

    at: float
    run: str


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
RequestEvent: TypeAlias = (
    Submitted
    | Waiting
    | SlotTaken
    | Granted
    | Rejected
    | Throttled
    | Suspended
    | Spent
    | Released
    | LimitDecided
    | BudgetEvent
)
ResourceEvent: TypeAlias = Limited | Gated
Event: TypeAlias = RequestEvent | ResourceEvent | Bypassed | RunEnded


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
