"""The event log: one JSON object per record on the logger `loco_otel.scheduler`.

The logger's parent is loco-agent's `loco.scheduler`, whose ancestor is `loco_otel`: handlers and levels of loco-agent's
logger keep working, and no handler gets a record twice. Schedulers call nothing here unless the level is enabled.
"""

import json
import logging
from typing import Any

from loco_otel.compat.task import Task

logger = logging.getLogger("loco_otel.scheduler")

_loco_agent_logger = logging.getLogger("loco.scheduler")
# Both are created here, as the logging module sets a logger's parent when it creates the logger or an ancestor.
logging.getLogger("loco").parent = logging.getLogger("loco_otel")
logger.parent = _loco_agent_logger

INFO = logging.INFO
WARNING = logging.WARNING


def emit_enqueue(tick: int, agent_id: str, task: Task, queue_depth: float, resource_name: str) -> dict[str, Any]:
    """Log that a task was queued."""
    data = {**_build_event(tick, "enqueue", agent_id, task), "queue_depth": queue_depth, "resource": resource_name}
    return _emit_event(INFO, data)


def emit_grant(
    tick: int,
    agent_id: str,
    task: Task | None,
    score: float,
    queue_depth: float,
    dmax: float,
    resource_name: str,
    utilization: float,
    cumulative_cost: float,
    budget_remaining: float | None = None,
) -> dict[str, Any]:
    """Log a grant, with the Q, D and L of the decision."""
    data = {
        **_build_event(tick, "grant", agent_id, task),
        "score": score,
        "queue_depth": queue_depth,
        "dmax": dmax,
        "resource": resource_name,
        "utilization": utilization,
        "agent_cumulative_cost": cumulative_cost,
    }
    if budget_remaining is not None:
        data["budget_remaining"] = budget_remaining
    return _emit_event(INFO, data)


def emit_release(tick: int, agent_id: str, task: Task | None, resource_name: str, utilization: float) -> dict[str, Any]:
    """Log a release."""
    data = {**_build_event(tick, "release", agent_id, task), "resource": resource_name, "utilization": utilization}
    return _emit_event(INFO, data)


def emit_timeout(tick: int, agent_id: str, resource_name: str) -> dict[str, Any]:
    """Log a timeout."""
    return _emit_event(INFO, {"tick": tick, "event": "timeout", "agent": agent_id, "resource": resource_name})


def emit_budget_exceeded(
    tick: int,
    agent_id: str,
    task: Task,
    current: float,
    limit: float | None,
    action: str,
    resource_name: str,
) -> dict[str, Any]:
    """Log that a task exceeds its agent's budget."""
    data = {
        **_build_event(tick, "budget_exceeded", agent_id, task),
        "current_spend": current,
        "budget_limit": limit,
        "action": action,
        "resource": resource_name,
    }
    return _emit_event(WARNING, data)


def emit_error(tick: int, agent_id: str, error: str, resource_name: str) -> dict[str, Any]:
    """Log that the body of a lease raised."""
    return _emit_event(
        INFO, {"tick": tick, "event": "error", "agent": agent_id, "error": error, "resource": resource_name}
    )


def _build_event(tick: int, event: str, agent_id: str, task: Task | None) -> dict[str, Any]:
    data: dict[str, Any] = {"tick": tick, "event": event, "agent": agent_id, "task_id": None, "task_cost": 0}
    if task is not None:
        data["task_id"] = task.task_id
        data["task_cost"] = task.weight
        if task.labels:
            data["labels"] = dict(task.labels)
    return data


def _emit_event(level: int, data: dict[str, Any]) -> dict[str, Any]:
    if logger.isEnabledFor(level):
        logger.log(level, "%s", json.dumps(data))
    return data
