"""Jain's fairness index.

    J(x) = (sum x)^2 / (n * sum x^2)

R. Jain, D. Chiu, W. Hawe: "A Quantitative Measure of Fairness and Discrimination", DEC-TR-301, 1984. It is 1 when all
get the same and 1/n when one gets everything. Those that got nothing count.
"""

from collections.abc import Iterable


def jains_index(shares: Iterable[float]) -> float:
    """Return Jain's index; 1.0 when there is nobody, or nobody got anything."""
    values = list(shares)
    squares = sum(value * value for value in values)
    if not squares:
        return 1.0
    return float(sum(values) ** 2 / (len(values) * squares))
