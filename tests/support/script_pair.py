"""The core and the step script side by side: the same operations at the same times, compared grant by grant."""

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.policies.base import Candidate, Key
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.las import LasPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityRule, PriorityRules
from loco_otel._core.provider_pause import record_rate_limits, record_throttling
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.reconfiguration import set_policy
from loco_otel._core.remote import RemoteChange, RemoteNote
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.batches import GateState, LineState, PauseState, Reply
from loco_otel._engine.redis.operations import make_operation, make_submission, name_line
from loco_otel._engine.redis.script import SOURCE, make_base_key
from loco_otel._engine.redis.statements import make_statement
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.events import (
    Granted,
    Outcome,
    Priority,
    RateLimits,
    Rejected,
    Request,
    Spending,
    Throttled,
    ThrottleKind,
    Usage,
)

_WEIGHTS = (500, 1000, 1000, 3000, 7000)
_TOKENS = (0, 10, 10, 100, 700)
_LIMIT_FIELDS = (
    *("limit", "ceiling", "_refused_level", "_decreased_at", "_successes", "_successes_required"),
    *("_probe_not_before", "_is_probing"),
)
CLASSES: Sequence[PriorityRules] = (
    DEFAULT_PRIORITY_RULES,
    {
        Priority.INTERACTIVE: PriorityRule(8000, is_strict=True),
        Priority.NORMAL: PriorityRule(4000),
        Priority.BACKGROUND: PriorityRule(500, slots=1),
    },
    {
        Priority.INTERACTIVE: PriorityRule(3000, fraction=0.5),
        Priority.NORMAL: PriorityRule(700, slots=2, fraction=0.7),
        Priority.BACKGROUND: PriorityRule(1000, is_strict=True),
    },
)
_TIME = "call('TIME')"
_namespaces = itertools.count()


class HeadDrawn(LoadPolicy):
    """The real `load` policy, in which the older head wins a tie, as in the script."""

    def __init__(self, alpha: float) -> None:
        super().__init__(alpha, lambda: self._head)
        self._head = 0

    def update_candidate(self, key: Key, candidate: Candidate) -> None:
        self._head = candidate.head[1]
        super().update_candidate(key, candidate)


