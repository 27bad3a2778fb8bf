"""One resource: its slots, who holds them, and what else keeps a request from going."""

from collections import deque
from math import inf

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.queue_set import Line
from loco_otel._core.ticket import Ticket
from loco_otel._core.token_bucket import Rate
from loco_otel.events import Request

_WINDOW = 1000
"""Releases over which the fairness index looks back."""


class Pool:
    """The slots of one resource, and the lines before it."""

    __slots__ = (
        "adaptive", "capacity", "gated", "leases", "lines", "name", "paused_until", "requests", "reserved", "served",
        "sharers", "stalled", "tokens", "used",
    )  # fmt: skip

    def __init__(self, name: str, capacity: int | AdaptiveLimit | None) -> None:
        self.name = name
        self.adaptive: AdaptiveLimit | None = None
        """Finds the capacity out, where nobody has set it."""
        self.capacity: float = inf
        """Slots; inf while unlimited."""
        self.requests: Rate | None = None
        self.tokens: Rate | None = None
        self.paused_until = 0.0
        """Nobody is granted before."""
        self.gated = False
        """Whether more than the slots has to be looked at."""
        self.limit(capacity)
        self.lines: list[Line] = []
        """Of those who ask for this resource, alone or among others."""
        self.leases: dict[int, Ticket] = {}
        """Those that hold a slot or share one, in the order of their grants."""
        self.used = 0
        """Slots taken: the leases less those that share."""
        self.sharers = 0
        """Leases that share a slot."""
        self.stalled: tuple[float, int] | None = None
        """Its last sign of life and its releases when it was told that it stands still."""
        self.reserved: Line | None = None
        """Whose the next free slot is: a line that asks for other resources too, and has waited too long."""
        self.served: deque[Request] = deque(maxlen=_WINDOW)
        """What was served of late, for the fairness index."""

    def limit(self, capacity: int | AdaptiveLimit | None) -> None:
        """Set the number of slots: None is unlimited, an adaptive limit finds it out."""
        self.adaptive = capacity if isinstance(capacity, AdaptiveLimit) else None
        if isinstance(capacity, AdaptiveLimit):
            self.capacity = capacity.limit
        else:
            self.capacity = inf if capacity is None else capacity
            self.paused_until = 0.0
        self._gate()

    @property
    def has_learnt(self) -> bool:
        """Whether its provider has ever refused anything."""
        return self.adaptive is not None and self.adaptive.is_learnt

    def limit_rates(self, requests: float | None, tokens: float | None) -> None:
        """Set how many requests and tokens may go in a minute; None is any number."""
        if requests != (self.requests and self.requests.per_minute):
            self.requests = None if requests is None else Rate(requests)
        if tokens != (self.tokens and self.tokens.per_minute):
            self.tokens = None if tokens is None else Rate(tokens)
        self._gate()

    def push_back(self, ticket: Ticket, now: float, pause: float) -> None:
        """Note that the provider refused one of the holders, for load, and for how long it wants to be left alone."""
        if self.adaptive is not None and self.adaptive.push_back(self.used, ticket.granted_at, now, pause):
            self._adapt()
        if pause:
            self.pause(now + pause)

    def succeed(self, now: float) -> None:
        """Note that the provider has served one of the holders, who has not left yet."""
        if self.adaptive is not None and self.adaptive.succeed(self.used, now):
            self._adapt()

    def pause(self, until: float) -> None:
        """Grant nothing before, as the provider asks; a capacity that somebody has set is nobody's to pause."""
        if self.adaptive is not None and until > self.paused_until:
            self.paused_until = until
            self._gate()

    def _adapt(self) -> None:
        """Do as the adaptive limit says."""
        if self.adaptive is not None:
            self.capacity = self.adaptive.limit
        self._gate()

    def opens_at(self, ticket: Ticket, now: float) -> float:
        """Return when a ticket may go as far as time is concerned: `now` or before when it may."""
        at = self.paused_until
        if self.requests is not None:
            at = max(at, self.requests.opens_at(1, now))
        if self.tokens is not None:
            at = max(at, self.tokens.opens_at(ticket.request.tokens, now))
        return at

    def spend(self, requests: int, tokens: int, now: float) -> None:
        """Take from what may go in a minute; negative amounts give back."""
        if self.requests is not None and requests:
            self.requests.take(requests, now)
        if self.tokens is not None and tokens:
            self.tokens.take(tokens, now)

    def _gate(self) -> None:
        self.gated = self.has_learnt or self.requests is not None or self.tokens is not None or self.paused_until > 0

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
        self._adapt()

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
