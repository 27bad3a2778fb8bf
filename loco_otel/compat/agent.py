"""Agents of loco-agent's API, with the tasks that they have queued and completed."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, SupportsIndex, TypeVar

from loco_otel._core.backlog import Backlog
from loco_otel._core.ticket import Ticket
from loco_otel._waiting import ownership
from loco_otel.compat.completed_tasks import CompletedTasks
from loco_otel.compat.queue_binding import QueueBinding
from loco_otel.compat.task import Task

_Result = TypeVar("_Result")


class Clock:
    """The tick of a queue without a scheduler: constant unless its owner changes it."""

    __slots__ = ("tick",)

    def __init__(self) -> None:
        self.tick = 0


class TaskList(list[Task]):
    """An agent's queue. Programs may change it like any list, with immediate effect on the scheduler.

    A task whose slot is granted stays in the list until it is served, but does not count as queued.

    Args:
        tasks: the tasks to start with.

    """

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        super().__init__()
        self.backlog = Backlog(self)
        self.binding: QueueBinding | None = None
        self.clock: Any = Clock()
        self._dropped: deque[Task] = deque()
        for task in tasks:
            self.append(task)

    @property
    def tick(self) -> int:
        """The time from which the ages of the tasks are computed."""
        tick: int = self.clock.tick
        return tick

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it with the ages of its tasks, but without a scheduler."""
        return TaskList, (list(self),)

    # -- operations of schedulers ---------------------------------------------------------------------------------

    def join(self, binding: QueueBinding) -> None:
        """Queue the tasks at a scheduler from now on; they keep their ages."""
        self.leave()

        def move() -> None:
            self._replace_clock(binding.resource)
            self.binding = binding
            for task in self:
                task.request = binding.get_request(task)
            self.backlog.rebuild_index()

        binding.attach_backlog(self.backlog, move)

    def leave(self) -> None:
        """Leave the scheduler; the tasks keep their ages. No-op without one."""
        binding, self.binding = self.binding, None
        if binding is not None:
            binding.detach_backlog(self.backlog, lambda: self._replace_clock(Clock()))
            self.backlog.rebuild_index()

    def ask_for_admission(self, admission: bool) -> None:  # noqa: FBT001 - the only argument
        """Set whether later requests need the admission of a budget."""
        binding = self.binding
        if binding is not None:
            binding.set_admission(admission)
            for task in self:
                task.request = binding.get_request(task)

    def follow(self, clock: Clock) -> None:
        """Leave the scheduler, and compute ages from another clock."""
        self.leave()
        self._replace_clock(clock)
        self.backlog.rebuild_index()

    def serve(self, completed: CompletedTasks) -> Task | None:
        """Complete the task of the current slot, else any task with a slot, else the oldest.

        Returns:
            The task; None if the queue is empty.

        """
        if len(self) > self.backlog.count:
            ticket = ownership.current_ticket()
            task: Any = None if ticket is None else ticket.work
            if task is not None and self.complete(task, completed):
                own: Task = task
                return own
        return self._run_edit(self._serve_task, completed)

    def complete(self, task: Task, completed: CompletedTasks) -> bool:
        """Complete a task with a slot; return False if it is no longer in this list.

        Needs no lock: the core holds nothing that depends on the task any more, and its removal is one step.
        """
        if task.queue is not self:
            return False
        try:
            list.remove(self, task)
        except ValueError:
            return False
        task.part()
        completed.append(task)
        return True

    def withdraw(self, task: Task) -> None:
        """Remove a task that is not completed. Idempotent."""
        self._run_edit(lambda: self._remove_task(task) if task.queue is self else None)

    def withdraw_later(self, task: Task) -> None:
        """Remove a task with the next task that is queued or claimed. For finalizers: takes no lock."""
        self._dropped.append(task)

    def claim(self, task: Task, ticket: Ticket) -> None:
        """Add a task that is bound to a ticket, so that it counts as the ticket's and not as queued.

        Needs no lock, as nothing else depends on the task.
        """
        if self._dropped:
            self._run_edit(self._remove_dropped)
        task.birth = self.clock.tick - task._age
        task.holder = ticket
        list.append(self, task)
        task.queue = self

    def reweigh(self, task: Task, weight: float, milli: int) -> None:
        """Change the weight of a task in this list."""

        def change() -> None:
            before = task.milli
            task.put(weight, milli)
            self.backlog.update_weight(task, before)
            if self.binding is not None:
                task.request = self.binding.get_request(task)
            self._refresh_queue()

        self._run_edit(change)

    def set_age(self, task: Task, age: int) -> None:
        """Change the age of a task in this list."""

        def change() -> None:
            task.birth += task.age - age
            self.backlog.mark_stale()
            self._refresh_queue()

        self._run_edit(change)

    # -- operations of a list -------------------------------------------------------------------------------------

    def append(self, task: Task) -> None:
        """Queue a task.

        Raises:
            TypeError: it is no task.
            ValueError: it is queued already.

        """
        _check_type(task)
        binding = self.binding
        if not (self._append_task(task) if binding is None else binding.edit(self._append_task, task)):
            raise _make_queued_error(task)

    def extend(self, tasks: Iterable[Task]) -> None:
        """Queue tasks."""
        for task in tasks:
            self.append(task)

    def insert(self, index: SupportsIndex, task: Task) -> None:
        """Queue a task at a position of the list. The position only matters between tasks of equal age."""
        _check_type(task)
        if task.queue is not None:
            raise _make_queued_error(task)
        self._apply_change(lambda: super(TaskList, self).insert(index, task))

    def remove(self, task: Task) -> None:
        """Remove a task."""
        self._apply_change(lambda: super(TaskList, self).remove(task))

    def pop(self, index: SupportsIndex = -1) -> Task:
        """Remove and return the task at a position of the list."""
        return self._apply_change(lambda: super(TaskList, self).pop(index))

    def clear(self) -> None:
        """Remove all tasks."""
        self._apply_change(super().clear)

    def reverse(self) -> None:
        """Reverse the list: of equally old tasks the first is served first."""
        self._apply_change(super().reverse)

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        """Sort the list: of equally old tasks the first is served first."""
        self._apply_change(lambda: super(TaskList, self).sort(key=key, reverse=reverse))

    def __setitem__(self, index: Any, value: Any) -> None:
        tasks = [value]
        if isinstance(index, slice):
            tasks = value = list(value)
        for task in tasks:
            _check_type(task)
            if task.queue is not None and task.queue is not self:
                raise _make_queued_error(task)
        self._apply_change(lambda: super(TaskList, self).__setitem__(index, value))

    def __delitem__(self, index: Any) -> None:
        self._apply_change(lambda: super(TaskList, self).__delitem__(index))

    def __iadd__(self, tasks: Iterable[Task]) -> "TaskList":  # type: ignore[override,misc]  # as a list's
        self.extend(tasks)
        return self

    def __imul__(self, count: SupportsIndex) -> "TaskList":
        raise TypeError("a task cannot be queued twice: create new tasks")

    # -- steps, each within an operation of the engine ------------------------------------------------------------

    def _run_edit(self, change: Callable[..., _Result], *args: object) -> _Result:
        binding = self.binding
        return change(*args) if binding is None else binding.edit(change, *args)

    def _refresh_queue(self) -> None:
        binding = self.binding
        if binding is not None:
            binding.refresh_agent()

    def _append_task(self, task: Task) -> bool:
        if task.queue is not None:
            return False
        self._prepare_task(task)
        list.append(self, task)
        task.queue = self
        self.backlog.add_work(task)
        binding = self.binding
        if binding is not None:
            binding.refresh_agent()
        return True

    def _remove_dropped(self) -> None:
        while self._dropped:
            dropped = self._dropped.popleft()
            if dropped.queue is self:
                self._remove_task(dropped)

    def _prepare_task(self, task: Task) -> None:
        if self._dropped:
            self._remove_dropped()
        task.birth = self.clock.tick - task._age
        binding = self.binding
        if binding is not None:
            task.request = binding.get_request(task)

    def _serve_task(self, completed: CompletedTasks) -> Task | None:
        task: Any = None
        if len(self) > self.backlog.count:
            task = next((task for task in self if task.holder is not None), None)
        task = task or self.backlog.find_oldest_work()
        if task is not None:
            self._remove_task(task)
            completed.append(task)
        served: Task | None = task
        return served

    def _remove_task(self, task: Task) -> None:
        super().__delitem__(0 if self[0] is task else self.index(task))
        if task.entry is None:
            task.part()
        else:
            self.backlog.remove_work(task)
            task.part()
            self._refresh_queue()

    def _apply_change(self, change: Callable[[], _Result]) -> _Result:
        """Make any change of the list, and rebuild what is derived from it, also if the change raises."""

        def edit() -> tuple[_Result] | Exception:
            before = list(self)
            try:
                return (change(),)
            except Exception as error:
                return error  # raised in here, it would count as an interruption of the operation
            finally:
                self._reconcile_tasks(before)

        outcome = self._run_edit(edit)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome[0]

    def _reconcile_tasks(self, before: list[Task]) -> None:
        kept = {id(task) for task in self}
        for task in before:
            if id(task) not in kept:
                task.part()
        for task in self:
            if task.queue is not self:
                self._prepare_task(task)
                task.queue = self
        self.backlog.rebuild_index()
        self._refresh_queue()

    def _replace_clock(self, clock: Any) -> None:
        """Replace the clock; each task keeps its age."""
        ages = [task.age for task in self]
        self.clock = clock
        for task, age in zip(self, ages, strict=True):
            task.birth = self.tick - age
            task.holder = None


