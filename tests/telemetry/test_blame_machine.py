"""The blame for waits equals one that adds up every step in exact fractions, whatever happens at the scheduler."""

import random
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from math import inf

import pytest
from effort import scale

from loco_otel._core.adaptive_limit import AdaptiveLimit
from loco_otel._core.policies.base import Policy, key_of
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.provider_pause import record_rate_limits, record_throttling
from loco_otel._core.queue_set import QueueSet
from loco_otel._core.reconfiguration import set_policy, set_resource
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.slot_pool import Gate, SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel._telemetry import wait_integrals
from loco_otel._telemetry.blame import BlameListener
from loco_otel.events import (
    Event,
    GateCause,
    Gated,
    Granted,
    Outcome,
    RateLimits,
    Rejected,
    Request,
    Throttled,
    ThrottleKind,
)

RUNS, STEPS = 500, 60
TICKS = 1_000_000
"""Units of time in a second."""
RESOURCES = (("llm",), ("llm",), ("llm",), ("tool",), ("llm", "tool"), ("tool", "llm"))

Point = tuple[str, str, str, str | None]


def exact(seconds: float) -> Fraction:
    return Fraction(round(seconds * TICKS), TICKS)


def exact_event(event: Event) -> Event:
    """Return an event with all times as exact fractions."""
    changes = {
        name: exact(value)
        for name, value in event._asdict().items()
        if name in {"at", "waited", "slot_at", "until"} and value is not None
    }
    return event._replace(**changes)


class BruteForce:
    """Adds the parts of each step for each waiting request, from the state of the core itself."""

    def __init__(self, core: Scheduler) -> None:
        self.core = core
        self.seconds: defaultdict[Point, Fraction] = defaultdict(Fraction)
        self.at = Fraction(0)
        self.last_gate: dict[QueueSet, str] = {}
        self.pauses: dict[SlotPool, float] = defaultdict(float)
        self.gates: dict[QueueSet, Gate | None] = {}

    def see_gates(self) -> None:
        """Remember which gate was closed last: it is to blame until the grant that follows its end."""
        for pool in self.core.resources.pools.values():
            if pool.paused_until != self.pauses[pool]:
                self.pauses[pool] = pool.paused_until
                for queue_set in self.core.resources.list_queue_sets(pool):
                    self.last_gate[queue_set] = "backoff"
        for queue_set in self.core.resources.queue_sets.values():
            before, gate = self.gates.get(queue_set), queue_set.gate
            if gate != before:
                self.last_gate[queue_set] = (gate or before or Gate("", GateCause.BACKOFF, 0.0)).cause.value
                self.gates[queue_set] = gate

    def advance(self, now: Fraction) -> None:
        for ticket in self.core.tickets.values():
            queue_set = self.core.resources.get_queue_set(ticket.request.resources)
            resource = "+".join(sorted(ticket.request.resources))
            if ticket.state is State.ADMITTING:
                self.seconds[ticket.request.agent, resource, "budget", None] += now - self.at
            elif ticket.state is State.WAITING:
                for (cause, by), part in self.split(ticket, queue_set, now).items():
                    self.seconds[ticket.request.agent, resource, cause, by] += part
        self.at = now

    def split(self, ticket: Ticket, queue_set: QueueSet, now: Fraction) -> dict[tuple[str, str | None], Fraction]:
        parts: defaultdict[tuple[str, str | None], Fraction] = defaultdict(Fraction)
        gates = [(GateCause.BACKOFF.value, exact(max(pool.paused_until for pool in queue_set.pools)))]
        if queue_set.gate is not None:
            gates.append((queue_set.gate.cause.value, exact(queue_set.gate.until)))
        at = self.at
        for cause, until in gates:
            closed = max(Fraction(0), min(until, now) - at)
            parts[cause, None] += closed
            at += closed
        full = [pool for pool in queue_set.pools if not pool.has_room(queue_set)]
        if not full:
            was_paused = any(pool.paused_until for pool in queue_set.pools)
            parts[self.last_gate.get(queue_set, "backoff" if was_paused else "unknown"), None] += now - at
        for pool in full:
            held = [lease for lease in pool.leases.values() if pool.name not in lease.lenders]
            assert len(held) == pool.used
            total = int(max(pool.reference, pool.used))
            share = (now - at) / len(full) / total
            for lease in held:
                own = key_of(lease.request) == key_of(ticket.request)
                parts["self" if own else "slot", None if own else lease.request.agent] += share
            free = int(max(0, pool.capacity - pool.used))
            parts["reserved", None] += share * free
            parts["ramp", None] += share * (total - pool.used - free)
        return parts


