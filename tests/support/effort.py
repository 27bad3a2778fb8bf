"""How much the random tests try: what `make nightly` multiplies."""

import os

EFFORT = float(os.environ.get("TEST_EFFORT", "1"))


def scale(runs: int) -> int:
    """Return a number of runs, multiplied by the environment variable TEST_EFFORT."""
    return max(1, round(runs * EFFORT))
