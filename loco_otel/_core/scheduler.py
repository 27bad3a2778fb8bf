"""The state machine of tickets: who waits, who holds, who is next."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from math import inf
from types import MappingProxyType

from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.dump import build_resource_dumps
from loco_otel._core.policies.base import Policy
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Capacity
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.snapshot import build_resource_snapshot
from loco_otel._core.stall_detector import Stall, detect_stall
from loco_otel._core.steps import Steps
from loco_otel._core.ticket import State, Ticket
from loco_otel._core.token_bucket import compute_refill_delay
from loco_otel.clock import StatedDelay
from loco_otel.events import (
    GrantReason,
    Outcome,
    RateLimits,
    Released,
    ResourceDump,
    Snapshot,
    Spending,
    Spent,
    Submitted,
    Suspended,
    Throttled,
    ThrottleKind,
)

# Bound once: on 3.11 each look at an enum's member costs as much as a call.
_FREE = GrantReason.FREE
_ADMITTING = State.ADMITTING
_GRANTED = State.GRANTED
_RELEASED = State.RELEASED

_MAX_PAUSE = 900.0
"""Seconds that a provider may ask for: a header gone wrong must not stop a program for a day."""
_NO_SHARES: Mapping[str, int] = MappingProxyType({})


class Scheduler(Steps):
    """Grants slots of resources to tickets.

    Operations leave what they did in two lists that the caller empties: `decided`, the tickets whose wait ended and
    whose waiters must be woken; and `events`, in order, kept only while `observed`.

    An operation may be broken off anywhere (a KeyboardInterrupt between two bytecodes): each ticket's state is the
    truth and changes in one assignment, all else is derived from the states, and `recover` derives it anew.

    Args:
        capacities: slots by resource: None is unlimited, an `AdaptiveLimit` finds out.
        policy: makes the policy of a resource's line.
        max_wait_ticks: the guard, see `Line`; 0 turns it off.
        max_waiters: the most tickets that may wait, all resources together; None is no bound.
        max_hold: seconds without a sign of life after which a lease is taken back.
        unknown: makes a resource that is asked for and not known; without it that is an error.
        tenant_shares: in thousandths, by tenant; others have 1.
        tuner: makes what finds alpha for a line; None leaves it as it is.

    """

    # -- the way of a ticket ------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float, *, wait: bool = True) -> None:
        """Take a new ticket; it ends up QUEUED (without `wait`), WAITING, ADMITTING, GRANTED or REJECTED.

        Raises:
            KeyError: the request names a resource that is not known.

        """
        line = self._find_queue_set(ticket)
        self._tickets[ticket.seq] = ticket
        if self.observed:
            self.events.append(Submitted(now, ticket))
        ticket.birth = line.tick
        if not wait and not self.closed:
            ticket.state = State.QUEUED
            line.add_ticket(ticket)
            return
        self._grant_or_enqueue(line, ticket, now)

    def try_submit_fast(self, ticket: Ticket, now: float) -> bool:
        """Do as `submit`, if there is a slot at once and nobody is to be told; else do nothing and return False.

        The hot path of a program without contention or telemetry: `submit` in one step.
        """
        request = ticket.request
        line = self.resources.get_queue_set(request.resources)
        pool = line.single_pool
        if pool is None or pool.used >= pool.capacity or pool.is_gated or pool.reserved_for is not None:
            return False
        if self.observed or self.closed or (request.admission and ticket.backlog is not None):
            return False
        seq = ticket.seq
        self._tickets[seq] = ticket
        ticket.birth = line.tick
        ticket.reason = _FREE
        ticket.waiting_since = ticket.granted_at = ticket.touched_at = now
        if ticket.backlog is None:
            ticket.state = _ADMITTING if request.admission else _GRANTED
        else:
            ticket.backlog.bind_oldest_work(ticket)
            ticket.state = _GRANTED
            ticket.request = ticket.resolve_request()
        pool.leases[seq] = ticket
        pool.used += 1
        if self.leases_due == inf:
            self.leases_due = now + self.max_hold
        if line.policy.is_metered:
            line.charge_ticket(ticket)
        return True

    def try_release_fast(self, ticket: Ticket) -> bool:
        """Do as `release`, if nobody waits and nobody is to be told; else do nothing and return False."""
        line = self.resources.get_queue_set(ticket.request.resources)
        pool = line.single_pool
        if pool is None or pool.sharer_count or pool.is_gated or line.waiting or len(pool.queue_sets) > 1:
            return False
        if ticket.state is not _GRANTED or self.observed or line.policy.is_metered:
            return False
        seq = ticket.seq
        ticket.state = _RELEASED
        ticket.scopes = ()
        del self._tickets[seq]
        del pool.leases[seq]
        pool.used -= 1
        line.tick += 1
        pool.record_served(ticket.request)
        return True

    def park_ticket(self, ticket: Ticket, blocks: tuple[Hashable, ...], now: float) -> None:
        """Note that whoever waits for a WAITING ticket stands still, and what cannot end until it goes on."""
        if ticket.state is State.WAITING:
            self._deadlock_detector.remove_waiter(ticket)
            ticket.blocked_scopes = blocks
            self._deadlock_detector.add_waiter(ticket)
            self._resolve_deadlocks(now)

    def start_waiting(self, ticket: Ticket, now: float) -> None:
        """Let a QUEUED ticket compete: somebody waits for it now."""
        if ticket.state is not State.QUEUED:
            return
        line = self._find_queue_set(ticket)
        line.remove_ticket(ticket)
        self._grant_or_enqueue(line, ticket, now)

    def admit_ticket(self, ticket: Ticket, now: float) -> None:
        """Say yes to an ADMITTING ticket."""
        if ticket.state is not State.ADMITTING:
            return
        ticket.state = State.GRANTED
        ticket.granted_at = ticket.touched_at = now
        grant = ticket.grant
        ticket.grant = grant if ticket.explain else None
        if grant is not None and self.observed:
            self.events.append(grant._replace(at=now))

    def refuse_admission(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        """Say no to an ADMITTING ticket; its slot passes on. Work that was refused itself does not queue again."""
        if ticket.state is State.ADMITTING:
            if ticket.backlog is not None and outcome is not Outcome.BUDGET:
                ticket.backlog.return_work(ticket)
            line = self._find_queue_set(ticket)
            if not ticket.repeated:
                ticket.correction = -ticket.request.weight
            for pool in line.pools:
                pool.take_rate_tokens(-1, -ticket.request.tokens, now)
            self._mark_rejected(line, ticket, outcome, now)
            self._free_slots(line, ticket, now)

    def record_spending(self, ticket: Ticket, spending: Spending, now: float) -> None:
        """Note what a ticket's call took, before its release."""
        if ticket.state.is_ended:
            return
        ticket.correction = spending.weight - ticket.request.weight
        if self.observed:
            self.events.append(Spent(now, ticket, spending))
        usage = spending.usage
        if usage is not None and ticket.state is State.GRANTED and not ticket.spending_recorded:
            ticket.spending_recorded = True
            for pool in self._find_queue_set(ticket).pools:
                if pool.token_bucket is not None:
                    pool.take_rate_tokens(0, usage.input_tokens + usage.output_tokens - ticket.request.tokens, now)

    def release(self, ticket: Ticket, now: float) -> None:
        """End a ticket that holds or is suspended; anything else is left alone, so releasing twice is harmless."""
        if ticket.state is State.ADMITTING:
            self.refuse_admission(ticket, Outcome.CANCELLED, now)
        elif ticket.state in (State.GRANTED, State.SUSPENDED):
            if ticket.state is State.GRANTED:
                for pool in self._find_queue_set(ticket).pools:
                    pool.handle_success(now)
            self._end_ticket(ticket, now)

    def cancel(self, ticket: Ticket, now: float) -> None:
        """End a ticket wherever it is: one that waits leaves, one that holds is released. Total, and idempotent."""
        if ticket.state.is_queued:
            self._reject_queued(ticket, Outcome.CANCELLED, now)
        elif ticket.state is State.ADMITTING:
            self.refuse_admission(ticket, Outcome.CANCELLED, now)
        elif not ticket.state.is_ended and ticket.state is not State.NEW:
            if ticket.backlog is not None:
                ticket.backlog.return_work(ticket)
            self._refund_tokens(ticket, now)
            self._end_ticket(ticket, now)

    def end_nested(self, ticket: Ticket, spending: Spending | None, now: float) -> None:
        """End a ticket that ran under a slot of the program's own, and tell what it took."""
        if ticket.state.is_ended:
            return
        ticket.state = State.RELEASED
        if self.observed:
            if spending is not None:
                self.events.append(Spent(now, ticket, spending))
            self.events.append(Released(now, ticket, None, expired=False))

    def reject_waiting(self, tickets: Iterable[Ticket], outcome: Outcome, now: float) -> int:
        """Reject those of the given tickets that are queued, and return their number.

        No slot is granted before the last one is rejected: a rejection can open a gate for another of the tickets.
        """
        queued = [ticket for ticket in dict.fromkeys(tickets) if ticket.state.is_queued]
        pools: dict[SlotPool, None] = {}
        for ticket in queued:
            line = self._find_queue_set(ticket)
            self._dequeue_ticket(line, ticket)
            self._mark_rejected(line, ticket, outcome, now)
            pools.update(dict.fromkeys(line.pools))
        for pool in pools:
            self._grant_waiting((pool,), now)
        return len(queued)

    def record_throttling(self, event: Throttled) -> None:
        """Note that the provider pushed a holder back.

        Unless it is for money, adaptive limits are lowered, and nothing is granted there before the time that it names,
        or else before the time when there is more of what it says has run out.
        """
        if self.observed:
            self.events.append(event)
        ticket, now = event.ticket, event.at
        if isinstance(ticket, Ticket) and ticket.state is State.GRANTED and event.kind is not ThrottleKind.SPEND:
            pause = event.retry_after
            if pause is None:
                pause = _compute_limits_pause(ticket, event.limits)
            for pool in self._find_queue_set(ticket).pools:
                pool.handle_throttling(ticket, now, _clamp_pause(pause), getattr(pause, "header", None))
                self.has_learnt |= pool.has_learnt

    def record_rate_limits(self, ticket: Ticket, limits: RateLimits, now: float) -> None:
        """Note what the provider says is left: too little for another such request, and none is granted until then."""
        stated = _compute_limits_pause(ticket, limits)
        pause = _clamp_pause(stated)
        if pause and ticket.state is State.GRANTED:
            for pool in self._find_queue_set(ticket).pools:
                pool.set_pause(now + pause, getattr(stated, "header", None))

    def suspend_ticket(self, ticket: Ticket, now: float) -> None:
        """Give the slot back for the length of a pause; the ticket stays."""
        if ticket.state is not State.GRANTED:
            return
        self._refund_tokens(ticket, now)
        ticket.state = State.SUSPENDED
        if self.observed:
            self.events.append(Suspended(now, ticket, now - ticket.granted_at))
        self._free_slots(self._find_queue_set(ticket), ticket, now)

    def resume_ticket(self, ticket: Ticket, now: float) -> None:
        """Queue a SUSPENDED ticket again, no older than the ticks that it has really waited.

        It was let in once, so the bound on waiters does not turn it away.
        """
        if ticket.state is not State.SUSPENDED:
            return
        line = self._find_queue_set(ticket)
        ticket.repeated = True
        ticket.blocked_scopes = ()
        ticket.birth = line.tick - ticket.waited_ticks
        self._grant_or_enqueue(line, ticket, now)

    def set_scopes(self, ticket: Ticket, places: tuple[Hashable, ...], now: float) -> None:
        """Note that a lease lives elsewhere now."""
        ticket.scopes = places
        if ticket.state.is_holding:
            self._resolve_deadlocks(now)

    # -- time, limits, the end ----------------------------------------------------------------------------------

    def run_due_actions(self, now: float) -> None:
        """Reject what has waited too long, take back what has been held too long, lend what lies idle.

        While anybody waits it is to be called now and then, for nothing tells when a slot begins to lie idle.
        """
        while (first := self._deadlines.peek_entry()) is not None and first[0] <= now:
            self._reject_queued(first[-1], Outcome.TIMEOUT, now)
        if self.leases_due <= now:
            self._expire_leases(now)
        if self.resources.opens_at <= now:
            self.resources.opens_at = inf
            self._grant_all_waiting(now)
        if self.count_waiting():
            self._lend_idle_slots(now)

    def _expire_leases(self, now: float) -> None:
        self.leases_due = inf
        for pool in tuple(self.resources.pools.values()):
            for ticket in list(pool.leases.values()):
                if not ticket.state.is_holding:
                    continue  # it held several, and has ended at another of them
                due = ticket.touched_at + self.max_hold
                if due > now:
                    self.leases_due = min(self.leases_due, due)
                elif ticket.state is State.ADMITTING:
                    self.refuse_admission(ticket, Outcome.TIMEOUT, now)
                else:
                    self._end_ticket(ticket, now, expired=True)

    def detect_stalls(self, now: float) -> list[Stall]:
        """Tell, once each, of resources where somebody waits and nothing has moved for long."""
        if not self.count_waiting():
            return []
        found = (detect_stall(pool, now) for pool in self.resources.pools.values())
        return [each for each in found if each is not None]

    def compute_next_wakeup(self) -> float:
        """Return when `advance` has something to do at the earliest; inf when never."""
        first = self._deadlines.peek_entry()
        deadline = inf if first is None else float(first[0])
        return min(self.leases_due, self.resources.opens_at, deadline)

    def set_resource(
        self,
        name: str,
        capacity: Capacity,
        now: float,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        """Make a resource, or change its limits: more room grants at once, less takes effect as leases end."""
        pool = self.resources.set_resource(name, capacity, requests_per_minute, tokens_per_minute)
        self._grant_waiting((pool,), now)

    def set_capacity(self, name: str, capacity: Capacity, now: float) -> None:
        """Change a resource's slots alone."""
        pool = self.resources.pools[name]
        pool.set_capacity(capacity)
        self._grant_waiting((pool,), now)

    def set_max_hold(self, seconds: float, now: float) -> None:
        """Change the time without a sign of life after which a lease is taken back."""
        self.max_hold = seconds
        self._expire_leases(now)

    def set_policy(
        self,
        policy: Callable[[], Policy],
        max_wait_ticks: int,
        now: float,
        tenant_shares: Mapping[str, int] = _NO_SHARES,
        tuner: Callable[[], AlphaTuner | None] = lambda: None,
    ) -> None:
        """Go on under another policy, guard and shares; nobody loses their place in their queue."""
        self.resources.replace_policies(policy, max_wait_ticks, tenant_shares, tuner)
        self._grant_all_waiting(now)

    def close(self, now: float) -> None:
        """Turn away all who wait and all who come; holders may finish."""
        self.closed = True
        for ticket in list(self._tickets.values()):
            if ticket.state.is_queued:
                line = self._find_queue_set(ticket)
                self._dequeue_ticket(line, ticket)
                self._mark_rejected(line, ticket, Outcome.SHUTDOWN, now)

    def take_snapshot(self, now: float) -> Snapshot:
        """Tell how everything stands."""
        return Snapshot(now, tuple(build_resource_snapshot(pool, now) for pool in self.resources.pools.values()))

    def take_dump(self, most: int, now: float) -> tuple[ResourceDump, ...]:
        """Tell how everything stands, request by request: so many of each resource."""
        return build_resource_dumps(self.resources, self._tickets.values(), most, now)

    def list_tickets(self) -> tuple[Ticket, ...]:
        """Return all that have not ended."""
        return tuple(self._tickets.values())

    def get_pool(self, resource: str) -> SlotPool:
        """Return the slots of one resource."""
        return self.resources.pools[resource]

    def get_queue_set(self, resource: str) -> QueueSet:
        """Return those who ask for one resource alone."""
        return self.resources.get_queue_set((resource,))


def _compute_limits_pause(ticket: Ticket, limits: RateLimits | None) -> float:
    """Return in how many seconds there is enough for another such request."""
    if limits is None:
        return 0.0
    buckets = (
        (1, limits.remaining_requests, limits.requests_limit, limits.requests_reset),
        (max(1, ticket.request.tokens), limits.remaining_tokens, limits.tokens_limit, limits.tokens_reset),
    )
    longest = 0.0
    for needed, left, limit, reset in buckets:
        delay = compute_refill_delay(needed, left, limit, reset) if left is not None and reset is not None else 0.0
        if delay > longest:
            longest = delay
            if isinstance(reset, StatedDelay):
                longest = StatedDelay(delay)
                longest.header = reset.header
    return longest


def _clamp_pause(pause: float) -> float:
    return min(pause, _MAX_PAUSE) if pause > 0 else 0.0
