"""The limits of a resource that processes share."""

from collections.abc import Mapping
from math import inf
from types import MappingProxyType
from typing import NamedTuple

_NO_SHARES: Mapping[str, int] = MappingProxyType({})


class SharedLimits(NamedTuple):
    """What one process states about a resource; the newest statement of all processes is in force."""

    capacity: int | None
    """None adapts to the provider's refusals."""
    policy: str
    alpha: float
    max_wait_ticks: int
    shares: Mapping[str, int] = _NO_SHARES
    """Of `fair` and `las`, in thousandths, by agent."""
    requests_per_minute: float | None = None
    """None is unlimited."""
    tokens_per_minute: float | None = None
    capacity_max: float = inf
    """The maximum of a capacity that adapts."""
    auto_tune: bool = False
    """Whether alpha adapts, from the one that is stated."""
    by_run: bool = False
    """Whether the policy orders runs, not agents."""
    half_life: float = inf
    """Of `las`, in seconds."""
    run_idle_timeout: float = inf
    """Of `las`: seconds after which it forgets what has no calls."""
    tenant_shares: Mapping[str, int] = _NO_SHARES
    """In thousandths, by tenant."""
