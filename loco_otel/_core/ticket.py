"""A ticket: one request and its state in the scheduler."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from enum import Enum
from itertools import count
from math import inf
from types import MappingProxyType
from typing import Any, Protocol

from loco_otel._core.lazy_heap import Entry
from loco_otel._core.policies.base import Policy
from loco_otel.events import Granted, GrantReason, Outcome, Request

READING = 2e9
"""`Ticket.idle_after` while a chunk of its body is being read: a slot that never becomes idle."""


class State(Enum):
    """The state of a ticket. Only the core changes it, and each change is one assignment.

    `NEW -> WAITING -> [ADMITTING] -> GRANTED -> RELEASED`, or `REJECTED`; `GRANTED -> SUSPENDED -> WAITING` around the
    pause of a retry. All other data of the core can be derived from the states, see `_core/recovery.py`.
    """

    NEW = 0
    WAITING = 1
    ADMITTING = 2
    """Has its slot, until its budget admits or refuses it."""
    GRANTED = 3
    SUSPENDED = 4
    """Between two attempts of one call: holds no slot."""
    RELEASED = 5
    REJECTED = 6

    def __init__(self, _: int) -> None:
        # Plain attributes: a property would cost a call on the hot path.
        self.is_holding = self._name_ in {"ADMITTING", "GRANTED"}
        self.is_ended = self._name_ in {"RELEASED", "REJECTED"}
        self.is_unheld = self._name_ in {"NEW", "WAITING"}


_sequence = count(1)


class Work(Protocol):
    """One piece of work in a backlog."""

    birth: int
    """The tick at which its age was 0."""
    holder: "Ticket | None"
    """The ticket that took it. It is the truth about the binding, and changes in one assignment."""
    entry: Entry | None
    """The backlog's own."""

    @property
    def milli(self) -> int:
        """Its weight in milli-weights."""

    @property
    def request(self) -> Request:
        """The request of the ticket that takes it."""


class WorkSource(Protocol):
    """What a ticket takes its work from: a `Backlog`."""

    weight: int
    """Milli-weights of the work that no ticket has taken."""

    def find_oldest_work(self) -> Work | None:
        """Return the oldest work; None if there is none."""

    def bind_oldest_work(self, ticket: "Ticket") -> None:
        """Bind the oldest work to a ticket; no-op if there is none."""

    def return_work(self, ticket: "Ticket") -> None:
        """Take back the work of a ticket that has not started it."""


class OpenBody(Protocol):
    """The open body of an answer. Its methods may be called in any thread."""

    def abort(self, error: Exception) -> None:
        """Close it. Its reader raises the error."""

    def abandon(self) -> None:
        """End its call as if the program had dropped it."""


