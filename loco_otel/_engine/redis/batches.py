"""The protocol between one process and the shared engine, without sockets, threads or clocks.

A process sends its changes in numbered batches, at most `WINDOW` of them before the first is answered. The rules, of
which the script has the other half (see `lua/processes.lua` and `lua/sync.lua`):

- A batch has the number of its predecessor plus one. The script applies each number once, and after a gap it demands a
  sync: everything that the process has.
- The state has an epoch. A sync states the epoch and the last number that was answered, so the script finds out that
  it has lost writes. It then grants nothing until each process had time to register its leases again.
- Grants for another process travel in a list of the generation of that process's last sync. What was decided before a
  sync is out of date, and nobody reads it.
- A process trusts a grant only while its own lease is certain: for `CERTAIN_PART` of the lease time since it *sent* the
  last batch that was answered. Later, another process may have been granted the slot.

Not thread-safe: the link calls it under its lock.
"""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple, TypeAlias

Operation: TypeAlias = Sequence[Any]
"""A JSON array that begins with its kind, see `lua/step.lua`."""

WINDOW = 2
MAX_OPERATIONS = 256
MAX_SYNC_TICKETS = 1000
MAX_REPEATED = 10_000
"""Operations that are kept for the next sync. Of more, the newest."""

CERTAIN_PART = 0.8
BEATS_PER_TTL = 3

LINE_SEPARATOR = "\t"
"""Between the resources of a line, see `lua/state.lua`; no name has it."""

_REPORTS = frozenset({"refuse", "pause"})


class Batch(NamedTuple):
    """Operations under one number."""

    number: int
    operations: Sequence[Operation]
    sent_at: float


class RateState(NamedTuple):
    """A rate per minute, and the level of its bucket."""

    per_minute: float
    level: float


class GateState(NamedTuple):
    """A rate that delays the next waiter."""

    due: int
    """When it opens, in ms of the server's clock; -1 if only the grant of another line opens it."""
    cause: str
    is_named: bool
    """Whether this process is the one that comes at that time."""
    resource: str


class AutoState(NamedTuple):
    """An adaptive limit."""

    ceiling: float
    refused_level: float
    is_learnt: bool


class PauseState(NamedTuple):
    """A time for which the provider asks."""

    due: int
    """When it ends, in ms of the server's clock."""
    header: str


class LineState(NamedTuple):
    """A resource as the engine reports it, for all processes together; or of several the waiters for all of them."""

    name: str
    capacity: float
    """inf is unlimited."""
    used: int
    waiting: int
    tick: int
    stated: int
    """When the limits in force were stated, in ms of the server's clock."""
    policy: str
    alpha: str
    guard: int
    requests: RateState | None = None
    tokens: RateState | None = None
    gate: GateState | None = None
    auto: AutoState | None = None
    """None if the capacity is fixed."""
    pause: PauseState | None = None
    tuned_from: str = ""
    """Alpha as it was stated, if it adapts."""
    order: str = ""
    """What else is stated of the order, see `statements.py`."""

    @property
    def resources(self) -> tuple[str, ...]:
        """The resources of the line, in order."""
        return tuple(self.name.split(LINE_SEPARATOR))

    def states_same_limits(self, other: "LineState") -> bool:
        """Return whether another report of the resource states the same fixed limits, and nothing that delays it."""
        is_plain = self.auto is None and self.pause is None and self.gate is None
        return is_plain and self.capacity == other.capacity and self[_STATED:] == other[_STATED:]

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> "LineState":
        """Return the state in the JSON of `lua/reply.lua`, in which an empty list is an empty object."""
        name, capacity, *facts, requests, tokens, gate, auto, pause, tuned_from, order = fields
        rates = [RateState(*map(float, rate)) if rate else None for rate in (requests, tokens)]
        limit = AutoState(float(auto[0]), float(auto[1]), auto[2]) if auto else None
        gates = GateState(*gate) if gate else None, limit, PauseState(*pause) if pause else None
        return cls._make((name, inf if capacity < 0 else capacity, *facts, *rates, *gates, tuned_from, order))


