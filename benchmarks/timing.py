"""Timing two or more ways in turn, so that a machine that changes its speed changes it for all."""

import gc
import time
from collections.abc import Callable, Mapping


def best_of(ways: Mapping[str, Callable[[int], object]], count: int, rounds: int = 7) -> dict[str, float]:
    """Return microseconds of CPU time per iteration: the best round of each way.

    Args:
        ways: by name; each is called with the number of iterations to run.
        count: iterations a round.
        rounds: rounds of each, taken in turn.

    """
    best = dict.fromkeys(ways, float("inf"))
    for way in ways.values():
        way(max(1, count // 10))
    gc.collect()
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            way(count)
            best[name] = min(best[name], (time.process_time() - started) / count * 1e6)
    return best


def print_table(title: str, times: Mapping[str, float], baseline: str) -> None:
    """Print each way's time and its ratio to the baseline's."""
    print(f"\n{title}")
    width = max(len(name) for name in times)
    for name, microseconds in times.items():
        print(f"  {name:<{width}}  {microseconds:10.2f} us  x{microseconds / times[baseline]:.2f}")
