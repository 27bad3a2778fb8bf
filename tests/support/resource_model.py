"""A model of one resource, for `scheduler_model.py`: its requests, slots, order and waiters."""

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from policy_model import Accounts, TwoLayers, load, make_accounts, nonce

from loco_otel._core.policies.base import Key
from loco_otel._core.priority_order import PriorityRules
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import (
    Granted,
    GrantReason,
    Outcome,
    Priority,
)

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