class ScriptPair:
    """Both sides, with one process on the script's.

    Args:
        client: of the server.
        limits: of the resource `llm`.
        others: capacities and rates of further resources, which have the same order.
        wide_part: of the random requests, those for several resources.

    Both sides fill several resources by their names.

    """

    def __init__(
        self, client: Any, limits: SharedLimits, others: Sequence[SharedLimits] = (), *, wide_part: float = 0.0
    ) -> None:
        self.wide_part = wide_part
        assert SOURCE.count(_TIME) == 1
        self._step = client.register_script(SOURCE.replace(_TIME, "{ARGV[7], ARGV[8]}"))
        self._milliseconds = 1_790_000_000_000
        self._client = client
        self.base = make_base_key(f"pair{next(_namespaces)}")
        self._number = 0
        bounds = {"llm": limits, **{f"r{number}": it for number, it in enumerate(others)}}
        self._limits = _spread_order(limits, bounds)
        self.names = list(self._limits)
        self._batch: list[Any] = []
        self.core = Scheduler(
            {name: make_capacity(it) for name, it in self._limits.items()},
            make_policy(limits),
            max_wait_ticks=limits.max_wait_ticks,
            tuner=make_tuner(limits),
            by_run=limits.by_run,
            tenant_shares=limits.tenant_shares,
            priorities=limits.priorities,
        )
        self._set_core_limits()
        self.core.observed = True
        self.live: dict[str, Ticket] = {}
        self.grants = 0
        self._lines: dict[str, LineState] = {}
        statements = [make_statement(it, name, 0) for name, it in self._limits.items()]
        self._run([["sync", 1, 1, "", -1, statements, [], [], "host 1", [], []]])

    # -- operations, on both sides --------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self._milliseconds / 1000

    def advance(self, milliseconds: int) -> None:
        """Let time pass, and grant what has become possible."""
        self.compare()
        self._milliseconds += milliseconds
        self.core.grant_all_waiting(self.now)
        self._batch.append(["beat", self.names])

    def submit(
        self,
        agent: str,
        weight: int,
        *,
        immediate: bool = False,
        tokens: int = 0,
        due: int | None = None,
        resources: tuple[str, ...] = ("llm",),
        **caller: Any,
    ) -> None:
        """Request slots, as a caller with this run, tenant and class, within `due` milliseconds."""
        # In one process a pause until the deadline refuses a request; here it waits, as the pause may be shortened.
        is_paused = any(self.core.resources.pools[name].paused_until > self.now for name in resources)
        deadline = None if due is None or is_paused else (self._milliseconds + due) / 1000
        request = Request(agent, weight, resources, 0 if immediate else None, tokens=tokens, deadline=deadline)
        ticket = Ticket(request._replace(**caller), "p")
        self.core.submit(ticket, self.now)
        self.live[ticket.id] = ticket
        self._batch.append(make_submission(ticket))

    def release(self, ticket: Ticket, correction: int, used: int | None = None) -> None:
        """End a lease, with the tokens that it has used; None reports no usage."""
        usage = None if used is None else Usage(used, 0)
        if correction or usage is not None:
            spending = Spending(usage, ticket.request.weight + correction, "m")
            self.core.record_spending(ticket, spending, self.now)
        self.core.release(ticket, self.now)
        self._add_note(RemoteChange.ENDED, ticket)

    def cancel(self, ticket: Ticket) -> None:
        self.core.cancel(ticket, self.now)
        self._add_note(RemoteChange.ENDED, ticket)

    def suspend(self, ticket: Ticket) -> None:
        self.core.suspend_ticket(ticket, self.now)
        self._add_note(RemoteChange.SUSPENDED, ticket)

    def resume(self, ticket: Ticket) -> None:
        waited = ticket.waited_ticks
        self.core.resume_ticket(ticket, self.now)
        granted_ticks, ticket.waited_ticks = ticket.waited_ticks, waited
        if ticket.outcome is not Outcome.DEADLINE:
            self._batch.append(make_submission(ticket))
        ticket.waited_ticks = granted_ticks
        if ticket.state is State.REJECTED:
            self._add_note(RemoteChange.ENDED, ticket)

    def throttle(self, ticket: Ticket, pause: float | None, *, is_refused: bool = True) -> None:
        """Report a refusal, or else the headers of an answer, which ask for a pause."""
        if is_refused:
            record_throttling(self.core, Throttled(self.now, ticket, 429, ThrottleKind.LOAD, pause, None))
        else:
            limits = RateLimits(remaining_requests=0, requests_reset=pause or 0.0)
            record_rate_limits(self.core, ticket, limits, self.now)
        change = RemoteChange.REFUSED if is_refused else RemoteChange.PAUSED
        self._batch.append(make_operation(RemoteNote(change, ticket, pause or 0.0)))

    def set_limits(self, limits: SharedLimits, resource: str = "llm") -> None:
        """Change policy, and capacity and rates of one resource; another policy orders the waiters again."""
        before = self._limits["llm"]
        self._limits = _spread_order(limits, {**self._limits, resource: limits})
        self._set_core_limits()
        if _list_order(before) != _list_order(limits):
            set_policy(
                self.core,
                make_policy(limits),
                limits.max_wait_ticks,
                self.now,
                limits.tenant_shares,
                tuner=make_tuner(limits),
                by_run=limits.by_run,
                priorities=limits.priorities,
            )
        else:
            self.core.grant_all_waiting(self.now)
        self._batch.append(["state", [make_statement(it, name, 0) for name, it in self._limits.items()]])

    def _set_core_limits(self) -> None:
        for name, it in self._limits.items():
            self.core.resources.set_resource(name, make_capacity(it), it.requests_per_minute, it.tokens_per_minute)

    def _add_note(self, change: RemoteChange, ticket: Ticket) -> None:
        self._batch.append(make_operation(RemoteNote(change, ticket)))

    # -- the comparison -------------------------------------------------------------------------------------------

    def compare(self) -> None:
        """Send what was done as one batch, and compare who holds, why it was granted, and what the rates allow."""
        batch, self._batch = self._batch, []
        events, self.core.events, self.core.decided = self.core.events, [], []
        granted = self._run(batch)
        # Each line has an order of its own.
        expected = sorted((_describe(event) for event in events if isinstance(event, Granted)), key=self._find_line)
        refused = {"full": Outcome.TIMEOUT, "late": Outcome.DEADLINE}
        answered = sorted((_normalize(it) for it in granted if it[1] not in refused), key=self._find_line)
        assert answered == expected, f"{batch}: the script granted {answered}, the core {expected}"
        rejected = {it.ticket.id: it.outcome for it in events if isinstance(it, Rejected) and it.ticket.id in self.live}
        ends = {operation[1] for operation in batch if operation[0] == "end"}
        # Of one that its process has ended, too, in this batch, the script need not know the deadline.
        actual, due = (
            {
                name: it
                for name, it in outcomes
                if it is Outcome.TIMEOUT or (it is Outcome.DEADLINE and name not in ends)
            }
            for outcomes in ([(grant[0], refused.get(grant[1])) for grant in granted], rejected.items())
        )
        assert actual == due, f"{batch}: the script refused {actual}, the core {due}"
        self.grants += len(expected)
        waited = {grant[0]: grant[4] for grant in granted if grant[1] not in refused}
        assert all(self.live[name].waited_ticks == ticks for name, ticks in waited.items())
        self.live = {name: ticket for name, ticket in self.live.items() if not ticket.state.is_ended}
        for resource in self.names:
            held = set(self._client.zrange(f"{self.base}:{self._epoch}:held:{resource}", 0, -1))
            holders = (it for it in self.list_tickets(State.GRANTED) if resource in it.request.resources)
            assert held == {ticket.id for ticket in holders}
            self._compare_rates(resource)
            self._compare_reservations(resource)
        for queue_set in self.core.resources.queue_sets.values():
            names = tuple(pool.name for pool in queue_set.pools)
            if (line := self._lines.get(name_line(names))) is not None:
                self._compare_line(queue_set, line)

    def _find_line(self, grant: tuple[Any, ...]) -> str:
        return name_line(self.live[grant[0]].request.resources)

    def _compare_rates(self, resource: str) -> None:
        pool = self.core.resources.pools[resource]
        stored = self._client.hgetall(f"{self.base}:rates:{resource}")
        levels = {kind: tuple(map(float, text.split("|")))[:2] for kind, text in stored.items()}
        buckets = {"requests": pool.request_bucket, "tokens": pool.token_bucket}
        expected = {
            kind: (bucket.per_minute, bucket._level_and_time[0])
            for kind, bucket in buckets.items()
            if bucket is not None
        }
        assert levels == expected, f"the script has {levels}, the core {expected}"
        self._compare_limit(pool, self._lines[resource])

    def _compare_reservations(self, resource: str) -> None:
        """Compare for which lines a slot and tokens of a resource are reserved."""
        pool = self.core.resources.pools[resource]
        text = self._client.hget(f"{self.base}:{self._epoch}:line:{resource}", "contest")
        contest = json.loads(text) if text else {}
        slot, tokens = pool.reserved_for, pool.token_reservation
        expected = {} if slot is None else {"slot": _name_queue_set(slot)}
        expected |= {} if tokens is None else {"tokens_for": _name_queue_set(tokens[0]), "tokens": tokens[1]}
        actual = {key: it for key, it in contest.items() if key != "lines"}
        assert actual == expected, f"the script has reserved {actual}, the core {expected}"

    def _compare_line(self, queue_set: QueueSet, line: LineState) -> None:
        assert (line.tick, line.waiting) == (queue_set.tick, queue_set.waiting)
        assert float(line.alpha) == queue_set.policy.alpha
        gate = queue_set.gate
        if line.gate is not None and line.gate.cause == "backoff":
            return  # the core stores it with the resource
        expected = None
        if gate is not None:
            is_timed = gate.until < math.inf
            due = math.floor(gate.until * 1000) + 1 if is_timed else -1
            expected = GateState(due, gate.cause.value, is_timed, gate.resource)
        assert line.gate == expected, f"the script has {line}, the core {gate} at {self.now}"

    def _compare_limit(self, pool: SlotPool, line: LineState) -> None:
        limit, paused = pool.adaptive_limit, pool.paused_until > self.now
        text, pause = self._client.hmget(f"{self.base}:{self._epoch}:line:{pool.name}", "auto", "pause")
        if limit is None:
            assert not text
            assert line.capacity == pool.capacity
            return
        expected = [float(getattr(limit, name)) for name in _LIMIT_FIELDS]
        assert list(map(float, text.split("|"))) == expected, f"the script has {text}, the core {expected}"
        assert line.capacity == limit.limit
        assert float(pause.split("|")[0]) == pool.paused_until
        due = math.floor(pool.paused_until * 1000) + 1
        assert line.pause == (PauseState(due, pool.pause_header or "") if paused else None)

    def close(self) -> None:
        """End all tickets; the script then keeps nothing."""
        for ticket in self.live.values():
            self.cancel(ticket)
        self.compare()
        self._run([["leave"]])
        left = list(self._client.scan_iter(f"{self.base}*", count=1000))
        for key in left:  # what was spent, until the buckets are full
            assert key in {f"{self.base}:rates:{name}" for name in self.names}, left
            assert self._client.pttl(key) >= 0
            self._client.delete(key)

    def list_tickets(self, *states: State) -> list[Ticket]:
        return [ticket for ticket in self.live.values() if ticket.state in states]

    def _run(self, operations: list[Any]) -> list[Any]:
        self._number += 1
        seconds, milliseconds = divmod(self._milliseconds, 1000)
        sent = ["p", self._number, 1, 3_600_000, json.dumps(operations), 1, seconds, milliseconds * 1000]
        reply = Reply.parse(json.loads(self._step(keys=[self.base], args=sent)))
        assert reply.status == "ok", reply
        self._epoch = reply.epoch
        self._lines |= {line.name: line for line in reply.lines}
        return list(reply.granted)


