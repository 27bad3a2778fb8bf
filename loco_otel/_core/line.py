"""Those who ask for the same resources: a queue per agent, the policy over these, and the guard over the policy."""

from typing import TYPE_CHECKING

from loco_otel._core.lazy_heap import LazyHeap
from loco_otel._core.policy import Policy, Standing
from loco_otel._core.ticket import State, Ticket

if TYPE_CHECKING:
    from loco_otel._core.pool import Pool


class AgentQueue:
    """One agent's queued tickets, oldest first. `weight` is Qi in milli-weights; `waiting` of them have a waiter."""

    __slots__ = ("_asked", "_unasked", "agent", "waiting", "weight")

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.weight = 0
        self.waiting = 0
        self._asked = LazyHeap()
        self._unasked = LazyHeap()

    def __len__(self) -> int:
        return len(self._asked) + len(self._unasked)

    def put(self, ticket: Ticket) -> None:
        """Add a ticket that is QUEUED or WAITING."""
        heap = self._unasked
        if ticket.state is State.WAITING:
            heap = self._asked
            self.waiting += 1
        ticket.queue_entry = heap.push(ticket.birth, ticket.seq, item=ticket)
        self.weight += ticket.request.weight

    def take(self, ticket: Ticket, *, waited: bool) -> None:
        """Remove a ticket, which was put as one that waits or as one that does not."""
        entry, ticket.queue_entry = ticket.queue_entry, None
        assert entry is not None  # noqa: S101 - invariant: it is in this queue
        if waited:
            self._asked.strike(entry)
            self.waiting -= 1
        else:
            self._unasked.strike(entry)
        self.weight -= ticket.request.weight

    def head(self) -> Ticket | None:
        """Return the oldest ticket that has a waiter."""
        first = self._asked.first()
        if first is None:
            return None
        ticket: Ticket = first[-1]
        return ticket

    def birth(self) -> int:
        """Return the tick at which its oldest ticket was born, waited for or not; it is not empty."""
        firsts = (self._asked.first(), self._unasked.first())
        return min(int(first[0]) for first in firsts if first is not None)


class Line:
    """All who ask for one resource, or for the same set of them: their logical clock, and who of them goes next.

    A tick is one release of the resource, or of any of the set. With `max_wait_ticks` = N > 0 the oldest waiter goes
    first once it has waited N ticks, whatever the policy says. From then on nothing younger can pass it, so a wait for
    one resource is at most N plus one tick for each ticket that waits and is older: at most N + max_waiters.
    """

    __slots__ = ("_by_age", "max_wait_ticks", "only", "policy", "pools", "queues", "tick", "waiting")

    def __init__(self, policy: Policy, max_wait_ticks: int, pools: "tuple[Pool, ...]" = ()) -> None:
        self.pools = pools
        """What they ask for: a slot in each of these, in one step."""
        self.only = pools[0] if len(pools) == 1 else None
        """The one pool, where it is one."""
        self.policy = policy
        self.max_wait_ticks = max_wait_ticks
        self.tick = 0
        self.waiting = 0
        self.queues: dict[str, AgentQueue] = {}
        self._by_age = LazyHeap()

    def put(self, ticket: Ticket) -> AgentQueue:
        """Add a ticket that is QUEUED or WAITING."""
        agent = ticket.request.agent
        queue = self.queues.get(agent)
        if queue is None:
            queue = self.queues[agent] = AgentQueue(agent)
        queue.put(ticket)
        if ticket.state is State.WAITING:
            self.waiting += 1
            ticket.age_entry = self._by_age.push(ticket.birth, ticket.seq, item=ticket)
        self._compete(queue)
        return queue

    def take(self, ticket: Ticket) -> None:
        """Remove a ticket; an agent with none left is forgotten."""
        queue = self.queues[ticket.request.agent]
        age_entry, ticket.age_entry = ticket.age_entry, None
        queue.take(ticket, waited=age_entry is not None)
        if age_entry is not None:
            self.waiting -= 1
            self._by_age.strike(age_entry)
        if not queue:
            del self.queues[queue.agent]
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

    def use(self, policy: Policy) -> None:
        """Go on under another policy."""
        self.policy = policy
        for queue in self.queues.values():
            self._compete(queue)

    def clear(self) -> None:
        """Empty all queues, keeping the clock; the tickets are untouched."""
        self.policy.clear()
        self.queues = {}
        self.waiting = 0
        self._by_age = LazyHeap()

    def _compete(self, queue: AgentQueue) -> None:
        head = queue.head()
        if head is None:
            self.policy.drop(queue.agent)
        else:
            self.policy.put(queue.agent, Standing(queue.weight, queue.birth(), (head.birth, head.seq)))
