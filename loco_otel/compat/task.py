"""A unit of work of loco-agent's API."""

import os
from collections.abc import Mapping
from typing import Any, Protocol

from loco_otel._core.ticket import Ticket
from loco_otel.events import MILLI, Request

_MAX_WEIGHT = 1e9
"""Up to this weight sums of milli-weights are exact."""


class TaskQueue(Protocol):
    """The list that a task is in."""

    @property
    def tick(self) -> int:
        """The time from which the ages of its tasks are computed."""

    def reweigh(self, task: "Task", weight: float, milli: int) -> None:
        """Change the weight of a task in this list."""

    def set_age(self, task: "Task", age: int) -> None:
        """Change the age of a task in this list."""


class Task:
    """A piece of work of an agent, and its weight.

    `age` is the number of ticks for which it has been queued; it stays constant once a slot is granted for it. Both
    `age` and `weight` may be assigned at any time, with immediate effect.

    Args:
        task_id: an identifier; None generates 12 hexadecimal digits.
        weight: the size of the work, at least 1.0. None means the average of tasks of its type, see
            `SchedulerMetrics.record_actual_tokens`, and 1.0 without one.
        arrival_tick: the tick of its arrival; not used here.
        age: ticks that it has already waited.
        task_type: the kind of work.
        labels: further values for programs that read events.

    Raises:
        ValueError: the weight is invalid.

    Example:
        >>> task = Task('summary', weight=2.0)
        >>> task.weight, task.age
        (2.0, 0)

    """

    # Class attributes as defaults, as tasks are created on the hot path.
    request: Request
    birth = 0
    """The tick at which its age was 0, while it is queued."""
    holder: Ticket | None = None
    """The ticket whose slot was granted for it."""
    entry: list[Any] | None = None
    """Its place in the backlog, set by that."""
    queue: TaskQueue | None = None
    """The list that it is in."""
    milli = MILLI
    _weight: float = 1.0

    def __init__(
        self,
        task_id: str | None = None,
        weight: float | None = None,
        arrival_tick: int = 0,
        age: int = 0,
        task_type: str = "default",
        *,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._id = task_id
        self.learns = weight is None
        """Whether its weight was not stated, so that the learnt one applies."""
        if weight is not None:
            self.milli = _convert_to_milli(weight)
            self._weight = weight
        self.arrival_tick = arrival_tick
        self._age = age
        self.task_type = task_type
        self.labels = labels

    @property
    def task_id(self) -> str:
        """Its identifier."""
        if self._id is None:
            # Generated on first use, as most tasks never need one.
            self._id = os.urandom(6).hex()
        return self._id

    @task_id.setter
    def task_id(self, task_id: str) -> None:
        self._id = task_id

    @property
    def weight(self) -> float:
        """The size of the work."""
        return self._weight

    @weight.setter
    def weight(self, weight: float) -> None:
        milli = _convert_to_milli(weight)
        queue = self.queue
        self.learns = False
        if queue is None:
            self._weight, self.milli = weight, milli
        else:
            queue.reweigh(self, weight, milli)

    @property
    def age(self) -> int:
        """Ticks for which it has waited."""
        queue = self.queue
        if queue is None:
            return self._age
        holder = self.holder
        if holder is None or holder.state.is_unheld:
            return queue.tick - self.birth
        # Its age is constant since the grant.
        return holder.birth + holder.waited_ticks - self.birth

    @age.setter
    def age(self, age: int) -> None:
        queue = self.queue
        if queue is None:
            self._age = age
        else:
            queue.set_age(self, age)

    def put(self, weight: float, milli: int) -> None:
        """Set the weight without notifying its list. Called by that list."""
        self._weight, self.milli = weight, milli

    def part(self) -> None:
        """Detach it from its list and keep its age. Called by that list."""
        self._age = self.age
        self.queue = None
        self.holder = None
        self.entry = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it with its age, but outside any queue."""
        arguments = self.task_id, self._weight, self.learns, self.arrival_tick, self.age, self.task_type, self.labels
        more = {name: value for name, value in vars(self).items() if name not in _OWN_ATTRIBUTES}
        return _restore_task, (type(self), *arguments), more

    def __repr__(self) -> str:
        return (
            f"Task(task_id={self.task_id!r}, weight={self.weight}, arrival_tick={self.arrival_tick}, age={self.age}, "
            f"task_type={self.task_type!r})"
        )


_OWN_ATTRIBUTES = {"_age", "_id", "_weight", *Task.__annotations__, *vars(Task()), "birth", "milli"}
"""Attributes of this class; others belong to subclasses."""


def _restore_task(kind: type[Task], task_id: str, weight: float, learns: bool, *arguments: Any) -> Task:  # noqa: FBT001 - for pickle
    arrival_tick, age, task_type, labels = arguments
    task = kind.__new__(kind)
    Task.__init__(task, task_id, weight, arrival_tick, age, task_type, labels=labels)
    task.learns = learns
    return task


def _convert_to_milli(weight: float) -> int:
    """Return a weight in milli-weights.

    Raises:
        ValueError: it is invalid.

    """
    if not 1.0 <= weight <= _MAX_WEIGHT:
        raise ValueError(f"Task weight must be >= 1.0 and at most {_MAX_WEIGHT:.0f}, not {weight!r}")
    return round(weight * MILLI)