def make_policy(limits: SharedLimits) -> Any:
    if limits.policy == "fair":
        return lambda: FairPolicy(limits.shares)
    if limits.policy == "las":
        return lambda: LasPolicy(limits.shares, half_life=limits.half_life, idle_timeout=limits.run_idle_timeout)
    return FifoPolicy if limits.policy == "fifo" else lambda: HeadDrawn(limits.alpha)


def make_capacity(limits: SharedLimits) -> int | AdaptiveLimit:
    return AdaptiveLimit(limits.capacity_max) if limits.capacity is None else limits.capacity


def make_tuner(limits: SharedLimits) -> Callable[[], AlphaTuner | None]:
    return lambda: AlphaTuner(limits.alpha) if limits.auto_tune else None


def draw_limits(rng: random.Random) -> SharedLimits:
    policy = rng.choice(["load", "load", "fair", "fair", "las", "las", "fifo"])
    is_dated = policy == "las"
    return SharedLimits(
        rng.choice([1, 1, 2, 3, 5, None, None]),
        policy,
        rng.choice([0.0, 0.25, 0.3, 0.5, 0.9, 1.0]) if policy == "load" else 0.0,
        rng.choice([0, 0, 2, 5, 20]),
        rng.choice([{}, {"a0": 2000, "a1": 300, "a2": 7}]) if policy in {"fair", "las"} else {},
        *rng.choice([(None, None), (60, None), (None, 1000), (33.3, 7000), (600, 1e4 / 3)]),
        rng.choice([math.inf, 3, 8]),
        policy == "load" and rng.random() < 0.5,
        rng.random() < 0.3,
        rng.choice([math.inf, 0.01, 4.0, 30.0]) if is_dated else math.inf,
        rng.choice([0.5, 20.0, 900.0]) if is_dated else math.inf,
        rng.choice([{}, {"t1": 3000}]),
        rng.choice(CLASSES),
    )


