"""The scheduler as its documentation has it, without any data structure: everything is searched among all tickets.

A slot is a list of the leases on it, so sharing needs no account of hosts and heirs. The numbers that break ties under
`load` are an agent's own here, not random: `Drawn` sees to that in the real scheduler.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import inf

from policy_model import Accounts, TwoLayers, load, make_accounts, nonce

from loco_otel._core.policies.base import Key
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

HOLDS = (State.ADMITTING, State.GRANTED)


@dataclass(eq=False)
class Record:
    """What the model stores of one ticket."""

    ticket: Ticket
    places: tuple[Hashable, ...]
    state: State = State.NEW
    outcome: Outcome | None = None
    reason: GrantReason | None = None
    birth: int = 0
    since: float = 0.0
    since_tick: int = 0
    granted_at: float = 0.0
    touched_at: float = 0.0
    deadline: float | None = None
    stood: int = 0
    """In which order they began to wait."""
    blocks: tuple[Hashable, ...] = ()
    waited_ticks: int = 0
    repeated: bool = False
    grant: Granted | None = None
    allowance: int = 0
    """Ticks that this wait may take, by the guard; grows with each that passes it rightly."""

    charged: "Accounts | None" = None
    charged_class: "Accounts | None" = None
    charged_at: float = 0.0
    spent: int | None = None

    @property
    def tenant(self) -> str:
        return self.ticket.request.tenant or ""

    @property
    def key(self) -> Key:
        """What queues: two tenants' agents are two, whatever their names."""
        return (self.tenant, self.ticket.request.agent) if self.tenant else self.ticket.request.agent

    @property
    def agent(self) -> str:
        return self.ticket.request.agent

    @property
    def priority(self) -> Priority:
        return self.ticket.request.priority

    @property
    def due(self) -> float | None:
        """The deadline of its request."""
        return self.ticket.request.deadline

    @property
    def weight(self) -> int:
        return self.ticket.request.weight

    @property
    def age_key(self) -> tuple[int, int]:
        return self.birth, self.ticket.seq


def blocked_by(waiters: Iterable[Record], lease: Record) -> bool:
    """Whether some of these, while they wait, keep what lives in its places from ending."""
    blocked = {place for each in waiters for place in each.blocks}
    return any(place in blocked for place in lease.places)