def _check_type(task: object) -> None:
    if not isinstance(task, Task):
        raise TypeError(f"a queue holds tasks, not {task!r}")


def _make_queued_error(task: Task) -> ValueError:
    return ValueError(f"{task!r} is queued already: remove it from its list first")


class Agent:
    """A requester of slots, with the tasks that it has queued and completed.

    Args:
        agent_id: its name.
        name: a display name.
        agent_type: the kind of agent.
        tasks: its queued tasks.
        completed_tasks: its completed tasks.

    Example:
        >>> agent = Agent('analyst', tasks=[Task('summary', weight=2.0)])
        >>> agent.queue_depth_weighted
        2.0

    """

    def __init__(
        self,
        agent_id: str,
        name: str = "",
        agent_type: str = "default",
        tasks: Iterable[Task] = (),
        completed_tasks: Iterable[Task] = (),
    ) -> None:
        self.agent_id = agent_id
        self.name = name
        self.agent_type = agent_type
        self._tasks = TaskList(tasks)
        self.completed_tasks = CompletedTasks(completed_tasks)

    @property
    def tasks(self) -> TaskList:
        """Its queued tasks, and those with a slot."""
        return self._tasks

    @tasks.setter
    def tasks(self, tasks: Iterable[Task]) -> None:
        self._tasks[:] = tasks

    @property
    def queue_depth_weighted(self) -> float:
        """The total weight of its tasks: Qi."""
        return sum(task.weight for task in self._tasks)

    @property
    def dmax(self) -> float:
        """The age of its oldest task in ticks: Di."""
        return float(max((task.age for task in self._tasks), default=0))

    def serve_oldest_task(self) -> Task | None:
        """Move a task to the completed ones and return it; None if there is none.

        It is the task that the caller's slot was granted for; without a slot, the oldest.
        """
        return self._tasks.serve(self.completed_tasks)

    def __repr__(self) -> str:
        return (
            f"Agent(agent_id={self.agent_id!r}, name={self.name!r}, agent_type={self.agent_type!r}, "
            f"tasks={self._tasks!r}, completed_tasks={self.completed_tasks!r})"
        )