def draw_resources(pair: ScriptPair, rng: random.Random) -> tuple[str, ...]:
    """Return one resource, or some of several."""
    is_wide = len(pair.names) > 1 and rng.random() < pair.wide_part
    count = rng.randint(2, len(pair.names)) if is_wide else 1
    return tuple(rng.sample(pair.names, count))


def run_step(
    pair: ScriptPair, rng: random.Random, agents: list[str], tenants: list[str | None], is_urgent: float
) -> None:
    """Do one random operation on both sides; `is_urgent` is the part of requests with a class and a deadline."""
    chance = rng.random()
    holders = pair.list_tickets(State.GRANTED)
    if chance < 0.05 and holders:
        pair.throttle(rng.choice(holders), rng.choice([None, 0.7, 3.3]), is_refused=rng.random() < 0.8)
    elif chance < 0.1:
        pair.advance(rng.choice([1, 17, 333, 1000, 20_000]))
    elif chance < 0.5 or not pair.live:
        some = agents[: rng.choice([1, len(agents)])]
        immediate, run = rng.random() < 0.1, rng.choice([None, "r1", "r2", f"r{len(pair.live)}"])
        facts = {"tokens": rng.choice(_TOKENS), "run": run, "tenant": rng.choice(tenants)}
        facts["resources"] = draw_resources(pair, rng)
        if rng.random() < is_urgent:
            facts |= {"priority": rng.choice(list(Priority)), "due": rng.choice([None, None, 40, 900, 60_000])}
        pair.submit(rng.choice(some), rng.choice(_WEIGHTS), immediate=immediate, **facts)
    elif chance < 0.85 and holders:
        pair.release(rng.choice(holders), rng.choice([0, 0, -400, 900]), rng.choice([None, 0, 15, 300]))
    elif chance < 0.9 and holders:
        pair.suspend(rng.choice(holders))
    elif chance < 0.95 and (paused := pair.list_tickets(State.SUSPENDED)):
        pair.resume(rng.choice(paused))
    elif chance < 0.955:
        pair.set_limits(draw_limits(rng), rng.choice(pair.names))
    elif live := pair.list_tickets(State.WAITING, State.GRANTED, State.SUSPENDED):
        pair.cancel(rng.choice(live))


