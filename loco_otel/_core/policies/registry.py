"""The policies by name."""

from collections.abc import Callable, Mapping
from math import inf

from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.las import LasPolicy
from loco_otel._core.policies.load import LoadPolicy

POLICIES = ("load", "fair", "las", "fifo")


def make_policy_factory(
    name: str,
    *,
    alpha: float,
    shares: Mapping[str, int],
    draw: Callable[[], float],
    half_life: float = inf,
    idle_timeout: float = inf,
) -> Callable[[], Policy]:
    """Return a function that creates a policy.

    Args:
        name: one of `POLICIES`.
        alpha: of `load`.
        shares: of `fair` and `las`, in thousandths, by agent.
        draw: returns the nonces by which `load` breaks ties.
        half_life: of `las`, in seconds.
        idle_timeout: seconds after which `las` forgets what has no calls.

    """
    if name == "fifo":
        return FifoPolicy
    if name == "fair":
        return lambda: FairPolicy(shares)
    if name == "las":
        return lambda: LasPolicy(shares, half_life=half_life, idle_timeout=idle_timeout)
    return lambda: LoadPolicy(alpha, draw)
