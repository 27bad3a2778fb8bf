"""The requests that compete for the same resources: a queue per agent, the policy, and the guard."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from loco_otel._core.agent_queue import AgentQueue
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.backlog import Backlog
from loco_otel._core.lazy_heap import LazyHeap
from loco_otel._core.policies.base import Key, Policy, key_of
from loco_otel._core.policies.tenants import TenantPolicy
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

    """

    __slots__ = (
        "_by_age",
        "_has_tenants",
        "_make_policy",
        "_tenant_shares",
        "backlogs",
        "gate",
        "has_reservation",
        "is_remote",
        "max_wait_ticks",
        "policy",
        "pools",
        "queues",
        "rank",
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
    ) -> None:
        self.pools = pools
        self.single_pool = pools[0] if len(pools) == 1 else None
        """The pool of a queue set for one resource; else None."""
        self.is_remote = any(pool.is_remote for pool in pools)
        """Whether another place decides its grants, see `_core/remote.py`."""
        self._make_policy = policy
        self._tenant_shares = tenant_shares
        self._has_tenants = False
        self.policy = policy()
        self.max_wait_ticks = max_wait_ticks
        self.tick = 0
        self.waiting = 0
        self.queues: dict[Key, AgentQueue] = {}
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
        self._by_age = LazyHeap()

    # -- waiters ------------------------------------------------------------------------------------------------

    def add_ticket(self, ticket: Ticket) -> AgentQueue:
        """Add a WAITING ticket to its agent's queue."""
        key = key_of(ticket.request)
        queue = self.queues.get(key)
        if queue is None:
            backlog = self.backlogs.get(key) if isinstance(key, str) else None
            queue = self.queues[key] = AgentQueue(key, backlog, self.tick)
        queue.add_ticket(ticket)
        self.waiting += 1
        self.rank = None
        ticket.age_entry = self._by_age.push_entry(ticket.birth, ticket.seq, item=ticket)
        if ticket.request.tenant and not self._has_tenants:
            self._switch_policy(TenantPolicy(self._make_policy, self._tenant_shares))
            self._has_tenants = True
        else:
            self._update_policy(queue)
        return queue

    def remove_ticket(self, ticket: Ticket) -> None:
        """Remove a ticket, the queue of an agent without further tickets, and what is reserved for this set."""
        queue = self.queues[key_of(ticket.request)]
        age_entry, ticket.age_entry = ticket.age_entry, None
        queue.remove_ticket(ticket)
        assert age_entry is not None  # noqa: S101 - invariant: it waits
        self.waiting -= 1
        self.rank = None
        self._by_age.remove_entry(age_entry)
        if not queue:
            del self.queues[queue.key]
        self._update_policy(queue)
        if self.has_reservation:
            self.unreserve_all()
        if not self.waiting:
            self.gate = None

    def select_next(self) -> tuple[Ticket, bool]:
        """Return the waiter to be granted next, and whether the guard selected it; there must be a waiter."""
        if self.max_wait_ticks:
            oldest = self.find_oldest_waiter()
            if oldest is not None and self.tick - oldest.birth >= self.max_wait_ticks:
                return oldest, True
        ticket = self.queues[self.policy.pick_next(self.tick)].find_head()
        assert ticket is not None  # noqa: S101 - invariant: only agents with a waiter compete
        return ticket, False

    def find_rank(self) -> "Rank":
        """Compute and return the rank among queue sets; a ticket must wait."""
        oldest = self.find_oldest_waiter()
        assert oldest is not None  # noqa: S101 - invariant: asked only while one waits
        rank = self.rank = Rank(oldest.waiting_since, oldest.seq, self, oldest)
        return rank

    def find_oldest_waiter(self) -> Ticket | None:
        """Return the oldest of all waiters; None if no ticket waits."""
        first = self._by_age.peek_entry()
        if first is None:
            return None
        ticket: Ticket = first[-1]
        return ticket

    def clear_queues(self, tickets: Sequence[Ticket]) -> None:
        """Empty all queues without changing the tickets; the clock, and what these tickets were charged, stay."""
        if self.policy.is_metered:
            charged = [key_of(ticket.request) for ticket in tickets if ticket.charged_by is self.policy]
            waiting = {key_of(ticket.request) for ticket in tickets if ticket.state is State.WAITING}
            self.policy.restore_accounts(charged, waiting)
        else:
            self.policy.clear_candidates()
        self.queues = {}
        self.waiting = 0
        self.rank = None
        self.gate = None
        self._by_age = LazyHeap()
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
            queue.set_backlog(backlog)
            self._update_policy(queue)

    def refresh_agent(self, agent: str) -> None:
        """Update the policy after a change of an agent's backlog."""
        queue = self.queues.get(agent)
        if queue is not None:
            self._update_policy(queue)

    def tune_alpha(self, tuner: AlphaTuner) -> None:
        """Set alpha to what a tuner computes from the queues and backlogs."""
        backlogs = [backlog for agent, backlog in self.backlogs.items() if agent not in self.queues]
        births = [queue.find_birth_tick() for queue in self.queues.values()]
        births += [work.birth for backlog in backlogs if (work := backlog.find_oldest_work()) is not None]
        weight = sum(queue.weight for queue in self.queues.values()) + sum(backlog.weight for backlog in backlogs)
        count = sum(queue.count_queued() for queue in self.queues.values()) + sum(len(backlog) for backlog in backlogs)
        self.policy.alpha = tuner.update_alpha(self.tick, [self.tick - birth for birth in births], weight, count)

    def replace_policy(self, policy: Callable[[], Policy], tenant_shares: Mapping[str, int] = _NO_SHARES) -> None:
        """Change the policy; what agents were served under the previous policy does not count."""
        self._make_policy = policy
        self._tenant_shares = tenant_shares
        self._switch_policy(TenantPolicy(policy, tenant_shares) if self._has_tenants else policy())

    def charge_ticket(self, ticket: Ticket) -> None:
        """Charge a ticket's agent for a grant: once per call, whatever its pauses."""
        if ticket.charged_by is not self.policy:
            ticket.charged_by = self.policy
            self.policy.charge_grant(key_of(ticket.request), ticket.resolve_request().weight)

    def settle_charge(self, ticket: Ticket) -> None:
        """Correct the charge of a ticket that ends; no-op if it was not charged."""
        policy, ticket.charged_by = ticket.charged_by, None
        if policy is not None and policy is self.policy:
            policy.adjust_charge(key_of(ticket.request), ticket.correction)

    def _switch_policy(self, policy: Policy) -> None:
        self.policy = policy
        for queue in self.queues.values():
            self._update_policy(queue)

    def _update_policy(self, queue: AgentQueue) -> None:
        candidate = queue.build_candidate()
        if candidate is None:
            self.policy.remove_candidate(queue.key)
        else:
            self.policy.update_candidate(queue.key, candidate)

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
        return [pool for pool in self.pools if pool.remove_lease(ticket)]

    def record_served(self, ticket: Ticket) -> None:
        """Count a call that has ended as service."""
        for pool in self.pools:
            pool.record_served(ticket.request)
        self.settle_charge(ticket)

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
