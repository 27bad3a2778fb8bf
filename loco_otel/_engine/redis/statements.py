"""Limits as the step script takes and reports them."""

import json

from loco_otel._engine.redis.batches import LineState, Operation
from loco_otel._engine.shared_limits import SharedLimits


def make_statement(limits: SharedLimits, name: str, stated: int) -> Operation:
    """Return the statement of a resource's limits; `stated` is when it was first made, 0 for now."""
    shares = json.dumps(dict(limits.shares), sort_keys=True) if limits.shares else ""
    return [name, limits.capacity, limits.policy, repr(float(limits.alpha)), limits.max_wait_ticks, shares, stated]


def differ_from_line(limits: SharedLimits, line: LineState) -> bool:
    """Return whether other limits than these are in force."""
    mine = limits.capacity, limits.policy, float(limits.alpha), limits.max_wait_ticks
    return mine != (line.capacity, line.policy, float(line.alpha), line.guard)
