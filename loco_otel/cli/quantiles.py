"""Quantiles of a histogram's cumulative buckets, as Prometheus' `histogram_quantile` estimates them."""

from collections.abc import Mapping
from math import inf


def estimate_quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Return a quantile, interpolated within its bucket.

    Args:
        share: from 0 to 1.
        buckets: counts by upper bound, each with the counts of the smaller bounds; one bound is infinite.

    Returns:
        None without any observation; the largest finite bound if the quantile is above it.

    Example:
        >>> estimate_quantile(0.5, {1.0: 2.0, 3.0: 4.0, float("inf"): 4.0})
        1.0

    """
    total = buckets.get(inf, 0.0)
    if total <= 0:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= rank and count > below:
            return lower if bound == inf else lower + (bound - lower) * (rank - below) / (count - below)
        if bound != inf:
            lower = bound
        below = count
    return lower
