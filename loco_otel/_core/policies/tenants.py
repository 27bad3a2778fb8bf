"""Tenants: a fair layer over them, and the chosen policy among the agents of each.

The outer layer is `FairPolicy` over tenants, with its bound: of two tenants with a waiter all the time neither is
served more than their two largest requests beyond the other, whatever their agents do. Each tenant has a policy of its
own, so scores are normalised within it. Those who name no tenant are one more tenant. A line takes this up with the
first that queues for a tenant; without tenants nobody pays for it.
"""

from collections.abc import Callable, Mapping

from loco_otel._core.lazy_heap import Entry, LazyHeap
from loco_otel._core.policies.base import Key, Policy, Standing, tenant_of
from loco_otel._core.policies.fair import FairPolicy


class _Tenant:
    """One tenant's policy, and the oldest waiter of each of its agents."""

    __slots__ = ("entries", "heads", "policy")

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.heads = LazyHeap()
        self.entries: dict[Key, Entry] = {}

    def put(self, key: Key, standing: Standing) -> None:
        entry = self.entries.get(key)
        if entry is None or (entry[0], entry[1]) != standing.head:
            self._strike(key)
            self.entries[key] = self.heads.push(*standing.head, item=key)
        self.policy.put(key, standing)

    def drop(self, key: Key) -> None:
        self._strike(key)
        self.policy.drop(key)

    def standing(self) -> Standing | None:
        """Tell how the tenant stands among tenants: only its oldest waiter counts there."""
        first = self.heads.first()
        return None if first is None else Standing(0, 0, (first[0], first[1]))

    def _strike(self, key: Key) -> None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.heads.strike(entry)


class TenantPolicy:
    """See the module.

    Args:
        policy: makes the policy of a tenant.
        shares: in thousandths, by tenant; others have 1.

    """

    metered = True

    def __init__(self, policy: Callable[[], Policy], shares: Mapping[str, int]) -> None:
        like = policy()
        self.name = like.name
        self._alpha = like.alpha
        self._policy = policy
        self._tenants: dict[str, _Tenant] = {}
        """As long as the outer layer knows them."""
        self._outer = FairPolicy(shares, lambda name: self._tenants.pop(str(name)))

    @property
    def alpha(self) -> float:
        """Of every tenant's policy."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self._alpha = alpha
        for tenant in self._tenants.values():
            tenant.policy.alpha = alpha

    def put(self, key: Key, standing: Standing) -> None:
        """Let an agent compete within its tenant, and its tenant among tenants."""
        name = tenant_of(key)
        tenant = self._tenant(name)
        tenant.put(key, standing)
        self._compete(name, tenant)

    def drop(self, key: Key) -> None:
        """Let an agent compete no more, nor its tenant when nobody else waits for it."""
        name = tenant_of(key)
        tenant = self._tenants.get(name)
        if tenant is not None:
            tenant.drop(key)
            self._compete(name, tenant)

    def clear(self) -> None:
        """Forget all agents and tenants, and what they were served."""
        self._tenants.clear()
        self._outer.clear()

    def pick(self, tick: int) -> Key:
        """Name the agent that its tenant would grant next, of the tenant that was served least."""
        return self._tenants[str(self._outer.pick(tick))].policy.pick(tick)

    def score(self, key: Key, tick: int) -> float:
        """Tell the score of an agent within its tenant."""
        return self._tenants[tenant_of(key)].policy.score(key, tick)

    def granted(self, key: Key, weight: int) -> None:
        """Charge the tenant of an agent, and the agent where the policy goes by that."""
        name = tenant_of(key)
        tenant = self._tenant(name)
        if tenant.policy.metered:
            tenant.policy.granted(key, weight)
        self._outer.granted(name, weight)

    def settled(self, key: Key, delta: int) -> None:
        """Correct what both were charged."""
        name = tenant_of(key)
        tenant = self._tenants.get(name)
        if tenant is not None:
            if tenant.policy.metered:
                tenant.policy.settled(key, delta)
            self._outer.settled(name, delta)

    def _tenant(self, name: str) -> _Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            policy = self._policy()
            policy.alpha = self._alpha
            tenant = self._tenants[name] = _Tenant(policy)
        return tenant

    def _compete(self, name: str, tenant: _Tenant) -> None:
        standing = tenant.standing()
        if standing is None:
            self._outer.drop(name)
        else:
            self._outer.put(name, standing)
