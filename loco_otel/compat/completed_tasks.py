"""The tasks that an agent has completed: the last ones, and sums over all."""

from collections import deque
from collections.abc import Iterable
from typing import Any

from loco_otel._fork import ForkSafeLock
from loco_otel.compat.task import Task

COMPLETED = 1000
"""Completed tasks that an agent keeps."""


class CompletedTasks(list[Task]):
    """The last 1000 completed tasks; `total`, `waited` and `failed` count all of them.

    Threads append without a lock, as this is on the hot path; the sums are computed on access.

    Args:
        tasks: the tasks to start with.

    """

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        super().__init__()
        self._lock = ForkSafeLock()
        self._ages: deque[int] = deque()
        self._total = self._waited = self._failed = 0
        for task in tasks:
            self.append(task)

    def append(self, task: Task) -> None:
        """Add a task; above 1000 the first one is dropped."""
        list.append(self, task)
        self._ages.append(task._age)
        if len(self) > COMPLETED:
            del self[0]
            if len(self._ages) > COMPLETED:
                self._sum_ages()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_completed, (list(self), self.total, self.waited, self.failed)

    def fail(self) -> None:
        """Count a completed task as failed."""
        with self._lock:
            self._failed += 1

    @property
    def total(self) -> int:
        """Number of all completed tasks."""
        self._sum_ages()
        return self._total

    @property
    def waited(self) -> int:
        """Sum of the ages of all completed tasks."""
        self._sum_ages()
        return self._waited

    @property
    def failed(self) -> int:
        """Number of completed tasks that failed."""
        return self._failed

    def _sum_ages(self) -> None:
        with self._lock:
            while self._ages:
                self._waited += self._ages.popleft()
                self._total += 1


def _restore_completed(tasks: list[Task], total: int, waited: int, failed: int) -> CompletedTasks:
    completed = CompletedTasks()
    list.extend(completed, tasks)
    completed._total, completed._waited, completed._failed = total, waited, failed
    return completed
