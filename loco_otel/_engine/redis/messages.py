"""What the shared engine logs."""

from collections.abc import Mapping

from loco_otel._engine.redis.batches import LineState
from loco_otel._engine.redis.statements import list_facts, list_line_facts
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.snapshots import EngineMode

BACK_MESSAGE = "the shared engine (LOCO_ENGINE) answers again: it grants the slots for all processes"

_EFFECTS = {
    EngineMode.CLOSED: "calls wait until it answers or LOCO_ACQUIRE_TIMEOUT ends their wait",
    EngineMode.OPEN: "calls are not limited",
}


def describe_absence(mode: EngineMode, error: Exception | None, shares: Mapping[str, SharedLimits]) -> str:
    """Return the message of an engine that is away."""
    limits = ", ".join(f"at most {text} of {name}" for name, it in shares.items() if (text := _describe_share(it)))
    effect = _EFFECTS.get(mode) or f"this process grants its share: {limits or 'no limit is known yet'}"
    reason = str(error) or type(error).__name__
    return f"the shared engine (LOCO_ENGINE) does not answer ({reason}): {effect} (LOCO_ENGINE_ON_ERROR={mode})"


def describe_difference(line: LineState, statement: SharedLimits) -> str:
    """Return the message of limits that another process has stated since."""
    pairs = zip(list_line_facts(line), list_facts(statement), strict=True)
    different = ", ".join(f"{name} {theirs}, not {ours}" for (name, theirs), (_, ours) in pairs if theirs != ours)
    return (
        f"another process has stated other limits of {line.name} since this one started, and they are in force for "
        f"all: {different}; give all processes the same settings"
    )


def _describe_share(share: SharedLimits) -> str:
    parts = [] if share.capacity is None else [f"{share.capacity} concurrent calls"]
    parts += [f"{share.requests_per_minute:g} requests per minute"] if share.requests_per_minute else []
    parts += [f"{share.tokens_per_minute:g} tokens per minute"] if share.tokens_per_minute else []
    return ", ".join(parts)
