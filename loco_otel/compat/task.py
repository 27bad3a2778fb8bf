"""A unit of work, as the seed's programs queue them."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loco_otel._core.lazy_heap import Entry
from loco_otel._core.ticket import Ticket
from loco_otel.events import MILLI, Request

if TYPE_CHECKING:
    from loco_otel.compat.agent import TaskList

_MAX_WEIGHT = 1e9
"""So that sums of milli-weights are exact."""


class Task:
    """What an agent has to do, and how heavy it is.

    `age` counts the ticks that it has been queued; once a holder has it, it ages no more. Both `age` and `weight` may
    be written at any time, and count at once.

    Args:
        task_id: 12 hexadecimal digits when None.
        weight: how heavy it is, at least 1.0. When None, what tasks of its type have really taken, see
            `SchedulerMetrics.record_actual_tokens`, and 1.0 until that is known.
        arrival_tick: when it came; nothing here looks at it.
        age: ticks that it has waited already.
        task_type: what kind of work it is.
        labels: more about it, for programs that read events.

    Raises:
        ValueError: the weight cannot be used.

    """

    # Defaults on the class: making a task is on the hot path.
    request: Request
    birth = 0
    """The tick at which its age was 0, while it is queued."""
    holder: Ticket | None = None
    """Who works at it."""
    entry: Entry | None = None
    queue: "TaskList | None" = None
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
        """Whether nobody said what it weighs."""
        if weight is not None:
            self.milli = _convert_to_milli(weight)
            self._weight = weight
        self.arrival_tick = arrival_tick
        self._age = age
        self.task_type = task_type
        self.labels = labels

    @property
    def task_id(self) -> str:
        """Its name."""
        if self._id is None:
            # Made when somebody looks: most tasks live and die without one.
            self._id = os.urandom(6).hex()
        return self._id

    @task_id.setter
    def task_id(self, task_id: str) -> None:
        self._id = task_id

    @property
    def weight(self) -> float:
        """How heavy it is."""
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
        """Ticks that it has waited."""
        queue = self.queue
        if queue is None:
            return self._age
        holder = self.holder
        if holder is None or holder.state.is_unheld:
            return queue.tick - self.birth
        # It stopped ageing when its holder was granted.
        return holder.birth + holder.waited_ticks - self.birth

    @age.setter
    def age(self, age: int) -> None:
        queue = self.queue
        if queue is None:
            self._age = age
        else:
            queue.set_age(self, age)

    def put(self, weight: float, milli: int) -> None:
        """Set the weight. For the list that it is in: nothing is told."""
        self._weight, self.milli = weight, milli

    def part(self) -> None:
        """Take it out of its list, at the age that it has. For that list."""
        self._age = self.age
        self.queue = None
        self.holder = None
        self.entry = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it as one that is in no queue, with the age that it has."""
        said = self.task_id, self._weight, self.learns, self.arrival_tick, self.age, self.task_type, self.labels
        more = {name: value for name, value in vars(self).items() if name not in _OWN_ATTRIBUTES}
        return _restore_task, (type(self), *said), more

    def __repr__(self) -> str:
        return (
            f"Task(task_id={self.task_id!r}, weight={self.weight}, arrival_tick={self.arrival_tick}, age={self.age}, "
            f"task_type={self.task_type!r})"
        )


_OWN_ATTRIBUTES = {"_age", "_id", "_weight", *Task.__annotations__, *vars(Task()), "birth", "milli"}
"""Attributes that are a task's, not a subclass's."""


def _restore_task(kind: type[Task], task_id: str, weight: float, learns: bool, *said: Any) -> Task:  # noqa: FBT001 - for pickle
    arrival_tick, age, task_type, labels = said
    task = kind.__new__(kind)
    Task.__init__(task, task_id, weight, arrival_tick, age, task_type, labels=labels)
    task.learns = learns
    return task


def _convert_to_milli(weight: float) -> int:
    """Return a weight in thousandths.

    Raises:
        ValueError: it cannot be used.

    """
    if not 1.0 <= weight <= _MAX_WEIGHT:
        raise ValueError(f"Task weight must be >= 1.0 and at most {_MAX_WEIGHT:.0f}, not {weight!r}")
    return round(weight * MILLI)
