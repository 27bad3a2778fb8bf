"""Those who ask for the same resources: a queue per agent, the policy over these, and the guard over the policy."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from loco_otel._core.alpha_tuner import AdaptiveAlpha
from loco_otel._core.backlog import Backlog
from loco_otel._core.lazy_heap import LazyHeap
from loco_otel._core.policies.base import Key, Policy, Standing, key_of
from loco_otel._core.policies.tenants import TenantPolicy
from loco_otel._core.ticket import State, Ticket

if TYPE_CHECKING:
    from loco_otel._core.slot_pool import Pool

_NO_SHARES: Mapping[str, int] = {}


class AgentQueue:
    """One agent's queued tickets, oldest first; `waiting` of them have a waiter. Its backlog counts as its own."""

    __slots__ = ("_asked", "_backlog", "_own", "_unasked", "key", "waiting")

    def __init__(self, key: Key, backlog: Backlog | None = None) -> None:
        self.key = key
        self.waiting = 0
        self._own = 0
        self._backlog = backlog
        self._asked = LazyHeap()
        self._unasked = LazyHeap()

    def __len__(self) -> int:
        return len(self._asked) + len(self._unasked)

    @property
    def weight(self) -> int:
        """Qi in milli-weights."""
        return self._own if self._backlog is None else self._own + self._backlog.weight

    def count(self) -> int:
        """Count what is queued: those who wait only to take from the backlog are what is in it."""
        own = len(self._asked) + len(self._unasked)
        return own if self._backlog is None else max(own, len(self._backlog))

    def put(self, ticket: Ticket) -> None:
        """Add a ticket that is QUEUED or WAITING."""
        heap = self._unasked
        if ticket.state is State.WAITING:
            heap = self._asked
            self.waiting += 1
        ticket.queue_entry = heap.push(ticket.birth, ticket.seq, item=ticket)
        self._own += ticket.request.weight

    def take(self, ticket: Ticket, *, waited: bool) -> None:
        """Remove a ticket, which was put as one that waits or as one that does not."""
        entry, ticket.queue_entry = ticket.queue_entry, None
        assert entry is not None  # noqa: S101 - invariant: it is in this queue
        if waited:
            self._asked.strike(entry)
            self.waiting -= 1
        else:
            self._unasked.strike(entry)
        self._own -= ticket.request.weight

    def set_backlog(self, backlog: Backlog | None) -> None:
        """Count what is queued apart."""
        self._backlog = backlog

    def head(self) -> Ticket | None:
        """Return the oldest ticket that has a waiter."""
        first = self._asked.first()
        if first is None:
            return None
        ticket: Ticket = first[-1]
        return ticket

    def birth(self) -> int:
        """Return the tick at which its oldest ticket was born, waited for or not; it is not empty.

        Those who wait only to take from the backlog are as old as what is in it.
        """
        work = None if self._backlog is None else self._backlog.oldest()
        if work is not None and not self._own:
            return work.birth
        firsts = (self._asked.first(), self._unasked.first())
        born = min(int(first[0]) for first in firsts if first is not None)
        return born if work is None else min(born, work.birth)


