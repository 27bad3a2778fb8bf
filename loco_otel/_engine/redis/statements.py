"""Limits as the step script takes and reports them."""

import json
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
    facts = repr(float(limits.capacity_max)), int(limits.auto_tune), format_order(limits)
    return [name, capacity, *order, stated, *rates, *facts]


def format_order(limits: SharedLimits) -> str:
    """Return what few settings of the order state: JSON, empty if all have their defaults."""
    facts: dict[str, object] = {}
    if limits.by_run:
        facts["by_run"] = 1
    if limits.tenant_shares:
        facts["tenant_shares"] = dict(sorted(limits.tenant_shares.items()))
    if limits.policy == "las":
        # As text: JSON has no infinity.
        facts |= {"half_life": repr(float(limits.half_life)), "idle_timeout": repr(float(limits.run_idle_timeout))}
    return format_json(facts) if facts else ""


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
        *_list_order_facts(format_order(limits)),
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
        *_list_order_facts(line.order),
    ]


def _list_order_facts(order: str) -> list[tuple[str, object]]:
    facts = json.loads(order) if order else {}
    return [
        ("queue_by", "run" if facts.get("by_run") else "agent"),
        ("tenant_shares", facts.get("tenant_shares", {})),
        ("half_life", float(facts.get("half_life", inf))),
        ("run_idle_timeout", float(facts.get("idle_timeout", inf))),
    ]
