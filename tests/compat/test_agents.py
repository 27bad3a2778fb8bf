"""Tasks and agents: what programs read and write, and that the core's Q and D follow every such write."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loco_otel import Agent, AsyncLOCOScheduler, SharedResource, Task
from loco_otel._core.ticket import State, Ticket
from loco_otel.compat.completed_tasks import COMPLETED
from loco_otel.events import Request


def test_task_has_the_given_fields() -> None:
    task = Task()
    assert (task.weight, task.arrival_tick, task.age, task.task_type, task.labels) == (1.0, 0, 0, "default", None)
    assert len(task.task_id) == 12
    assert int(task.task_id, 16) >= 0
    assert task.task_id == task.task_id
    assert Task().task_id != Task().task_id
    assert repr(Task("t", 2.0, 1, 3, "x")) == "Task(task_id='t', weight=2.0, arrival_tick=1, age=3, task_type='x')"


@pytest.mark.parametrize("weight", [0.0, 0.99, -1.0, float("nan"), float("inf"), 1e10])
def test_weight_is_at_least_one(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be"):
        Task(weight=weight)
    task = Task()
    with pytest.raises(ValueError, match="weight must be"):
        task.weight = weight
    assert task.weight == 1.0


def test_agent_alone_is_a_queue() -> None:
    agent = Agent("a", name="A", agent_type="batch", tasks=[Task("young", 2.0), Task("old", 3.0, age=4)])
    assert (agent.queue_depth_weighted, agent.dmax) == (5.0, 4.0)
    agent.tasks[0].age = 9
    served = agent.serve_oldest_task()
    assert served is not None
    assert (served.task_id, served.age) == ("young", 9)
    assert [task.task_id for task in agent.completed_tasks] == ["young"]
    assert agent.serve_oldest_task() is not None
    assert agent.serve_oldest_task() is None
    assert (agent.queue_depth_weighted, agent.dmax) == (0.0, 0.0)
    assert repr(Agent("b")) == "Agent(agent_id='b', name='', agent_type='default', tasks=[], completed_tasks=[])"


def test_equally_old_tasks_are_served_in_order() -> None:
    agent = Agent("a", tasks=[Task("1"), Task("2"), Task("3")])
    agent.tasks.reverse()
    agent.tasks.insert(0, Task("4"))
    served = [task.task_id for _ in range(4) if (task := agent.serve_oldest_task()) is not None]
    assert served == ["4", "3", "2", "1"]


def test_invalid_or_queued_task_is_rejected() -> None:
    agent = Agent("a", tasks=[task := Task()])
    with pytest.raises(ValueError, match="queued already"):
        agent.tasks.append(task)
    with pytest.raises(ValueError, match="queued already"):
        Agent("b").tasks.append(task)
    for wrong in (None, "task", Agent("c")):
        with pytest.raises(TypeError, match="a queue holds tasks"):
            agent.tasks.append(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="twice"):
        agent.tasks *= 2
    assert agent.tasks == [task]


def raise_key_error(_: Task) -> int:
    raise KeyError("key")


REJECTED: dict[str, tuple[type[Exception], Callable[[Agent], object]]] = {
    "append a queued task": (ValueError, lambda agent: agent.tasks.append(agent.tasks[0])),
    "append no task": (TypeError, lambda agent: agent.tasks.append("task")),  # type: ignore[arg-type]
    "insert a queued task": (ValueError, lambda agent: agent.tasks.insert(0, agent.tasks[1])),
    "insert no task": (TypeError, lambda agent: agent.tasks.insert(0, "task")),  # type: ignore[arg-type]
    "set no task": (TypeError, lambda agent: agent.tasks.__setitem__(0, "task")),
    "set a task of another queue": (
        ValueError,
        lambda agent: agent.tasks.__setitem__(0, Agent("b", tasks=[Task()]).tasks[0]),
    ),
    "set no index": (IndexError, lambda agent: agent.tasks.__setitem__(9, Task())),
    "replace by no task": (TypeError, lambda agent: setattr(agent, "tasks", [Task(), "task"])),
    "remove a missing task": (ValueError, lambda agent: agent.tasks.remove(Task())),
    "pop no index": (IndexError, lambda agent: agent.tasks.pop(9)),
    "delete no index": (IndexError, lambda agent: agent.tasks.__delitem__(9)),
    "sort by a key that fails": (KeyError, lambda agent: agent.tasks.sort(key=raise_key_error)),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejected_change_of_a_list_changes_nothing(name: str) -> None:
    error, change = REJECTED[name]
    agent = Agent("a", tasks=[Task("queued", 2.0), Task("last", 3.0, age=4)])
    made = AsyncLOCOScheduler([agent], SharedResource("r"))
    with pytest.raises(error):
        change(agent)
    engine = made.resource.engine
    assert engine.take_snapshot().recoveries == 0
    assert [task.task_id for task in agent.tasks] == ["queued", "last"]
    assert (agent.tasks.backlog.count, agent.tasks.backlog.weight, agent.dmax) == (2, 5000, 4.0)
    assert [task.task_id for _ in range(2) if (task := agent.serve_oldest_task()) is not None] == ["last", "queued"]
    with pytest.raises(IndexError):
        agent.tasks.pop()
    assert engine.take_snapshot().recoveries == 0


def test_tasks_can_be_swapped() -> None:
    first, second = Task(age=2), Task(age=1)
    agent = Agent("a", tasks=[first, second])
    AsyncLOCOScheduler([agent], SharedResource("r"))
    agent.tasks[0], agent.tasks[1] = agent.tasks[1], agent.tasks[0]
    assert agent.tasks == [second, first]
    assert [agent.serve_oldest_task(), agent.serve_oldest_task()] == [first, second]


def test_completed_tasks_are_kept_up_to_a_bound() -> None:
    agent = Agent("a")
    for number in range(COMPLETED + 5):
        agent.tasks.append(Task(str(number), age=2))
        agent.serve_oldest_task()
    assert len(agent.completed_tasks) == COMPLETED
    assert agent.completed_tasks[0].task_id == "5"
    assert (agent.completed_tasks.total, agent.completed_tasks.waited) == (COMPLETED + 5, 2 * (COMPLETED + 5))


class Lists(RuleBasedStateMachine):
    """Any change of a list, and what the core makes of it, beside a plain list and plain ages."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = Agent("a")
        self.scheduler = AsyncLOCOScheduler([self.agent], SharedResource("r"))
        self.engine = self.scheduler.resource.engine
        self.model: list[tuple[Task, float]] = []
        holder = self.engine.create_ticket(Request("holder", 1000, ("r",)))
        self.engine.submit(holder)
        self.holder = holder
        waiter = Ticket(self.agent.tasks.binding.plain_request)  # type: ignore[union-attr]
        waiter.backlog = self.agent.tasks.backlog
        self.engine.submit(waiter)
        assert waiter.state is State.WAITING
        self.waiter = waiter

    def any_index(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.model) - 1))

    @rule(weight=st.integers(1, 5), age=st.integers(0, 9), where=st.none() | st.integers(-3, 9))
    def queue(self, weight: int, age: int, where: int | None) -> None:
        task = Task(weight=float(weight), age=age)
        if where is None:
            self.agent.tasks.append(task)
            self.model.append((task, float(weight)))
        else:
            self.agent.tasks.insert(where, task)
            self.model.insert(where, (task, float(weight)))

    @rule(weights=st.lists(st.integers(1, 5), max_size=3), how=st.sampled_from(["extend", "+=", "=", "[:]"]))
    def queue_many(self, weights: list[int], how: str) -> None:
        tasks = [Task(weight=float(weight)) for weight in weights]
        if how in {"=", "[:]"}:
            self.model.clear()
        self.model += [(task, task.weight) for task in tasks]
        if how == "extend":
            self.agent.tasks.extend(tasks)
        elif how == "+=":
            self.agent.tasks += tasks
        elif how == "=":
            self.agent.tasks = tasks  # type: ignore[assignment]
        else:
            self.agent.tasks[:] = tasks

    @precondition(lambda self: self.model)
    @rule(data=st.data(), how=st.sampled_from(["pop", "remove", "del", "replace"]))
    def take(self, data: st.DataObject, how: str) -> None:
        index = self.any_index(data)
        task, _ = self.model.pop(index)
        age = task.age
        if how == "pop":
            assert self.agent.tasks.pop(index) is task
        elif how == "remove":
            self.agent.tasks.remove(task)
        elif how == "del":
            del self.agent.tasks[index]
        else:
            self.agent.tasks[index] = fresh = Task(weight=2.0)
            self.model.insert(index, (fresh, 2.0))
        assert task.age == age  # and stays so

    @precondition(lambda self: self.model)
    @rule(data=st.data(), weight=st.integers(1, 9))
    def weigh(self, data: st.DataObject, weight: int) -> None:
        index = self.any_index(data)
        task = self.model[index][0]
        task.weight = float(weight)
        self.model[index] = (task, float(weight))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), age=st.integers(0, 20))
    def grow_old(self, data: st.DataObject, age: int) -> None:
        task = self.model[self.any_index(data)][0]
        task.age = age
        assert task.age == age

    @rule(how=st.sampled_from(["clear", "reverse", "sort"]))
    def turn(self, how: str) -> None:
        if how == "clear":
            self.agent.tasks.clear()
            self.model.clear()
        elif how == "reverse":
            self.agent.tasks.reverse()
            self.model.reverse()
        else:
            self.agent.tasks.sort(key=lambda task: task.weight)
            self.model.sort(key=lambda entry: entry[1])

    @precondition(lambda self: self.model)
    @rule()
    def serve(self) -> None:
        oldest = max(self.model, key=lambda entry: entry[0].age)
        assert self.agent.serve_oldest_task() is oldest[0]
        self.model.remove(oldest)

    @rule()
    def be_interrupted(self) -> None:
        self.engine._busy = True
        self.engine.run_due_actions()

    @rule()
    def leave_and_come_back(self) -> None:
        ages = [task.age for task in self.agent.tasks]
        self.agent.tasks.leave()
        self.agent.tasks.join(self.scheduler._bind_queue("a"))
        assert [task.age for task in self.agent.tasks] == ages

    @rule()
    def tick(self) -> None:
        ages = [task.age for task in self.agent.tasks]
        self.scheduler.resource.view._queue_set.tick += 1
        assert [task.age for task in self.agent.tasks] == [age + 1 for age in ages]

    @invariant()
    def the_list_is_the_list(self) -> None:
        assert list(self.agent.tasks) == [task for task, _ in self.model]
        assert self.agent.queue_depth_weighted == sum(weight for _, weight in self.model)
        assert self.agent.dmax == max((task.age for task, _ in self.model), default=0)

    @invariant()
    def the_core_sees_the_same(self) -> None:
        (standing,) = [one for one in self.engine.take_snapshot().resources[0].agents if one.agent == "a"]
        assert standing.waiting == 1
        assert standing.queue_weight == sum(1000 * weight for _, weight in self.model)
        if self.model:
            assert standing.queue_age == max(task.age for task, _ in self.model)
        assert self.agent.tasks.backlog.count == len(self.model)


TestLists = Lists.TestCase


@pytest.fixture
def scheduler() -> Callable[..., Any]:
    return lambda *agents: AsyncLOCOScheduler(agents, SharedResource("r"))


def test_ages_follow_a_moved_agent(scheduler: Callable[..., Any]) -> None:
    agent = Agent("a", tasks=[Task(age=3)])
    first = scheduler(agent)
    assert first.unregister_agent("a") is agent
    assert agent.dmax == 3.0
    second = scheduler(agent)
    assert second.get_agent("a").tasks.backlog.weight == 1000
    assert agent.dmax == 3.0
    assert first.agents == {}