class Line:
    """All who ask for one resource, or for the same set of them: their logical clock, and who of them goes next.

    A tick is one release of the resource, or of any of the set. With `max_wait_ticks` = N > 0 the oldest waiter goes
    first once it has waited N ticks, whatever the policy says. From then on nothing younger can pass it, so a wait for
    one resource is at most N plus one tick for each ticket that waits and is older: at most N + max_waiters.

    Args:
        policy: makes the policy, one for each tenant once there are any.
        max_wait_ticks: the guard; 0 turns it off.
        pools: what they ask for: a slot in each of these, in one step.
        tenant_shares: in thousandths, by tenant; others have 1.

    """

    __slots__ = (
        "_by_age", "_make_policy", "_tenant_shares", "_tenants", "backlogs", "max_wait_ticks", "only", "policy",
        "pools", "queues", "tick", "tuner", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        policy: Callable[[], Policy],
        max_wait_ticks: int,
        pools: "tuple[Pool, ...]" = (),
        *,
        tenant_shares: Mapping[str, int] = _NO_SHARES,
    ) -> None:
        self.pools = pools
        self.only = pools[0] if len(pools) == 1 else None
        """The one pool, where it is one."""
        self._make_policy = policy
        self._tenant_shares = tenant_shares
        self._tenants = False
        self.policy = policy()
        self.max_wait_ticks = max_wait_ticks
        self.tick = 0
        self.waiting = 0
        self.queues: dict[Key, AgentQueue] = {}
        self.backlogs: dict[str, Backlog] = {}
        """Of the agents that have one; they name no tenant."""
        self.tuner: AdaptiveAlpha | None = None
        """Finds alpha by itself."""
        self._by_age = LazyHeap()

    def put(self, ticket: Ticket) -> AgentQueue:
        """Add a ticket that is QUEUED or WAITING."""
        key = key_of(ticket.request)
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = AgentQueue(key, self.backlogs.get(key) if isinstance(key, str) else None)
        queue.put(ticket)
        if ticket.state is State.WAITING:
            self.waiting += 1
            ticket.age_entry = self._by_age.push(ticket.birth, ticket.seq, item=ticket)
        if ticket.request.tenant and not self._tenants:
            self._follow(TenantPolicy(self._make_policy, self._tenant_shares))
            self._tenants = True
        else:
            self._compete(queue)
        return queue

    def take(self, ticket: Ticket) -> None:
        """Remove a ticket; an agent with none left is forgotten."""
        queue = self.queues[key_of(ticket.request)]
        age_entry, ticket.age_entry = ticket.age_entry, None
        queue.take(ticket, waited=age_entry is not None)
        if age_entry is not None:
            self.waiting -= 1
            self._by_age.strike(age_entry)
        if not queue:
            del self.queues[queue.key]
        self._compete(queue)

    def next(self) -> tuple[Ticket, bool]:
        """Return the waiter to be granted next, and whether the guard chose it; someone waits."""
        if self.max_wait_ticks:
            oldest = self.oldest()
            if oldest is not None and self.tick - oldest.birth >= self.max_wait_ticks:
                return oldest, True
        ticket = self.queues[self.policy.pick(self.tick)].head()
        assert ticket is not None  # noqa: S101 - invariant: only agents with a waiter compete
        return ticket, False

    def oldest(self) -> Ticket | None:
        """Return the oldest of all waiters."""
        first = self._by_age.first()
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
            self._compete(queue)

    def refresh(self, agent: str) -> None:
        """Note that an agent's backlog has changed."""
        queue = self.queues.get(agent)
        if queue is not None:
            self._compete(queue)

    def tune(self, tuner: AdaptiveAlpha) -> None:
        """Let a rule look at the queues, and go on with the alpha that it finds."""
        backlogs = [backlog for agent, backlog in self.backlogs.items() if agent not in self.queues]
        births = [queue.birth() for queue in self.queues.values()]
        births += [work.birth for backlog in backlogs if (work := backlog.oldest()) is not None]
        weight = sum(queue.weight for queue in self.queues.values()) + sum(backlog.weight for backlog in backlogs)
        count = sum(queue.count() for queue in self.queues.values()) + sum(len(backlog) for backlog in backlogs)
        self.policy.alpha = tuner.look(self.tick, [self.tick - birth for birth in births], weight, count)

    def use(self, policy: Callable[[], Policy], tenant_shares: Mapping[str, int] = _NO_SHARES) -> None:
        """Go on under another policy; nobody has been served yet under that."""
        self._make_policy = policy
        self._tenant_shares = tenant_shares
        self._follow(TenantPolicy(policy, tenant_shares) if self._tenants else policy())

    def charge(self, ticket: Ticket) -> None:
        """Count a grant as service: once for each call, whatever its pauses."""
        if ticket.charged_by is not self.policy:
            ticket.charged_by = self.policy
            self.policy.granted(key_of(ticket.request), ticket.bound_request().weight)

    def settle(self, ticket: Ticket) -> None:
        """Correct the account of a charged ticket, which ends."""
        policy, ticket.charged_by = ticket.charged_by, None
        if policy is self.policy:
            policy.settled(key_of(ticket.request), ticket.correction)

    def clear(self) -> None:
        """Empty all queues, keeping the clock; the tickets are untouched."""
        self.policy.clear()
        self.queues = {}
        self.waiting = 0
        self._by_age = LazyHeap()
        for backlog in self.backlogs.values():
            backlog.rebuild()

    def _follow(self, policy: Policy) -> None:
        self.policy = policy
        for queue in self.queues.values():
            self._compete(queue)

    def _compete(self, queue: AgentQueue) -> None:
        head = queue.head()
        if head is None:
            self.policy.drop(queue.key)
        else:
            self.policy.put(queue.key, Standing(queue.weight, queue.birth(), (head.birth, head.seq)))
