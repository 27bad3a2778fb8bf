"""The requests that compete for the same resources: a queue per agent, the policy, and the guard."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from loco_otel._core.agent_queue import AgentQueue
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.backlog import Backlog
from loco_otel._core.policies.base import Key, Policy, key_of
from loco_otel._core.priority_level import PriorityLevel
from loco_otel._core.remote import RemoteChange, RemoteState
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import GateCause

_NO_SHARES: Mapping[str, int] = {}


class Rank(NamedTuple):
    """The order among queue sets: by the time since which their oldest ticket has waited."""

    waiting_since: float
    seq: int
    queue_set: "QueueSet"
    oldest: Ticket


class Gate(NamedTuple):
    """A rate limit that delays a ticket."""

    resource: str
    cause: GateCause
    until: float


class QueueSet:
    """All requests for one resource, or for the same set of resources, with their logical clock.

    A tick is one release of the resource, or of any resource of the set. With `max_wait_ticks` = N > 0 the oldest
    waiter is granted first once it has waited N ticks, whatever the policy. From then on no younger one can pass it, so
    a wait for one resource is at most N plus one tick for each older waiter: at most N + max_waiters, if that is set.

    Args:
        policy: creates the policy, one for each tenant once a tenant is named.
        max_wait_ticks: the guard; 0 disables it.
        pools: the resources: a grant takes a slot of each, in one step.
        tenant_shares: in thousandths, by tenant; others have 1.
        by_run: whether the policy orders runs, not agents.

    """

    __slots__ = (
        "backlogs",
        "gate",
        "has_reservation",
        "is_metered",
        "level",
        "max_wait_ticks",
        "pools",
        "queues",
        "rank",
        "remote",
        "reported_gate",
        "single_pool",
        "tick",
        "tuner",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        policy: Callable[[], Policy],
        max_wait_ticks: int,
        pools: tuple[SlotPool, ...] = (),
        *,
        tenant_shares: Mapping[str, int] = _NO_SHARES,
        by_run: bool = False,
    ) -> None:
        self.pools = pools
        self.single_pool = pools[0] if len(pools) == 1 else None
        """The pool of a queue set for one resource; else None."""
        self.remote: RemoteState | None = None
        """Takes the notes for the place that decides its grants, if it is another one (see `_core/remote.py`)."""
        self.max_wait_ticks = max_wait_ticks
        self.tick = 0
        self.waiting = 0
        self.queues: dict[Key, AgentQueue] = {}
        """By agent, whatever is ordered."""
        self.level = PriorityLevel(policy, tenant_shares, by_run=by_run, lines=None if by_run else self.queues)
        self.is_metered = self.level.policy.is_metered
        """Whether grants are charged."""
        self.backlogs: dict[str, Backlog] = {}
        """By agent. Backlogs have no tenant."""
        self.rank: Rank | None = None
        """None until `find_rank` computes it."""
        self.has_reservation = False
        """Whether it may have reserved slots or tokens."""
        self.tuner: AlphaTuner | None = None
        """Adapts alpha."""
        self.gate: Gate | None = None
        """The rate limit that delays its next ticket, as far as a grant has failed for it."""
        self.reported_gate: Gate | None = None
        """`gate` in the last event (see `limit_events.py`)."""

    @property
    def policy(self) -> Policy:
        """What orders agents or runs."""
        return self.level.policy

    # -- waiters ------------------------------------------------------------------------------------------------

    def add_ticket(self, ticket: Ticket) -> AgentQueue:
        """Add a WAITING ticket to its agent's queue."""
        key = key_of(ticket.request)
        queue = self.queues.get(key)
        if queue is None:
            backlog = self.backlogs.get(key) if isinstance(key, str) else None
            queue = self.queues[key] = AgentQueue(key, backlog, self.tick)
        ticket.queue_entry = queue.add_ticket(ticket)
        self.waiting += 1
        self.rank = None
        self.level.add_ticket(ticket, queue)
        self.is_metered = self.level.policy.is_metered
        return queue

    def remove_ticket(self, ticket: Ticket) -> None:
        """Remove a ticket, the queue of an agent without further tickets, and what is reserved for this set."""
        queue = self.queues[key_of(ticket.request)]
        entry, ticket.queue_entry = ticket.queue_entry, None
        assert entry is not None  # noqa: S101 - invariant: it waits
        queue.remove_ticket(ticket, entry)
        self.waiting -= 1
        self.rank = None
        if not queue:
            del self.queues[queue.key]
        self.level.remove_ticket(ticket, queue)
        if self.has_reservation:
            self.unreserve_all()
        if not self.waiting:
            self.gate = None

    def select_next(self) -> tuple[Ticket, bool]:
        """Return the waiter to be granted next, and whether the guard selected it; there must be a waiter."""
        return self.level.select_next(self.tick, self.max_wait_ticks)

    def compute_score(self, ticket: Ticket) -> float:
        """Return the score of a waiting ticket's agent or run."""
        return self.level.policy.compute_score(self.level.find_key(ticket.request), self.tick)

    def find_rank(self) -> "Rank":
        """Compute and return the rank among queue sets; a ticket must wait."""
        oldest = self.find_oldest_waiter()
        assert oldest is not None  # noqa: S101 - invariant: asked only while one waits
        rank = self.rank = Rank(oldest.waiting_since, oldest.seq, self, oldest)
        return rank

    def find_oldest_waiter(self) -> Ticket | None:
        """Return the oldest of all waiters; None if no ticket waits."""
        return self.level.find_oldest_waiter()

    def clear_queues(self, tickets: Sequence[Ticket]) -> None:
        """Empty all queues without changing the tickets; the clock, and what these tickets were charged, stay."""
        self.queues.clear()
        self.level.clear_waiters(tickets)
        self.is_metered = self.level.policy.is_metered
        self.waiting = 0
        self.rank = None
        self.gate = None
        for backlog in self.backlogs.values():
            backlog.rebuild_index()

    # -- backlogs and policy ------------------------------------------------------------------------------------

    def set_backlog(self, agent: str, backlog: Backlog | None) -> None:
        """Count an agent's backlog with its waiters; None removes it."""
        if backlog is None:
            self.backlogs.pop(agent, None)
        else:
            self.backlogs[agent] = backlog
        queue = self.queues.get(agent)
        if queue is not None:
            queue.backlog = backlog
            self.level.refresh_agent(queue)

    def refresh_agent(self, agent: str) -> None:
        """Update the policy after a change of an agent's backlog."""
        queue = self.queues.get(agent)
        if queue is not None:
            self.level.refresh_agent(queue)

    def tune_alpha(self, tuner: AlphaTuner) -> None:
        """Set alpha to what a tuner computes from the queues and backlogs."""
        backlogs = [backlog for agent, backlog in self.backlogs.items() if agent not in self.queues]
        births = [queue.find_birth_tick() for queue in self.queues.values()]
        births += [work.birth for backlog in backlogs if (work := backlog.find_oldest_work()) is not None]
        weight = sum(queue.weight for queue in self.queues.values()) + sum(backlog.weight for backlog in backlogs)
        count = sum(queue.count_queued() for queue in self.queues.values()) + sum(len(backlog) for backlog in backlogs)
        self.policy.alpha = tuner.update_alpha(self.tick, [self.tick - birth for birth in births], weight, count)

    def replace_policy(
        self, policy: Callable[[], Policy], tenant_shares: Mapping[str, int] = _NO_SHARES, *, by_run: bool = False
    ) -> None:
        """Change the policy; what agents were served under the previous policy does not count."""
        waiting = self.level.list_waiters()
        self.level = PriorityLevel(policy, tenant_shares, by_run=by_run, lines=None if by_run else self.queues)
        for ticket in waiting:
            ticket.line_entry = None
            self.level.add_ticket(ticket, self.queues[key_of(ticket.request)])
        self.is_metered = self.level.policy.is_metered

    def charge_ticket(self, ticket: Ticket, now: float) -> None:
        """Charge a ticket for a grant: once per call, whatever its pauses."""
        self.level.charge_ticket(ticket, ticket.resolve_request().weight, now)

    def settle_charge(self, ticket: Ticket, now: float) -> None:
        """Correct the charge of a ticket that ends; no-op if it was not charged."""
        if ticket.charged_by is not None:
            self.level.settle_charge(ticket, now)
        if self.remote is not None:
            self.remote.add_note(RemoteChange.ENDED, ticket)

    # -- slots: the same operation on each pool -----------------------------------------------------------------

    def has_room(self) -> bool:
        """Return whether each pool has a slot that is free and not reserved for another queue set."""
        return all(pool.has_room(self) for pool in self.pools)

    def reserve_slots(self) -> None:
        """Reserve the next free slot of each pool, unless one of them is reserved already."""
        self.has_reservation = True
        if all(pool.reserved_for is None for pool in self.pools):
            for pool in self.pools:
                pool.reserved_for = self

    def unreserve_slots(self) -> None:
        """Remove the reservations of this queue set."""
        for pool in self.pools:
            if pool.reserved_for is self:
                pool.reserved_for = None

    def reserve_tokens(self, ticket: Ticket) -> None:
        """Reserve what a ticket takes of the rate limits, unless some of them are reserved for another queue set."""
        self.has_reservation = True
        reserved = self, ticket.request.tokens
        if all(pool.token_reservation is None or pool.token_reservation[0] is self for pool in self.pools):
            for pool in self.pools:
                pool.token_reservation = reserved

    def unreserve_all(self) -> None:
        """Remove the reservations of slots and tokens of this queue set."""
        self.unreserve_slots()
        for pool in self.pools:
            if pool.token_reservation is not None and pool.token_reservation[0] is self:
                pool.token_reservation = None
        self.has_reservation = False

    def start_lease(self, ticket: Ticket, now: float) -> None:
        """Count a ticket that was granted among the leases, and take its rate tokens."""
        for pool in self.pools:
            pool.add_lease(ticket)
            if pool.is_gated:
                pool.take_rate_tokens(1, ticket.request.tokens, now)

    def end_lease(self, ticket: Ticket) -> list[SlotPool]:
        """Remove a ticket from the leases, and return the pools that have a slot more."""
        if self.remote is not None and ticket.state is State.SUSPENDED:
            self.remote.add_note(RemoteChange.SUSPENDED, ticket)
        return [pool for pool in self.pools if pool.remove_lease(ticket)]

    def record_served(self, ticket: Ticket, now: float) -> None:
        """Count a call that has ended as service."""
        for pool in self.pools:
            pool.record_served(ticket.request)
        self.settle_charge(ticket, now)

    def take_rate_tokens(self, requests: int, tokens: int, now: float) -> None:
        """Take requests and tokens from the rate limits; negative amounts are returned to them."""
        for pool in self.pools:
            pool.take_rate_tokens(requests, tokens, now)

    def handle_success(self, now: float) -> None:
        """Update adaptive limits after a success of a call that still holds its slots."""
        for pool in self.pools:
            pool.handle_success(now)

    def handle_throttling(self, ticket: Ticket, now: float, pause: float, header: str | None) -> bool:
        """Update adaptive limits after a refusal, and return whether one of them has learnt a limit."""
        for pool in self.pools:
            pool.handle_throttling(ticket, now, pause, header)
        return any(pool.has_learnt for pool in self.pools)

    def set_pause(self, until: float, header: str | None) -> None:
        """Pause grants until a time, where the limit is adaptive."""
        for pool in self.pools:
            pool.set_pause(until, header)
