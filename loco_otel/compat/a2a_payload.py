"""What a request of the Agent2Agent protocol states about its task."""

from collections.abc import Mapping
from typing import Any

from loco_otel.compat.task import Task


def read_agent_name(payload: Mapping[str, Any]) -> str | None:
    """Return the agent that a payload names; None if it names none."""
    name = payload.get("agent_id")
    return name if isinstance(name, str) and name else None


def require_agent_name(payload: Mapping[str, Any]) -> str:
    """Return the agent that a payload names.

    Raises:
        ValueError: it names none.

    """
    name = read_agent_name(payload)
    if name is None:
        raise ValueError("agent_id is required, a non-empty string")
    return name


def make_task(payload: Mapping[str, Any], task_id: str | None = None) -> Task:
    """Return the task that a payload describes.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: the weight is invalid.

    """
    weight = payload.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise TypeError(f"weight must be a number, not {weight!r}")
    kind = str(payload.get("task_type") or "default")
    return Task(weight=weight, task_type=kind) if task_id is None else Task(task_id, weight=weight, task_type=kind)
