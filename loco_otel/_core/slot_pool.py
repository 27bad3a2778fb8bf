"""One resource: its slots, who holds them, and what else keeps a request from going."""

from collections import deque
from math import inf

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.base import Key, key_of
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.ticket import Ticket
from loco_otel._core.token_bucket import TokenBucket
from loco_otel.events import Request

_FAIRNESS_WINDOW = 1000
"""Releases over which the fairness index looks back."""


class SlotPool:
    """The slots of one resource, and the lines before it."""

    __slots__ = (
        "adaptive_limit",
        "capacity",
        "is_gated",
        "leases",
        "name",
        "pause_header",
        "paused_until",
        "queue_sets",
        "recently_served",
        "reported_stall",
        "request_bucket",
        "reserved_for",
        "sharer_count",
        "token_bucket",
        "used",
    )  # fmt: skip

    def __init__(self, name: str, capacity: int | AdaptiveLimit | None) -> None:
        self.name = name
        self.adaptive_limit: AdaptiveLimit | None = None
        """Finds the capacity out, where nobody has set it."""
        self.capacity: float = inf
        """Slots; inf while unlimited."""
        self.request_bucket: TokenBucket | None = None
        self.token_bucket: TokenBucket | None = None
        self.paused_until = 0.0
        """Nobody is granted before."""
        self.pause_header: str | None = None
        """The header that states it."""
        self.is_gated = False
        """Whether more than the slots has to be looked at."""
        self.set_capacity(capacity)
        self.queue_sets: list[QueueSet] = []
        """Of those who ask for this resource, alone or among others."""
        self.leases: dict[int, Ticket] = {}
        """Those that hold a slot or share one, in the order of their grants."""
        self.used = 0
        """Slots taken: the leases less those that share."""
        self.sharer_count = 0
        """Leases that share a slot."""
        self.reported_stall: tuple[float, int] | None = None
        """Its last sign of life and its releases when it was told that it stands still."""
        self.reserved_for: QueueSet | None = None
        """Whose the next free slot is: a line that asks for other resources too, and has waited too long."""
        self.recently_served: deque[tuple[Key, int]] = deque(maxlen=_FAIRNESS_WINDOW)
        """Queue key and weight of the last requests served, for the fairness index.

        Never the requests: they refer to the program's contexts, and through these to its spans.
        """

    def set_capacity(self, capacity: int | AdaptiveLimit | None) -> None:
        """Set the number of slots: None is unlimited, an adaptive limit finds it out."""
        self.adaptive_limit = capacity if isinstance(capacity, AdaptiveLimit) else None
        if isinstance(capacity, AdaptiveLimit):
            self.capacity = capacity.limit
        else:
            self.capacity = inf if capacity is None else capacity
            self.paused_until = 0.0
        self._update_gate()

    @property
    def has_learnt(self) -> bool:
        """Whether its provider has ever refused anything."""
        return self.adaptive_limit is not None and self.adaptive_limit.is_learnt

    def set_rate_limits(self, requests: float | None, tokens: float | None) -> None:
        """Set how many requests and tokens may go in a minute; None is any number."""
        if requests != (self.request_bucket and self.request_bucket.per_minute):
            self.request_bucket = None if requests is None else TokenBucket(requests)
        if tokens != (self.token_bucket and self.token_bucket.per_minute):
            self.token_bucket = None if tokens is None else TokenBucket(tokens)
        self._update_gate()

    def handle_throttling(self, ticket: Ticket, now: float, pause: float, header: str | None) -> None:
        """Note that the provider refused one of the holders, for load, and for how long it wants to be left alone."""
        if self.adaptive_limit is not None and self.adaptive_limit.record_refusal(
            self.used, ticket.granted_at, now, pause
        ):
            self._apply_adaptive_limit()
        if pause:
            self.set_pause(now + pause, header)

    def handle_success(self, now: float) -> None:
        """Note that the provider has served one of the holders, who has not left yet."""
        if self.adaptive_limit is not None and self.adaptive_limit.record_success(self.used, now):
            self._apply_adaptive_limit()

    def set_pause(self, until: float, header: str | None) -> None:
        """Grant nothing before, as the provider asks; a capacity that somebody has set is nobody's to pause."""
        if self.adaptive_limit is not None and until > self.paused_until:
            self.paused_until = until
            self.pause_header = header
            self._update_gate()

    def _apply_adaptive_limit(self) -> None:
        """Do as the adaptive limit says."""
        if self.adaptive_limit is not None:
            self.capacity = self.adaptive_limit.limit
        self._update_gate()

    def compute_open_time(self, ticket: Ticket, now: float) -> float:
        """Return when a ticket may go as far as time is concerned: `now` or before when it may."""
        at = self.paused_until
        if self.request_bucket is not None:
            at = max(at, self.request_bucket.compute_available_at(1, now))
        if self.token_bucket is not None:
            at = max(at, self.token_bucket.compute_available_at(ticket.request.tokens, now))
        return at

    def take_rate_tokens(self, requests: int, tokens: int, now: float) -> None:
        """Take from what may go in a minute; negative amounts give back."""
        if self.request_bucket is not None and requests:
            self.request_bucket.take_tokens(requests, now)
        if self.token_bucket is not None and tokens:
            self.token_bucket.take_tokens(tokens, now)

    def _update_gate(self) -> None:
        self.is_gated = (
            self.has_learnt or self.request_bucket is not None or self.token_bucket is not None or self.paused_until > 0
        )

    def record_served(self, request: Request) -> None:
        """Count a request that was served in the fairness index."""
        self.recently_served.append((key_of(request), request.weight))

    def has_room(self, line: QueueSet) -> bool:
        """Tell whether there is a slot for a line: one that is kept for another is none."""
        if self.reserved_for is None or self.reserved_for is line:
            return self.used < self.capacity
        return self.used + 1 < self.capacity

    def add_lease(self, ticket: Ticket) -> None:
        """Count a ticket among the holders; its state says so already."""
        self.leases[ticket.seq] = ticket
        if self.name in ticket.lenders:
            self.sharer_count += 1
        else:
            self.used += 1

    def remove_lease(self, ticket: Ticket) -> bool:
        """Take a ticket out of the holders; return True when that gave a slot back.

        A slot that somebody shares passes on to the sharer.
        """
        del self.leases[ticket.seq]
        if self.sharer_count and self._pass_slot_on(ticket):
            return False
        self.used -= 1
        return True

    def clear_leases(self) -> None:
        """Forget holders; the tickets are untouched."""
        self.leases = {}
        self.used = 0
        self.sharer_count = 0
        self.reserved_for = None
        self._apply_adaptive_limit()

    def _pass_slot_on(self, ticket: Ticket) -> bool:
        name = self.name
        if name in ticket.lenders:
            ticket.lenders = _without_lender(ticket, name)
            self.sharer_count -= 1
            return True
        heir: Ticket | None = None
        for sharer in self.leases.values():
            if sharer.lenders.get(name) is ticket:
                if heir is None:
                    heir = sharer
                    sharer.lenders = _without_lender(sharer, name)
                else:
                    sharer.lenders = {**sharer.lenders, name: heir}
        if heir is None:
            return False
        self.sharer_count -= 1
        return True


def _without_lender(ticket: Ticket, name: str) -> dict[str, Ticket]:
    return {other: host for other, host in ticket.lenders.items() if other != name}
