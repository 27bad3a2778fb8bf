"""What becomes of the library's objects where they are copied, pickled, or found in a forked child."""

import asyncio
import copy
import os
import pickle
from collections.abc import Callable

import pytest
from forked_child import run_in_child

import loco_otel
from loco_otel import Agent, AsyncLOCOScheduler, BudgetManager, SharedResource, Task
from loco_otel._runtime import process
from loco_otel.compat.completed_tasks import COMPLETED


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_agent_can_be_copied_and_pickled_with_its_tasks(again: Callable[[Agent], Agent]) -> None:
    class_of_own = Noted("urgent", weight=2.0, age=3)
    class_of_own.note = "mine"
    agent = Agent("a", tasks=[class_of_own, Task("learns")])
    made = AsyncLOCOScheduler([Agent("b")], SharedResource("r", 1))
    made.register_agent(agent)
    for number in range(COMPLETED + 1):
        agent.tasks.append(Task(str(number), age=9))
        assert agent.serve_oldest_task() is not None
    agent.completed_tasks.fail()

    other = again(agent)
    assert repr(other) == repr(agent)
    first, second = other.tasks
    assert (type(first), first.note, first.weight, first.learns) == (Noted, "mine", 2.0, False)  # type: ignore[attr-defined]
    assert (second.task_id, second.learns, second.queue is other.tasks) == ("learns", True, True)
    assert (other.completed_tasks.total, other.completed_tasks.failed) == (COMPLETED + 1, 1)
    assert other.completed_tasks.waited == agent.completed_tasks.waited
    made.register_agent(Agent("c", tasks=[copy.copy(first)]))
    assert other.serve_oldest_task() is first
    assert len(agent.tasks) == 2


class Noted(Task):
    note = ""


def test_wrapped_sync_functions_run_in_a_forked_child() -> None:
    loco_otel.configure(capacity=2)

    async def call() -> None:
        await loco_otel.wrap(os.getpid, agent_id="a")

    asyncio.run(call())
    assert run_in_child(lambda: asyncio.run(call()))


def test_forked_child_has_a_working_budget_manager() -> None:
    budget = BudgetManager(default_limit=10)
    budget.record_spend("a", 2)
    with budget._ledger._lock, budget._reservation_lock:  # as another thread of the parent may
        assert run_in_child(lambda: (budget.reserve("a", 1), budget.settle("a", 1, spent=True), budget.spent("a")))


def test_forked_child_finds_no_lock_held() -> None:
    agent = Agent("a")
    with agent.completed_tasks._lock, process._creation_lock:  # as other threads of the parent may
        assert run_in_child(lambda: (agent.completed_tasks.fail(), process.replace_runtime(None), loco_otel.snapshot()))
