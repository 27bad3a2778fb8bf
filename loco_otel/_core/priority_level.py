"""The waiters of one class of urgency in a queue set, and their order.

First the oldest waiter, once the guard fires. Otherwise the tenant that was served least, once a tenant is named; of
that the earliest deadline, then what the policy chooses between *lines*, and of a line the oldest waiter. A line is the
queue of an agent or, with `by_run`, of a run; a request without a run is in its agent's.
"""

from collections.abc import Callable, Mapping, Sequence

from loco_otel._core.agent_queue import AgentQueue
from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policies.base import Key, Policy, key_of, run_key_of
from loco_otel._core.policies.tenants import TenantPolicy
from loco_otel._core.ticket import State, Ticket


class PriorityLevel:
    """The waiters of one class, and the policy between their lines.

    Args:
        policy: creates the policy, one for each tenant once a tenant is named.
        tenant_shares: in thousandths, by tenant; others have 1.
        by_run: whether lines are of runs.
        lines: the queues by agent, if they are the lines; None for lines of its own.

    """

    __slots__ = (
        *("_by_age", "_by_deadline", "_make_policy", "_tenant_shares", "active_lease", "find_key", "lines"),
        *("owns_lines", "policy"),
    )

    def __init__(
        self,
        policy: Callable[[], Policy],
        tenant_shares: Mapping[str, int],
        *,
        by_run: bool = False,
        lines: dict[Key, AgentQueue] | None = None,
    ) -> None:
        self._make_policy = policy
        self._tenant_shares = tenant_shares
        self.policy: Policy = policy()
        self.find_key = run_key_of if by_run else key_of
        """Returns the key of a request's line."""
        self.owns_lines = lines is None
        self.lines: dict[Key, AgentQueue] = {} if lines is None else lines
        self.active_lease: int | None = None
        """The number of a lease of the class that could end at the last check of `_core/idle_leases.py`.

        Not the ticket itself, which refers to the program's context, as it may have ended.
        """
        self._by_age = LazyHeap()
        self._by_deadline: dict[str, LazyHeap] = {}
        """Waiters with a deadline, by tenant."""

    def __len__(self) -> int:
        return len(self._by_age)

    def add_ticket(self, ticket: Ticket, queue: AgentQueue) -> None:
        """Add a waiting ticket that is in its agent's queue."""
        request, entry = ticket.request, ticket.age_entry
        assert entry is not None  # noqa: S101 - invariant: it waits
        line = queue
        if self.owns_lines:
            line = self._get_line(self.find_key(request), queue)
            line.add_ticket(ticket, entry)
        self._by_age.share_entry(entry)
        if request.deadline is not None:
            dated = self._by_deadline.setdefault(request.tenant or "", LazyHeap())
            ticket.due_entry = dated.push_entry(request.deadline, ticket.seq, item=ticket)
        if request.tenant and not isinstance(self.policy, TenantPolicy):
            self._switch_policy(TenantPolicy(self._make_policy, self._tenant_shares))
        else:
            self._update_policy(line)

    def remove_ticket(self, ticket: Ticket, entry: Entry, queue: AgentQueue) -> None:
        """Remove a ticket that has left its agent's queue, by its entry."""
        self._by_age.remove_entry(entry)
        due_entry, ticket.due_entry = ticket.due_entry, None
        if due_entry is not None:
            tenant = ticket.request.tenant or ""
            self._by_deadline[tenant].remove_entry(due_entry)
            if not self._by_deadline[tenant]:
                del self._by_deadline[tenant]
        line = queue
        if self.owns_lines:
            line = self.lines[self.find_key(ticket.request)]
            line.remove_ticket(ticket, entry)
            if not line:
                del self.lines[line.key]
        if line:
            self._update_policy(line)
        else:
            self.policy.remove_candidate(line.key)

    def select_next(self, tick: int, max_wait_ticks: int) -> tuple[Ticket, bool]:
        """Return the waiter to be granted next, and whether the guard selected it; there must be a waiter."""
        if max_wait_ticks:
            first = self._by_age.peek_entry()
            if first is not None and tick - first[0] >= max_wait_ticks:
                return first[-1], True
        if self._by_deadline:
            tenant = self.policy.pick_tenant(tick) if isinstance(self.policy, TenantPolicy) else ""
            dated = self._by_deadline.get(tenant)
            if dated is not None and (due := dated.peek_entry()) is not None:
                return due[-1], False
        head = self.lines[self.policy.pick_next(tick)].peek_entry()
        assert head is not None  # noqa: S101 - invariant: only lines with a waiter compete
        return head[-1], False

    def find_oldest_waiter(self) -> Ticket | None:
        """Return the oldest of all waiters; None if no ticket waits."""
        first = self._by_age.peek_entry()
        if first is None:
            return None
        ticket: Ticket = first[-1]
        return ticket

    def separate_lines(self) -> None:
        """Order by lines of its own from now on, as the queues by agent hold waiters of other classes too."""
        if not self.owns_lines:
            queues, self.lines, self.owns_lines = self.lines, {}, True
            for key, queue in queues.items():
                line = self.lines[key] = AgentQueue(key, queue.backlog)
                for ticket in queue.list_tickets():
                    assert ticket.age_entry is not None  # noqa: S101 - invariant: it waits
                    line.add_ticket(ticket, ticket.age_entry)

    def list_waiters(self) -> list[Ticket]:
        """Return all waiters, in no order."""
        return [ticket for line in self.lines.values() for ticket in line.list_tickets()]

    def refresh_agent(self, queue: AgentQueue) -> None:
        """Update the policy after a change of an agent's backlog."""
        line = self.lines.get(queue.key)
        if line is not None:
            line.backlog = queue.backlog
            self._update_policy(line)

    def _get_line(self, key: Key, queue: AgentQueue) -> AgentQueue:
        line = self.lines.get(key)
        if line is None:
            backlog = queue.backlog if key == queue.key else None
            line = self.lines[key] = AgentQueue(key, backlog)
        return line

    def _update_policy(self, line: AgentQueue) -> None:
        candidate = line.build_candidate()
        if candidate is None:
            self.policy.remove_candidate(line.key)
        else:
            self.policy.update_candidate(line.key, candidate)

    def clear_waiters(self, tickets: Sequence[Ticket]) -> None:
        """Remove all waiters without changing the tickets; what these tickets of the level were charged stays."""
        if self.policy.is_metered:
            charged = [self.find_key(ticket.request) for ticket in tickets if ticket.charged_by is self.policy]
            waiting = {self.find_key(ticket.request) for ticket in tickets if ticket.state is State.WAITING}
            self.policy.restore_accounts(charged, waiting)
        else:
            self.policy.clear_candidates()
        self.lines.clear()
        self._by_age = LazyHeap()
        self._by_deadline = {}

    def charge_ticket(self, ticket: Ticket, weight: int, now: float) -> None:
        """Charge a ticket's line for a grant: once per call, whatever its pauses."""
        if self.policy.is_metered and ticket.charged_by is not self.policy:
            ticket.charged_by, ticket.charged_at = self.policy, now
            self.policy.charge_grant(self.find_key(ticket.request), ticket.request.agent, weight, now)

    def settle_charge(self, ticket: Ticket, now: float) -> None:
        """Correct the charge of a ticket that ends; no-op if it was not charged."""
        policy, ticket.charged_by = ticket.charged_by, None
        if policy is not None and policy is self.policy:
            key, agent = self.find_key(ticket.request), ticket.request.agent
            policy.adjust_charge(key, agent, ticket.correction, ticket.charged_at, now)

    def _switch_policy(self, policy: Policy) -> None:
        policy.alpha = self.policy.alpha  # as adapted
        self.policy = policy
        for line in self.lines.values():
            self._update_policy(line)
