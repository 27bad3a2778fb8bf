"""One request's way through the scheduler."""

from collections.abc import Callable, Hashable, Mapping
from enum import Enum
from itertools import count
from math import inf
from types import MappingProxyType
from typing import Any

from loco_otel._core.backlog import Backlog, Work
from loco_otel._core.lazy_heap import Entry
from loco_otel._core.policies.base import Policy
from loco_otel.events import Granted, GrantReason, Outcome, Request


class State(Enum):
    """Where a ticket is. Only the core changes it, and each change is one assignment.

    `NEW -> QUEUED -> WAITING -> [ADMITTING] -> GRANTED -> RELEASED`, or `REJECTED`; `GRANTED -> SUSPENDED -> WAITING`
    around a retry's pause. All else that the core keeps can be told from the states, see `Scheduler.recover`.
    """

    NEW = 0
    QUEUED = 1
    """In its agent's queue, and nobody waits for it yet."""
    WAITING = 2
    ADMITTING = 3
    """Has its slot; whoever keeps the budgets is being asked."""
    GRANTED = 4
    SUSPENDED = 5
    """Between two attempts of one call: holds nothing."""
    RELEASED = 6
    REJECTED = 7

    def __init__(self, _: int) -> None:
        # Plain attributes: a property would cost a call on the hot path.
        self.is_queued = self._name_ in {"QUEUED", "WAITING"}
        self.is_holding = self._name_ in {"ADMITTING", "GRANTED"}
        self.is_ended = self._name_ in {"RELEASED", "REJECTED"}
        self.is_unheld = self._name_ in {"NEW", "QUEUED", "WAITING"}


_sequence = count(1)


class Ticket:
    """A request and its state. Made by a shell, filled in by the core, under the engine's lock.

    What most tickets never need stands as a default on the class: making a ticket is on the hot path.
    """

    reason: GrantReason | None = None
    outcome: Outcome | None = None
    admission: "Callable[[Ticket], bool] | None" = None
    """Who keeps its budgets, where it is not whom the engine asks."""
    denial: Exception | None = None
    """Why its budget refuses it, where that is known."""
    wake: Callable[[], None] | None = None
    """Called, any number of times, once the ticket no longer waits. A hint: the state is the truth."""
    scopes: tuple[Hashable, ...] = ()
    """Where its lease lives: a thread, the contexts that inherited it. Set by the shell, changed by `move`."""
    blocked_scopes: tuple[Hashable, ...] = ()
    """While somebody is parked on it, no lease that lists one of these among its places can end; see `park`."""
    lenders: "Mapping[str, Ticket]" = MappingProxyType({})
    """The holders whose slots it shares, by resource. Never changed in place."""
    grant: Granted | None = None
    """What will be told once it is admitted."""
    is_nested = False
    """Runs under a slot of the program's own: in no queue, and holds nothing."""
    explain = False
    """Describe its grant in `grant` even where nobody listens, for whoever made it."""
    backlog: Backlog | None = None
    """Where it takes its work from at the grant. Its own request weighs nothing then."""
    work: Work | None = None
    """What it took there; without a backlog what it was made for."""
    birth = 0
    """The tick at which its age was 0; ticks waited before a pause are taken off."""
    waited_ticks = 0
    charged_by: Policy | None = None
    """The policy that counts it as served, where one goes by that."""
    correction = 0
    """Milli-weights that it took beyond its request's, as far as is known."""
    repeated = False
    """True from the first pause on."""
    spending_recorded = False
    """Whether it is known what it took."""
    waiting_since = 0.0
    waited_seconds = 0.0
    """How long a rejected ticket waited."""
    waiting_tick = 0
    granted_at = 0.0
    touched_at = 0.0
    """The last sign of life."""
    idle_after = inf
    """Seconds after that from which its slot is idle (see `_core/idle_leases.py`); inf while its holder works under it.

    Set by the shell, without the lock.
    """
    engine: Any = None
    """The engine that it was made for; set and read by the callers of engines, never by the core."""
    deadline: float | None = None
    queue_entry: Entry | None = None
    age_entry: Entry | None = None
    deadline_entry: Entry | None = None

    def __init__(self, request: Request, owner: str = "") -> None:
        self.request = request
        self.owner = owner
        """The process that made it."""
        self.seq = next(_sequence)
        self.state = State.NEW

    @property
    def lender(self) -> "Ticket | None":
        """A holder whose slot it shares; None where all its slots are its own."""
        return next(iter(self.lenders.values()), None)

    @property
    def id(self) -> str:
        """Unique among all processes that share an engine."""
        return f"{self.owner}-{self.seq}"

    def resolve_request(self) -> Request:
        """Return what it asks for with the work that it took from its backlog."""
        request, work = self.request, self.work
        if self.backlog is None or work is None:
            return request
        if request.context is None and request.timeout is None:
            return work.request
        return work.request._replace(context=request.context, timeout=request.timeout)

    def compute_demand(self) -> int:
        """Return what its agent has queued, in milli-weights, where nothing but this ticket and its backlog is."""
        return self.request.weight + (0 if self.backlog is None else self.backlog.weight)

    def find_oldest_birth(self) -> int:
        """Return the tick at which the oldest of that was born."""
        work = None if self.backlog is None else self.backlog.find_oldest_work()
        return self.birth if work is None else work.birth

    def __repr__(self) -> str:
        return f"<Ticket {self.id} {self.request.agent} {self.state.name}>"
