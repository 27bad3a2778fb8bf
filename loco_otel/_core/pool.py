"""One resource: its slots and who holds them."""

from collections import deque
from math import inf

from loco_otel._core.line import Line
from loco_otel._core.ticket import Ticket
from loco_otel.events import Request

_WINDOW = 1000
"""Releases over which the fairness index looks back."""


class Pool:
    """The slots of one resource, and the lines before it."""

    __slots__ = ("capacity", "leases", "lines", "name", "reserved", "served", "sharers", "used")

    def __init__(self, name: str, capacity: int | None) -> None:
        self.name = name
        self.capacity: float = inf
        """Slots; inf while unlimited."""
        self.limit(capacity)
        self.lines: list[Line] = []
        """Of those who ask for this resource, alone or among others."""
        self.leases: dict[int, Ticket] = {}
        """Those that hold a slot or share one, in the order of their grants."""
        self.used = 0
        """Slots taken: the leases less those that share."""
        self.sharers = 0
        """Leases that share a slot."""
        self.reserved: Line | None = None
        """Whose the next free slot is: a line that asks for other resources too, and has waited too long."""
        self.served: deque[Request] = deque(maxlen=_WINDOW)
        """What was served of late, for the fairness index."""

    def limit(self, capacity: int | None) -> None:
        """Set the number of slots; None is unlimited."""
        self.capacity = inf if capacity is None else capacity

    def has_room(self, line: Line) -> bool:
        """Tell whether there is a slot for a line: one that is kept for another is none."""
        if self.reserved is None or self.reserved is line:
            return self.used < self.capacity
        return self.used + 1 < self.capacity

    def hold(self, ticket: Ticket) -> None:
        """Count a ticket among the holders; its state says so already."""
        self.leases[ticket.seq] = ticket
        if self.name in ticket.hosts:
            self.sharers += 1
        else:
            self.used += 1

    def free(self, ticket: Ticket) -> bool:
        """Take a ticket out of the holders; return True when that gave a slot back.

        A slot that somebody shares passes on to the sharer.
        """
        del self.leases[ticket.seq]
        if self.sharers and self._pass_on(ticket):
            return False
        self.used -= 1
        return True

    def clear(self) -> None:
        """Forget holders; the tickets are untouched."""
        self.leases = {}
        self.used = 0
        self.sharers = 0
        self.reserved = None

    def _pass_on(self, ticket: Ticket) -> bool:
        name = self.name
        if name in ticket.hosts:
            ticket.hosts = _without(ticket, name)
            self.sharers -= 1
            return True
        heir: Ticket | None = None
        for sharer in self.leases.values():
            if sharer.hosts.get(name) is ticket:
                if heir is None:
                    heir = sharer
                    sharer.hosts = _without(sharer, name)
                else:
                    sharer.hosts = {**sharer.hosts, name: heir}
        if heir is None:
            return False
        self.sharers -= 1
        return True


def _without(ticket: Ticket, name: str) -> dict[str, Ticket]:
    return {other: host for other, host in ticket.hosts.items() if other != name}
