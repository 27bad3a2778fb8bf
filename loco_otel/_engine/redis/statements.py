"""Limits as the step script takes and reports them."""

from math import inf

from loco_otel._engine.redis.batches import LineState, Operation
from loco_otel._engine.redis.resp import format_json
from loco_otel._engine.shared_limits import SharedLimits

_AUTO = "auto"


def make_statement(limits: SharedLimits, name: str, stated: int) -> Operation:
    """Return the statement of a resource's limits; `stated` is when it was first made, 0 for now."""
    shares = format_json(dict(sorted(limits.shares.items()))) if limits.shares else ""
    order = limits.policy, repr(float(limits.alpha)), limits.max_wait_ticks, shares
    rates = repr(limits.requests_per_minute or 0), repr(limits.tokens_per_minute or 0)
    capacity = -1 if limits.capacity is None else limits.capacity
    return [name, capacity, *order, stated, *rates, repr(float(limits.capacity_max)), int(limits.auto_tune)]


def differ_from_line(limits: SharedLimits, line: LineState) -> bool:
    """Return whether other limits than these are in force."""
    return list_facts(limits) != list_line_facts(line)


def apply_line(limits: SharedLimits, line: LineState | None) -> SharedLimits:
    """Return the capacity and the rates in force, as far as the engine has reported them."""
    if line is None:
        return limits
    return limits._replace(
        capacity=None if line.capacity == inf else int(line.capacity),
        capacity_max=inf if line.auto is None else line.auto.ceiling,
        requests_per_minute=line.requests and line.requests.per_minute,
        tokens_per_minute=line.tokens and line.tokens.per_minute,
    )


def list_facts(limits: SharedLimits) -> list[tuple[str, object]]:
    """Return the limits by the names of their settings."""
    return [
        ("capacity", _AUTO if limits.capacity is None else limits.capacity),
        ("capacity_max", limits.capacity_max if limits.capacity is None else inf),
        ("policy", limits.policy),
        ("alpha", float(limits.alpha)),
        ("auto_tune", limits.auto_tune),
        ("max_wait_ticks", limits.max_wait_ticks),
        ("requests_per_minute", limits.requests_per_minute),
        ("tokens_per_minute", limits.tokens_per_minute),
    ]


def list_line_facts(line: LineState) -> list[tuple[str, object]]:
    """Return the limits in force, in the order of `list_facts`."""
    return [
        ("capacity", line.capacity if line.auto is None else _AUTO),
        ("capacity_max", inf if line.auto is None else line.auto.ceiling),
        ("policy", line.policy),
        ("alpha", float(line.tuned_from or line.alpha)),
        ("auto_tune", bool(line.tuned_from)),
        ("max_wait_ticks", line.guard),
        ("requests_per_minute", line.requests and line.requests.per_minute),
        ("tokens_per_minute", line.tokens and line.tokens.per_minute),
    ]