class Driver:
    """Does something at random in each step, and feeds the listener with the events."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.now = 0
        policy = rng.choice(POLICIES)(rng)
        limit = AdaptiveLimit(rng.choice([inf, 4])) if rng.random() < 0.5 else rng.choice([1, 2, 3])
        self.core = Scheduler(
            {"llm": limit, "tool": rng.choice([1, 1, 2, None])},
            policy,
            max_wait_ticks=rng.choice([0, 1, 3]),
            max_waiters=rng.choice([None, None, 6]),
            max_hold=rng.choice([inf, inf, 4.0]),
        )
        if rng.random() < 0.3:
            rates = {"requests_per_minute": rng.choice([6, 60]), "tokens_per_minute": rng.choice([None, 600])}
            set_resource(self.core, "llm", limit, 0.0, **rates)
        self.core.observed = True
        self.listener = BlameListener()
        self.brute = BruteForce(self.core)
        self.agents = rng.choice(["ab", "abcd", "abcdefg"])
        self.waited = Fraction(0)
        self.gated: set[GateCause] = set()

    def pick(self, *states: State) -> Ticket | None:
        tickets = [ticket for ticket in self.core.tickets.values() if ticket.state in states]
        return self.rng.choice(tickets) if tickets else None

    def step(self) -> None:
        rng = self.rng
        self.now += rng.choice([0, 1, rng.randrange(TICKS), rng.randrange(3 * TICKS)])
        wakeup = self.core.compute_next_wakeup()
        if wakeup < self.now / TICKS and rng.random() < 0.8:
            # The timer is late by a moment.
            self.now = max(int(self.brute.at * TICKS), int(wakeup * TICKS) + rng.randrange(1, 1000))
        self.brute.advance(Fraction(self.now, TICKS))
        now = self.now / TICKS
        self.core.run_due_actions(now) if rng.random() < 0.4 else rng.choices(ACTIONS, WEIGHTS)[0](self, now)
        self.core.decided.clear()
        self.brute.see_gates()
        events, self.core.events = self.core.events, []
        for event in events:
            self.listener(exact_event(event))
            if isinstance(event, Gated):
                self.gated.add(event.cause)
            if isinstance(event, Granted | Rejected):
                self.check_wait(event)

    def check_wait(self, event: Granted | Rejected) -> None:
        self.waited += exact(event.waited)
        last = self.listener._last
        assert (
            sum(part for _, _, part in (() if last is None else wait_integrals.iter_parts(*last)))
            == exact(event.waited) * wait_integrals.UNIT
        )

    def check_seconds(self) -> None:
        expected: defaultdict[Point, Fraction] = defaultdict(Fraction)
        for (agent, resource, cause, by), seconds in self.brute.seconds.items():
            queue = self.listener._queues.get(tuple(resource.split("+")))
            known = by is None or (queue is not None and by in queue.places)
            expected[agent, resource, cause, by if known else "other"] += seconds
        now = Fraction(self.now, TICKS)
        found = {
            point: Fraction(units, wait_integrals.UNIT)
            for point, units in self.listener._read_units(now).items()  # type: ignore[arg-type]
        }
        assert {point: seconds for point, seconds in found.items() if seconds} == {
            point: seconds for point, seconds in expected.items() if seconds
        }
        opened = sum(
            Fraction(self.now, TICKS) - exact(ticket.waiting_since)
            for ticket in self.core.tickets.values()
            if ticket.state in {State.WAITING, State.ADMITTING}
        )
        assert sum(found.values()) == self.waited + opened

    # -- what may happen ----------------------------------------------------------------------------------------

    def submit(self, now: float) -> None:
        rng = self.rng
        ticket = Ticket(
            Request(
                rng.choice(self.agents),
                rng.choice([500, 1000, 3000]),
                rng.choice(RESOURCES),
                rng.choice([None, None, None, 2.0, 0.5, 0.0]),
                rng.random() < 0.2,
                tokens=rng.choice([0, 10, 300]),
            )
        )
        ticket.scopes = (rng.choice("xyz"),)
        ticket.idle_after = rng.choice([inf, inf, 1.0])
        self.core.submit(ticket, now)
        if rng.random() < 0.3:
            self.core.park_ticket(ticket, (rng.choice("xyz"),), now)

    def end(self, now: float) -> None:
        ticket = self.pick(State.GRANTED, State.SUSPENDED, State.WAITING, State.ADMITTING)
        if ticket is not None:
            self.rng.choice([self.core.release, self.core.release, self.core.cancel])(ticket, now)

    def check_budget(self, now: float) -> None:
        ticket = self.pick(State.ADMITTING)
        if ticket is not None and self.rng.random() < 0.7:
            self.core.admit_ticket(ticket, now)
        elif ticket is not None:
            self.core.refuse_admission(ticket, Outcome.BUDGET, now)

    def pause(self, now: float) -> None:
        ticket = self.pick(State.GRANTED, State.SUSPENDED)
        if ticket is not None and ticket.state is State.GRANTED:
            self.core.suspend_ticket(ticket, now)
        elif ticket is not None:
            self.core.resume_ticket(ticket, now)

    def throttle(self, now: float) -> None:
        ticket = self.pick(State.GRANTED)
        if ticket is not None and self.rng.random() < 0.3:
            record_rate_limits(self.core, ticket, RateLimits(remaining_requests=0, requests_reset=3.0), now)
        elif ticket is not None:
            delay = self.rng.choice([None, 0.5, 2.0])
            record_throttling(self.core, Throttled(now, ticket, 429, ThrottleKind.LOAD, delay, None))

    def change(self, now: float) -> None:
        if self.rng.random() < 0.5:
            self.core.set_capacity(self.rng.choice(["llm", "tool"]), self.rng.choice([1, 2, 5, None]), now)
        else:
            set_policy(self.core, self.rng.choice(POLICIES)(self.rng), self.rng.choice([0, 2]), now)

    def exhaust_budget(self, now: float) -> None:
        waiting = [ticket for ticket in self.core.tickets.values() if ticket.state is State.WAITING]
        self.core.reject_waiting(waiting[:2], Outcome.BUDGET, now)


POLICIES: list[Callable[[random.Random], Callable[[], Policy]]] = [
    lambda _: FifoPolicy,
    lambda _: lambda: FairPolicy({}),
    lambda rng: lambda: LoadPolicy(0.25, rng.random),
]
ACTIONS: list[Callable[[Driver, float], None]] = [
    Driver.submit, Driver.end, Driver.check_budget, Driver.pause, Driver.throttle, Driver.change, Driver.exhaust_budget,
]  # fmt: skip
WEIGHTS = (10, 7, 3, 2, 1, 0.3, 0.2)


@pytest.mark.parametrize("holders", [20, 2])
def test_blame_equals_brute_force_in_exact_fractions(holders: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait_integrals, "MAX_HOLDERS", holders)
    seen: defaultdict[str, Fraction] = defaultdict(Fraction)
    for seed in range(scale(RUNS) // 2):
        driver = Driver(seed)
        for step in range(STEPS):
            driver.step()
            if step % 20 == 0:
                driver.check_seconds()
        driver.check_seconds()
        for (*_, cause, _), seconds in driver.brute.seconds.items():
            seen[cause] += seconds
    assert set(seen) >= {"slot", "self", "backoff", "requests", "tokens", "ramp", "reserved", "budget"}
    assert min(seen[cause] for cause in ("slot", "self", "backoff", "requests", "tokens", "ramp", "reserved")) > 1
