"""The policies by name."""

from collections.abc import Callable, Mapping

from loco_otel._core.policies.base import Policy
from loco_otel._core.policies.fair import FairPolicy
from loco_otel._core.policies.fifo import FifoPolicy
from loco_otel._core.policies.load import LoadPolicy

POLICIES = ("load", "fair", "fifo")


def make_policy_factory(
    name: str, *, alpha: float, shares: Mapping[str, int], draw: Callable[[], float]
) -> Callable[[], Policy]:
    """Return a function that creates a policy.

    Args:
        name: one of `POLICIES`.
        alpha: of `load`.
        shares: of `fair`, in thousandths, by agent.
        draw: returns the nonces by which `load` breaks ties.

    """
    if name == "fifo":
        return FifoPolicy
    if name == "fair":
        return lambda: FairPolicy(shares)
    return lambda: LoadPolicy(alpha, draw)
