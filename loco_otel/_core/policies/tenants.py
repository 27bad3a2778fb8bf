"""Tenants: `fair` among tenants, and the configured policy among the agents of each.

The outer layer is `FairPolicy` over tenants, with its bound: of two tenants that always have a waiter, the service
differs by at most their two largest requests, whatever their agents do. Each tenant has a policy of its own, so scores
are normalised within it. Requests without a tenant form one more tenant. A queue set switches to this policy with the
first request that names a tenant; without tenants it has no cost.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policies.base import Candidate, Key, Policy, tenant_of
from loco_otel._core.policies.fair import MAX_IDLE_AGENTS, FairPolicy


class _TenantState:
    """One tenant's policy, and the oldest waiter of each of its agents."""

    __slots__ = ("entries", "heads", "policy")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.heads = LazyHeap()
        self.entries: dict[Key, Entry] = {}

    def update_candidate(self, key: Key, candidate: Candidate) -> None:
        entry = self.entries.get(key)
        if entry is None or (entry[0], entry[1]) != candidate.head:
            self._remove_head(key)
            self.entries[key] = self.heads.push_entry(*candidate.head, item=key)
        self.policy.update_candidate(key, candidate)

    def remove_candidate(self, key: Key) -> None:
        self._remove_head(key)
        self.policy.remove_candidate(key)

    def restore_accounts(self, charged: Sequence[Key], waiting: Collection[Key]) -> None:
        self.heads = LazyHeap()
        self.entries = {}
        if self.policy.is_metered:
            self.policy.restore_accounts(charged, waiting)
        else:
            self.policy.clear_candidates()

    def build_candidate(self) -> Candidate | None:
        """Return what the outer layer compares: only the oldest waiter of the tenant."""
        first = self.heads.peek_entry()
        return None if first is None else Candidate(0, 0, (first[0], first[1]))

    def _remove_head(self, key: Key) -> None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.heads.remove_entry(entry)


class TenantPolicy:
    """The policy that the module describes.

    Args:
        policy: creates the policy of a tenant.
        shares: in thousandths, by tenant; others have 1.

    """

    is_metered = True

    def __init__(self, policy: Callable[[], Policy], shares: Mapping[str, int]) -> None:
        like = policy()
        self.name = like.name
        self._alpha = like.alpha
        self._make_policy = policy
        self._tenants: dict[str, _TenantState] = {}
        """While the outer layer has an account of them, or their policy has history."""
        self._tenant_order = FairPolicy(shares, self._forget_tenant)
        self._dormant: dict[str, None] = {}
        """Tenants without an account whose policy still has history; the first has been idle longest."""

    @property
    def has_history(self) -> bool:
        """Whether any tenant without an account is kept."""
        return bool(self._dormant)

    def remove_silent(self, now: float) -> None:
        """Remove the policies of tenants whose history is over, and of those above the maximum."""
        while self._dormant:
            name = next(iter(self._dormant))
            policy = self._tenants[name].policy
            policy.remove_silent(now)
            if policy.has_history and len(self._dormant) <= MAX_IDLE_AGENTS:
                break
            del self._dormant[name], self._tenants[name]

    @property
    def alpha(self) -> float:
        """Share of Q in the score, for every tenant's policy."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self._alpha = alpha
        for tenant in self._tenants.values():
            tenant.policy.alpha = alpha

    def update_candidate(self, key: Key, candidate: Candidate) -> None:
        """Add or update an agent within its tenant, and the tenant in the outer layer."""
        name = tenant_of(key)
        tenant = self._get_tenant(name)
        tenant.update_candidate(key, candidate)
        self._update_tenant(name, tenant)

    def remove_candidate(self, key: Key) -> None:
        """Remove an agent, and its tenant if none of its agents is left."""
        name = tenant_of(key)
        tenant = self._tenants.get(name)
        if tenant is not None:
            tenant.remove_candidate(key)
            self._update_tenant(name, tenant)

    def clear_candidates(self) -> None:
        """Remove all agents, tenants and their accounts."""
        self._tenants.clear()
        self._dormant.clear()
        self._tenant_order.clear_candidates()

    def pick_next(self, tick: int) -> Key:
        """Return the next agent of the tenant that was served least."""
        return self._tenants[self.pick_tenant(tick)].policy.pick_next(tick)

    def pick_tenant(self, tick: int) -> str:
        """Return the tenant that was served least; an agent must wait."""
        return str(self._tenant_order.pick_next(tick))

    def compute_score(self, key: Key, tick: int) -> float:
        """Return the score of an agent within its tenant."""
        return self._tenants[tenant_of(key)].policy.compute_score(key, tick)

    def create_scorer(self, tick: int) -> Callable[[Key], float]:
        """Return a function that computes scores, with one function for each tenant."""
        scorers: dict[str, Callable[[Key], float]] = {}

        def compute_score(key: Key) -> float:
            name = tenant_of(key)
            scorer = scorers.get(name)
            if scorer is None:
                scorer = scorers[name] = self._tenants[name].policy.create_scorer(tick)
            return scorer(key)

        return compute_score

    def charge_grant(self, key: Key, agent: str, weight: int, now: float) -> None:
        """Charge the tenant of an agent, and the agent if its policy is metered."""
        self.remove_silent(now)
        name = tenant_of(key)
        tenant = self._get_tenant(name)
        if tenant.policy.is_metered:
            tenant.policy.charge_grant(key, agent, weight, now)
        self._tenant_order.charge_grant(name, name, weight, now)

    def adjust_charge(self, key: Key, agent: str, delta: int, charged_at: float, now: float) -> None:
        """Correct the charges of both."""
        name = tenant_of(key)
        tenant = self._tenants.get(name)
        if tenant is not None:
            if tenant.policy.is_metered:
                tenant.policy.adjust_charge(key, agent, delta, charged_at, now)
            self._tenant_order.adjust_charge(name, name, delta, charged_at, now)

    def restore_accounts(self, charged: Sequence[Key], waiting: Collection[Key]) -> None:
        """Restore the accounts of both."""
        for name, tenant in self._tenants.items():
            tenant.restore_accounts(
                [key for key in charged if tenant_of(key) == name], {key for key in waiting if tenant_of(key) == name}
            )
        self._tenant_order.restore_accounts([tenant_of(key) for key in charged], {tenant_of(key) for key in waiting})

    def _forget_tenant(self, name: Key) -> None:
        name = str(name)
        tenant = self._tenants.get(name)
        if tenant is not None and tenant.policy.has_history:
            self._dormant[name] = None
        else:
            self._tenants.pop(name, None)

    def _get_tenant(self, name: str) -> _TenantState:
        tenant = self._tenants.get(name)
        self._dormant.pop(name, None)
        if tenant is None:
            policy = self._make_policy()
            policy.alpha = self._alpha
            tenant = self._tenants[name] = _TenantState(policy)
        return tenant

    def _update_tenant(self, name: str, tenant: _TenantState) -> None:
        candidate = tenant.build_candidate()
        if candidate is None:
            self._tenant_order.remove_candidate(name)
        else:
            self._tenant_order.update_candidate(name, candidate)