def _spread_order(limits: SharedLimits, bounds: Mapping[str, SharedLimits]) -> dict[str, SharedLimits]:
    """Return the limits of each resource: its own capacity and rates, and the order of `limits`."""
    return {
        name: limits._replace(
            capacity=it.capacity,
            capacity_max=it.capacity_max,
            requests_per_minute=it.requests_per_minute,
            tokens_per_minute=it.tokens_per_minute,
        )
        for name, it in bounds.items()
    }


def _list_order(limits: SharedLimits) -> list[object]:
    """Return what decides the order of waiters."""
    order = limits.policy, limits.alpha, limits.max_wait_ticks, limits.shares, limits.auto_tune
    return [*order, limits.by_run, limits.half_life, limits.run_idle_timeout, limits.tenant_shares, limits.priorities]


def _describe(event: Granted) -> tuple[Any, ...]:
    facts = event.ticket.id, event.reason.value, event.tick, event.waited_ticks
    return (*facts, event.score, event.queue_weight, event.queue_age)


def _name_queue_set(queue_set: Any) -> str:
    return name_line([pool.name for pool in queue_set.pools])


def _normalize(grant: list[Any]) -> tuple[Any, ...]:
    """Without the ticks of all waits, which the ticket has only until it waits again."""
    return (*grant[:4], float(grant[5]), int(grant[6]), grant[7])
