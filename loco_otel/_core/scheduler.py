"""The state machine of tickets: who waits, who holds, who is next."""

from collections.abc import Callable, Hashable, Mapping
from math import inf

from loco_otel._core.lazy_heap import LazyHeap
from loco_otel._core.line import Line
from loco_otel._core.policy import Policy
from loco_otel._core.pool import Pool
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import (
    Event,
    Granted,
    GrantReason,
    Outcome,
    Rejected,
    Released,
    Snapshot,
    Spending,
    Spent,
    Submitted,
    Suspended,
    Waiting,
)

# Bound once: on 3.11 each look at an enum's member costs as much as a call.
_FREE = GrantReason.FREE
_GRANTED = State.GRANTED
_RELEASED = State.RELEASED

_HOLDERS_TOLD = 16


class Scheduler:
    """Grants slots of resources to tickets.

    Operations leave what they did in two lists that the caller empties: `decided`, the tickets whose wait ended and
    whose waiters must be woken; and `events`, in order, kept only while `observed`.

    An operation may be broken off anywhere (a KeyboardInterrupt between two bytecodes): each ticket's state is the
    truth and changes in one assignment, all else is derived from the states, and `recover` derives it anew.

    Args:
        capacities: slots by resource; None is unlimited.
        policy: makes the policy of a resource's line.
        max_wait_ticks: the guard, see `Line`; 0 turns it off.
        max_waiters: how many tickets may wait, all resources together.
        max_hold: seconds without a sign of life after which a lease is taken back.

    """

    def __init__(
        self,
        capacities: Mapping[str, int | None],
        policy: Callable[[], Policy],
        *,
        max_wait_ticks: int = 1000,
        max_waiters: int = 1000,
        max_hold: float = inf,
    ) -> None:
        self.observed = False
        self.events: list[Event] = []
        self.decided: list[Ticket] = []
        self.max_waiters = max_waiters
        self.max_hold = max_hold
        self.closed = False
        self._tickets: dict[int, Ticket] = {}
        self._deadlines = LazyHeap()
        self.leases_due = inf
        """Never later than the first moment at which a lease can expire."""
        self._pools: dict[tuple[str, ...], Pool] = {
            (name,): Pool(name, capacity, Line(policy(), max_wait_ticks)) for name, capacity in capacities.items()
        }

    # -- the way of a ticket ------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket, now: float, *, wait: bool = True) -> None:
        """Take a new ticket; it ends up QUEUED (without `wait`), WAITING, ADMITTING, GRANTED or REJECTED.

        Raises:
            KeyError: the request names a set of resources that is not known.

        """
        pool = self._pools[ticket.request.resources]
        self._tickets[ticket.seq] = ticket
        if self.observed:
            self.events.append(Submitted(now, ticket))
        ticket.birth = pool.line.tick
        if not wait and not self.closed:
            ticket.state = State.QUEUED
            pool.line.put(ticket)
            return
        self._begin_wait(pool, ticket, now)

    def submit_quietly(self, ticket: Ticket, now: float) -> bool:
        """Do as `submit`, if that grants at once and nobody is to be told; else do nothing and return False.

        The hot path of a program without contention or telemetry: `submit` in one step.
        """
        request = ticket.request
        pool = self._pools[request.resources]
        if pool.used >= pool.capacity or self.observed or self.closed or request.admission:
            return False
        seq = ticket.seq
        self._tickets[seq] = ticket
        ticket.birth = pool.line.tick
        ticket.reason = _FREE
        ticket.granted_at = ticket.touched_at = now
        ticket.state = _GRANTED
        pool.leases[seq] = ticket
        pool.used += 1
        if self.leases_due == inf:
            self.leases_due = now + self.max_hold
        return True

    def release_quietly(self, ticket: Ticket) -> bool:
        """Do as `release`, if nobody waits and nobody is to be told; else do nothing and return False."""
        pool = self._pools[ticket.request.resources]
        if ticket.state is not _GRANTED or self.observed or pool.line.waiting or pool.sharers:
            return False
        seq = ticket.seq
        ticket.state = _RELEASED
        ticket.places = ()
        del self._tickets[seq]
        del pool.leases[seq]
        pool.used -= 1
        pool.line.tick += 1
        pool.served.append(ticket.request)
        return True

    def park(self, ticket: Ticket, blocks: tuple[Hashable, ...], now: float) -> None:
        """Note that whoever waits for a WAITING ticket stands still, and what cannot end until it goes on."""
        if ticket.state is State.WAITING:
            pool = self._pools[ticket.request.resources]
            pool.disentangle(ticket)
            ticket.blocks = blocks
            pool.entangle(ticket)
            self._share(pool, now)

    def wait(self, ticket: Ticket, now: float) -> None:
        """Let a QUEUED ticket compete: somebody waits for it now."""
        if ticket.state is not State.QUEUED:
            return
        pool = self._pools[ticket.request.resources]
        pool.line.take(ticket)
        self._begin_wait(pool, ticket, now)

    def admit(self, ticket: Ticket, now: float) -> None:
        """Say yes to an ADMITTING ticket."""
        if ticket.state is not State.ADMITTING:
            return
        ticket.state = State.GRANTED
        ticket.granted_at = ticket.touched_at = now
        grant, ticket.grant = ticket.grant, None
        if grant is not None:
            self.events.append(grant._replace(at=now))

    def refuse(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        """Say no to an ADMITTING ticket; its slot passes on."""
        if ticket.state is State.ADMITTING:
            pool = self._pools[ticket.request.resources]
            self._reject(pool, ticket, outcome, now)
            self._give_back(pool, ticket, now)

    def settle(self, ticket: Ticket, spending: Spending, now: float) -> None:
        """Note what a ticket's call took, before its release."""
        if self.observed and not ticket.state.ended:
            self.events.append(Spent(now, ticket, spending))

    def release(self, ticket: Ticket, now: float) -> None:
        """End a ticket that holds or is suspended; anything else is left alone, so releasing twice is harmless."""
        if ticket.state is State.ADMITTING:
            self.refuse(ticket, Outcome.CANCELLED, now)
        elif ticket.state in (State.GRANTED, State.SUSPENDED):
            self._release(ticket, now)

    def cancel(self, ticket: Ticket, now: float) -> None:
        """End a ticket wherever it is: one that waits leaves, one that holds is released. Total, and idempotent."""
        if ticket.state.queued:
            pool = self._pools[ticket.request.resources]
            self._leave(pool, ticket)
            self._reject(pool, ticket, Outcome.CANCELLED, now)
            self._fill(pool, now)
        else:
            self.release(ticket, now)

    def suspend(self, ticket: Ticket, now: float) -> None:
        """Give the slot back for the length of a pause; the ticket stays."""
        if ticket.state is not State.GRANTED:
            return
        pool = self._pools[ticket.request.resources]
        ticket.state = State.SUSPENDED
        if self.observed:
            self.events.append(Suspended(now, ticket, now - ticket.granted_at))
        self._give_back(pool, ticket, now)

    def resume(self, ticket: Ticket, now: float) -> None:
        """Queue a SUSPENDED ticket again, no older than the ticks that it has really waited.

        It was let in once, so the bound on waiters does not turn it away.
        """
        if ticket.state is not State.SUSPENDED:
            return
        pool = self._pools[ticket.request.resources]
        ticket.repeated = True
        ticket.blocks = ()
        ticket.birth = pool.line.tick - ticket.waited_ticks
        self._begin_wait(pool, ticket, now)

    def move(self, ticket: Ticket, places: tuple[Hashable, ...], now: float) -> None:
        """Note that a lease lives elsewhere now."""
        ticket.places = places
        if ticket.state.holds:
            self._share(self._pools[ticket.request.resources], now)

    # -- time, limits, the end ----------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Reject what has waited too long, take back what has been held too long."""
        while (first := self._deadlines.first()) is not None and first[0] <= now:
            ticket: Ticket = first[-1]
            pool = self._pools[ticket.request.resources]
            self._leave(pool, ticket)
            self._reject(pool, ticket, Outcome.TIMEOUT, now)
            self._fill(pool, now)
        if self.leases_due <= now:
            self._expire_leases(now)

    def next_wakeup(self) -> float:
        """Return when `advance` has something to do at the earliest; inf when never."""
        first = self._deadlines.first()
        return self.leases_due if first is None else min(self.leases_due, float(first[0]))

    def set_capacity(self, resource: str, capacity: int | None, now: float) -> None:
        """Change a capacity: raising it grants at once, lowering it takes effect as leases end."""
        pool = self._pools[(resource,)]
        pool.limit(capacity)
        self._fill(pool, now)

    def set_max_hold(self, seconds: float, now: float) -> None:
        """Change the time without a sign of life after which a lease is taken back."""
        self.max_hold = seconds
        self._expire_leases(now)

    def set_policy(self, policy: Callable[[], Policy], max_wait_ticks: int, now: float) -> None:
        """Go on under another policy and guard; nobody loses their place in their queue."""
        for pool in self._pools.values():
            pool.line.max_wait_ticks = max_wait_ticks
            pool.line.use(policy())
            self._fill(pool, now)

    def shutdown(self, now: float) -> None:
        """Turn away all who wait and all who come; holders may finish."""
        self.closed = True
        for ticket in list(self._tickets.values()):
            if ticket.state.queued:
                pool = self._pools[ticket.request.resources]
                self._leave(pool, ticket)
                self._reject(pool, ticket, Outcome.SHUTDOWN, now)

    def snapshot(self, now: float) -> Snapshot:
        """Tell how everything stands."""
        return Snapshot(now, tuple(pool.standing(now) for pool in self._pools.values()))

    def waiting(self) -> int:
        """Count those that wait."""
        return sum(pool.line.waiting for pool in self._pools.values())

    def recover(self, now: float) -> None:
        """Derive everything from the tickets' states, after an operation that was broken off.

        All decided tickets are woken again, for the wake of some may be lost; so may the events of that operation.
        """
        self.events = []
        self._deadlines = LazyHeap()
        self.leases_due = -inf  # whatever it was may be lost: look at once
        for pool in self._pools.values():
            pool.clear()
        for seq, ticket in list(self._tickets.items()):
            pool = self._pools[ticket.request.resources]
            if ticket.state.ended or ticket.state is State.NEW:
                del self._tickets[seq]
            elif ticket.state.holds:
                if ticket.host is not None and not ticket.host.state.holds:
                    ticket.host = None
                pool.hold(ticket)
            elif ticket.state.queued:
                ticket.age_entry = None
                self._stand(pool, ticket)
            if ticket.wake is not None and ticket.state is not State.WAITING:
                self.decided.append(ticket)
        for pool in self._pools.values():
            self._fill(pool, now)

    def reset(self) -> None:
        """Forget all tickets, ending each; capacities, policy and clock stay. For the child of a fork."""
        for ticket in list(self._tickets.values()):
            ticket.state = State.RELEASED
        self._tickets = {}
        self.recover(0.0)

    # -- steps --------------------------------------------------------------------------------------------------

    def _begin_wait(self, pool: Pool, ticket: Ticket, now: float) -> None:
        ticket.host = None
        ticket.waiting_since = now
        ticket.waiting_tick = pool.line.tick
        timeout = ticket.request.timeout
        if self.closed:
            self._reject(pool, ticket, Outcome.SHUTDOWN, now)
        elif pool.used < pool.capacity:
            # No free slot is ever left while someone waits, so this passes nobody.
            self._grant(pool, ticket, GrantReason.FREE, now)
        elif timeout is not None and timeout <= 0:
            self._reject(pool, ticket, Outcome.TIMEOUT, now)
        elif not ticket.repeated and self.waiting() >= self.max_waiters:
            self._reject(pool, ticket, Outcome.BACKPRESSURE, now)
        else:
            ticket.deadline = None if timeout is None else now + timeout
            ticket.state = State.WAITING
            self._stand(pool, ticket)
            if self.observed:
                self._tell_waiting(pool, ticket, now)

    def _stand(self, pool: Pool, ticket: Ticket) -> None:
        pool.line.put(ticket)
        if ticket.state is State.WAITING:
            pool.entangle(ticket)
            if ticket.deadline is not None:
                ticket.deadline_entry = self._deadlines.push(ticket.deadline, item=ticket)

    def _leave(self, pool: Pool, ticket: Ticket) -> None:
        pool.line.take(ticket)
        pool.disentangle(ticket)
        entry, ticket.deadline_entry = ticket.deadline_entry, None
        if entry is not None:
            self._deadlines.strike(entry)

    def _fill(self, pool: Pool, now: float) -> None:
        line = pool.line
        while line.waiting and pool.used < pool.capacity:
            ticket, guarded = line.next()
            self._grant(pool, ticket, GrantReason.GUARD if guarded else GrantReason.SCORE, now)
        if line.waiting:
            self._share(pool, now)

    def _share(self, pool: Pool, now: float) -> None:
        pair = pool.lender()
        if pair is not None:
            ticket, host = pair
            # A sharer's own host is the one that owns the slot.
            ticket.host = host if host.host is None else host.host
            self._grant(pool, ticket, GrantReason.REENTRANT, now)

    def _grant(self, pool: Pool, ticket: Ticket, reason: GrantReason, now: float) -> None:
        line = pool.line
        waited = ticket.state is State.WAITING
        admission = ticket.request.admission
        if self.observed:
            ticket.grant = self._describe_grant(pool, ticket, reason, now)
        if waited:
            self._leave(pool, ticket)
        ticket.reason = reason
        ticket.waited_ticks = line.tick - ticket.birth
        ticket.granted_at = ticket.touched_at = now
        ticket.state = State.ADMITTING if admission else State.GRANTED
        pool.hold(ticket)
        if self.leases_due == inf:
            self.leases_due = now + self.max_hold
        if waited:
            self.decided.append(ticket)
        if not admission and ticket.grant is not None:
            self.events.append(ticket.grant)
            ticket.grant = None

    def _release(self, ticket: Ticket, now: float, *, expired: bool = False) -> None:
        pool = self._pools[ticket.request.resources]
        held = ticket.state.holds
        ticket.state = State.RELEASED
        ticket.places = ()  # a claim among them refers back to the ticket
        del self._tickets[ticket.seq]
        if self.observed:
            self.events.append(Released(now, ticket, now - ticket.granted_at if held else None, expired))
        pool.served.append(ticket.request)
        if held:
            self._give_back(pool, ticket, now)

    def _give_back(self, pool: Pool, ticket: Ticket, now: float) -> None:
        if pool.free(ticket):
            pool.line.tick += 1
        if pool.line.waiting:
            self._fill(pool, now)

    def _reject(self, pool: Pool, ticket: Ticket, outcome: Outcome, now: float) -> None:
        waited = ticket.state is not State.NEW
        asked = ticket.state is not State.QUEUED
        ticket.outcome = outcome
        ticket.state = State.REJECTED
        ticket.places = ()
        if waited:
            # Before it is forgotten: `recover` must know whom to wake.
            self.decided.append(ticket)
        del self._tickets[ticket.seq]
        if self.observed:
            # Nobody waited yet for one that was queued only.
            ticks = pool.line.tick - ticket.waiting_tick if asked else 0
            since = now - ticket.waiting_since if asked else 0.0
            policy = pool.line.policy.name
            self.events.append(Rejected(now, ticket, outcome, since, ticks, policy, ticket.repeated))

    def _expire_leases(self, now: float) -> None:
        self.leases_due = inf
        for pool in self._pools.values():
            for ticket in list(pool.leases.values()):
                due = ticket.touched_at + self.max_hold
                if due > now:
                    self.leases_due = min(self.leases_due, due)
                elif ticket.state is State.ADMITTING:
                    self.refuse(ticket, Outcome.TIMEOUT, now)
                else:
                    self._release(ticket, now, expired=True)

    # -- telling ------------------------------------------------------------------------------------------------

    def _tell_waiting(self, pool: Pool, ticket: Ticket, now: float) -> None:
        queue = pool.line.queues[ticket.request.agent]
        holders = tuple(list(pool.leases.values())[:_HOLDERS_TOLD])
        capacity = int(pool.capacity)
        waiting = pool.line.waiting
        self.events.append(Waiting(now, ticket, queue.weight, queue.waiting, capacity, waiting, holders))

    def _describe_grant(self, pool: Pool, ticket: Ticket, reason: GrantReason, now: float) -> Granted:
        line = pool.line
        queue = line.queues.get(ticket.request.agent)
        compared = ticket.state is State.WAITING and queue is not None
        return Granted(
            at=now,
            ticket=ticket,
            reason=reason,
            waited=now - ticket.waiting_since,
            waited_ticks=line.tick - ticket.waiting_tick,
            score=line.policy.score(ticket.request.agent, line.tick) if compared else 0.0,
            alpha=line.policy.alpha,
            queue_weight=queue.weight if queue is not None else ticket.request.weight,
            queue_age=line.tick - queue.birth() if queue is not None else 0,
            tick=line.tick,
            policy=line.policy.name,
            repeated=ticket.repeated,
        )
