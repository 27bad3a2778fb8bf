"""What the operations of the scheduler are made of: waiting, granting, giving back, turning away."""

from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType

from loco_otel._core import event_builders
from loco_otel._core.alpha_tuner import AdaptiveAlpha
from loco_otel._core.deadlock import Entanglement
from loco_otel._core.idle_leases import borrower
from loco_otel._core.lazy_heap import LazyHeap
from loco_otel._core.policies.base import Policy
from loco_otel._core.queue_set import Line
from loco_otel._core.resources import Capacity, Resources
from loco_otel._core.slot_pool import Pool
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Event, GrantReason, Outcome, Rejected, Released

_NONE: Mapping[str, Ticket] = MappingProxyType({})
_NO_SHARES: Mapping[str, int] = MappingProxyType({})


class Steps:
    """The tickets, and each step that changes where they are. What it is made from, `Scheduler` says."""

    def __init__(
        self,
        capacities: Mapping[str, Capacity],
        policy: Callable[[], Policy],
        *,
        max_wait_ticks: int = 1000,
        max_waiters: int = 1000,
        max_hold: float = inf,
        unknown: Callable[[str], Pool] | None = None,
        tenant_shares: Mapping[str, int] = _NO_SHARES,
        tuner: Callable[[], AdaptiveAlpha | None] = lambda: None,
    ) -> None:
        self.observed = False
        self.events: list[Event] = []
        self.decided: list[Ticket] = []
        self.max_waiters = max_waiters
        self.max_hold = max_hold
        self.closed = False
        self.has_learnt = False
        """Whether an adaptive limit was ever lowered."""
        self._tickets: dict[int, Ticket] = {}
        self._deadlines = LazyHeap()
        self.leases_due = inf
        """Never later than the first moment at which a lease can expire."""
        self.resources = Resources(
            capacities, policy, max_wait_ticks, unknown, tenant_shares=tenant_shares, tuner=tuner
        )
        self._entanglement = Entanglement()

    def waiting(self) -> int:
        """Count those that wait."""
        return self.resources.waiting()

    def recover(self, now: float) -> None:
        """Derive everything from the tickets' states, after an operation that was broken off.

        All decided tickets are woken again, for the wake of some may be lost; so may the events of that operation.
        """
        self.events = []
        self._deadlines = LazyHeap()
        self.leases_due = -inf  # whatever it was may be lost: look at once
        self._entanglement = Entanglement()
        self.resources.clear()
        self.has_learnt = any(pool.has_learnt for pool in self.resources.pools.values())
        for seq, ticket in list(self._tickets.items()):
            ticket.charged_by = None
            if ticket.state.ended or ticket.state is State.NEW:
                del self._tickets[seq]
            else:
                self._restore(self._line(ticket), ticket)
            if ticket.wake is not None and ticket.state is not State.WAITING:
                self.decided.append(ticket)
        self._fill_all(now)

    def _restore(self, line: Line, ticket: Ticket) -> None:
        if ticket.state.holds:
            ticket.request = ticket.bound_request()
            ticket.hosts = {name: host for name, host in ticket.hosts.items() if host.state.holds}
            for pool in line.pools:
                pool.hold(ticket)
        elif ticket.state.queued:
            ticket.age_entry = None
            ticket.hosts = _NONE
            if ticket.backlog is not None:
                ticket.work = None
            self._stand(line, ticket)

    def reset(self) -> None:
        """Forget all tickets, ending each; capacities, policy and clock stay. For the child of a fork."""
        for ticket in list(self._tickets.values()):
            ticket.state = State.RELEASED
        self._tickets = {}
        self.recover(0.0)

    def _line(self, ticket: Ticket) -> Line:
        return self.resources.line(ticket.request.resources)

    def _begin_wait(self, line: Line, ticket: Ticket, now: float) -> None:
        ticket.hosts = _NONE
        ticket.waiting_since = now
        ticket.waiting_tick = line.tick
        timeout = ticket.request.timeout
        if self.closed:
            self._reject(line, ticket, Outcome.SHUTDOWN, now)
        elif self.resources.has_room(line, ticket, now):
            self._grant(line, ticket, GrantReason.FREE, now)
        elif timeout is not None and timeout <= 0:
            self._reject(line, ticket, Outcome.TIMEOUT, now)
        elif not ticket.repeated and self.waiting() >= self.max_waiters:
            self._reject(line, ticket, Outcome.BACKPRESSURE, now)
        else:
            ticket.deadline = None if timeout is None else now + timeout
            ticket.state = State.WAITING
            self._stand(line, ticket)
            if self.observed:
                self.events.append(event_builders.waiting(line, ticket, now))
            if any(pool.gated for pool in line.pools):
                self._fill(line.pools, now)

    def _stand(self, line: Line, ticket: Ticket) -> None:
        line.put(ticket)
        if ticket.state is State.WAITING:
            self._entanglement.add(ticket)
            if ticket.deadline is not None:
                ticket.deadline_entry = self._deadlines.push(ticket.deadline, item=ticket)

    def _leave(self, line: Line, ticket: Ticket) -> None:
        line.take(ticket)
        self._entanglement.drop(ticket)
        if line.only is None:
            self.resources.leave(line)
        entry, ticket.deadline_entry = ticket.deadline_entry, None
        if entry is not None:
            self._deadlines.strike(entry)

    def _turn_away(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        line = self._line(ticket)
        self._leave(line, ticket)
        self._reject(line, ticket, outcome, now)
        self._fill(line.pools, now)

    def _fill(self, pools: tuple[Pool, ...], now: float) -> None:
        while (turn := self.resources.next(pools, now)) is not None:
            ticket, guarded = turn
            self._grant(self._line(ticket), ticket, GrantReason.GUARD if guarded else GrantReason.SCORE, now)
        self._share(now)

    def _fill_all(self, now: float) -> None:
        for pool in self.resources.pools.values():
            self._fill((pool,), now)

    def _share(self, now: float) -> None:
        while self._entanglement and (pair := self._entanglement.sharer(self.resources)) is not None:
            ticket, hosts = pair
            line = self._line(ticket)
            if not self.resources.is_time(line, ticket, now):
                break
            ticket.hosts = hosts
            self._grant(line, ticket, GrantReason.REENTRANT, now)

    def _lend(self, now: float) -> None:
        while (pair := borrower(self.resources, self._entanglement.is_blocked, now)) is not None:
            ticket, hosts = pair
            ticket.hosts = hosts
            self._grant(self._line(ticket), ticket, GrantReason.REENTRANT, now)

    def _grant(self, line: Line, ticket: Ticket, reason: GrantReason, now: float) -> None:
        waited = ticket.state is State.WAITING
        if self.observed or ticket.explain:
            ticket.grant = event_builders.grant(line, ticket, reason, now)
        if ticket.backlog is not None:
            ticket.backlog.bind(ticket)
        if line.policy.metered:
            line.charge(ticket)
        if waited:
            self._leave(line, ticket)
        request = ticket.bound_request()
        # A plain slot costs nothing, so nobody has to be asked.
        admission = request.admission and (ticket.backlog is None or ticket.work is not None)
        ticket.reason = reason
        ticket.waited_ticks = line.tick - ticket.birth
        ticket.granted_at = ticket.touched_at = now
        ticket.state = State.ADMITTING if admission else State.GRANTED
        ticket.request = request
        for pool in line.pools:
            pool.hold(ticket)
            if pool.gated:
                pool.spend(1, ticket.request.tokens, now)
        if self.leases_due == inf:
            self.leases_due = now + self.max_hold
        if waited:
            self.decided.append(ticket)
        if self.observed and not admission and ticket.grant is not None:
            self.events.append(ticket.grant)
            ticket.grant = ticket.grant if ticket.explain else None

    def _release(self, ticket: Ticket, now: float, *, expired: bool = False) -> None:
        line = self._line(ticket)
        held = ticket.state.holds
        ticket.state = State.RELEASED
        ticket.places = ()  # a claim among them refers back to the ticket
        del self._tickets[ticket.seq]
        if self.observed:
            self.events.append(Released(now, ticket, now - ticket.granted_at if held else None, expired))
        for pool in line.pools:
            pool.served.append(ticket.request)
        if ticket.charged_by is not None:
            line.settle(ticket)
        if held:
            self._give_back(line, ticket, now)

    def _took_nothing(self, ticket: Ticket, now: float) -> None:
        """Give the tokens back that were taken for a request of which nothing came."""
        if ticket.state is State.GRANTED and not ticket.settled:
            for pool in self._line(ticket).pools:
                pool.spend(0, -ticket.request.tokens, now)

    def _give_back(self, line: Line, ticket: Ticket, now: float) -> None:
        freed = [pool for pool in line.pools if pool.free(ticket)]
        self.resources.tick(freed)
        self._fill(line.pools, now)

    def _reject(self, line: Line, ticket: Ticket, outcome: Outcome, now: float) -> None:
        waited = ticket.state is not State.NEW
        asked = ticket.state is not State.QUEUED
        ticket.outcome = outcome
        ticket.state = State.REJECTED
        ticket.places = ()
        if waited:
            # Before it is forgotten: `recover` must know whom to wake.
            self.decided.append(ticket)
        del self._tickets[ticket.seq]
        if ticket.charged_by is not None:
            line.settle(ticket)
        if self.observed:
            # Nobody waited yet for one that was queued only.
            ticks = line.tick - ticket.waiting_tick if asked else 0
            since = now - ticket.waiting_since if asked else 0.0
            self.events.append(Rejected(now, ticket, outcome, since, ticks, line.policy.name, ticket.repeated))
