"""One resource: its slots, the leases that hold them, and what else delays a request."""

from collections import deque
from math import inf
from typing import NamedTuple, TypeAlias

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.base import Key
from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityRules
from loco_otel._core.ticket import Ticket
from loco_otel._core.token_bucket import TokenBucket
from loco_otel.events import GateCause, Priority, RateLimits

Buckets: TypeAlias = tuple[TokenBucket | None, TokenBucket | None]
"""Of requests and of tokens."""


class PoolShare(NamedTuple):
    """What may be granted of a resource that processes share: here, or by all of them."""

    capacity: float
    buckets: Buckets = (None, None)
    ceiling: float = inf
    """The maximum of an adaptive limit."""


class Gate(NamedTuple):
    """A rate limit that delays a ticket."""

    resource: str
    cause: GateCause
    until: float


_FAIRNESS_WINDOW = 1000
"""Releases that the fairness index covers."""


class SlotPool:
    """The slots of one resource."""

    __slots__ = (
        "adaptive_limit",
        "capacity",
        "capped_slots",
        "is_contested",
        "is_gated",
        "is_remote",
        "is_shared",
        "leases",
        "name",
        "pause_header",
        "paused_until",
        "processes",
        "recently_served",
        "reported_limit",
        "reported_pause",
        "reported_rates",
        "reported_stall",
        "request_bucket",
        "reserved_for",
        "rules",
        "sharer_count",
        "token_bucket",
        "token_reservation",
        "total_capacity",
        "used",
    )  # fmt: skip

    def __init__(self, name: str, capacity: int | AdaptiveLimit | None) -> None:
        self.name = name
        self.adaptive_limit: AdaptiveLimit | None = None
        """Adapts the capacity to the provider, if it is not fixed."""
        self.is_remote = False
        """Whether another place grants its slots, see `_core/remote.py`."""
        self.is_shared = False
        """Whether processes share its limits: they change by `set_remote` alone."""
        self.capacity: float = inf
        """Slots that may be granted here; inf while unlimited, 0 while another place grants them."""
        self.total_capacity: float = inf
        """Slots of the resource, wherever they are granted; inf while unlimited."""
        self.processes = 1
        """Processes among which another place divides `total_capacity`; 1 while slots are granted here."""
        self.request_bucket: TokenBucket | None = None
        self.token_bucket: TokenBucket | None = None
        self.paused_until = 0.0
        """Nothing is granted before this time."""
        self.pause_header: str | None = None
        """The header that states it, if one did."""
        self.is_gated = False
        """Whether a grant depends on more than a free slot: a rate limit, a pause, an adaptive limit, another place."""
        self.set_capacity(capacity)
        self.is_contested = False
        """Whether several queue sets compete for it."""
        self.leases: dict[int, Ticket] = {}
        """Tickets that hold or share a slot, in the order of their grants."""
        self.used = 0
        """Slots in use: the leases without those that share."""
        self.sharer_count = 0
        """Leases that share a slot."""
        self.reported_limit: tuple[float, float, object, int] | None = None
        """What the last event stated; None before the first (see `limit_events.py`)."""
        self.reported_pause = 0.0
        """`paused_until` in the last event."""
        self.reported_rates: RateLimits | None = None
        """What the headers of the provider's last answer reported."""
        self.reported_stall: tuple[float, int] | None = None
        """Last sign of life and number of releases at the last report of a stall."""
        self.reserved_for: object | None = None
        """The queue set that the next free slot is reserved for: it needs other resources too, and its guard fired."""
        self.token_reservation: tuple[object, int] | None = None
        """The queue set that a request and tokens are reserved for, as its guard fired, and the number of tokens."""
        self.rules: PriorityRules = DEFAULT_PRIORITY_RULES
        """How the classes of urgency are served."""
        self.capped_slots: dict[Priority, int] = {}
        """Slots in use of each class that has a ceiling."""
        self.set_priority_rules(DEFAULT_PRIORITY_RULES)
        self.recently_served: deque[tuple[Key, int]] = deque(maxlen=_FAIRNESS_WINDOW)
        """Queue key and weight of the last requests served, for the fairness index.

        Not the requests themselves: they refer to the program's contexts, and through these to its spans.
        """

    def set_capacity(self, capacity: int | AdaptiveLimit | None) -> None:
        """Set the number of slots: None is unlimited, an adaptive limit changes it. No-op if processes share them."""
        if self.is_shared:
            return
        self.adaptive_limit = capacity if isinstance(capacity, AdaptiveLimit) else None
        if isinstance(capacity, AdaptiveLimit):
            self.capacity = capacity.limit
        else:
            self.capacity = inf if capacity is None else capacity
            self.paused_until = 0.0
        self.total_capacity = self.capacity
        self._update_gate()

    def set_priority_rules(self, rules: PriorityRules) -> None:
        """Set the ceilings of the classes of urgency."""
        self.rules = rules
        self.capped_slots = {priority: 0 for priority, rule in rules.items() if rule.has_ceiling}
        for ticket in self.leases.values():
            if self.name not in ticket.lenders:
                self._count_slot(ticket, 1)

    def is_capped(self, priority: Priority) -> bool:
        """Return whether a class holds as many slots as it may."""
        used = self.capped_slots.get(priority)
        return used is not None and used >= self.rules[priority].compute_ceiling(self.capacity)

    def _count_slot(self, ticket: Ticket, change: int) -> None:
        priority = ticket.request.priority
        if priority in self.capped_slots:
            self.capped_slots[priority] += change

    @property
    def has_learnt(self) -> bool:
        """Whether its provider has ever refused a request."""
        return self.adaptive_limit is not None and self.adaptive_limit.is_learnt

    @property
    def reference(self) -> float:
        """The slots of which an adaptive limit withholds some; the capacity if it withholds none."""
        if self.adaptive_limit is None:
            return self.total_capacity
        return max(self.total_capacity, self.adaptive_limit.reference)

    def set_rate_limits(self, requests: float | None, tokens: float | None) -> None:
        """Set the requests and tokens per minute; None is unlimited. No-op if processes share them."""
        if self.is_shared:
            return
        if requests != (self.request_bucket and self.request_bucket.per_minute):
            self.request_bucket = None if requests is None else TokenBucket(requests)
        if tokens != (self.token_bucket and self.token_bucket.per_minute):
            self.token_bucket = None if tokens is None else TokenBucket(tokens)
        self._update_gate()

    def handle_throttling(self, ticket: Ticket, now: float, pause: float, header: str | None) -> None:
        """Update the adaptive limit after a refusal of a lease's request, and pause for `pause` seconds."""
        if self.adaptive_limit is not None and self.adaptive_limit.record_refusal(
            self.used, ticket.granted_at, now, pause
        ):
            self._apply_adaptive_limit()
        if pause:
            self.set_pause(now + pause, header)

    def handle_success(self, now: float) -> None:
        """Update the adaptive limit after a success of a request whose lease has not ended yet."""
        if self.adaptive_limit is not None and self.adaptive_limit.record_success(self.used, now):
            self._apply_adaptive_limit()

    def set_pause(self, until: float, header: str | None) -> None:
        """Grant nothing before a time that the provider named, in this header. A fixed capacity is never paused."""
        if self.adaptive_limit is not None and until > self.paused_until:
            self.paused_until = until
            self.pause_header = header
            self._update_gate()

    def _apply_adaptive_limit(self) -> None:
        """Set the capacity to the adaptive limit."""
        if self.adaptive_limit is not None:
            self.total_capacity = self.adaptive_limit.limit
            self.capacity = 0 if self.is_remote else self.total_capacity
        self._update_gate()

    def set_remote(self, is_remote: bool, share: PoolShare) -> None:  # noqa: FBT001
        """Leave the grants to another place, or grant a share here.

        An adaptive limit that was learnt goes on from its share, and holds it at first.
        """
        limit = self.adaptive_limit
        if limit is not None and not is_remote:
            is_learnt = share.capacity < share.ceiling and limit.is_learnt
            limit.adopt_state(share.capacity, share.ceiling, share.capacity + 1, 0.0, is_learnt=is_learnt)
        self.is_shared = True
        self.is_remote = is_remote
        self.total_capacity = share.capacity
        self.processes = 1
        self.capacity = 0 if is_remote else share.capacity
        self.request_bucket, self.token_bucket = share.buckets
        self._update_gate()

    def set_reported_pause(self, until: float, header: str | None) -> None:
        """Set the pause of a remote pool."""
        self.paused_until = until
        self.pause_header = header
        self._update_gate()

    def compute_open_time(self, ticket: Ticket, now: float, queue_set: object) -> float:
        """Return when pauses and rate limits allow a ticket of a queue set; `now` or earlier if they allow it now.

        inf while another queue set needs so much that only the end of its reservation allows the ticket.
        """
        return max(self.paused_until, *self._compute_rate_times(ticket, now, queue_set))

    def find_gate_cause(self, ticket: Ticket, now: float, queue_set: object) -> GateCause:
        """Return what delays a ticket until its open time, which is later than `now`."""
        requests_at, tokens_at = self._compute_rate_times(ticket, now, queue_set)
        if self.paused_until >= max(requests_at, tokens_at):
            return GateCause.BACKOFF
        return GateCause.TOKENS if tokens_at >= requests_at else GateCause.REQUESTS

    def _compute_rate_times(self, ticket: Ticket, now: float, queue_set: object) -> tuple[float, float]:
        """Return when the limits of requests and of tokens allow a ticket; -inf without one."""
        reserved = self.token_reservation
        requests, tokens = (1, reserved[1]) if reserved is not None and reserved[0] is not queue_set else (0, 0)
        buckets = self.request_bucket, self.token_bucket
        return (
            -inf if buckets[0] is None else buckets[0].compute_available_at(1, now, requests),
            -inf if buckets[1] is None else buckets[1].compute_available_at(ticket.request.tokens, now, tokens),
        )

    def take_rate_tokens(self, requests: int, tokens: int, now: float) -> None:
        """Take requests and tokens from the rate limits; negative amounts are returned to them."""
        if self.request_bucket is not None and requests:
            self.request_bucket.take_tokens(requests, now)
        if self.token_bucket is not None and tokens:
            self.token_bucket.take_tokens(tokens, now)

    def _update_gate(self) -> None:
        self.is_gated = (
            self.has_learnt
            or self.request_bucket is not None
            or self.token_bucket is not None
            or self.paused_until > 0
            or self.is_remote
        )

    def has_room(self, queue_set: object) -> bool:
        """Return whether a slot is free for a queue set, not counting a slot reserved for another."""
        if self.reserved_for is None or self.reserved_for is queue_set:
            return self.used < self.capacity
        return self.used + 1 < self.capacity

    def add_lease(self, ticket: Ticket) -> None:
        """Count a ticket among the leases, after the change of its state."""
        self.leases[ticket.seq] = ticket
        if self.name in ticket.lenders:
            self.sharer_count += 1
        else:
            self.used += 1
            if ticket.request.priority in self.capped_slots:
                self._count_slot(ticket, 1)

    def remove_lease(self, ticket: Ticket) -> bool:
        """Remove a ticket from the leases, and return whether that freed a slot.

        A shared slot passes to the lease that shares it.
        """
        del self.leases[ticket.seq]
        if self.sharer_count and self._pass_slot(ticket):
            return False
        self.used -= 1
        if ticket.request.priority in self.capped_slots:
            self._count_slot(ticket, -1)
        return True

    def clear_leases(self) -> None:
        """Remove all leases without changing the tickets."""
        self.leases = {}
        self.used = 0
        self.capped_slots = dict.fromkeys(self.capped_slots, 0)
        self.sharer_count = 0
        self.reserved_for = self.token_reservation = None
        self._apply_adaptive_limit()

    def _pass_slot(self, ticket: Ticket) -> bool:
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
        self._count_slot(ticket, -1)
        self._count_slot(heir, 1)
        self.sharer_count -= 1
        return True


def _without_lender(ticket: Ticket, name: str) -> dict[str, Ticket]:
    return {other: host for other, host in ticket.lenders.items() if other != name}
