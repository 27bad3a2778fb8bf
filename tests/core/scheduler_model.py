"""The scheduler as its documentation has it, without any data structure: everything is looked for among all tickets.

A slot is a list of the leases on it, so sharing needs no account of hosts and heirs. The random numbers that break
ties are the only thing taken from the real scheduler: `Drawn` shows those of each pick.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from math import inf

from loco_otel._core.load import LoadPolicy
from loco_otel._core.policy import Standing
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import (
    AgentStanding,
    Event,
    Granted,
    GrantReason,
    Outcome,
    Rejected,
    Released,
    ResourceStanding,
    Spending,
    Spent,
    Submitted,
    Suspended,
    Waiting,
)

QUEUED = (State.QUEUED, State.WAITING)
HOLDS = (State.ADMITTING, State.GRANTED)


class Drawn(LoadPolicy):
    """The real `load` policy, with the nonces in plain sight: each pick notes those in force."""

    def __init__(self, alpha: float, draw: Callable[[], float]) -> None:
        super().__init__(alpha, self._note)
        self._source = draw
        self._asking = ""
        self._nonces: dict[str, float] = {}
        self.picks: deque[dict[str, float]] = deque()

    def _note(self) -> float:
        nonce = self._nonces[self._asking] = self._source()
        return nonce

    def put(self, agent: str, standing: Standing) -> None:
        self._asking = agent
        super().put(agent, standing)

    def pick(self, tick: int) -> str:
        self.picks.append(dict(self._nonces))
        return super().pick(tick)


def load(alpha: float, weight: int, max_weight: int, age: int, max_age: int) -> float:
    """L(i), as specified."""
    by_weight = alpha * weight / max_weight if max_weight else 0.0
    by_age = (1.0 - alpha) * age / max_age if max_age else 0.0
    return by_weight + by_age


@dataclass(eq=False)
class Record:
    """What the model knows of one ticket."""

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
    blocks: tuple[Hashable, ...] = ()
    waited_ticks: int = 0
    repeated: bool = False
    grant: Granted | None = None
    allowance: int = 0
    """Ticks that this wait may take, by the guard; grows with each that passes it rightly."""

    @property
    def agent(self) -> str:
        return self.ticket.request.agent

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
    """One resource, its slots, and all who want it."""

    name: str
    capacity: float
    guard: int
    policy: str
    alpha: float
    picks: deque[dict[str, float]]
    tick: int = 0
    slots: list[list[Record]] = field(default_factory=list)
    order: list[Record] = field(default_factory=list)
    """The leases, in the order of their grants."""
    line: list[Record] = field(default_factory=list)
    served: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=1000))

    @property
    def used(self) -> int:
        return len(self.slots)

    @property
    def waiters(self) -> list[Record]:
        return sorted((each for each in self.line if each.state is State.WAITING), key=lambda each: each.age_key)

    def weight(self, agent: str) -> int:
        return sum(each.weight for each in self.line if each.agent == agent)

    def age(self, agent: str) -> int:
        return self.tick - min(each.birth for each in self.line if each.agent == agent)

    def scores(self) -> dict[str, float]:
        """L of each agent that has a waiter, normalised over these alone."""
        agents = {each.agent for each in self.waiters}
        if self.policy != "load":
            return dict.fromkeys(agents, 0.0)
        weights = {agent: self.weight(agent) for agent in agents}
        ages = {agent: self.age(agent) for agent in agents}
        max_weight, max_age = max(weights.values(), default=0), max(ages.values(), default=0)
        return {agent: load(self.alpha, weights[agent], max_weight, ages[agent], max_age) for agent in agents}

    def next(self) -> tuple[Record, GrantReason]:
        """Choose who is granted next."""
        waiters = self.waiters
        if self.guard and self.tick - waiters[0].birth >= self.guard:
            return waiters[0], GrantReason.GUARD
        if self.policy != "load":
            return waiters[0], GrantReason.SCORE
        nonces = self.picks.popleft()
        scores = self.scores()
        best = max(scores, key=lambda agent: (scores[agent], self.age(agent), -nonces[agent]))
        return next(each for each in waiters if each.agent == best), GrantReason.SCORE

    def slot_of(self, lease: Record) -> list[Record]:
        return next(slot for slot in self.slots if lease in slot)


class SchedulerModel:
    """Does what the scheduler ought to do, and says what it ought to say in `events` and `decided`."""

    def __init__(self, resources: dict[str, Resource], *, max_waiters: int, max_hold: float, observed: bool) -> None:
        self.resources = resources
        self.max_waiters = max_waiters
        self.max_hold = max_hold
        self.observed = observed
        self.closed = False
        self.records: dict[Ticket, Record] = {}
        self.events: list[Event] = []
        self.decided: list[Ticket] = []

    # -- operations ---------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, places: tuple[Hashable, ...], now: float, *, wait: bool) -> None:
        record = self.records[ticket] = Record(ticket, places)
        resource = self.of(record)
        self.tell(Submitted(now, ticket))
        record.birth = resource.tick
        if wait or self.closed:
            self.begin_wait(record, now)
        else:
            record.state = State.QUEUED
            resource.line.append(record)

    def wait(self, ticket: Ticket, now: float) -> None:
        record = self.records[ticket]
        if record.state is State.QUEUED:
            self.of(record).line.remove(record)
            self.begin_wait(record, now)

    def park(self, ticket: Ticket, blocks: tuple[Hashable, ...], now: float) -> None:
        record = self.records[ticket]
        if record.state is State.WAITING:
            record.blocks = blocks
            self.share(now)

    def admit(self, ticket: Ticket, now: float) -> None:
        record = self.records[ticket]
        if record.state is State.ADMITTING:
            record.state = State.GRANTED
            record.granted_at = record.touched_at = now
            if record.grant is not None:
                self.tell(record.grant._replace(at=now))
            record.grant = None

    def refuse(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        record = self.records[ticket]
        if record.state is State.ADMITTING:
            self.reject(record, outcome, now)
            self.give_back(record, now)

    def settle(self, ticket: Ticket, spending: Spending, now: float) -> None:
        if not self.records[ticket].state.ended:
            self.tell(Spent(now, ticket, spending))

    def release(self, ticket: Ticket, now: float, *, expired: bool = False) -> None:
        record = self.records[ticket]
        if record.state is State.ADMITTING:
            self.refuse(ticket, Outcome.CANCELLED, now)
        elif record.state in (State.GRANTED, State.SUSPENDED):
            held = record.state is State.GRANTED
            record.state = State.RELEASED
            self.tell(Released(now, ticket, now - record.granted_at if held else None, expired))
            self.of(record).served.append((record.agent, record.weight))
            if held:
                self.give_back(record, now)

    def cancel(self, ticket: Ticket, now: float) -> None:
        record = self.records[ticket]
        if record.state in QUEUED:
            self.leave(record, Outcome.CANCELLED, now)
        else:
            self.release(ticket, now)

    def suspend(self, ticket: Ticket, now: float) -> None:
        record = self.records[ticket]
        if record.state is State.GRANTED:
            record.state = State.SUSPENDED
            self.tell(Suspended(now, ticket, now - record.granted_at))
            self.give_back(record, now)

    def resume(self, ticket: Ticket, now: float) -> None:
        record = self.records[ticket]
        if record.state is State.SUSPENDED:
            record.repeated = True
            record.blocks = ()
            record.birth = self.of(record).tick - record.waited_ticks
            self.begin_wait(record, now)

    def move(self, ticket: Ticket, places: tuple[Hashable, ...], now: float) -> None:
        record = self.records[ticket]
        record.places = places
        if record.state in HOLDS:
            self.share(now)

    def advance(self, now: float) -> None:
        for resource in self.resources.values():
            # Two resources share nothing but the bound on waiters, so the order between them does not matter here;
            # the machine compares the events of each.
            while due := [each for each in resource.waiters if each.deadline is not None and each.deadline <= now]:
                first = min(due, key=lambda each: (each.deadline, resource.line.index(each)))
                self.leave(first, Outcome.TIMEOUT, now)
        self.expire(now)

    def expire(self, now: float) -> None:
        for resource in self.resources.values():
            for lease in [lease for lease in resource.order if lease.touched_at + self.max_hold <= now]:
                if lease.state is State.ADMITTING:
                    self.refuse(lease.ticket, Outcome.TIMEOUT, now)
                else:
                    self.release(lease.ticket, now, expired=True)

    def set_capacity(self, name: str, capacity: float, now: float) -> None:
        resource = self.resources[name]
        resource.capacity = capacity
        self.fill(resource, now)

    def set_max_hold(self, seconds: float, now: float) -> None:
        self.max_hold = seconds
        self.expire(now)

    def set_policy(self, policy: str, alpha: float, guard: int, now: float) -> None:
        for resource in self.resources.values():
            resource.policy, resource.alpha, resource.guard = policy, alpha, guard
            for waiter in resource.waiters:
                # Under another guard another bound holds, from now on.
                age, waited = resource.tick - waiter.birth, resource.tick - waiter.since_tick
                waiter.allowance = waited + max(0, guard - age)
            self.fill(resource, now)

    def shutdown(self, now: float) -> None:
        self.closed = True
        for record in self.records.values():
            if record.state in QUEUED:
                self.of(record).line.remove(record)
                self.reject(record, Outcome.SHUTDOWN, now)

    # -- steps --------------------------------------------------------------------------------------------------

    def of(self, record: Record) -> Resource:
        return self.resources[record.ticket.request.resources[0]]

    def tell(self, event: Event) -> None:
        if self.observed:
            self.events.append(event)

    def begin_wait(self, record: Record, now: float) -> None:
        resource = self.of(record)
        timeout = record.ticket.request.timeout
        waiting = sum(len(each.waiters) for each in self.resources.values())
        record.since, record.since_tick = now, resource.tick
        if self.closed:
            self.reject(record, Outcome.SHUTDOWN, now)
        elif resource.used < resource.capacity:
            self.grant(record, GrantReason.FREE, [], now)
        elif timeout == 0:
            self.reject(record, Outcome.TIMEOUT, now)
        elif waiting >= self.max_waiters and not record.repeated:
            self.reject(record, Outcome.BACKPRESSURE, now)
        else:
            record.deadline = None if timeout is None else now + timeout
            record.state = State.WAITING
            record.allowance = max(0, resource.guard - (resource.tick - record.birth))
            resource.line.append(record)
            mine = [each for each in resource.waiters if each.agent == record.agent]
            holders = tuple(lease.ticket for lease in resource.order[:16])
            weight, capacity = resource.weight(record.agent), int(resource.capacity)
            waiters = len(resource.waiters)
            self.tell(Waiting(now, record.ticket, weight, len(mine), capacity, waiters, holders))

    def leave(self, record: Record, outcome: Outcome, now: float) -> None:
        resource = self.of(record)
        resource.line.remove(record)
        self.reject(record, outcome, now)
        self.fill(resource, now)

    def fill(self, resource: Resource, now: float) -> None:
        while resource.waiters and resource.used < resource.capacity:
            record, reason = resource.next()
            self.grant(record, reason, [], now)
            for other in resource.waiters:
                overdue = resource.guard and resource.tick - other.birth >= resource.guard
                if overdue and record.age_key < other.age_key:
                    other.allowance += 1
        self.share(now)

    def share(self, now: float) -> None:
        """Let in, one by one, whoever would wait for ever."""
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
            record = min(able, key=lambda each: (-self.of(each).scores()[each.agent], each.age_key))
            theirs = self.of(record)
            slot: list[Record] = []
            if theirs.used >= theirs.capacity:
                host = next((lease for lease in theirs.order if blocked_by([record], lease)), theirs.order[0])
                slot = theirs.slot_of(host)
            self.grant(record, GrantReason.REENTRANT, slot, now)
            self.share(now)

    def lost(self, waiters: list[Record]) -> list[Record]:
        """Those who could not go on though everybody did all that they can."""
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
            score=resource.scores()[record.agent] if compared else 0.0,
            alpha=resource.alpha,
            queue_weight=resource.weight(record.agent) if compared else record.weight,
            queue_age=resource.age(record.agent) if compared else resource.tick - record.birth,
            tick=resource.tick,
            policy=resource.policy,
            repeated=record.repeated,
        )
        if compared:
            resource.line.remove(record)
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

    def reject(self, record: Record, outcome: Outcome, now: float) -> None:
        resource = self.of(record)
        asked = record.state is not State.QUEUED
        if record.state is not State.NEW:
            self.decided.append(record.ticket)
        record.state, record.outcome = State.REJECTED, outcome
        waited = now - record.since if asked else 0.0
        ticks = resource.tick - record.since_tick if asked else 0
        self.tell(Rejected(now, record.ticket, outcome, waited, ticks, resource.policy, record.repeated))

    # -- how it stands ------------------------------------------------------------------------------------------

    def live(self) -> Iterator[Record]:
        return (record for record in self.records.values() if not record.state.ended)

    def recover(self) -> None:
        """Do what is not promised not to change: who came first is told by the numbers of the tickets again."""
        for resource in self.resources.values():
            resource.order.sort(key=lambda lease: lease.ticket.seq)
            resource.line.sort(key=lambda each: each.ticket.seq)

    def next_wakeup(self) -> float:
        """Tell when a wait or a lease runs out next."""
        deadlines = [each.deadline for each in self.live() if each.state is State.WAITING and each.deadline is not None]
        leases = [lease.touched_at + self.max_hold for each in self.resources.values() for lease in each.order]
        return min([*deadlines, *leases], default=inf)

    def standing(self, resource: Resource, now: float) -> ResourceStanding:
        waiters, scores = resource.waiters, resource.scores()
        active = [lease.agent for lease in resource.order]
        queued = {each.agent for each in resource.line}
        served = dict.fromkeys((each.agent for each in waiters), 0)
        for agent, weight in resource.served:
            served[agent] = served.get(agent, 0) + weight
        squares = sum(weight**2 for weight in served.values())
        return ResourceStanding(
            resource=resource.name,
            policy=resource.policy,
            capacity=None if resource.capacity == inf else int(resource.capacity),
            active=len(active),
            waiting=len(waiters),
            tick=resource.tick,
            alpha=resource.alpha,
            fairness=sum(served.values()) ** 2 / (len(served) * squares) if squares else 1.0,
            agents=tuple(
                AgentStanding(
                    agent=agent,
                    waiting=sum(each.agent == agent for each in waiters),
                    active=active.count(agent),
                    queue_weight=resource.weight(agent),
                    queue_age=resource.age(agent) if agent in queued else 0,
                    oldest_wait=next((now - each.since for each in waiters if each.agent == agent), 0.0),
                    score=scores.get(agent),
                )
                for agent in sorted({*active, *queued})
            ),
        )
