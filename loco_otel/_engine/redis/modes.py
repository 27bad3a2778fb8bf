"""When the engine counts as away, and how a process goes on then."""

from math import inf

from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.snapshots import EngineMode

AWAY_MODES = {"local": EngineMode.LOCAL, "closed": EngineMode.CLOSED, "open": EngineMode.OPEN}
"""The mode while the engine is away, by the value of `LOCO_ENGINE_ON_ERROR`."""

_RETRY_SECONDS = 0.05, 0.1
_AWAY_RETRY_SECONDS = 0.25, 1.0


class ModeSwitch:
    """Decides the mode from failures and successes. Pure: its caller has the time and the random numbers.

    Args:
        on_error: the value of `LOCO_ENGINE_ON_ERROR`.
        timeout: seconds without an answer after which the engine is away.

    """

    def __init__(self, on_error: str, timeout: float) -> None:
        self._away = AWAY_MODES[on_error]
        self._timeout = timeout
        self._failing_since = inf
        self.mode = EngineMode.REMOTE

    def record_success(self) -> bool:
        """Record that the engine has everything again, and return whether that changes the mode."""
        self._failing_since = inf
        changed, self.mode = self.mode is not EngineMode.REMOTE, EngineMode.REMOTE
        return changed

    def record_failure(self, since: float, now: float) -> bool:
        """Record that the engine has not answered since a time, and return whether that changes the mode."""
        self._failing_since = min(self._failing_since, since)
        if self.mode is not EngineMode.REMOTE or now - self._failing_since < self._timeout:
            return False
        self.mode = self._away
        return True

    def compute_delay(self, fraction: float, now: float) -> float:
        """Return the seconds until the next attempt; `fraction` is a random number, so that processes spread out."""
        least, most = _RETRY_SECONDS if self.mode is EngineMode.REMOTE else _AWAY_RETRY_SECONDS
        delay = least + (most - least) * fraction
        if self.mode is EngineMode.REMOTE and self._failing_since < inf:
            return max(0.0, min(delay, self._failing_since + self._timeout - now))
        return delay


def compute_share(capacity: float, processes: int) -> float:
    """Return the slots of one process while the engine is away: its part of the capacity, at least 1 unless that is 0.

    A rate per minute is shared likewise; one below 1 is not divided.

    Example:
        >>> compute_share(8, 3)
        2
        >>> compute_share(2, 4)
        1

    """
    return capacity if capacity == inf else min(capacity, max(1, int(capacity) // max(1, processes)))


def compute_local_limits(limits: SharedLimits, processes: int) -> SharedLimits:
    """Return what one process grants of the limits of a resource while the engine is away.

    Example:
        >>> compute_local_limits(SharedLimits(8, "fifo", 0.0, 0, requests_per_minute=100), 3).requests_per_minute
        33

    """
    capacity, requests, tokens = limits.capacity, limits.requests_per_minute, limits.tokens_per_minute
    return limits._replace(
        capacity=None if capacity is None else int(compute_share(capacity, processes)),
        capacity_max=compute_share(limits.capacity_max, processes),
        requests_per_minute=requests and compute_share(requests, processes),
        tokens_per_minute=tokens and compute_share(tokens, processes),
    )