_STATED = LineState._fields.index("stated")


class Reply(NamedTuple):
    """The answer to a batch. Times are in ms of the server's clock."""

    now: int
    status: str
    epoch: str
    granted: Sequence[Sequence[Any]]
    lines: Sequence[LineState]
    due: int
    """When something opens that no operation announces; 0 for never."""
    expiry: int
    """When the process expires that is silent longest."""
    processes: int

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> "Reply":
        """Return the reply in the JSON of `lua/reply.lua`, in which an empty list is an empty object."""
        now, status, epoch, granted, lines, due, expiry, processes = fields
        states = tuple(LineState.parse(line) for line in lines or ())
        return cls(now, status, epoch, tuple(granted or ()), states, due, expiry, processes)


class _SyncPart(NamedTuple):
    """A batch of a sync."""

    operations: Sequence[Operation]
    repeats: int
    """How many operations it repeats."""


class BatchLog:
    """Numbers, window, sync, generation and certainty of one process.

    Args:
        ttl: seconds until a silent process has lost its leases.

    """

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self.generation = 0
        self.is_synced = False
        """Whether the engine has everything of this process but what is queued or in flight."""
        self.beat_at = inf
        """When the next beat must be sent, whatever else is: it renews the leases and names the resources."""
        self._number = 0
        self._epoch = ""
        self._answered = -1
        self._certain_from = -inf
        self._queue: deque[Operation] = deque()
        self._in_flight: deque[Batch] = deque()
        self._sync_parts: deque[_SyncPart] = deque()
        self._must_reset = False
        self._repeated: list[Operation] = []
        """Operations that the next sync repeats, as nothing else shows what they state."""
        self._unsent: set[str] = set()
        """Tickets that have requested a slot since the sync was lost."""

    # -- batches -------------------------------------------------------------------------------------------------

    def add_operation(self, operation: Operation) -> None:
        """Queue an operation for the next batch; before the next sync only if that must repeat it."""
        if self.is_synced or self._sync_parts:
            self._queue.append(operation)
        elif operation[0] == "submit":
            self._unsent.add(operation[1])
        elif self._is_repeated(operation):
            self._queue.append(operation)
            if len(self._queue) > MAX_REPEATED:
                self._queue.popleft()

    def _is_repeated(self, operation: Operation) -> bool:
        """Return whether nothing else shows what an operation states: an end or a report of the provider."""
        if operation[0] != "end":
            return operation[0] in _REPORTS
        _, ticket, correction, *_ = operation
        is_unsent = ticket in self._unsent
        self._unsent.discard(ticket)
        # A call that returns from a pause has a correction although its last request was never sent.
        return not is_unsent or correction != 0

    def take_batch(self, now: float) -> Batch | None:
        """Return the next batch, which the caller must send; None if there is nothing to send or the window is full."""
        if not self.is_synced or not self._queue or len(self._in_flight) >= WINDOW:
            return None
        return self._make_batch([self._queue.popleft() for _ in range(min(MAX_OPERATIONS, len(self._queue)))], now)

    def take_beat(self, names: Sequence[str], now: float) -> Batch | None:
        """Queue what keeps these resources and grants what has become due there, and return what `take_batch` does."""
        if not self.is_synced:
            return None
        self._plan_beat(now)
        self._queue.append(("beat", names))
        return self.take_batch(now)

    @property
    def oldest_sent_at(self) -> float:
        """When the oldest batch without an answer was sent; inf if all are answered."""
        return self._in_flight[0].sent_at if self._in_flight else inf

    def accept_reply(self, reply: Reply, now: float) -> Batch | None:
        """Take the answer to the oldest batch, and return that batch; None if a sync is needed instead."""
        batch = self._in_flight.popleft()
        if reply.status == "sync" or reply.epoch != self._epoch:
            self.lose_sync()
            return None
        self._answered = batch.number
        if now - batch.sent_at > CERTAIN_PART * self.ttl:
            self.lose_sync()
            return None
        self._certain_from = batch.sent_at
        return batch

    def accept_wake(self, now: float) -> bool:
        """Return whether grants of another process are valid; if the own lease is not certain, a sync is needed."""
        if not self.is_synced:
            return False
        if not self.is_certain(now):
            self.lose_sync()
            return False
        return True

    def is_certain(self, now: float) -> bool:
        """Return whether no other process can have been granted the slots of this one."""
        return now - self._certain_from <= CERTAIN_PART * self.ttl

    # -- sync ----------------------------------------------------------------------------------------------------

    def lose_sync(self, *, must_reset: bool = False) -> None:
        """Send no batch before the next sync. With `must_reset` a script failed half way, so the state is renewed."""
        self.is_synced = False
        self._must_reset |= must_reset
        self._sync_parts.clear()
        queued, self._queue = self._queue, deque()
        for operation in queued:
            self.add_operation(operation)

    def start_sync(
        self,
        statements: Sequence[Any],
        tickets: Sequence[Operation],
        host: str,
        spent: Sequence[Any] = (),
        learnt: Sequence[Any] = (),
    ) -> None:
        """Prepare a sync with everything that the process has at this moment, the leases first.

        `spent` is what the process has taken of the rates while it granted by itself, and `learnt` are the adaptive
        limits that it has heard of.

        The ends of tickets that were not answered yet are repeated, for their corrections, and so are reports of the
        provider; all else that was queued follows from the tickets. Of many, the first part has some, and batches after
        the leases have the others: before the last part, as that ends each ticket that no part had.
        """
        self.lose_sync()
        self.generation += 1
        unanswered = [operation for batch in self._in_flight for operation in batch.operations]
        self._repeated += [operation for operation in (*unanswered, *self._queue) if self._is_repeated(operation)]
        del self._repeated[:-MAX_REPEATED]
        self._in_flight.clear()
        self._queue.clear()
        self._unsent.clear()
        repeated, *others = _split(self._repeated, MAX_OPERATIONS)
        slices = _split(tickets, MAX_SYNC_TICKETS) + ([()] if others else [])
        for part, some in enumerate(slices, start=1):
            early = repeated if part == 1 else ()
            known = int(part == len(slices)), self._epoch, self._answered
            operation = ("sync", part, *known, statements, early, some, host, spent, learnt)
            self._sync_parts.append(_SyncPart([operation], len(early)))
        last = self._sync_parts.pop()
        self._sync_parts.extend([*(_SyncPart(it, len(it)) for it in others), last])

    def take_sync_part(self, now: float) -> Batch | None:
        """Return the next part of the sync, which the caller must send; None if all are answered."""
        if not self._sync_parts:
            return None
        operations = self._sync_parts[0].operations
        self._plan_beat(now)
        return self._make_batch([("reset",), *operations] if self._must_reset else operations, now)

    def accept_sync_reply(self, reply: Reply, now: float) -> bool:
        """Take the answer to a part, and return whether its content is valid; if not, the sync starts again."""
        batch = self._in_flight.popleft()
        self._epoch = reply.epoch
        self._answered = batch.number
        if reply.status != "ok" or now - batch.sent_at > CERTAIN_PART * self.ttl:
            self._sync_parts.clear()
            return False
        self._must_reset = False
        self._certain_from = batch.sent_at
        if self._sync_parts:  # else the sync was lost meanwhile
            del self._repeated[: self._sync_parts.popleft().repeats]
            self.is_synced = not self._sync_parts
        return True

    def _make_batch(self, operations: Sequence[Operation], now: float) -> Batch:
        self._number += 1
        batch = Batch(self._number, operations, now)
        self._in_flight.append(batch)
        return batch

    def _plan_beat(self, now: float) -> None:
        self.beat_at = now + self.ttl / BEATS_PER_TTL


def _split(items: Sequence[Operation], size: int) -> list[Sequence[Operation]]:
    """Return parts of at most this size, at least one."""
    return [items[start : start + size] for start in range(0, max(1, len(items)), size)]