@dataclass(eq=False)
class Resource:
    """One resource, its slots, and all its waiters."""

    name: str
    capacity: float
    guard: int
    policy: str
    alpha: float
    by_run: bool
    rules: PriorityRules
    tick: int = 0
    slots: list[list[Record]] = field(default_factory=list)
    order: list[Record] = field(default_factory=list)
    """The leases, in the order of their grants."""
    line: list[Record] = field(default_factory=list)
    begun: dict[Key, int] = field(default_factory=dict)
    """The tick since which an agent has had a waiter throughout."""
    served: deque[tuple[Key, int]] = field(default_factory=lambda: deque(maxlen=1000))
    levels: dict[Priority, Accounts] = field(init=False)
    """By class: kept while the policy is `fair` or `las`, or there have been tenants in the class."""
    classes: Accounts | None = None
    """Of the classes; None before another than `normal` was asked for."""
    wait_order: int = 0

    def __post_init__(self) -> None:
        self.levels = {priority: make_accounts(self.policy) for priority in Priority}
        if self.rules[Priority.NORMAL].has_ceiling:
            self.enable()

    def enable(self) -> None:
        if self.classes is None:
            self.classes = Accounts({str(priority): rule.share for priority, rule in self.rules.items()})
            self.note()

    def is_capped(self, priority: Priority) -> bool:
        own = sum(slot[0].priority is priority for slot in self.slots)
        return self.rules[priority].has_ceiling and own >= self.rules[priority].compute_ceiling(self.capacity)

    def competing(self) -> list[Priority]:
        waiting = {each.priority for each in self.waiters}
        return [priority for priority in Priority if priority in waiting and not self.is_capped(priority)]

    def must_queue(self, priority: Priority) -> bool:
        if self.classes is None:
            return bool(self.waiters)
        return self.is_capped(priority) or bool(self.competing())

    def note_classes(self) -> list[Priority]:
        """Pass the classes that compete to their accounts."""
        competing = self.competing()
        assert self.classes is not None
        self.classes.compete([each for each in competing if not self.rules[each].is_strict])
        return competing

    def next_class(self) -> Priority | None:
        competing = self.note_classes()
        strict = [each for each in competing if self.rules[each].is_strict]
        if strict or not competing:
            return strict[0] if strict else None
        assert self.classes is not None
        rank = self.classes.rank
        return min(competing, key=lambda each: (rank(each), list(Priority).index(each)))

    @property
    def used(self) -> int:
        return len(self.slots)

    @property
    def waiters(self) -> list[Record]:
        return sorted((each for each in self.line if each.state is State.WAITING), key=lambda each: each.age_key)

    def weight(self, key: Key) -> int:
        return sum(each.weight for each in self.line if each.key == key)

    def age(self, key: Key) -> int:
        return self.tick - min(each.birth for each in self.line if each.key == key)

    def line_of(self, record: Record) -> Key:
        """What the policy orders: its agent, or its run."""
        request = record.ticket.request
        return (record.tenant, request.run, "run") if self.by_run and request.run is not None else record.key

    def lines(self, place: tuple[Priority, Key]) -> list[Record]:
        return [each for each in self.line if self.place_of(each) == place]

    def place_of(self, record: Record) -> tuple[Priority, Key]:
        return record.priority, self.line_of(record)

    def scores(self) -> dict[tuple[Priority, Key], float]:
        """The score of each agent or run that has a waiter, normalised over those of its class and tenant alone."""
        scores: dict[tuple[Priority, Key], float] = {}
        for priority, tenant in {(each.priority, each.tenant) for each in self.waiters}:
            mine = [each for each in self.waiters if (each.priority, each.tenant) == (priority, tenant)]
            keys = {self.place_of(each) for each in mine}
            if self.policy == "fifo":
                scores |= dict.fromkeys(keys, 0.0)
            elif self.policy in ("fair", "las"):
                scores |= {key: self.accounts_of(priority, tenant).score(key[1]) for key in keys}
            else:
                weights = {key: sum(each.weight for each in self.lines(key)) for key in keys}
                ages = {key: self.tick - min(each.birth for each in self.lines(key)) for key in keys}
                most, oldest = max(weights.values()), max(ages.values())
                scores |= {key: load(self.alpha, weights[key], most, ages[key], oldest) for key in keys}
        return scores

    def fairness(self) -> float | None:
        """Compare what the agents that had a waiter throughout were served in the longest window that has two."""
        lasted = {key: self.tick - tick for key, tick in self.begun.items()}
        windows = [
            window for window in range(len(self.served) + 1) if sum(ticks >= window for ticks in lasted.values()) >= 2
        ]
        if not windows:
            return None
        window = max(windows)
        keys = [key for key, ticks in lasted.items() if ticks >= window]
        if window < 2 * len(keys):
            return None
        recent = list(self.served)[len(self.served) - window :]
        shares = [sum(weight for key, weight in recent if key == each) for each in keys]
        squares = sum(share**2 for share in shares)
        return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0

    # -- service by agent ---------------------------------------------------------------------------------------

    def is_metered(self, priority: Priority) -> bool:
        return self.policy in ("fair", "las") or isinstance(self.levels[priority], TwoLayers)

    def accounts_of(self, priority: Priority, tenant: str) -> Accounts:
        accounts = self.levels[priority]
        return accounts.of(tenant) if isinstance(accounts, TwoLayers) else accounts

    def join(self, record: Record) -> None:
        self.line.append(record)
        self.begun.setdefault(record.key, self.tick)
        if record.tenant and not isinstance(self.levels[record.priority], TwoLayers):
            self.levels[record.priority] = TwoLayers(self.policy)
        self.note()

    def leave(self, record: Record) -> None:
        self.line.remove(record)
        if all(each.key != record.key for each in self.line):
            del self.begun[record.key]
        self.note()

    def note(self) -> None:
        """Pass the waiters to the accounts."""
        for priority, accounts in self.levels.items():
            waiters = [each for each in self.waiters if each.priority is priority]
            if isinstance(accounts, TwoLayers):
                tenants = {each.tenant for each in waiters}
                for tenant in tenants | accounts.inner.keys():
                    accounts.of(tenant).compete({self.line_of(each) for each in waiters if each.tenant == tenant})
                accounts.compete(tenants)
            else:
                accounts.compete({self.line_of(each) for each in waiters})
        if self.classes is not None:
            self.note_classes()

    def charge(self, record: Record, now: float) -> None:
        accounts = self.levels[record.priority]
        if self.is_metered(record.priority) and record.charged is not accounts:
            record.charged, record.charged_at = accounts, now
            inner = self.accounts_of(record.priority, record.tenant)
            inner.granted(self.line_of(record), record.agent, record.weight, now)
            if isinstance(accounts, TwoLayers):
                accounts.granted(record.tenant, record.tenant, record.weight, now)
        has_waited = record.state is State.WAITING
        if self.classes is not None and has_waited and record.charged_class is not self.classes:
            record.charged_class = self.classes
            if not self.rules[record.priority].is_strict:
                self.classes.granted(record.priority, record.priority, record.weight, now)

    def settle(self, record: Record, delta: int, now: float) -> None:
        charged, record.charged = record.charged, None
        accounts = self.levels[record.priority]
        at = record.charged_at
        if charged is accounts:
            inner = self.accounts_of(record.priority, record.tenant)
            inner.settled(self.line_of(record), record.agent, delta, at, now)
            if isinstance(accounts, TwoLayers):
                accounts.settled(record.tenant, record.tenant, delta, at, now)
        charged, record.charged_class = record.charged_class, None
        if self.classes is not None and charged is self.classes and not self.rules[record.priority].is_strict:
            self.classes.settled(record.priority, record.priority, delta, at, now)

    def start_anew(self) -> None:
        """Clear the service by agent and by class."""
        for priority in Priority:
            layered = any(each.tenant for each in self.waiters if each.priority is priority)
            self.levels[priority] = TwoLayers(self.policy) if layered else make_accounts(self.policy)
        had_classes, self.classes = self.classes is not None, None
        if had_classes or self.rules[Priority.NORMAL].has_ceiling:
            self.enable()
        self.note()

    def next(self) -> tuple[Record, GrantReason] | None:
        """Choose the next grant."""
        if self.classes is None:
            return self.next_of(self.waiters)
        priority = self.next_class()
        return None if priority is None else self.next_of([each for each in self.waiters if each.priority is priority])

    def next_of(self, waiters: list[Record]) -> tuple[Record, GrantReason]:
        """Choose the next grant of one class."""
        if self.guard and self.tick - waiters[0].birth >= self.guard:
            return waiters[0], GrantReason.GUARD
        accounts = self.levels[waiters[0].priority]
        if isinstance(accounts, TwoLayers):
            rank = accounts.rank
            tenant = min(waiters, key=lambda each: (rank(each.tenant), each.age_key)).tenant
            waiters = [each for each in waiters if each.tenant == tenant]
        dated = [(each.due, each.ticket.seq, each) for each in waiters if each.due is not None]
        if dated:
            return min(dated, key=lambda each: each[:2])[2], GrantReason.SCORE
        if self.policy in ("fair", "las"):
            rank = self.accounts_of(waiters[0].priority, waiters[0].tenant).rank
            return min(waiters, key=lambda each: (rank(self.line_of(each)), each.age_key)), GrantReason.SCORE
        if self.policy == "load":
            scores = self.scores()

            def rank_by_load(record: Record) -> tuple[float, int, float]:
                place = self.place_of(record)
                return scores[place], self.tick - min(each.birth for each in self.lines(place)), -nonce(place[1])

            return max(waiters, key=lambda each: (rank_by_load(each), -each.birth, -each.ticket.seq)), GrantReason.SCORE
        return waiters[0], GrantReason.SCORE

    def slot_of(self, lease: Record) -> list[Record]:
        return next(slot for slot in self.slots if lease in slot)


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
