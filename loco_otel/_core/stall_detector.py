"""When nothing has moved at a resource for long though somebody waits: what a program's log is told, once each time.

There are holders that nobody can tell from dead ones, see decision 0003: they wait for a thread whose call waits for
their slot. A provider may also ask for a long pause, or take long. Who operates the program is to know who waits for
whom.
"""

from operator import attrgetter
from typing import NamedTuple

from loco_otel._core.slot_pool import SlotPool

STALL_AFTER = 60.0
"""Seconds without a grant, a chunk or a release after which a resource stands still."""

_MAX_NAMED_HOLDERS = 5
"""Holders that are named."""


class Stall(NamedTuple):
    """A resource that stands still."""

    resource: str
    seconds: float
    waiting: int
    first: str
    """The agent that has waited the longest."""
    waited: float
    holders: tuple[tuple[str, float], ...]
    """Agents that hold a slot, and for how many seconds: the first few of them."""
    active: int
    pause: float
    """Seconds for which the provider still wants to be left alone."""
    pause_header: str | None
    """The header that states them."""

    def __str__(self) -> str:
        said = (
            f"nothing has moved at {self.resource} for {self.seconds:.0f} s: {self.waiting} wait, the first is"
            f" {self.first} since {self.waited:.0f} s"
        )
        if self.holders:
            held = ", ".join(f"{agent} since {seconds:.0f} s" for agent, seconds in self.holders)
            more = f" and {self.active - len(self.holders)} more" if self.active > len(self.holders) else ""
            said += f"; {self.active} hold: {held}{more}"
        if self.pause:
            said += f"; its provider asked for a pause of another {self.pause:.0f} s"
            said += f" in {self.pause_header}" if self.pause_header else ""
        return said


def detect_stall(pool: SlotPool, now: float) -> Stall | None:
    """Return what is to be told of a resource now; None where it moves, nobody waits, or this has been told."""
    oldest = [first for line in pool.queue_sets if (first := line.find_oldest_waiter()) is not None]
    if not oldest:
        return None
    first = min(oldest, key=attrgetter("waiting_since"))
    moved = max((lease.touched_at for lease in pool.leases.values()), default=0.0)
    since = max(moved, first.waiting_since)
    standstill = moved, sum(line.tick for line in pool.queue_sets)
    if now - since < STALL_AFTER or pool.reported_stall == standstill:
        return None
    pool.reported_stall = standstill
    return Stall(
        pool.name,
        now - since,
        sum(line.waiting for line in pool.queue_sets),
        first.request.agent,
        now - first.waiting_since,
        tuple(
            [(lease.request.agent, now - lease.granted_at) for lease in list(pool.leases.values())[:_MAX_NAMED_HOLDERS]]
        ),
        len(pool.leases),
        max(0.0, pool.paused_until - now),
        pool.pause_header,
    )