class Ticket:
    """A request and its state. Created by a shell, changed by the core under the engine's lock.

    Attributes that few tickets need are defaults of the class, as creating a ticket is on the hot path.
    """

    reason: GrantReason | None = None
    outcome: Outcome | None = None
    admission: "Callable[[Ticket], bool] | None" = None
    """Checks its budgets, in place of the engine's admission."""
    run_admission: "Callable[..., Any] | None" = None
    """Runs that check in another thread and returns a future of it, as it waits for a server; None if it does not."""
    denial: Exception | None = None
    """The error with which it was refused, if there is one."""
    body: "Callable[[], OpenBody | None] | None" = None
    """Returns the open body of its answer, as long as the program keeps that. Set by the shell, without the lock."""
    wake: Callable[[], None] | None = None
    """Called at least once after the ticket has stopped waiting. A hint: the state is the truth."""
    scopes: tuple[Hashable, ...] = ()
    """Where its lease is used, in order: a thread, the contexts that inherit its claim, a task. Set by the shell."""
    blocked_scopes: tuple[Hashable, ...] = ()
    """While its caller is parked, no lease that is used in one of these scopes can end; see `park_ticket`."""
    lenders: "Mapping[str, Ticket]" = MappingProxyType({})
    """The leases whose slots it shares, by resource. Never changed in place."""
    grant: Granted | None = None
    """The event that is emitted once it is admitted."""
    is_nested = False
    """Runs under a slot of the program's own: is in no queue, and holds no slot."""
    explain = False
    """Keep the event of its grant in `grant`, also while nothing is observed."""
    backlog: WorkSource | None = None
    """What it takes its work from at the grant. Its own request has no weight then."""
    work: Work | None = None
    """The work that it took; without a backlog the work that it was created for."""
    birth = 0
    """The tick at which its age was 0, moved back by the ticks that it waited before a pause."""
    waited_ticks = 0
    charged_by: Policy | None = None
    """The policy that has charged it, if the policy is metered."""
    charged_at = 0.0
    charged_order: Any = None
    """The `PriorityOrder` that has charged it, where classes of urgency are in use."""
    correction = 0
    """Difference between its actual weight and that of its request, in milli-weights."""
    remote_grant: object = None
    """The grant that another place has decided, while it is applied."""
    is_unanswered = False
    """Whether it has requested a slot of a remote pool and the other place has not answered (see `_core/remote.py`)."""
    rate_correction = 0, 0
    """Requests and tokens that its end takes of the rate limits of a remote pool, beyond what its grant took."""
    has_succeeded = False
    """Whether its lease was released and not cancelled: adaptive limits grow by it."""
    repeated = False
    """Whether it was suspended before."""
    spending_recorded = False
    """Whether its usage was recorded."""
    waiting_since = 0.0
    waited_seconds = 0.0
    """How long it waited before it was rejected."""
    waiting_tick = 0
    granted_at = 0.0
    touched_at = 0.0
    """Time of the last sign of life."""
    idle_after = inf
    """Seconds after `touched_at` at which its slot becomes idle (see `_core/idle_leases.py`); `READING` while a chunk
    is being read, inf while code runs under it. Set by the shell, without the lock.
    """
    claim: Callable[[], object] | None = None
    """Of a slot: returns None once no context has a claim on it; then no code that runs under it is known."""
    covered_calls: "list[Ticket | None] | None" = None
    """Of a slot: the call that runs under it; empty while one begins. Set by the shell, see `_waiting/cover.py`."""
    host: "Ticket | None" = None
    """Of a nested call that outlives its slot: the slot, which ends with it."""
    engine: Any = None
    """The engine that it was made for; set and read by the callers of engines, never by the core."""
    deadline: float | None = None
    age_entry: Entry | None = None
    """While it waits: by birth and number, in the heaps of its agent, its line and its class."""
    deadline_entry: Entry | None = None
    """Among all waiters whose wait ends by itself, see `_core/leases.py`."""
    due_entry: Entry | None = None
    """Among those of its class and tenant whose request has a deadline, see `_core/priority_level.py`."""

    def __init__(self, request: Request, owner: str = "") -> None:
        self.request = request
        self.owner = owner
        """The process that created it."""
        self.seq = next(_sequence)
        self.state = State.NEW

    @property
    def lender(self) -> "Ticket | None":
        """A lease whose slot it shares; None if all its slots are its own."""
        return next(iter(self.lenders.values()), None)

    @property
    def id(self) -> str:
        """Identifier, unique among all processes that share an engine."""
        return f"{self.owner}-{self.seq}"

    def resolve_request(self) -> Request:
        """Return its request, with the work that it took from its backlog."""
        request, work = self.request, self.work
        if self.backlog is None or work is None:
            return request
        if request.context is None and request.timeout is None and request.priority is work.request.priority:
            return work.request
        return work.request._replace(
            context=request.context, timeout=request.timeout, priority=request.priority, deadline=request.deadline
        )

    def compute_demand(self) -> int:
        """Return the weight of the ticket and its backlog, in milli-weights."""
        return self.request.weight + (0 if self.backlog is None else self.backlog.weight)

    def find_oldest_birth(self) -> int:
        """Return the tick at which the oldest work of its backlog was queued, or the ticket, without work."""
        work = None if self.backlog is None else self.backlog.find_oldest_work()
        return self.birth if work is None else work.birth

    def __repr__(self) -> str:
        return f"<Ticket {self.id} {self.request.agent} {self.state.name}>"


def list_open_bodies(tickets: Iterable[Ticket]) -> Iterator[tuple[Ticket, OpenBody]]:
    """Yield the open bodies of tickets and of the calls that they cover, each with the ticket of its call."""
    for ticket in tickets:
        for call in (ticket, *(ticket.covered_calls or ())):
            if call is not None and call.body is not None and not call.state.is_ended:
                body = call.body()
                if body is not None:
                    yield call, body
