"""Jain's fairness index.

    J(x) = (sum x)^2 / (n * sum x^2)

R. Jain, D. Chiu, W. Hawe: "A Quantitative Measure of Fairness and Discrimination", DEC-TR-301, 1984. It is 1 if all
shares are equal and 1/n if one agent has everything. Shares of 0 count.
"""

from collections.abc import Iterable


def jains_index(shares: Iterable[float]) -> float:
    """Return Jain's index; 1.0 if there are no shares, or all are 0."""
    values = list(shares)
    squares = sum(value * value for value in values)
    if not squares:
        return 1.0
    return float(sum(values) ** 2 / (len(values) * squares))
