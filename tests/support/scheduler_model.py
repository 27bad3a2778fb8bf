"""The scheduler as its documentation has it, without any data structure: everything is searched among all tickets.

A slot is a list of the leases on it, so sharing needs no account of hosts and heirs. The numbers that break ties under
`load` are an agent's own here, not random: `Drawn` sees to that in the real scheduler.
"""

from collections.abc import Hashable, Iterator
from itertools import count
from math import inf

from resource_model import HOLDS, Record, Resource, blocked_by

from loco_otel._core.priority_order import PriorityRules
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import (
    AgentSnapshot,
    Event,
    Granted,
    GrantReason,
    Outcome,
    Priority,
    Rejected,
    Released,
    ResourceSnapshot,
    SlotTaken,
    Spending,
    Spent,
    Submitted,
    Suspended,
    Waiting,
)
from loco_otel.snapshots import CapacityMode


class SchedulerModel:
    """Does what the scheduler should do, and stores what it should emit in `events` and `decided`."""

    def __init__(self, resources: dict[str, Resource], *, max_waiters: int, max_hold: float, observed: bool) -> None:
        self.resources = resources
        self.max_waiters = max_waiters
        self.max_hold = max_hold
        self.observed = observed
        self.closed = False
        self.order = count()
        self.records: dict[Ticket, Record] = {}
        self.events: list[Event] = []
        self.decided: list[Ticket] = []

    # -- operations ---------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, places: tuple[Hashable, ...], now: float) -> None:
        record = self.records[ticket] = Record(ticket, places)
        resource = self.of(record)
        self.tell(Submitted(now, ticket))
        record.birth = resource.tick
        self.begin_wait(record, now)

    def reject_new(self, ticket: Ticket, now: float) -> None:
        record = self.records[ticket] = Record(ticket, ())
        self.tell(Submitted(now, ticket))
        record.since, record.since_tick = now, self.of(record).tick
        self.reject(record, Outcome.SHUTDOWN if self.closed else Outcome.BUDGET, now)

    def park_ticket(self, ticket: Ticket, blocks: tuple[Hashable, ...], now: float) -> None:
        record = self.records[ticket]
        if record.state is State.WAITING:
            record.blocks = blocks
            self.share(now)

    def admit_ticket(self, ticket: Ticket, now: float) -> None:
        record = self.records[ticket]
        if record.state is State.ADMITTING:
            record.state = State.GRANTED
            record.granted_at = record.touched_at = now
            if record.grant is not None:
                self.tell(record.grant._replace(at=now, waited=now - record.since))
            record.grant = None

    def refuse_admission(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        record = self.records[ticket]
        if record.state is State.ADMITTING:
            if not record.repeated:
                record.spent = 0
            self.reject(record, outcome, now)
            self.give_back(record, now)

    def record_spending(self, ticket: Ticket, spending: Spending, now: float) -> None:
        record = self.records[ticket]
        if not record.state.is_ended:
            record.spent = spending.weight
            self.tell(Spent(now, ticket, spending))

    def release(self, ticket: Ticket, now: float, *, expired: bool = False) -> None:
        record = self.records[ticket]
        if record.state is State.ADMITTING:
            self.refuse_admission(ticket, Outcome.CANCELLED, now)
        elif record.state in (State.GRANTED, State.SUSPENDED):
            held = record.state is State.GRANTED
            record.state = State.RELEASED
            self.tell(Released(now, ticket, now - record.granted_at if held else None, expired))
            self.of(record).served.append((record.key, record.weight))
            self.end(record, now)
            if held:
                self.give_back(record, now)

    def cancel(self, ticket: Ticket, now: float) -> None:
        record = self.records[ticket]
        if record.state is State.WAITING:
            self.leave(record, Outcome.CANCELLED, now)
        else:
            self.release(ticket, now)

    def suspend_ticket(self, ticket: Ticket, now: float) -> None:
        record = self.records[ticket]
        if record.state is State.GRANTED:
            record.state = State.SUSPENDED
            self.tell(Suspended(now, ticket, now - record.granted_at))
            self.give_back(record, now)

    def resume_ticket(self, ticket: Ticket, now: float) -> None:
        record = self.records[ticket]
        if record.state is State.SUSPENDED:
            record.repeated = True
            record.blocks = ()
            record.birth = self.of(record).tick - record.waited_ticks
            self.begin_wait(record, now)

    def set_scopes(self, ticket: Ticket, places: tuple[Hashable, ...], now: float) -> None:
        record = self.records[ticket]
        record.places = places
        if record.state in HOLDS:
            self.share(now)

    def run_due_actions(self, now: float) -> None:
        # In the order of the deadlines, over all resources: the end of one may unblock a holder of another.
        while due := [
            each
            for each in self.live()
            if each.state is State.WAITING and each.deadline is not None and each.deadline <= now
        ]:
            record = min(due, key=lambda each: (each.deadline, each.stood))
            self.leave(record, Outcome.DEADLINE if record.deadline == record.due else Outcome.TIMEOUT, now)
        self.expire(now)
        self.exceed_ceilings(now)

    def expire(self, now: float) -> None:
        for resource in self.resources.values():
            for lease in [lease for lease in resource.order if lease.touched_at + self.max_hold <= now]:
                if lease.state is State.ADMITTING:
                    self.refuse_admission(lease.ticket, Outcome.TIMEOUT, now)
                else:
                    self.release(lease.ticket, now, expired=True)

    def set_capacity(self, name: str, capacity: float, now: float) -> None:
        resource = self.resources[name]
        resource.capacity = capacity
        self.fill(resource, now)

    def set_max_hold(self, seconds: float, now: float) -> None:
        self.max_hold = seconds
        self.expire(now)

    def set_policy(
        self, policy: str, alpha: float, guard: int, now: float, *, by_run: bool, rules: PriorityRules
    ) -> None:
        for resource in self.resources.values():
            resource.policy, resource.alpha, resource.guard, resource.by_run = policy, alpha, guard, by_run
            resource.rules = rules
            resource.start_anew()
            for waiter in resource.waiters:
                # Under another guard another bound holds, from now on.
                age, waited = resource.tick - waiter.birth, resource.tick - waiter.since_tick
                waiter.allowance = waited + max(0, guard - age)
            self.fill(resource, now)

    def close(self, now: float) -> None:
        self.closed = True
        for record in self.records.values():
            if record.state is State.WAITING:
                self.of(record).leave(record)
                self.reject(record, Outcome.SHUTDOWN, now)

    # -- steps --------------------------------------------------------------------------------------------------

    def of(self, record: Record) -> Resource:
        return self.resources[record.ticket.request.resources[0]]

    def tell(self, event: Event) -> None:
        if self.observed:
            self.events.append(event)

    def begin_wait(self, record: Record, now: float) -> None:
        resource = self.of(record)
        if record.priority is not Priority.NORMAL:
            resource.enable()
        timeout = record.ticket.request.timeout
        waiting = sum(len(each.waiters) for each in self.resources.values())
        record.since, record.since_tick = now, resource.tick
        if self.closed:
            self.reject(record, Outcome.SHUTDOWN, now)
        elif record.due is not None and record.due <= now:
            self.reject(record, Outcome.DEADLINE, now)
        elif resource.used < resource.capacity and not resource.must_queue(record.priority):
            self.grant(record, GrantReason.FREE, [], now)
        elif timeout == 0:
            self.reject(record, Outcome.TIMEOUT, now)
        elif waiting >= self.max_waiters and not record.repeated:
            self.reject(record, Outcome.BACKPRESSURE, now)
        else:
            ends = [now + timeout] if timeout is not None else []
            record.deadline = min(ends + ([] if record.due is None else [record.due]), default=None)
            if not resource.waiters:
                resource.wait_order = next(self.order)
            record.state = State.WAITING
            record.stood = next(self.order)
            record.allowance = max(0, resource.guard - (resource.tick - record.birth))
            resource.join(record)
            mine = [each for each in resource.waiters if each.key == record.key]
            holders = tuple(lease.ticket for lease in resource.order[:16])
            weight, capacity = resource.weight(record.key), None if resource.capacity == inf else int(resource.capacity)
            waiters = len(resource.waiters)
            self.tell(Waiting(now, record.ticket, weight, len(mine), capacity, waiters, holders))

    def leave(self, record: Record, outcome: Outcome, now: float) -> None:
        resource = self.of(record)
        resource.leave(record)
        self.reject(record, outcome, now)
        self.fill(resource, now)

    def fill(self, resource: Resource, now: float) -> None:
        while resource.waiters and resource.used < resource.capacity and (turn := resource.next()) is not None:
            record, reason = turn
            if record.due is not None and record.due <= now:
                resource.leave(record)
                self.reject(record, Outcome.DEADLINE, now)
                continue
            self.grant(record, reason, [], now)
            for other in resource.waiters:
                overdue = resource.guard and resource.tick - other.birth >= resource.guard
                if overdue and record.age_key < other.age_key:
                    other.allowance += 1
        self.share(now)

    def share(self, now: float) -> None:
        """Admit, one by one, the waiters that would wait for ever."""
        waiters = [each for each in self.live() if each.state is State.WAITING]
        lost = self.lost(waiters)
        able = [
            each
            for each in waiters
            if each in lost
            and not blocked_by([other for other in waiters if other is not each], each)
            and any(blocked_by([each], lease) for other in self.resources.values() for lease in other.order)
        ]
        if able:
            record = min(able, key=lambda each: (-self.of(each).scores()[self.of(each).place_of(each)], each.age_key))
            theirs = self.of(record)
            slot: list[Record] = []
            if theirs.used >= theirs.capacity:
                host = next((lease for lease in theirs.order if blocked_by([record], lease)), theirs.order[0])
                slot = theirs.slot_of(host)
            self.grant(record, GrantReason.REENTRANT, slot, now)
            self.share(now)
        else:
            self.exceed_ceilings(now)

    def exceed_ceilings(self, now: float) -> None:
        """Grant what only a ceiling delays if none of its class's leases can end before."""
        for resource in sorted(self.resources.values(), key=lambda each: each.wait_order):
            if resource.classes is None or resource.used >= resource.capacity:
                continue
            waiters = [each for each in self.live() if each.state is State.WAITING]
            for priority in Priority:
                own = [each for each in resource.waiters if each.priority is priority]
                leases = [each for each in resource.order if each.priority is priority]
                if own and resource.is_capped(priority) and all(blocked_by(waiters, lease) for lease in leases):
                    record, _ = resource.next_of(own)
                    self.grant(record, GrantReason.SCORE, [], now)
                    self.share(now)
                    return

    def lost(self, waiters: list[Record]) -> list[Record]:
        """Tickets that could not proceed even if all others did all that they can."""
        lost = list(waiters)

        def may_end(lease: Record) -> bool:
            return not blocked_by([each for each in lost if each is not lease], lease)

        while True:
            saved = [
                each
                for each in lost
                if may_end(each)
                and (self.of(each).used < self.of(each).capacity or any(may_end(it) for it in self.of(each).order))
            ]
            if not saved:
                return lost
            lost = [each for each in lost if each not in saved]

    def grant(self, record: Record, reason: GrantReason, slot: list[Record], now: float) -> None:
        resource = self.of(record)
        compared = record.state is State.WAITING
        grant = Granted(
            at=now,
            ticket=record.ticket,
            reason=reason,
            waited=now - record.since,
            waited_ticks=resource.tick - record.since_tick,
            score=resource.scores()[resource.place_of(record)] if compared else 0.0,
            alpha=resource.alpha,
            queue_weight=resource.weight(record.key) if compared else record.weight,
            queue_age=resource.age(record.key) if compared else resource.tick - record.birth,
            tick=resource.tick,
            policy=resource.policy,
            repeated=record.repeated,
            slot_at=now,
            hosts={resource.name: slot[0].ticket} if slot else {},
        )
        resource.charge(record, now)
        if compared:
            resource.leave(record)
            self.decided.append(record.ticket)
        record.reason = reason
        record.waited_ticks = resource.tick - record.birth
        record.granted_at = record.touched_at = now
        if not slot:
            resource.slots.append(slot)
        slot.append(record)
        resource.order.append(record)
        if record.ticket.request.admission:
            record.state, record.grant = State.ADMITTING, grant
            self.tell(SlotTaken(now, record.ticket, grant.hosts))
        else:
            record.state = State.GRANTED
            self.tell(grant)

    def give_back(self, record: Record, now: float) -> None:
        resource = self.of(record)
        slot = resource.slot_of(record)
        slot.remove(record)
        resource.order.remove(record)
        if not slot:
            # By identity: empty lists are equal.
            resource.slots = [each for each in resource.slots if each is not slot]
            resource.tick += 1
            if resource.used >= resource.capacity:
                # A lowered capacity takes slots away: the tick serves nobody.
                for waiter in resource.waiters:
                    waiter.allowance += 1
        self.fill(resource, now)

    def end(self, record: Record, now: float) -> None:
        self.of(record).settle(record, 0 if record.spent is None else record.spent - record.weight, now)

    def reject(self, record: Record, outcome: Outcome, now: float) -> None:
        resource = self.of(record)
        if record.state is not State.NEW:
            self.decided.append(record.ticket)
        slot_at = record.grant.slot_at if record.state is State.ADMITTING and record.grant is not None else None
        record.state, record.outcome = State.REJECTED, outcome
        self.end(record, now)
        waited, ticks = now - record.since, resource.tick - record.since_tick
        self.tell(Rejected(now, record.ticket, outcome, waited, ticks, resource.policy, record.repeated, slot_at))

    # -- snapshots -----------------------------------------------------------------------------------------------

    def live(self) -> Iterator[Record]:
        return (record for record in self.records.values() if not record.state.is_ended)

    def rebuild_state(self) -> None:
        """Do what is not promised not to change: the numbers of the tickets give the order of arrival again."""
        for record in sorted(self.live(), key=lambda each: each.ticket.seq):
            record.stood = next(self.order)
        for resource in self.resources.values():
            resource.wait_order = min([each.ticket.seq for each in resource.waiters], default=0)
            resource.order.sort(key=lambda lease: lease.ticket.seq)
            for slot in resource.slots:
                slot[1:] = sorted(slot[1:], key=lambda lease: lease.ticket.seq)
            resource.line.sort(key=lambda each: each.ticket.seq)
            resource.begun = {each.key: resource.tick for each in resource.line}

    def compute_next_wakeup(self) -> float:
        """Return when a wait or a lease runs out next."""
        deadlines = [each.deadline for each in self.live() if each.state is State.WAITING and each.deadline is not None]
        leases = [lease.touched_at + self.max_hold for each in self.resources.values() for lease in each.order]
        return min([*deadlines, *leases], default=inf)

    def standing(self, resource: Resource, now: float) -> ResourceSnapshot:
        waiters, scores = resource.waiters, resource.scores()
        active = [lease.key for lease in resource.order]
        queued = {each.key for each in resource.line}
        limit = None if resource.capacity == inf else int(resource.capacity)
        return ResourceSnapshot(
            resource=resource.name,
            policy=resource.policy,
            capacity=limit,
            active=len(active),
            waiting=len(waiters),
            tick=resource.tick,
            alpha=resource.alpha,
            fairness=resource.fairness(),
            agents=tuple(
                AgentSnapshot(
                    agent=key if isinstance(key, str) else key[1],
                    waiting=sum(each.key == key for each in waiters),
                    active=active.count(key),
                    queue_weight=resource.weight(key),
                    queue_age=resource.age(key) if key in queued else 0,
                    oldest_wait=next((now - each.since for each in waiters if each.key == key), 0.0),
                    score=next((scores[resource.place_of(each)] for each in waiters if each.key == key), None),
                    tenant=None if isinstance(key, str) else key[0],
                )
                for key in sorted({*active, *queued}, key=lambda key: ("", key) if isinstance(key, str) else key)
            ),
            used=resource.used,
            mode=CapacityMode.UNLIMITED if limit is None else CapacityMode.FIXED,
            reference=limit,
        )
