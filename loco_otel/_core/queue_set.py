"""Those who ask for the same resources: a queue per agent, the policy over these, and the guard over the policy."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.backlog import Backlog
from loco_otel._core.lazy_heap import LazyHeap
from loco_otel._core.policies.base import Candidate, Key, Policy, key_of
from loco_otel._core.policies.tenants import TenantPolicy
from loco_otel._core.ticket import State, Ticket

if TYPE_CHECKING:
    from loco_otel._core.slot_pool import SlotPool

_NO_SHARES: Mapping[str, int] = {}


class AgentQueue:
    """One agent's queued tickets, oldest first; `waiting` of them have a waiter. Its backlog counts as its own."""

    __slots__ = ("_backlog", "_own_weight", "_queued_heap", "_waiting_heap", "key", "waiting")

    def __init__(self, key: Key, backlog: Backlog | None = None) -> None:
        self.key = key
        self.waiting = 0
        self._own_weight = 0
        self._backlog = backlog
        self._waiting_heap = LazyHeap()
        self._queued_heap = LazyHeap()

    def __len__(self) -> int:
        return len(self._waiting_heap) + len(self._queued_heap)

    @property
    def weight(self) -> int:
        """Qi in milli-weights."""
        return self._own_weight if self._backlog is None else self._own_weight + self._backlog.weight

    def count_queued(self) -> int:
        """Count what is queued: those who wait only to take from the backlog are what is in it."""
        own = len(self._waiting_heap) + len(self._queued_heap)
        return own if self._backlog is None else max(own, len(self._backlog))

    def add_ticket(self, ticket: Ticket) -> None:
        """Add a ticket that is QUEUED or WAITING."""
        heap = self._queued_heap
        if ticket.state is State.WAITING:
            heap = self._waiting_heap
            self.waiting += 1
        ticket.queue_entry = heap.push_entry(ticket.birth, ticket.seq, item=ticket)
        self._own_weight += ticket.request.weight

    def remove_ticket(self, ticket: Ticket, *, waited: bool) -> None:
        """Remove a ticket, which was put as one that waits or as one that does not."""
        entry, ticket.queue_entry = ticket.queue_entry, None
        assert entry is not None  # noqa: S101 - invariant: it is in this queue
        if waited:
            self._waiting_heap.remove_entry(entry)
            self.waiting -= 1
        else:
            self._queued_heap.remove_entry(entry)
        self._own_weight -= ticket.request.weight

    def set_backlog(self, backlog: Backlog | None) -> None:
        """Count what is queued apart."""
        self._backlog = backlog

    def find_head(self) -> Ticket | None:
        """Return the oldest ticket that has a waiter."""
        first = self._waiting_heap.peek_entry()
        if first is None:
            return None
        ticket: Ticket = first[-1]
        return ticket

    def find_birth_tick(self) -> int:
        """Return the tick at which its oldest ticket was born, waited for or not; it is not empty.

        Those who wait only to take from the backlog are as old as what is in it.
        """
        work = None if self._backlog is None else self._backlog.find_oldest_work()
        if work is not None and not self._own_weight:
            return work.birth
        firsts = (self._waiting_heap.peek_entry(), self._queued_heap.peek_entry())
        born = min(int(first[0]) for first in firsts if first is not None)
        return born if work is None else min(born, work.birth)


