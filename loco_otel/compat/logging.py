"""The event log: one JSON object per record on the logger `loco_otel.scheduler`.

The logger's parent is the seed's, `loco.scheduler`, and above that stands `loco_otel`: handlers and levels set on the
seed's name keep working, and no handler sees a record twice. Schedulers call nothing here unless somebody listens.
"""

import json
import logging
from typing import Any

from loco_otel.compat.task import Task

logger = logging.getLogger("loco_otel.scheduler")

_loco_agent_logger = logging.getLogger("loco.scheduler")
# Both made now: the logging module sets a logger's parent when it makes the logger or one above it.
logging.getLogger("loco").parent = logging.getLogger("loco_otel")
logger.parent = _loco_agent_logger

INFO = logging.INFO
WARNING = logging.WARNING


def emit_enqueue(tick: int, agent_id: str, task: Task, queue_depth: float, resource_name: str) -> dict[str, Any]:
    """Tell that a task was queued."""
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
    """Tell that an agent got a slot; Q, D and L are those that the decision was made by."""
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
    """Tell that an agent gave its slot back."""
    data = {**_build_event(tick, "release", agent_id, task), "resource": resource_name, "utilization": utilization}
    return _emit_event(INFO, data)


def emit_timeout(tick: int, agent_id: str, resource_name: str) -> dict[str, Any]:
    """Tell that an agent got no slot within the time allowed."""
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
    """Tell that a task does not fit into its agent's budget."""
    data = {
        **_build_event(tick, "budget_exceeded", agent_id, task),
        "current_spend": current,
        "budget_limit": limit,
        "action": action,
        "resource": resource_name,
    }
    return _emit_event(WARNING, data)


def emit_error(tick: int, agent_id: str, error: str, resource_name: str) -> dict[str, Any]:
    """Tell that an agent's work failed."""
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
