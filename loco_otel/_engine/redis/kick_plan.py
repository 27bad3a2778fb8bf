"""When a process with waiters sends a beat because something becomes possible that no operation announces.

A rate opens, learning ends, or a silent process expires: the server does nothing by itself, so a process must come. If
all came at that time, each opening would cost a step for each process. Of each gate the script names one process, which
comes at its time; the others come `_LATE` seconds later, in case that one does not, and at most once in that time.
"""

from math import inf

from loco_otel._engine.redis.batches import Reply

_SPREAD = 0.05
"""Seconds over which processes spread what all of them do at the same time of the server."""
_LATE = 0.1, 0.25
"""The earliest and the latest time after which a process comes that the script has not named."""


class KickPlan:
    """The next time at which to come, from what replies state. Pure: its caller has the time and the random numbers.

    Args:
        ttl: seconds until a silent process expires.

    """

    def __init__(self, ttl: float) -> None:
        self._ttl = ttl
        self._gates: dict[str, float] = {}
        """When to come for each resource whose gate is closed, as far as replies have stated it."""
        self.at = inf

    def clear(self) -> None:
        """Plan nothing before the next reply."""
        self.at = inf

    def update(self, reply: Reply, now: float, fraction: float, *, has_waiters: bool) -> None:
        """Plan by a reply; `fraction` is a random number, so that processes spread out."""
        self.at = inf
        if not has_waiters:
            self._gates = {}
            return
        for line in reply.lines:
            self._gates.pop(line.name, None)
            if line.gate is not None and line.gate.due >= 0:
                opens_at = now + _measure(line.gate.due, reply)
                late = _LATE[0] + (_LATE[1] - _LATE[0]) * fraction
                self._gates[line.name] = opens_at if line.gate.is_named else max(opens_at + late, now + _LATE[1])
        self.at = min(self._gates.values(), default=inf)
        if reply.due:
            self.at = min(self.at, now + _measure(reply.due, reply) + fraction * _SPREAD)
        # Only of a process that has missed a heartbeat, so that nobody asks about those that are alive.
        left = (reply.expiry - reply.now) / 1000
        if reply.expiry and left < self._ttl / 2:
            self.at = min(self.at, now + max(0.0, left) + 0.005 + fraction * _SPREAD)


def _measure(due: int, reply: Reply) -> float:
    """Return the seconds from a reply until a time of the server's clock."""
    return max(0, due - reply.now) / 1000
