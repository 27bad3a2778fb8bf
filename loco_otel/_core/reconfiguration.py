"""Changes of limits, policy and classes in a scheduler with waiters and leases."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel._core.policies.base import Policy
from loco_otel._core.priority_order import DEFAULT_PRIORITY_RULES, PriorityRules
from loco_otel._core.resources import Capacity
from loco_otel._core.scheduler import Scheduler
from loco_otel.events import Priority

_NO_SHARES: Mapping[str, int] = MappingProxyType({})


def set_resource(
    core: Scheduler,
    name: str,
    capacity: Capacity,
    now: float,
    *,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
) -> None:
    """Add a resource, or change its limits: a higher limit grants at once, a lower one applies as leases end."""
    pool = core.resources.set_resource(name, capacity, requests_per_minute, tokens_per_minute)
    core._grant_waiting((pool,), now)


def set_max_hold(core: Scheduler, seconds: float, now: float) -> None:
    """Change the time without a sign of life after which a lease expires."""
    core.deadlines.max_hold = seconds
    core._expire_leases(now)


def set_policy(
    core: Scheduler,
    policy: Callable[[], Policy],
    max_wait_ticks: int,
    now: float,
    tenant_shares: Mapping[str, int] = _NO_SHARES,
    *,
    tuner: Callable[[], AlphaTuner | None] = lambda: None,
    by_run: bool = False,
    priorities: PriorityRules = DEFAULT_PRIORITY_RULES,
) -> None:
    """Change policy, guard, shares, classes, and what is ordered; each ticket keeps its place in its queue."""
    core.has_priorities |= priorities[Priority.NORMAL].has_ceiling
    core.resources.replace_policies(policy, max_wait_ticks, tenant_shares, tuner, by_run=by_run, priorities=priorities)
    core.grant_all_waiting(now)
