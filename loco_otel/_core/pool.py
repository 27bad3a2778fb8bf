"""One resource: its slots, who holds them, and when a holder has to lend a slot to its own descendant.

**Sharing.** A holder may need a second call before it can end the first: it reads a stream and asks again. At
capacity 1 both would wait for ever. Each lease lists the `places` it lives in (a thread, the contexts that inherited
it), and each waiter the places that it `blocks` while it waits. A lease is stuck while a waiter blocks one of its
places. As long as one lease is not stuck, some holder can finish and all wait. Once every lease is stuck nothing
would ever move, so one waiter that blocks a lease shares that lease's slot. The new lease is not stuck, hence only
one waiter at a time is let in this way.
"""

from collections import deque
from collections.abc import Hashable, Iterator
from math import inf

from loco_otel._core.fairness import jains_index
from loco_otel._core.line import Line
from loco_otel._core.ticket import Ticket
from loco_otel.events import AgentStanding, Request, ResourceStanding

_WINDOW = 1000
"""Releases over which the fairness index looks back."""


class Pool:
    """The slots of one resource, and the line before it."""

    __slots__ = ("_entangled", "_stuck_places", "capacity", "leases", "line", "name", "served", "sharers", "used")

    def __init__(self, name: str, capacity: int | None, line: Line) -> None:
        self.name = name
        self.capacity: float = inf
        """Slots; inf while unlimited."""
        self.limit(capacity)
        self.line = line
        self.leases: dict[int, Ticket] = {}
        """Those that hold a slot or share one, in the order of their grants."""
        self.used = 0
        """Slots taken: the leases less those that share."""
        self.sharers = 0
        """Leases that share a slot."""
        self._stuck_places: dict[Hashable, int] = {}
        self._entangled: dict[int, Ticket] = {}
        self.served: deque[Request] = deque(maxlen=_WINDOW)
        """What was served of late, for the fairness index."""

    def limit(self, capacity: int | None) -> None:
        """Set the number of slots; None is unlimited."""
        self.capacity = inf if capacity is None else capacity

    def hold(self, ticket: Ticket) -> None:
        """Count a ticket among the holders; its state says so already."""
        self.leases[ticket.seq] = ticket
        if ticket.host is None:
            self.used += 1
        else:
            self.sharers += 1

    def free(self, ticket: Ticket) -> bool:
        """Take a ticket out of the holders; return True when that gave a slot back.

        A slot that somebody shares passes on to the sharer.
        """
        del self.leases[ticket.seq]
        if self.sharers and self._pass_on(ticket):
            return False
        self.used -= 1
        return True

    def entangle(self, ticket: Ticket) -> None:
        """Note which places a new waiter blocks."""
        if ticket.blocks:
            self._entangled[ticket.seq] = ticket
            for place in ticket.blocks:
                self._stuck_places[place] = self._stuck_places.get(place, 0) + 1

    def disentangle(self, ticket: Ticket) -> None:
        """Note that it blocks them no more."""
        if self._entangled.pop(ticket.seq, None) is None:
            return
        for place in ticket.blocks:
            left = self._stuck_places[place] - 1
            if left:
                self._stuck_places[place] = left
            else:
                del self._stuck_places[place]

    def lender(self) -> tuple[Ticket, Ticket] | None:
        """Return the waiter that must share now, and the holder that lends; None while some holder can still end."""
        if not self._entangled or not self.leases:
            return None
        stuck = self._stuck_places
        for lease in self.leases.values():
            if not any(place in stuck for place in lease.places):
                return None
        tick = self.line.tick
        best: tuple[float, int, int] | None = None
        chosen: tuple[Ticket, Ticket] | None = None
        for waiter in self._entangled.values():
            host = self._blocked_by(waiter)
            if host is not None and self._could_end(waiter):
                rank = (-self.line.policy.score(waiter.request.agent, tick), waiter.birth, waiter.seq)
                if best is None or rank < best:
                    best, chosen = rank, (waiter, host)
        return chosen

    def clear(self) -> None:
        """Forget holders and waiters, keeping the clock; the tickets are untouched."""
        self.line.clear()
        self.leases = {}
        self.used = 0
        self.sharers = 0
        self._stuck_places = {}
        self._entangled = {}

    def standing(self, now: float) -> ResourceStanding:
        """Tell how the resource stands."""
        line = self.line
        active: dict[str, int] = {}
        for ticket in self.leases.values():
            active[ticket.request.agent] = active.get(ticket.request.agent, 0) + 1
        return ResourceStanding(
            resource=self.name,
            policy=line.policy.name,
            capacity=None if self.capacity == inf else int(self.capacity),
            active=len(self.leases),
            waiting=line.waiting,
            tick=line.tick,
            alpha=line.policy.alpha,
            fairness=self._fairness(),
            agents=tuple(self._agents(active, now)),
        )

    def _agents(self, active: dict[str, int], now: float) -> Iterator[AgentStanding]:
        line = self.line
        for agent in sorted(active.keys() | line.queues.keys()):
            queue = line.queues.get(agent)
            if queue is None:
                yield AgentStanding(agent, 0, active[agent], 0, 0, 0.0, None)
                continue
            head = queue.head()
            yield AgentStanding(
                agent=agent,
                waiting=queue.waiting,
                active=active.get(agent, 0),
                queue_weight=queue.weight,
                queue_age=line.tick - queue.birth(),
                oldest_wait=0.0 if head is None else now - head.waiting_since,
                score=None if head is None else line.policy.score(agent, line.tick),
            )

    def _fairness(self) -> float:
        served: dict[str, int] = dict.fromkeys((queue.agent for queue in self.line.queues.values() if queue.waiting), 0)
        for request in self.served:
            served[request.agent] = served.get(request.agent, 0) + request.weight
        return jains_index(served.values())

    def _pass_on(self, ticket: Ticket) -> bool:
        if ticket.host is not None:
            ticket.host = None
            self.sharers -= 1
            return True
        heir: Ticket | None = None
        for sharer in self.leases.values():
            if sharer.host is ticket:
                sharer.host = heir
                heir = heir or sharer
        if heir is None:
            return False
        self.sharers -= 1
        return True

    def _could_end(self, waiter: Ticket) -> bool:
        # A waiter on a loop that another waiter blocks could not run if it were granted.
        stuck, own = self._stuck_places, waiter.blocks
        return all(stuck.get(place, 0) <= own.count(place) for place in waiter.places)

    def _blocked_by(self, waiter: Ticket) -> Ticket | None:
        blocks = waiter.blocks
        for lease in self.leases.values():
            if any(place in blocks for place in lease.places):
                return lease
        return None
