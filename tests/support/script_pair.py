"""The core and the step script side by side: the same operations, compared grant by grant."""

import itertools
import json
import random
from typing import Any

from loco_otel._core.policies.base import Candidate, Key
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy
from loco_otel._core.reconfiguration import set_policy
from loco_otel._core.scheduler import Scheduler
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.redis.script import SOURCE
from loco_otel._engine.redis.statements import make_statement
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.events import Granted, Outcome, Rejected, Request, Spending, Usage

_WEIGHTS = (500, 1000, 1000, 3000, 7000)
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
        limits: of the one resource.

    """

    def __init__(self, client: Any, limits: SharedLimits) -> None:
        self._step = client.register_script(SOURCE)
        self._client = client
        self.base = f"loco:{{pair{next(_namespaces)}}}:1"
        self._number = 0
        self._limits = limits
        self._batch: list[Any] = []
        self.core = Scheduler({"llm": limits.capacity}, make_policy(limits), max_wait_ticks=limits.max_wait_ticks)
        self.core.observed = True
        self.live: dict[str, Ticket] = {}
        self.grants = 0
        self._held: set[str] = set()
        self._run([["sync", 1, 1, "", -1, [make_statement(limits, "llm", 0)], [], [], "host 1"]])

    # -- operations, on both sides --------------------------------------------------------------------------------

    def submit(self, agent: str, weight: int, *, immediate: bool = False) -> None:
        ticket = Ticket(Request(agent, weight, ("llm",), 0 if immediate else None), "p")
        self.live[self._name(ticket)] = ticket
        self.core.submit(ticket, 0.0)
        self._batch.append(["submit", self._name(ticket), "llm", agent, weight, 0, int(immediate)])

    def release(self, ticket: Ticket, correction: int) -> None:
        if correction:
            self.core.record_spending(ticket, Spending(Usage(1, 1), ticket.request.weight + correction, "m"), 0.0)
        self.core.release(ticket, 0.0)
        self._batch.append(["end", self._name(ticket), correction])

    def cancel(self, ticket: Ticket) -> None:
        self.core.cancel(ticket, 0.0)
        self._batch.append(["end", self._name(ticket), ticket.correction])

    def suspend(self, ticket: Ticket) -> None:
        self.core.suspend_ticket(ticket, 0.0)
        self._batch.append(["suspend", self._name(ticket)])

    def resume(self, ticket: Ticket) -> None:
        waited = ticket.waited_ticks
        self.core.resume_ticket(ticket, 0.0)
        request = ticket.request
        immediate = int(request.timeout is not None)
        self._batch.append(["submit", self._name(ticket), "llm", request.agent, request.weight, waited, immediate])
        if ticket.state is State.REJECTED:
            self._batch.append(["end", self._name(ticket), ticket.correction])

    def set_limits(self, limits: SharedLimits) -> None:
        """Change policy and capacity; the script orders the waiters anew if the policy differs."""
        if limits._replace(capacity=self._limits.capacity) != self._limits:
            set_policy(self.core, make_policy(limits), limits.max_wait_ticks, 0.0)
        self._limits = limits
        self.core.set_capacity("llm", limits.capacity, 0.0)
        self._batch.append(["state", make_statement(limits, "llm", 0)])

    # -- the comparison -------------------------------------------------------------------------------------------

    def compare(self) -> None:
        """Send what was done as one batch, and compare who holds, and why it was granted."""
        batch, self._batch = self._batch, []
        events, self.core.events, self.core.decided = self.core.events, [], []
        granted = self._run(batch)
        expected = [_describe(self._name(event.ticket), event) for event in events if isinstance(event, Granted)]
        full = {self._name(event.ticket) for event in events if isinstance(event, Rejected) and _is_full(event)}
        answered = [_normalize(grant) for grant in granted if grant[1] != "full"]
        assert answered == expected, f"{batch}: the script granted {answered}, the core {expected}"
        assert {grant[0] for grant in granted if grant[1] == "full"} == full
        self.grants += len(expected)
        waited = {grant[0]: grant[4] for grant in granted if grant[1] != "full"}
        assert all(self.live[name].waited_ticks == ticks for name, ticks in waited.items())
        held = set(self._client.zrange(f"{self.base}:{self._epoch}:held:llm", 0, -1))
        self.live = {name: ticket for name, ticket in self.live.items() if not ticket.state.is_ended}
        assert held == {name for name, ticket in self.live.items() if ticket.state is State.GRANTED}

    def close(self) -> None:
        """End all tickets; the script then keeps nothing."""
        for ticket in self.live.values():
            self.cancel(ticket)
        self.compare()
        self._run([["leave"]])
        left = list(self._client.scan_iter(f"{self.base}*", count=1000))
        assert left == [], left

    def list_tickets(self, *states: State) -> list[Ticket]:
        return [ticket for ticket in self.live.values() if ticket.state in states]

    def _run(self, operations: list[Any]) -> list[Any]:
        self._number += 1
        reply = json.loads(self._step(keys=[self.base], args=["p", self._number, 1, 60000, json.dumps(operations)]))
        assert reply[1] == "ok", reply
        self._epoch = reply[2]
        return reply[3] or []

    @staticmethod
    def _name(ticket: Ticket) -> str:
        return f"p-{ticket.seq}"


def make_policy(limits: SharedLimits) -> Any:
    if limits.policy == "fair":
        return lambda: FairPolicy(limits.shares)
    return FifoPolicy if limits.policy == "fifo" else lambda: HeadDrawn(limits.alpha)


def draw_limits(rng: random.Random) -> SharedLimits:
    policy = rng.choice(["load", "load", "fair", "fair", "fifo"])
    return SharedLimits(
        rng.choice([1, 1, 2, 3, 5]),
        policy,
        rng.choice([0.0, 0.25, 0.3, 0.5, 0.9, 1.0]) if policy == "load" else 0.0,
        rng.choice([0, 0, 2, 5, 20]),
        rng.choice([{}, {"a0": 2000, "a1": 300, "a2": 7}]) if policy == "fair" else {},
    )


def run_step(pair: ScriptPair, rng: random.Random, agents: list[str]) -> None:
    """Do one random operation on both sides."""
    chance = rng.random()
    holders = pair.list_tickets(State.GRANTED)
    if chance < 0.5 or not pair.live:
        some = agents[: rng.choice([1, len(agents)])]
        pair.submit(rng.choice(some), rng.choice(_WEIGHTS), immediate=rng.random() < 0.1)
    elif chance < 0.85 and holders:
        pair.release(rng.choice(holders), rng.choice([0, 0, -400, 900]))
    elif chance < 0.9 and holders:
        pair.suspend(rng.choice(holders))
    elif chance < 0.95 and (paused := pair.list_tickets(State.SUSPENDED)):
        pair.resume(rng.choice(paused))
    elif chance < 0.955:
        pair.set_limits(draw_limits(rng))
    elif live := pair.list_tickets(State.WAITING, State.GRANTED, State.SUSPENDED):
        pair.cancel(rng.choice(live))


def _describe(name: str, event: Granted) -> tuple[Any, ...]:
    facts = name, event.reason.value, event.tick, event.waited_ticks
    return (*facts, event.score, event.queue_weight, event.queue_age)


def _normalize(grant: list[Any]) -> tuple[Any, ...]:
    """Without the ticks of all waits, which the ticket has only until it waits again."""
    return (*grant[:4], float(grant[5]), int(grant[6]), grant[7])


def _is_full(event: Rejected) -> bool:
    return event.outcome is Outcome.TIMEOUT
