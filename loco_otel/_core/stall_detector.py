"""Detection of stalls: a resource with waiters at which nothing has progressed for long; each is reported once.

Some leases cannot be distinguished from dead ones, see decision 0003: their code waits for a thread whose call waits
for their slot. A provider may also name a long pause, or take long to respond. The report names waiters and leases, so
that an operator can decide.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from loco_otel._core.queue_set import QueueSet
from loco_otel._core.resources import Resources
from loco_otel._core.slot_pool import SlotPool

STALL_AFTER = 60.0
"""Seconds without a grant, a chunk or a release after which a resource counts as stalled."""

_MAX_NAMED_HOLDERS = 5


class Stall(NamedTuple):
    """A resource that has stalled."""

    resource: str
    seconds: float
    waiting: int
    first: str
    """Agent of the oldest waiter."""
    waited: float
    holders: tuple[tuple[str, float], ...]
    """Agents with a lease, and its age in seconds: the oldest few leases."""
    active: int
    pause: float
    """Seconds left of a pause that the provider named."""
    pause_header: str | None
    """The header that states it."""

    def __str__(self) -> str:
        text = (
            f"no call at {self.resource} has progressed for {self.seconds:.0f} s: {self.waiting} waiting, the oldest "
            f"of {self.first} for {self.waited:.0f} s"
        )
        if self.holders:
            leases = ", ".join(f"{agent} for {seconds:.0f} s" for agent, seconds in self.holders)
            more = f" and {self.active - len(self.holders)} more" if self.active > len(self.holders) else ""
            text += f"; {self.active} holding a slot: {leases}{more}"
        if self.pause:
            named = f", named by its header {self.pause_header}" if self.pause_header else ""
            text += f"; the provider's pause lasts another {self.pause:.0f} s{named}"
        return (
            f"{text}. The calls keep waiting: `loco-otel ps` lists them, LOCO_ACQUIRE_TIMEOUT limits a wait, and "
            "LOCO_MAX_HOLD frees slots that are not used"
        )


def detect_stalls(resources: Resources, now: float) -> list[Stall]:
    """Return the resources that have stalled, each stall once."""
    pools = dict.fromkeys(pool for queue_set in resources.waiting_queue_sets for pool in queue_set.pools)
    found = (_detect_stall(pool, resources.list_queue_sets(pool), now) for pool in pools)
    return [stall for stall in found if stall is not None]


def _detect_stall(pool: SlotPool, queue_sets: Sequence[QueueSet], now: float) -> Stall | None:
    oldest = [first for queue_set in queue_sets if (first := queue_set.find_oldest_waiter()) is not None]
    if not oldest:
        return None
    first = min(oldest, key=attrgetter("waiting_since"))
    touched_at = max((lease.touched_at for lease in pool.leases.values()), default=0.0)
    since = max(touched_at, first.waiting_since)
    progress = touched_at, sum(queue_set.tick for queue_set in queue_sets)
    if now - since < STALL_AFTER or pool.reported_stall == progress:
        return None
    pool.reported_stall = progress
    named = list(pool.leases.values())[:_MAX_NAMED_HOLDERS]
    return Stall(
        pool.name,
        now - since,
        sum(queue_set.waiting for queue_set in queue_sets),
        first.request.agent,
        now - first.waiting_since,
        tuple((lease.request.agent, now - lease.granted_at) for lease in named),
        len(pool.leases),
        max(0.0, pool.paused_until - now),
        pool.pause_header,
    )
