"""The state of the scheduler at one moment: the values that snapshots and dumps return.

Programs import them from `loco_otel.events`.
"""

from enum import StrEnum
from typing import NamedTuple


class CapacityMode(StrEnum):
    """How the number of slots of a resource is set.

    Example:
        >>> CapacityMode('auto') is CapacityMode.AUTO
        True

    """

    FIXED = "fixed"
    AUTO = "auto"
    """Unlimited until the provider refuses a request, then adapted to its refusals."""
    UNLIMITED = "unlimited"


class ReportedLimit(NamedTuple):
    """A limit as the headers of a provider's answer report it.

    Example:
        >>> limit = ReportedLimit('tokens', 30_000, 29_100)
        >>> limit.remaining
        29100

    """

    kind: str
    """`requests` or `tokens`."""
    limit: int | None
    """None if not reported."""
    remaining: int | None


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


class RunSnapshot(NamedTuple):
    """The requests of one run at one moment.

    Example:
        >>> import loco_otel
        >>> with loco_otel.as_agent('analyst', run='r-1'), loco_otel.slot():
        ...     [run['run'] for run in loco_otel.dump().as_dict()['runs']]
        ['r-1']

    """

    run: str
    agents: tuple[str, ...]
    workflow: str | None
    session: str | None
    priority: str
    holding: int
    waiting: int
    oldest_wait: float
    """Seconds that its oldest waiter has waited."""
    weight: int
    """Milli-weights of the requests that hold and wait."""


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
    fairness: float | None
    """Jain's index of the weight served lately, over the agents that had a request waiting throughout, at most during
    the last 1000 releases; None below two such agents, or before there were two releases for each.
    """
    agents: tuple[AgentSnapshot, ...]
    pause: float = 0.0
    """Seconds for which its provider still asks for a pause."""
    pause_header: str | None = None
    """The header that states them."""
    used: int = 0
    """Slots in use: `active` without the requests that share a slot."""
    mode: CapacityMode = CapacityMode.FIXED
    reference: int | None = None
    """The slots that an adaptive limit approaches: one below the number last refused, or `capacity` if that is higher.
    None while unlimited.
    """
    gates: tuple[tuple[str, float], ...] = ()
    """Rates per minute that are used up, `requests` or `tokens`, and the seconds for which they delay a grant."""
    rate_limits: tuple[ReportedLimit, ...] = ()
    """What its provider reported last."""

    @property
    def saturation(self) -> float | None:
        """Slots in use and requests that wait, in units of the slots; None while unlimited."""
        return None if self.capacity is None else (self.used + self.waiting) / self.capacity


class ResourceDump(NamedTuple):
    """One resource at one moment, with its requests."""

    standing: ResourceSnapshot
    tickets: tuple[TicketSnapshot, ...]
    """Holders by their grants, then waiters in the order in which they would be granted next, then the rest."""
    left_out: int
    """Requests that the dump's limit leaves out."""


class EngineMode(StrEnum):
    """How a process that shares an engine with others is granted slots.

    Example:
        >>> EngineMode('local') is EngineMode.LOCAL
        True

    """

    REMOTE = "remote"
    """The engine decides for all processes."""
    LOCAL = "local"
    """It is away: each process grants its share of the capacity."""
    CLOSED = "closed"
    """It is away: nothing is granted."""
    OPEN = "open"
    """It is away: everything is granted."""


class EngineSnapshot(NamedTuple):
    """The shared engine as one process reports it, at one moment.

    Example:
        >>> EngineSnapshot(EngineMode.REMOTE, processes=3).processes
        3

    """

    mode: EngineMode
    processes: int
    """Processes that share it, this one included."""
    overbooked: tuple[tuple[str, int], ...] = ()
    """By resource: leases above the capacity, of processes that had lost theirs."""
    errors: tuple[tuple[str, int], ...] = ()
    """By kind: calls of the engine that failed."""


class Snapshot(NamedTuple):
    """The state of all resources at one moment; the counters are of events not delivered, and of rebuilt states."""

    at: float
    resources: tuple[ResourceSnapshot, ...]
    events_dropped: int = 0
    recoveries: int = 0
    max_waiting: int | None = None
    """Requests that may wait, of all resources together; None without a bound."""
    engine: EngineSnapshot | None = None
    """The engine that other processes share; None without one."""