class QueueSet:
    """All who ask for one resource, or for the same set of them: their logical clock, and who of them goes next.

    A tick is one release of the resource, or of any of the set. With `max_wait_ticks` = N > 0 the oldest waiter goes
    first once it has waited N ticks, whatever the policy says. From then on nothing younger can pass it, so a wait for
    one resource is at most N plus one tick for each ticket that waits and is older: at most N + max_waiters,
    where that is set.

    Args:
        policy: makes the policy, one for each tenant once there are any.
        max_wait_ticks: the guard; 0 turns it off.
        pools: what they ask for: a slot in each of these, in one step.
        tenant_shares: in thousandths, by tenant; others have 1.

    """

    __slots__ = (
        "_by_age",
        "_has_tenants",
        "_make_policy",
        "_tenant_shares",
        "backlogs",
        "max_wait_ticks",
        "policy",
        "pools",
        "queues",
        "single_pool",
        "tick",
        "tuner",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        policy: Callable[[], Policy],
        max_wait_ticks: int,
        pools: "tuple[SlotPool, ...]" = (),
        *,
        tenant_shares: Mapping[str, int] = _NO_SHARES,
    ) -> None:
        self.pools = pools
        self.single_pool = pools[0] if len(pools) == 1 else None
        """The one pool, where it is one."""
        self._make_policy = policy
        self._tenant_shares = tenant_shares
        self._has_tenants = False
        self.policy = policy()
        self.max_wait_ticks = max_wait_ticks
        self.tick = 0
        self.waiting = 0
        self.queues: dict[Key, AgentQueue] = {}
        self.backlogs: dict[str, Backlog] = {}
        """Of the agents that have one; they name no tenant."""
        self.tuner: AlphaTuner | None = None
        """Finds alpha by itself."""
        self._by_age = LazyHeap()

    def add_ticket(self, ticket: Ticket) -> AgentQueue:
        """Add a ticket that is QUEUED or WAITING."""
        key = key_of(ticket.request)
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = AgentQueue(key, self.backlogs.get(key) if isinstance(key, str) else None)
        queue.add_ticket(ticket)
        if ticket.state is State.WAITING:
            self.waiting += 1
            ticket.age_entry = self._by_age.push_entry(ticket.birth, ticket.seq, item=ticket)
        if ticket.request.tenant and not self._has_tenants:
            self._switch_policy(TenantPolicy(self._make_policy, self._tenant_shares))
            self._has_tenants = True
        else:
            self._update_policy(queue)
        return queue

    def remove_ticket(self, ticket: Ticket) -> None:
        """Remove a ticket; an agent with none left is forgotten."""
        queue = self.queues[key_of(ticket.request)]
        age_entry, ticket.age_entry = ticket.age_entry, None
        queue.remove_ticket(ticket, waited=age_entry is not None)
        if age_entry is not None:
            self.waiting -= 1
            self._by_age.remove_entry(age_entry)
        if not queue:
            del self.queues[queue.key]
        self._update_policy(queue)

    def select_next(self) -> tuple[Ticket, bool]:
        """Return the waiter to be granted next, and whether the guard chose it; someone waits."""
        if self.max_wait_ticks:
            oldest = self.find_oldest_waiter()
            if oldest is not None and self.tick - oldest.birth >= self.max_wait_ticks:
                return oldest, True
        ticket = self.queues[self.policy.pick_next(self.tick)].find_head()
        assert ticket is not None  # noqa: S101 - invariant: only agents with a waiter compete
        return ticket, False

    def find_oldest_waiter(self) -> Ticket | None:
        """Return the oldest of all waiters."""
        first = self._by_age.peek_entry()
        if first is None:
            return None
        ticket: Ticket = first[-1]
        return ticket

    def set_backlog(self, agent: str, backlog: Backlog | None) -> None:
        """Count what an agent has queued apart from its waiters; None ends that."""
        if backlog is None:
            self.backlogs.pop(agent, None)
        else:
            self.backlogs[agent] = backlog
        queue = self.queues.get(agent)
        if queue is not None:
            queue.set_backlog(backlog)
            self._update_policy(queue)

    def refresh_agent(self, agent: str) -> None:
        """Note that an agent's backlog has changed."""
        queue = self.queues.get(agent)
        if queue is not None:
            self._update_policy(queue)

    def tune_alpha(self, tuner: AlphaTuner) -> None:
        """Let a rule look at the queues, and go on with the alpha that it finds."""
        backlogs = [backlog for agent, backlog in self.backlogs.items() if agent not in self.queues]
        births = [queue.find_birth_tick() for queue in self.queues.values()]
        births += [work.birth for backlog in backlogs if (work := backlog.find_oldest_work()) is not None]
        weight = sum(queue.weight for queue in self.queues.values()) + sum(backlog.weight for backlog in backlogs)
        count = sum(queue.count_queued() for queue in self.queues.values()) + sum(len(backlog) for backlog in backlogs)
        self.policy.alpha = tuner.update_alpha(self.tick, [self.tick - birth for birth in births], weight, count)

    def replace_policy(self, policy: Callable[[], Policy], tenant_shares: Mapping[str, int] = _NO_SHARES) -> None:
        """Go on under another policy; nobody has been served yet under that."""
        self._make_policy = policy
        self._tenant_shares = tenant_shares
        self._switch_policy(TenantPolicy(policy, tenant_shares) if self._has_tenants else policy())

    def charge_ticket(self, ticket: Ticket) -> None:
        """Count a grant as service: once for each call, whatever its pauses."""
        if ticket.charged_by is not self.policy:
            ticket.charged_by = self.policy
            self.policy.charge_grant(key_of(ticket.request), ticket.resolve_request().weight)

    def settle_charge(self, ticket: Ticket) -> None:
        """Correct the account of a charged ticket, which ends."""
        policy, ticket.charged_by = ticket.charged_by, None
        if policy is self.policy:
            policy.adjust_charge(key_of(ticket.request), ticket.correction)

    def clear_queues(self) -> None:
        """Empty all queues, keeping the clock; the tickets are untouched."""
        self.policy.clear_candidates()
        self.queues = {}
        self.waiting = 0
        self._by_age = LazyHeap()
        for backlog in self.backlogs.values():
            backlog.rebuild_index()

    def _switch_policy(self, policy: Policy) -> None:
        self.policy = policy
        for queue in self.queues.values():
            self._update_policy(queue)

    def _update_policy(self, queue: AgentQueue) -> None:
        head = queue.find_head()
        if head is None:
            self.policy.remove_candidate(queue.key)
        else:
            self.policy.update_candidate(
                queue.key, Candidate(queue.weight, queue.find_birth_tick(), (head.birth, head.seq))
            )
