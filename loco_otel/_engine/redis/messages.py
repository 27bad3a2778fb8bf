"""What the shared engine logs."""

from collections.abc import Mapping

from loco_otel._engine.redis.batches import LineState
from loco_otel._engine.shared_limits import SharedLimits
from loco_otel.snapshots import EngineMode

BACK_MESSAGE = "the shared engine (LOCO_ENGINE) answers again: it grants the slots for all processes"

_EFFECTS = {
    EngineMode.CLOSED: "calls wait until it answers or LOCO_ACQUIRE_TIMEOUT ends their wait",
    EngineMode.OPEN: "calls are not limited",
}


def describe_absence(mode: EngineMode, error: Exception | None, shares: Mapping[str, float]) -> str:
    """Return the message of an engine that is away."""
    effect = _EFFECTS.get(mode) or "this process grants its share: " + ", ".join(
        f"at most {share} concurrent calls of {name}" for name, share in shares.items()
    )
    reason = str(error) or type(error).__name__
    return f"the shared engine (LOCO_ENGINE) does not answer ({reason}): {effect} (LOCO_ENGINE_ON_ERROR={mode})"


def describe_difference(line: LineState, statement: SharedLimits) -> str:
    """Return the message of limits that another process has stated since."""
    pairs = (
        ("capacity", line.capacity, statement.capacity),
        ("policy", line.policy, statement.policy),
        ("alpha", float(line.alpha), statement.alpha),
        ("max_wait_ticks", line.guard, statement.max_wait_ticks),
    )
    different = ", ".join(f"{name} {theirs}, not {ours}" for name, theirs, ours in pairs if theirs != ours)
    return (
        f"another process has stated other limits of {line.name} since this one started, and they are in force for "
        f"all: {different}; give all processes the same settings"
    )
