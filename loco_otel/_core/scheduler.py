"""The state machine of tickets: which wait, which hold slots, which is granted next."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from math import inf
from types import MappingProxyType

from loco_otel._core import event_builders
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.deadlock import DeadlockDetector
from loco_otel._core.idle_leases import find_exempt_waiter, iter_idle_loans
from loco_otel._core.leases import Deadlines
from loco_otel._core.limit_events import append_limit_events
from loco_otel._core.policies.base import Policy
from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityRules
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Capacity, Resources
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.snapshot import SnapshotBuilder
from loco_otel._core.ticket import State, Ticket
from loco_otel._core.wait_limits import compute_wait_end, find_wait_refusal, is_overdue
from loco_otel.events import (
    Event,
    GrantReason,
    Outcome,
    Priority,
    Released,
    SlotTaken,
    Spending,
    Spent,
    Submitted,
    Suspended,
)

# Bound once: on 3.11 each access to an enum's member costs as much as a call.
_ADMITTING = State.ADMITTING
_GRANTED = State.GRANTED
_NORMAL = Priority.NORMAL
_WAITING = State.WAITING

_NO_LENDERS: Mapping[str, Ticket] = MappingProxyType({})
_NO_SHARES: Mapping[str, int] = MappingProxyType({})


class Scheduler:
    """Grants slots of resources to tickets.

    Operations append to lists that the caller empties: `decided`, the tickets whose wait has ended and whose waiters
    must be woken; `events`, in order, filled only while `observed`; and `remote.notes` (see `_core/remote.py`).

    An operation may be interrupted anywhere (a KeyboardInterrupt between two bytecodes). Each ticket's state is the
    truth and changes in one assignment; all else is derived from the states, and `rebuild_state` derives it again.

    Args:
        capacities: slots by resource: None is unlimited, an `AdaptiveLimit` adapts to the provider's refusals.
        policy: creates the policy of a queue set.
        max_wait_ticks: the guard, see `QueueSet`; 0 disables it.
        max_waiters: the maximum of waiting tickets, all resources together; None is no maximum.
        max_hold: seconds without a sign of life after which a lease expires.
        make_unknown_pool: creates the pool of an unknown resource; without it a request for one is an error.
        tenant_shares: in thousandths, by tenant; others have 1.
        tuner: creates what adapts alpha of a queue set; None keeps alpha constant.
        by_run: whether the policy orders runs, not agents.
        priorities: how the classes of urgency are served.

    """

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
        by_run: bool = False,
        priorities: PriorityRules = DEFAULT_PRIORITY_RULES,
    ) -> None:
        self.observed = False
        self.events: list[Event] = []
        self.decided: list[Ticket] = []
        self.max_waiters = max_waiters
        self.closed = False
        self.has_learnt = False
        """Whether an adaptive limit was ever lowered."""
        self.has_priorities = priorities[_NORMAL].has_ceiling
        """Whether classes of urgency are, or were, in use."""
        self.deadlines = Deadlines(max_hold)
        self.resources = Resources(
            capacities,
            policy,
            max_wait_ticks,
            make_unknown_pool,
            tenant_shares=tenant_shares,
            tuner=tuner,
            by_run=by_run,
            priorities=priorities,
        )
        self.remote = self.resources.remote
        self.tickets: dict[int, Ticket] = {}
        """All that have not ended, by sequence number."""
        self.deadlock_detector = DeadlockDetector()

    # -- operations ---------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float) -> None:
        """Take a new ticket; its state is then WAITING, ADMITTING, GRANTED or REJECTED.

        Raises:
            KeyError: the request names an unknown resource.

        """
        self._grant_or_enqueue(self._register_ticket(ticket, now), ticket, now)

    def park_ticket(self, ticket: Ticket, blocks: tuple[Hashable, ...], now: float) -> None:
        """Record that the caller blocks until a WAITING ticket is decided, and which scopes it blocks meanwhile."""
        if ticket.state is _WAITING:
            self.deadlock_detector.update_waiter(ticket, blocks)
            self.resolve_deadlocks(now)

    def admit_ticket(self, ticket: Ticket, now: float) -> None:
        """Grant an ADMITTING ticket; no-op in any other state."""
        if ticket.state is not _ADMITTING:
            return
        ticket.state = _GRANTED
        ticket.granted_at = ticket.touched_at = now
        grant = ticket.grant
        ticket.grant = grant if ticket.explain else None
        if grant is not None and self.observed:
            self.events.append(grant._replace(at=now, waited=now - ticket.waiting_since))

    def refuse_admission(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        """Reject an ADMITTING ticket and free its slot; its work is queued again, unless its budget refused it."""
        if ticket.state is _ADMITTING:
            queue_set = self._find_queue_set(ticket)
            if ticket.backlog is not None and outcome is not Outcome.BUDGET:
                queue_set.return_work(ticket)
            ticket.correction = ticket.correction if ticket.repeated else -ticket.request.weight
            queue_set.take_rate_tokens(ticket, -1, -ticket.request.tokens, now)
            self._mark_rejected(queue_set, ticket, outcome, now)
            self._free_slots(queue_set, ticket, now)

    def reject_new(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        """Take a new ticket and reject it at once."""
        queue_set = self._register_ticket(ticket, now)
        ticket.waiting_since, ticket.waiting_tick = now, queue_set.tick
        self._mark_rejected(queue_set, ticket, Outcome.SHUTDOWN if self.closed else outcome, now)

    def reject_waiting(self, tickets: Iterable[Ticket], outcome: Outcome, now: float) -> int:
        """Reject those of the given tickets that wait, and return their number.

        No slot is granted before the last one is rejected: a rejection can open a gate for another of the tickets.
        """
        waiting = [ticket for ticket in dict.fromkeys(tickets) if ticket.state is _WAITING]
        pools: dict[SlotPool, None] = {}
        for ticket in waiting:
            queue_set = self._find_queue_set(ticket)
            self.dequeue_ticket(queue_set, ticket)
            self._mark_rejected(queue_set, ticket, outcome, now)
            pools.update(dict.fromkeys(queue_set.pools))
        for pool in pools:
            self._grant_waiting((pool,), now)
        return len(waiting)

    def record_spending(self, ticket: Ticket, spending: Spending, now: float) -> None:
        """Record the usage of a ticket's call, before its release."""
        if ticket.state.is_ended:
            return
        ticket.correction = spending.weight - ticket.request.weight
        if self.observed:
            self.events.append(Spent(now, ticket, spending))
        usage = spending.usage
        if usage is not None and ticket.state is _GRANTED and not ticket.spending_recorded:
            ticket.spending_recorded = True
            excess = usage.input_tokens + usage.output_tokens - ticket.request.tokens
            self._find_queue_set(ticket).take_rate_tokens(ticket, 0, excess, now)

    def suspend_ticket(self, ticket: Ticket, now: float) -> None:
        """Free the slot of a GRANTED ticket for the length of a pause; the ticket stays."""
        if ticket.state is not _GRANTED:
            return
        self._refund_tokens(ticket, now)
        ticket.state = State.SUSPENDED
        if self.observed:
            self.events.append(Suspended(now, ticket, now - ticket.granted_at))
        self._free_slots(self._find_queue_set(ticket), ticket, now)

    def resume_ticket(self, ticket: Ticket, now: float) -> None:
        """Submit a SUSPENDED ticket again, with the age in ticks that it has actually waited.

        `max_waiters` does not apply, as the ticket was granted before.
        """
        if ticket.state is not State.SUSPENDED:
            return
        queue_set = self._find_queue_set(ticket)
        ticket.repeated = True
        ticket.blocked_scopes = ()
        ticket.birth = queue_set.tick - ticket.waited_ticks
        self._grant_or_enqueue(queue_set, ticket, now)

    def set_scopes(self, ticket: Ticket, scopes: tuple[Hashable, ...], now: float) -> None:
        """Change the scopes in which a lease is used."""
        ticket.scopes = scopes
        if ticket.state.is_holding:
            self.resolve_deadlocks(now)

    def release(self, ticket: Ticket, now: float) -> None:
        """End a ticket that holds a slot or is suspended; no-op in any other state, so idempotent."""
        if ticket.state is _ADMITTING:
            self.refuse_admission(ticket, Outcome.CANCELLED, now)
        elif ticket.state in (_GRANTED, State.SUSPENDED):
            queue_set = self._find_queue_set(ticket)
            if ticket.state is _GRANTED:
                queue_set.handle_success(ticket, now)
            self._end_ticket(queue_set, ticket, now)

    def cancel(self, ticket: Ticket, now: float) -> None:
        """End a ticket in any state: a waiting one leaves its queue, a lease is released. Idempotent."""
        if ticket.state is _WAITING:
            self._reject_waiter(ticket, Outcome.CANCELLED, now)
        elif ticket.state is _ADMITTING:
            self.refuse_admission(ticket, Outcome.CANCELLED, now)
        elif not ticket.state.is_ended and ticket.state is not State.NEW:
            queue_set = self._find_queue_set(ticket)
            if ticket.backlog is not None:
                queue_set.return_work(ticket)
            self._refund_tokens(ticket, now)
            self._end_ticket(queue_set, ticket, now)

    def close(self, now: float) -> None:
        """Reject all waiters and all later requests; leases stay until their release."""
        self.closed = True
        self.reject_waiting(tuple(self.tickets.values()), Outcome.SHUTDOWN, now)

    def run_due_actions(self, now: float) -> None:
        """Reject waiters past their deadline, end expired leases, and lend idle slots.

        While a ticket waits this must be called regularly: no operation occurs when a lease becomes idle.
        """
        while (ticket := self.deadlines.find_timed_out(now)) is not None:
            is_deadline = ticket.deadline == ticket.request.deadline
            self._reject_waiter(ticket, Outcome.DEADLINE if is_deadline else Outcome.TIMEOUT, now)
        if self.deadlines.lease_check_at <= now:
            self._expire_leases(now)
        if self.resources.opens_at <= now:
            self.resources.opens_at = inf
            self.grant_all_waiting(now)
        is_blocked, remote = self.deadlock_detector.is_blocked, self.remote
        for loan in () if remote.is_deciding else iter_idle_loans(self.resources, is_blocked, self.deadlines, now):
            self._grant_shared(loan, now)
        if self.has_priorities:
            self.resolve_deadlocks(now)

    def compute_next_wakeup(self) -> float:
        """Return the earliest time at which `run_due_actions` has something to do; inf if never."""
        return min(self.deadlines.compute_next(), self.resources.opens_at)

    def set_capacity(self, name: str, capacity: Capacity, now: float) -> None:
        """Change the capacity of a resource, and nothing else."""
        pool = self.resources.pools[name]
        pool.set_capacity(capacity)
        self._grant_waiting((pool,), now)

    def start_snapshot(self, now: float, *, with_tickets: bool = False) -> SnapshotBuilder:
        """Begin to read the state of all resources and agents, for a dump that of all requests too."""
        return SnapshotBuilder(self.resources, now, self.tickets.values() if with_tickets else ())

    def count_waiting(self) -> int:
        """Return the number of waiting tickets."""
        return self.resources.count_waiting()

    # -- steps of the operations --------------------------------------------------------------------------------

    def _find_queue_set(self, ticket: Ticket) -> QueueSet:
        names, resources = ticket.request.resources, self.resources
        return resources.queue_sets.get(names) or resources.get_queue_set(names)

    def _register_ticket(self, ticket: Ticket, now: float) -> QueueSet:
        queue_set = self._find_queue_set(ticket)
        self.tickets[ticket.seq] = ticket
        if self.observed:
            if any(pool.reported_limit is None for pool in queue_set.pools):
                self.emit_limits(queue_set.pools, now)
            self.events.append(Submitted(now, ticket))
        ticket.birth = queue_set.tick
        return queue_set

    def _grant_or_enqueue(self, queue_set: QueueSet, ticket: Ticket, now: float) -> None:
        if queue_set.order is None and ticket.request.priority is not _NORMAL:
            # Here, as the queue set of a suspended ticket may have been removed and created again.
            queue_set.enable_priorities()
            self.has_priorities = True
        ticket.lenders = _NO_LENDERS
        ticket.waiting_since = now
        ticket.waiting_tick = queue_set.tick
        if self.closed or is_overdue(ticket, now):
            self._mark_rejected(queue_set, ticket, Outcome.SHUTDOWN if self.closed else Outcome.DEADLINE, now)
        elif self.resources.can_grant_now(queue_set, ticket, now):
            self._grant_ticket(queue_set, ticket, GrantReason.FREE, now)
        elif (refusal := find_wait_refusal(self.resources, self.max_waiters, queue_set, ticket)) is not None:
            self._mark_rejected(queue_set, ticket, refusal, now)
        elif queue_set.remote is not None:
            queue_set.remote.add_request(ticket, now)
            self.enqueue_ticket(queue_set, ticket)
        else:
            ticket.deadline = compute_wait_end(ticket.request, now)
            ticket.state = _WAITING
            self.enqueue_ticket(queue_set, ticket)
            if self.observed:
                self.events.append(event_builders.build_waiting(queue_set, ticket, now))
            if queue_set.is_gated():
                self._grant_waiting(queue_set.pools, now)

    def enqueue_ticket(self, queue_set: QueueSet, ticket: Ticket) -> None:
        """Add a WAITING ticket to its queue."""
        self.resources.add_waiter(queue_set, ticket)
        if ticket.blocked_scopes:
            self.deadlock_detector.add_waiter(ticket)
        self.deadlines.add_waiter(ticket)

    def dequeue_ticket(self, queue_set: QueueSet, ticket: Ticket) -> None:
        """Remove a WAITING ticket from its queue."""
        self.resources.remove_waiter(queue_set, ticket)
        if ticket.blocked_scopes:
            self.deadlock_detector.remove_waiter(ticket)
        self.deadlines.remove_waiter(ticket)

    def _grant_waiting(self, pools: tuple[SlotPool, ...], now: float) -> None:
        is_repeated = False
        while (turn := self.resources.select_next_grant(pools, now, is_repeated=is_repeated)) is not None:
            is_repeated = True
            ticket, guarded = turn
            queue_set = self._find_queue_set(ticket)
            if ticket.request.deadline is not None and is_overdue(ticket, now):
                self.dequeue_ticket(queue_set, ticket)
                self._mark_rejected(queue_set, ticket, Outcome.DEADLINE, now)
            else:
                self._grant_ticket(queue_set, ticket, GrantReason.GUARD if guarded else GrantReason.SCORE, now)
        self.resolve_deadlocks(now)
        if self.observed:
            self.emit_limits(pools, now)

    def emit_limits(self, pools: Iterable[SlotPool], now: float) -> None:
        """Emit the limits of these pools that have changed, and the gates that have closed."""
        if self.observed:
            append_limit_events(self.events, self.resources, pools, now)

    def grant_all_waiting(self, now: float) -> None:
        """Grant every waiter that can be granted now."""
        for pool in self.resources.pools.values():
            self._grant_waiting((pool,), now)

    def resolve_deadlocks(self, now: float) -> None:
        """Grant waiters that would wait for ever otherwise: by a shared slot, or beyond the ceiling of their class."""
        detector = self.deadlock_detector
        can_share = bool(detector) and not self.remote.is_deciding
        while can_share or self.has_priorities:
            # Each grant may take the slot that another waiter could have got, so both are repeated.
            if can_share and (loan := detector.find_borrower(self.resources, now)) is not None:
                self._grant_shared(loan, now)
            elif self.has_priorities and (exempt := find_exempt_waiter(self.resources, detector.is_blocked, now)):
                self._grant_ticket(self._find_queue_set(exempt), exempt, GrantReason.SCORE, now)
            else:
                return

    def _grant_shared(self, loan: tuple[Ticket, Mapping[str, Ticket]], now: float) -> None:
        ticket, lenders = loan
        ticket.lenders = lenders
        self._grant_ticket(queue_set := self._find_queue_set(ticket), ticket, GrantReason.REENTRANT, now)
        self.emit_limits(queue_set.pools, now)

    def _grant_ticket(self, queue_set: QueueSet, ticket: Ticket, reason: GrantReason, now: float) -> None:
        waited = ticket.state is _WAITING
        if self.observed or ticket.explain:
            ticket.grant = event_builders.build_granted(queue_set, ticket, reason, now)
        if ticket.backlog is not None:
            ticket.backlog.bind_oldest_work(ticket)
        if queue_set.is_metered or queue_set.order is not None:
            queue_set.charge_ticket(ticket, now)
        if waited:
            self.dequeue_ticket(queue_set, ticket)
        request = ticket.request if ticket.backlog is None else ticket.resolve_request()
        # A plain slot costs nothing, so it needs no admission.
        admission = request.admission and (ticket.backlog is None or ticket.work is not None)
        ticket.reason = reason
        ticket.waited_ticks = queue_set.tick - ticket.birth
        ticket.granted_at = ticket.touched_at = now
        ticket.state = _ADMITTING if admission else _GRANTED
        ticket.request = request
        queue_set.start_lease(ticket, now)
        if self.deadlines.lease_check_at == inf:
            self.deadlines.lease_check_at = now + self.deadlines.max_hold
        if waited:
            self.decided.append(ticket)
        if self.observed and admission:
            self.events.append(SlotTaken(now, ticket, ticket.lenders))
        elif self.observed and ticket.grant is not None:
            self.events.append(ticket.grant)
            ticket.grant = ticket.grant if ticket.explain else None

    def _expire_leases(self, now: float) -> None:
        for ticket in self.deadlines.iter_expired_leases(self.resources.pools.values(), now):
            if ticket.state is _ADMITTING:
                self.refuse_admission(ticket, Outcome.TIMEOUT, now)
            else:
                self._end_ticket(self._find_queue_set(ticket), ticket, now, expired=True)

    def _end_ticket(self, queue_set: QueueSet, ticket: Ticket, now: float, *, expired: bool = False) -> None:
        held = ticket.state.is_holding
        ticket.state = State.RELEASED
        ticket.scopes = ()  # a claim among them refers back to the ticket
        del self.tickets[ticket.seq]
        if self.observed:
            self.events.append(Released(now, ticket, now - ticket.granted_at if held else None, expired))
        queue_set.record_served(ticket, now)
        if held:
            self._free_slots(queue_set, ticket, now)

    def _refund_tokens(self, ticket: Ticket, now: float) -> None:
        """Return the tokens of a request that produced no usage."""
        if ticket.state is _GRANTED and not ticket.spending_recorded:
            self._find_queue_set(ticket).take_rate_tokens(ticket, 0, -ticket.request.tokens, now)

    def _free_slots(self, queue_set: QueueSet, ticket: Ticket, now: float) -> None:
        self.resources.advance_ticks(queue_set.end_lease(ticket))
        self._grant_waiting(queue_set.pools, now)

    def _reject_waiter(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        queue_set = self._find_queue_set(ticket)
        self.dequeue_ticket(queue_set, ticket)
        self._mark_rejected(queue_set, ticket, outcome, now)
        self._grant_waiting(queue_set.pools, now)

    def _mark_rejected(self, queue_set: QueueSet, ticket: Ticket, outcome: Outcome, now: float) -> None:
        waited = ticket.state is not State.NEW
        slot_at = ticket.granted_at if ticket.state is _ADMITTING else None
        ticket.waited_seconds = now - ticket.waiting_since
        ticket.outcome = outcome
        ticket.state = State.REJECTED
        ticket.scopes = ()
        if waited:
            # Before its removal: `rebuild_state` must find each ticket that has to be woken.
            self.decided.append(ticket)
            queue_set.settle_charge(ticket, now)
        del self.tickets[ticket.seq]
        if self.observed:
            self.events.append(event_builders.build_rejected(queue_set, ticket, outcome, slot_at, now))
