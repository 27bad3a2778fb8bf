"""The requests that compete for the same resources: a queue per agent, the classes of urgency, and the clock.

While all requests are of the class `normal` there is one level. The first request of another class enables the others.
From then on the fast path is taken only while no request waits.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from loco_otel._core.agent_queue import AgentQueue
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.backlog import Backlog
from loco_otel._core.policies.base import Key, Policy, key_of
from loco_otel._core.priority_level import PriorityLevel
from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityOrder, PriorityRules
from loco_otel._core.remote import RemoteChange, RemoteState
from loco_otel._core.slot_pool import Gate, SlotPool
from loco_otel._core.ticket import State, Ticket
from loco_otel.events import Priority

_NO_SHARES: Mapping[str, int] = {}
_NORMAL = Priority.NORMAL  # bound once: on 3.11 each access to an enum's member costs as much as a call


class QueueSet:
    """All requests for one resource, or for the same set of resources, with their logical clock.

    A tick is one release of the resource, or of any resource of the set. With `max_wait_ticks` = N > 0 the oldest
    waiter of a class is granted first once it has waited N ticks, whatever the policy. From then on no younger one of
    its class can pass it, so with one class a wait for one resource is at most N plus one tick for each older waiter:
    at most N + max_waiters, if that is set. Classes that share fairly lengthen that by the others' shares.

    Args:
        policy: creates the policy, one for each tenant once a tenant is named.
        max_wait_ticks: the guard; 0 disables it.
        pools: the resources: a grant takes a slot of each, in one step.
        tenant_shares: in thousandths, by tenant; others have 1.
        by_run: whether the policy orders runs, not agents.
        rules: how the classes of urgency are served.

    """

    __slots__ = (
        "_make_level",
        "_rules",
        "backlogs",
        "fast_pool",
        "gate",
        "has_reservation",
        "is_metered",
        "levels",
        "max_wait_ticks",
        "max_waiters",
        "normal",
        "order",
        "pools",
        "queues",
        "remote",
        "reported_gate",
        "single_pool",
        "tick",
        "tuner",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        policy: Callable[[], Policy],
        max_wait_ticks: int,
        pools: tuple[SlotPool, ...] = (),
        *,
        tenant_shares: Mapping[str, int] = _NO_SHARES,
        by_run: bool = False,
        rules: PriorityRules = DEFAULT_PRIORITY_RULES,
    ) -> None:
        self.pools = pools
        self.single_pool = pools[0] if len(pools) == 1 else None
        """The pool of a queue set for one resource; else None."""
        self.remote: RemoteState | None = None
        """Takes the notes for the place that decides its grants, if it is another one (see `_core/remote.py`)."""
        self.max_wait_ticks = max_wait_ticks
        self.max_waiters: int | None = None
        """The maximum of its waiting tickets, beside that of all queue sets; None is no maximum."""
        self.tick = 0
        self.waiting = 0
        self.queues: dict[Key, AgentQueue] = {}
        """By agent, whatever is ordered."""
        self.levels: Mapping[Priority, PriorityLevel] = {}
        self.order: PriorityOrder | None = None
        """None while all requests are `normal`."""
        self.is_metered = False
        """Whether a policy charges grants."""
        self.fast_pool: SlotPool | None = None
        """The single pool, while its slots may be granted to requests of the class `normal` by `fast_paths.py`."""
        self._set_order(policy, tenant_shares, rules, by_run=by_run)
        self.backlogs: dict[str, Backlog] = {}
        """By agent. Backlogs have no tenant."""
        self.has_reservation = False
        """Whether it may have reserved slots or tokens."""
        self.tuner: AlphaTuner | None = None
        """Adapts alpha."""
        self.gate: Gate | None = None
        """The rate limit that delays its next ticket, as far as a grant has failed for it."""
        self.reported_gate: Gate | None = None
        """`gate` in the last event (see `limit_events.py`)."""

    @property
    def policy(self) -> Policy:
        """What orders agents or runs of the class `normal`."""
        return self.normal.policy

    # -- waiters ------------------------------------------------------------------------------------------------

    def add_ticket(self, ticket: Ticket) -> AgentQueue:
        """Add a WAITING ticket to its agent's queue."""
        key = key_of(ticket.request)
        queue = self.queues.get(key)
        if queue is None:
            backlog = self.backlogs.get(key) if isinstance(key, str) else None
            queue = self.queues[key] = AgentQueue(key, backlog, self.tick)
        ticket.age_entry = queue.push_ticket(ticket)
        self.waiting += 1
        level = self.normal if self.order is None else self.find_level(ticket)
        level.add_ticket(ticket, queue)
        if level.policy.is_metered:
            self.is_metered = True
        if self.order is not None:
            self.fast_pool = None
            self._update_order()
        return queue

    def remove_ticket(self, ticket: Ticket) -> None:
        """Remove a ticket, the queue of an agent without further tickets, and what is reserved for this set."""
        queue = self.queues[key_of(ticket.request)]
        entry, ticket.age_entry = ticket.age_entry, None
        assert entry is not None  # noqa: S101 - invariant: it waits
        queue.remove_ticket(ticket, entry)
        self.waiting -= 1
        if not queue:
            del self.queues[queue.key]
        if self.order is None:
            self.normal.remove_ticket(ticket, entry, queue)
        else:
            self.find_level(ticket).remove_ticket(ticket, entry, queue)
            self._update_order()
            self._update_shortcuts()
        if self.has_reservation:
            self.unreserve_all()
        if not self.waiting:
            self.gate = None

    def select_next(self) -> tuple[Ticket, bool] | None:
        """Return the waiter to be granted next, and whether the guard selected it; there must be a waiter.

        None if all waiters are of classes that hold as many slots as they may.
        """
        if self.order is None:
            return self.normal.select_next(self.tick, self.max_wait_ticks)
        self._update_order()
        priority = self.order.pick_next()
        return None if priority is None else self.levels[priority].select_next(self.tick, self.max_wait_ticks)

    def select_capped(self) -> tuple[Ticket, bool]:
        """Return what `select_next` would without ceilings, by urgency alone; there must be a waiter."""
        level = next(level for priority in Priority if (level := self.levels.get(priority)))
        return level.select_next(self.tick, self.max_wait_ticks)

    def find_level(self, ticket: Ticket) -> PriorityLevel:
        """Return the level of a ticket's class."""
        return self.normal if self.order is None else self.levels[ticket.request.priority]

    def compute_score(self, ticket: Ticket) -> float:
        """Return the score of a waiting ticket's agent or run within its class."""
        level = self.find_level(ticket)
        return level.policy.compute_score(level.find_key(ticket.request), self.tick)

    def find_oldest_waiter(self) -> Ticket | None:
        """Return the oldest of all waiters; None if no ticket waits."""
        if self.order is None:
            return self.normal.find_oldest_waiter()
        oldest = [first for level in self.levels.values() if (first := level.find_oldest_waiter()) is not None]
        return min(oldest, key=lambda ticket: (ticket.birth, ticket.seq), default=None)

    def clear_queues(self, tickets: Sequence[Ticket]) -> None:
        """Empty all queues without changing the tickets; the clock, and what these tickets were charged, stay."""
        self.queues.clear()
        by_level: dict[PriorityLevel, list[Ticket]] = {level: [] for level in self.levels.values()}
        for ticket in tickets:
            by_level[self.find_level(ticket)].append(ticket)
        for level, own in by_level.items():
            level.clear_waiters(own)
        if self.order is not None:
            charged = [ticket.request.priority for ticket in tickets if ticket.charged_order is self.order]
            self.order.restore_accounts(charged, [p for p, level in self.levels.items() if by_level[level]])
        self.waiting = 0
        self.has_reservation = False
        self._update_shortcuts()
        self.gate = None
        for backlog in self.backlogs.values():
            backlog.rebuild_index()

    # -- classes of urgency -------------------------------------------------------------------------------------

    def enable_priorities(self) -> None:
        """Order by class from now on. Idempotent."""
        if self.order is None:
            self.normal.separate_lines()
            self.levels = {it: self.normal if it is _NORMAL else self._make_level() for it in self._rules}
            for level in self.levels.values():
                level.policy.alpha = self.normal.policy.alpha  # as adapted
            self.order = PriorityOrder(self._rules)
            self._update_shortcuts()
            self._update_order()

    def is_capped(self, priority: Priority) -> bool:
        """Return whether a class holds as many slots of one of the resources as it may."""
        return any(pool.is_capped(priority) for pool in self.pools)

    def must_queue(self, ticket: Ticket) -> bool:
        """Return whether a new ticket has to wait although slots are free: others wait, or its class is capped."""
        if self.order is None:
            return self.waiting > 0
        return self.is_capped(ticket.request.priority) or any(
            level and not self.is_capped(priority) for priority, level in self.levels.items()
        )

    def list_capped(self) -> list[PriorityLevel]:
        """Return the levels that only their ceiling delays, if each pool has a free slot."""
        if self.order is None or not self.has_room():
            return []
        return [level for priority, level in self.levels.items() if level and self.is_capped(priority)]

    def _update_order(self) -> None:
        if self.order is not None:
            competing = [it for it, level in self.levels.items() if level and not self.is_capped(it)]
            self.order.update_competing(competing)

    def _set_order(
        self, policy: Callable[[], Policy], tenant_shares: Mapping[str, int], rules: PriorityRules, *, by_run: bool
    ) -> None:
        """Set the policy and the classes; without waiters."""
        self._rules = rules
        self._make_level = partial(PriorityLevel, policy, tenant_shares, by_run=by_run)
        self.normal = self._make_level(lines=None if by_run else self.queues)
        self.levels = {_NORMAL: self.normal}
        self.order = None
        self._update_shortcuts()
        if rules[_NORMAL].has_ceiling:
            self.enable_priorities()

    def _update_shortcuts(self) -> None:
        self.is_metered = any(level.policy.is_metered for level in self.levels.values())
        is_fast = self.order is None or not (self.waiting or self._rules[_NORMAL].has_ceiling)
        self.fast_pool = self.single_pool if is_fast else None

    # -- backlogs and policy ------------------------------------------------------------------------------------

    def set_backlog(self, agent: str, backlog: Backlog | None) -> None:
        """Count an agent's backlog with its waiters; None removes it."""
        if backlog is None:
            self.backlogs.pop(agent, None)
        else:
            self.backlogs[agent] = backlog
        queue = self.queues.get(agent)
        if queue is not None:
            queue.backlog = backlog
            self.normal.refresh_agent(queue)

    def refresh_agent(self, agent: str) -> None:
        """Update the policy after a change of an agent's backlog."""
        queue = self.queues.get(agent)
        if queue is not None:
            self.normal.refresh_agent(queue)

    def return_work(self, ticket: Ticket) -> None:
        """Return the work of a ticket to its backlog, which changes the score of its agent."""
        if ticket.backlog is not None:
            ticket.backlog.return_work(ticket)
            self.refresh_agent(ticket.request.agent)

    def tune_alpha(self, tuner: AlphaTuner) -> None:
        """Set alpha to what a tuner computes from the queues and backlogs."""
        backlogs = [backlog for agent, backlog in self.backlogs.items() if agent not in self.queues]
        births = [queue.find_birth_tick() for queue in self.queues.values()]
        births += [work.birth for backlog in backlogs if (work := backlog.find_oldest_work()) is not None]
        weight = sum(queue.weight for queue in self.queues.values()) + sum(backlog.weight for backlog in backlogs)
        count = sum(queue.count_queued() for queue in self.queues.values()) + sum(len(backlog) for backlog in backlogs)
        alpha = tuner.update_alpha(self.tick, [self.tick - birth for birth in births], weight, count)
        for level in self.levels.values():
            level.policy.alpha = alpha

    def adopt_alpha(self, alpha: float) -> None:
        """Set alpha to what another place has computed, which goes on from there."""
        for level in self.levels.values():
            level.policy.alpha = alpha
        if self.tuner is not None:
            self.tuner.alpha = alpha

    def replace_policy(
        self,
        policy: Callable[[], Policy],
        tenant_shares: Mapping[str, int] = _NO_SHARES,
        *,
        by_run: bool = False,
        rules: PriorityRules = DEFAULT_PRIORITY_RULES,
    ) -> None:
        """Change policy and classes; what agents were served under the previous policy does not count."""
        waiting = [ticket for level in self.levels.values() for ticket in level.list_waiters()]
        had_priorities = self.order is not None
        self._set_order(policy, tenant_shares, rules, by_run=by_run)
        if had_priorities:
            self.enable_priorities()
        if self.normal.owns_lines:
            self.normal.lines.clear()
        for ticket in waiting:
            self.find_level(ticket).add_ticket(ticket, self.queues[key_of(ticket.request)])
        self._update_shortcuts()
        self._update_order()

    def charge_ticket(self, ticket: Ticket, now: float) -> None:
        """Charge a ticket for a grant: once per call, whatever its pauses.

        Its class is charged only if the ticket has waited: the grant of a free slot is not compared with other classes.
        """
        weight = ticket.resolve_request().weight
        self.find_level(ticket).charge_ticket(ticket, weight, now)
        if self.order is not None and ticket.state is State.WAITING and ticket.charged_order is not self.order:
            ticket.charged_order = self.order
            self.order.charge_grant(ticket.request.priority, weight, now)

    def settle_charge(self, ticket: Ticket, now: float) -> None:
        """Correct the charge of a ticket that ends; no-op if it was not charged."""
        if ticket.charged_by is not None:
            self.find_level(ticket).settle_charge(ticket, now)
        order, ticket.charged_order = ticket.charged_order, None
        if self.order is not None and order is self.order:
            self.order.adjust_charge(ticket.request.priority, ticket.correction)
        if self.remote is not None:
            self.remote.add_note(RemoteChange.ENDED, ticket)

    # -- slots: the same operation on each pool -----------------------------------------------------------------

    def is_gated(self) -> bool:
        """Return whether a grant depends on more than free slots."""
        pool = self.single_pool
        return any(each.is_gated for each in self.pools) if pool is None else pool.is_gated

    def has_room(self) -> bool:
        """Return whether each pool has a slot that is free and not reserved for another queue set."""
        return all(pool.has_room(self) for pool in self.pools)

    def reserve_slots(self) -> None:
        """Reserve the next free slot of each pool, unless one of them is reserved already."""
        self.has_reservation = True
        if all(pool.reserved_for is None for pool in self.pools):
            for pool in self.pools:
                pool.reserved_for = self

    def unreserve_slots(self) -> None:
        """Remove the reservations of this queue set."""
        for pool in self.pools:
            if pool.reserved_for is self:
                pool.reserved_for = None

    def reserve_tokens(self, ticket: Ticket) -> None:
        """Reserve what a ticket takes of the rate limits, unless some of them are reserved for another queue set."""
        self.has_reservation = True
        reserved = self, ticket.request.tokens
        if all(pool.token_reservation is None or pool.token_reservation[0] is self for pool in self.pools):
            for pool in self.pools:
                pool.token_reservation = reserved

    def unreserve_all(self) -> None:
        """Remove the reservations of slots and tokens of this queue set."""
        self.unreserve_slots()
        for pool in self.pools:
            if pool.token_reservation is not None and pool.token_reservation[0] is self:
                pool.token_reservation = None
        self.has_reservation = False

    def start_lease(self, ticket: Ticket, now: float) -> None:
        """Count a ticket that was granted among the leases, and take its rate tokens."""
        ticket.rate_correction = 0, 0
        for pool in self.pools:
            pool.add_lease(ticket)
            if pool.is_gated:
                pool.take_rate_tokens(1, ticket.request.tokens, now)

    def end_lease(self, ticket: Ticket) -> Sequence[SlotPool]:
        """Remove a ticket from the leases, and return the pools that have a slot more."""
        if self.remote is not None and ticket.state is State.SUSPENDED:
            self.remote.add_note(RemoteChange.SUSPENDED, ticket)
        single = self.single_pool
        if single is not None:
            return self.pools if single.remove_lease(ticket) else ()
        return [pool for pool in self.pools if pool.remove_lease(ticket)]

    def record_served(self, ticket: Ticket, now: float) -> None:
        """Count a call that has ended as service."""
        served = key_of(ticket.request), ticket.request.weight
        for pool in self.pools:
            pool.recently_served.append(served)
        if ticket.charged_by is not None or ticket.charged_order is not None or self.remote is not None:
            self.settle_charge(ticket, now)

    def take_rate_tokens(self, ticket: Ticket, requests: int, tokens: int, now: float) -> None:
        """Take requests and tokens from the rate limits for a lease; negative amounts are returned to them."""
        for pool in self.pools:
            pool.take_rate_tokens(requests, tokens, now)
        taken_requests, taken_tokens = ticket.rate_correction
        ticket.rate_correction = taken_requests + requests, taken_tokens + tokens

    def handle_success(self, ticket: Ticket, now: float) -> None:
        """Update adaptive limits after a success of a call that still holds its slots."""
        ticket.has_succeeded = True
        if self.remote is None:
            for pool in self.pools:
                if pool.adaptive_limit is not None:
                    pool.handle_success(now)

    def handle_throttling(self, ticket: Ticket, now: float, pause: float, header: str | None) -> bool:
        """Update adaptive limits after a refusal, and return whether one of them has learnt a limit."""
        if self.remote is not None:
            self.remote.add_report(RemoteChange.REFUSED, ticket, pause, header)
            return False
        for pool in self.pools:
            pool.handle_throttling(ticket, now, pause, header)
        return any(pool.has_learnt for pool in self.pools)

    def set_pause(self, ticket: Ticket, now: float, pause: float, header: str | None) -> None:
        """Pause grants for the seconds that the answer to a call names, where the limit is adaptive."""
        if self.remote is not None:
            self.remote.add_report(RemoteChange.PAUSED, ticket, pause, header)
            return
        for pool in self.pools:
            pool.set_pause(now + pause, header)
