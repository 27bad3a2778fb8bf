"""What the operations of the scheduler are made of: waiting, granting, giving back, turning away."""

from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType

from loco_otel._core import event_builders
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.deadlock import DeadlockDetector
from loco_otel._core.idle_leases import next_borrower
from loco_otel._core.lazy_heap import LazyHeap
from loco_otel._core.policies.base import Policy
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Capacity, Resources
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Event, GrantReason, Outcome, Rejected, Released

_NONE: Mapping[str, Ticket] = MappingProxyType({})
_NO_SHARES: Mapping[str, int] = MappingProxyType({})


class Steps:
    """The tickets, and each step that changes where they are. What it is made from, `Scheduler` says."""

    def __init__(
        self,
        capacities: Mapping[str, Capacity],
        policy: Callable[[], Policy],
        *,
        max_wait_ticks: int = 1000,
        max_waiters: int | None = None,
        max_hold: float = inf,
        make_unknown_pool: Callable[[str], SlotPool] | None = None,
        tenant_shares: Mapping[str, int] = _NO_SHARES,
        tuner: Callable[[], AlphaTuner | None] = lambda: None,
    ) -> None:
        self.observed = False
        self.events: list[Event] = []
        self.decided: list[Ticket] = []
        self.max_waiters = max_waiters
        self.max_hold = max_hold
        self.closed = False
        self.has_learnt = False
        """Whether an adaptive limit was ever lowered."""
        self._tickets: dict[int, Ticket] = {}
        self._deadlines = LazyHeap()
        self.leases_due = inf
        """Never later than the first moment at which a lease can expire."""
        self.resources = Resources(
            capacities, policy, max_wait_ticks, make_unknown_pool, tenant_shares=tenant_shares, tuner=tuner
        )
        self._deadlock_detector = DeadlockDetector()

    def count_waiting(self) -> int:
        """Count those that wait."""
        return self.resources.count_waiting()

    def rebuild_state(self, now: float) -> None:
        """Derive everything from the tickets' states, after an operation that was broken off.

        All decided tickets are woken again, for the wake of some may be lost; so may the events of that operation.
        """
        self.events = []
        self._deadlines = LazyHeap()
        self.leases_due = -inf  # whatever it was may be lost: look at once
        self._deadlock_detector = DeadlockDetector()
        self.resources.clear_state()
        self.has_learnt = any(pool.has_learnt for pool in self.resources.pools.values())
        for seq, ticket in list(self._tickets.items()):
            ticket.charged_by = None
            if ticket.state.is_ended or ticket.state is State.NEW:
                del self._tickets[seq]
            else:
                self._restore_ticket(self._find_queue_set(ticket), ticket)
            if ticket.wake is not None and ticket.state is not State.WAITING:
                self.decided.append(ticket)
        self._grant_all_waiting(now)

    def _restore_ticket(self, line: QueueSet, ticket: Ticket) -> None:
        if ticket.state.is_holding:
            ticket.request = ticket.resolve_request()
            ticket.lenders = {name: host for name, host in ticket.lenders.items() if host.state.is_holding}
            for pool in line.pools:
                pool.add_lease(ticket)
        elif ticket.state.is_queued:
            ticket.age_entry = None
            ticket.lenders = _NONE
            if ticket.backlog is not None:
                ticket.work = None
            self._enqueue_ticket(line, ticket)

    def end_all_tickets(self) -> None:
        """Forget all tickets, ending each; capacities, policy and clock stay. For the child of a fork."""
        for ticket in list(self._tickets.values()):
            ticket.state = State.RELEASED
        self._tickets = {}
        self.rebuild_state(0.0)

    def _find_queue_set(self, ticket: Ticket) -> QueueSet:
        return self.resources.get_queue_set(ticket.request.resources)

    def _grant_or_enqueue(self, line: QueueSet, ticket: Ticket, now: float) -> None:
        ticket.lenders = _NONE
        ticket.waiting_since = now
        ticket.waiting_tick = line.tick
        timeout = ticket.request.timeout
        if self.closed:
            self._mark_rejected(line, ticket, Outcome.SHUTDOWN, now)
        elif self.resources.can_grant_now(line, ticket, now):
            self._grant_ticket(line, ticket, GrantReason.FREE, now)
        elif timeout is not None and timeout <= 0:
            self._mark_rejected(line, ticket, Outcome.TIMEOUT, now)
        elif self.max_waiters is not None and not ticket.repeated and self.count_waiting() >= self.max_waiters:
            self._mark_rejected(line, ticket, Outcome.BACKPRESSURE, now)
        else:
            ticket.deadline = None if timeout is None else now + timeout
            ticket.state = State.WAITING
            self._enqueue_ticket(line, ticket)
            if self.observed:
                self.events.append(event_builders.build_waiting(line, ticket, now))
            if any(pool.is_gated for pool in line.pools):
                self._grant_waiting(line.pools, now)

    def _enqueue_ticket(self, line: QueueSet, ticket: Ticket) -> None:
        line.add_ticket(ticket)
        if ticket.state is State.WAITING:
            self._deadlock_detector.add_waiter(ticket)
            if ticket.deadline is not None:
                ticket.deadline_entry = self._deadlines.push_entry(ticket.deadline, item=ticket)

    def _dequeue_ticket(self, line: QueueSet, ticket: Ticket) -> None:
        line.remove_ticket(ticket)
        self._deadlock_detector.remove_waiter(ticket)
        if line.single_pool is None:
            self.resources.unreserve_slots(line)
        entry, ticket.deadline_entry = ticket.deadline_entry, None
        if entry is not None:
            self._deadlines.remove_entry(entry)

    def _reject_queued(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        line = self._find_queue_set(ticket)
        self._dequeue_ticket(line, ticket)
        self._mark_rejected(line, ticket, outcome, now)
        self._grant_waiting(line.pools, now)

    def _grant_waiting(self, pools: tuple[SlotPool, ...], now: float) -> None:
        while (turn := self.resources.select_next_grant(pools, now)) is not None:
            ticket, guarded = turn
            self._grant_ticket(
                self._find_queue_set(ticket), ticket, GrantReason.GUARD if guarded else GrantReason.SCORE, now
            )
        self._resolve_deadlocks(now)

    def _grant_all_waiting(self, now: float) -> None:
        for pool in self.resources.pools.values():
            self._grant_waiting((pool,), now)

    def _resolve_deadlocks(self, now: float) -> None:
        while self._deadlock_detector and (pair := self._deadlock_detector.find_sharer(self.resources)) is not None:
            ticket, hosts = pair
            line = self._find_queue_set(ticket)
            if not self.resources.is_ready(line, ticket, now):
                break
            ticket.lenders = hosts
            self._grant_ticket(line, ticket, GrantReason.REENTRANT, now)

    def _lend_idle_slots(self, now: float) -> None:
        while (pair := next_borrower(self.resources, self._deadlock_detector.is_blocked, now)) is not None:
            ticket, hosts = pair
            ticket.lenders = hosts
            self._grant_ticket(self._find_queue_set(ticket), ticket, GrantReason.REENTRANT, now)

    def _grant_ticket(self, line: QueueSet, ticket: Ticket, reason: GrantReason, now: float) -> None:
        waited = ticket.state is State.WAITING
        if self.observed or ticket.explain:
            ticket.grant = event_builders.build_granted(line, ticket, reason, now)
        if ticket.backlog is not None:
            ticket.backlog.bind_oldest_work(ticket)
        if line.policy.is_metered:
            line.charge_ticket(ticket)
        if waited:
            self._dequeue_ticket(line, ticket)
        request = ticket.resolve_request()
        # A plain slot costs nothing, so nobody has to be asked.
        admission = request.admission and (ticket.backlog is None or ticket.work is not None)
        ticket.reason = reason
        ticket.waited_ticks = line.tick - ticket.birth
        ticket.granted_at = ticket.touched_at = now
        ticket.state = State.ADMITTING if admission else State.GRANTED
        ticket.request = request
        for pool in line.pools:
            pool.add_lease(ticket)
            if pool.is_gated:
                pool.take_rate_tokens(1, ticket.request.tokens, now)
        if self.leases_due == inf:
            self.leases_due = now + self.max_hold
        if waited:
            self.decided.append(ticket)
        if self.observed and not admission and ticket.grant is not None:
            self.events.append(ticket.grant)
            ticket.grant = ticket.grant if ticket.explain else None

    def _end_ticket(self, ticket: Ticket, now: float, *, expired: bool = False) -> None:
        line = self._find_queue_set(ticket)
        held = ticket.state.is_holding
        ticket.state = State.RELEASED
        ticket.scopes = ()  # a claim among them refers back to the ticket
        del self._tickets[ticket.seq]
        if self.observed:
            self.events.append(Released(now, ticket, now - ticket.granted_at if held else None, expired))
        for pool in line.pools:
            pool.record_served(ticket.request)
        if ticket.charged_by is not None:
            line.settle_charge(ticket)
        if held:
            self._free_slots(line, ticket, now)

    def _refund_tokens(self, ticket: Ticket, now: float) -> None:
        """Give the tokens back that were taken for a request of which nothing came."""
        if ticket.state is State.GRANTED and not ticket.spending_recorded:
            for pool in self._find_queue_set(ticket).pools:
                pool.take_rate_tokens(0, -ticket.request.tokens, now)

    def _free_slots(self, line: QueueSet, ticket: Ticket, now: float) -> None:
        freed = [pool for pool in line.pools if pool.remove_lease(ticket)]
        self.resources.advance_ticks(freed)
        self._grant_waiting(line.pools, now)

    def _mark_rejected(self, line: QueueSet, ticket: Ticket, outcome: Outcome, now: float) -> None:
        waited = ticket.state is not State.NEW
        asked = ticket.state is not State.QUEUED
        # A ticket that was only queued has no waiter yet.
        ticket.waited_seconds = now - ticket.waiting_since if asked else 0.0
        ticket.outcome = outcome
        ticket.state = State.REJECTED
        ticket.scopes = ()
        if waited:
            # Before it is forgotten: `recover` must know whom to wake.
            self.decided.append(ticket)
        del self._tickets[ticket.seq]
        if ticket.charged_by is not None:
            line.settle_charge(ticket)
        if self.observed:
            ticks = line.tick - ticket.waiting_tick if asked else 0
            waited_seconds = ticket.waited_seconds
            self.events.append(Rejected(now, ticket, outcome, waited_seconds, ticks, line.policy.name, ticket.repeated))
