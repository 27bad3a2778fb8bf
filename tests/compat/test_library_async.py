"""The asynchronous scheduler of loco-agent's API."""

import asyncio
import copy
import gc
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from library_callers import Run, Until, is_empty, make_scheduler, pass_by, start

import loco_otel
from loco_otel import (
    OPTIMIZE_FOR_ALPHA,
    AcquireHandle,
    Agent,
    AsyncLOCOScheduler,
    BackpressureError,
    BudgetExceededError,
    LOCOScheduler,
    SharedResource,
    ShutdownError,
    Task,
)
from loco_otel.compat.adapters.open_calls import OpenCalls


def test_every_published_import_works() -> None:
    from loco_otel import adaptive, agent, async_scheduler, budget, convenience, metrics, resource, task
    from loco_otel import scheduler as replay

    assert async_scheduler.BackpressureError is loco_otel.BackpressureError is BackpressureError
    assert async_scheduler.ShutdownError is ShutdownError
    assert budget.BudgetExceededError is BudgetExceededError
    assert replay.OPTIMIZE_FOR_ALPHA == OPTIMIZE_FOR_ALPHA == {"latency": 0.0, "balanced": 0.25, "throughput": 0.5}
    for module, names in (
        (adaptive, "AdaptiveAlphaTuner"),
        (agent, "Agent"),
        (async_scheduler, "AcquireHandle AsyncLOCOScheduler"),
        (budget, "BudgetManager"),
        (convenience, "configure get_scheduler reset scheduled set_budget wrap"),
        (metrics, "SchedulerMetrics jains_fairness"),
        (replay, "LOCOScheduler StepResult"),
        (resource, "SharedResource"),
        (task, "Task"),
    ):
        for name in names.split():
            assert getattr(module, name) is getattr(loco_otel, name)


@pytest.mark.parametrize(
    ("options", "alpha"),
    [({}, 0.25), ({"alpha": 1.0}, 1.0), ({"alpha": 0}, 0.0)]
    + [({"optimize_for": goal}, alpha) for goal, alpha in OPTIMIZE_FOR_ALPHA.items()],
)
@pytest.mark.parametrize("make", [AsyncLOCOScheduler, LOCOScheduler])
def test_alpha_is_a_number_or_a_word(make: Any, options: dict[str, Any], alpha: float) -> None:
    arguments = ([], SharedResource("r")) if make is AsyncLOCOScheduler else ([],)
    assert make(*arguments, **options).alpha == alpha


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.1, "optimize_for": "latency"}, "not both"),
        ({"alpha": 1.1}, "alpha must be in"),
        ({"alpha": float("nan")}, "alpha must be in"),
        ({"optimize_for": "speed"}, "optimize_for must be one of"),
    ],
)
@pytest.mark.parametrize("make", [AsyncLOCOScheduler, LOCOScheduler])
def test_invalid_alpha_is_rejected(make: Any, options: dict[str, Any], message: str) -> None:
    arguments = ([], SharedResource("r")) if make is AsyncLOCOScheduler else ([],)
    with pytest.raises(ValueError, match=message):
        make(*arguments, **options)


def test_starving_alpha_is_guarded_and_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loco_otel.async_scheduler._has_warned", False)
    make_scheduler("a", alpha=0.9, max_wait_ticks=0)
    LOCOScheduler([], alpha=0.9)
    assert caplog.messages == []
    made = make_scheduler("a", alpha=0.9)
    make_scheduler("a", alpha=0.9)
    (message,) = caplog.messages
    assert "alpha 0.9 is above 0.5" in message
    assert made.resource.view._queue_set.max_wait_ticks == 1000


def test_agents_can_be_added_and_removed(run: Run, settle: Until) -> None:
    made = make_scheduler("a")

    async def program() -> None:
        with pytest.raises(ValueError, match="already registered"):
            made.register_agent(Agent("a"))
        with pytest.raises(ValueError, match="already registered"):
            made.register_agent(made.get_agent("a"))
        with pytest.raises(ValueError, match="Unknown agent"):
            made.get_agent("b")
        with pytest.raises(ValueError, match="Unknown agent"):
            made.unregister_agent("b")
        await made.submit_task("new", Task())
        assert list(made.agents) == ["a", "new"]
        async with made.acquire("a"):
            with pytest.raises(RuntimeError, match="currently holding"):
                made.unregister_agent("a")
            waiter = asyncio.create_task(made.acquire_start("new"))
            await settle(lambda: made.resource.waiter_count == 1)
            with pytest.raises(RuntimeError, match="waiting for"):
                made.unregister_agent("new")
        await made.release_handle(await waiter)
        assert made.unregister_agent("a").agent_id == "a"
        with pytest.raises(ValueError, match="Unknown agent"):
            async with made.acquire("a"):
                pass

    run(program())


def test_task_is_listed_until_it_is_served(run: Run) -> None:
    made = make_scheduler("a")

    async def program() -> None:
        agent = made.get_agent("a")
        await made.submit_task("a", task := Task(weight=3.0))
        async with made.acquire("a") as granted:
            assert granted is task
            assert (agent.tasks, agent.queue_depth_weighted) == ([task], 3.0)
            assert agent.tasks.backlog.weight == 0
            assert made.metrics.queue_depth_by_agent() == {"a": 3.0}
            assert agent.serve_oldest_task() is task
            assert (agent.tasks, agent.completed_tasks) == ([], [task])
        assert agent.completed_tasks == [task]
        assert (made.metrics.agent_cost("a"), made.logical_tick) == (3.0, 1)

    run(program())


CHANGES: dict[str, Callable[[Agent], object]] = {
    "append": lambda agent: agent.tasks.append(Task(weight=9.0, age=9)),
    "insert": lambda agent: agent.tasks.insert(0, Task(weight=9.0, age=9)),
    "replace": lambda agent: setattr(agent, "tasks", [Task(weight=9.0, age=9)]),
    "age": lambda agent: setattr(agent.tasks[0], "age", 9),
    "weight": lambda agent: setattr(agent.tasks[0], "weight", 9.0),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("first", ["a", "b"])
def test_change_during_a_wait_decides_the_next_grant(run: Run, settle: Until, change: str, first: str) -> None:
    made = make_scheduler("a", "b", "holder", alpha=0.5)
    order: list[str] = []

    async def work(agent_id: str) -> None:
        async with made.acquire(agent_id):
            order.append(agent_id)

    async def program() -> None:
        handle = await made.acquire_start("holder")
        for agent_id in "ab":
            await made.submit_task(agent_id, Task(weight=2.0))
        waiters = [asyncio.create_task(work(agent_id)) for agent_id in "ab"]
        await settle(lambda: made.resource.waiter_count == 2)
        CHANGES[change](made.get_agent(first))
        await made.release_handle(handle)
        await asyncio.gather(*waiters)

    run(program())
    assert order[0] == first


def test_served_order_equals_granted_order(run: Run) -> None:
    made = make_scheduler("a", "b")

    async def program() -> None:
        for agent_id, weight in (("a", 2.0), ("b", 3.0)):
            await made.submit_task(agent_id, Task(weight=weight, task_type="chat"))
            async with made.acquire(agent_id):
                pass

    run(program())
    assert list(made.resource.view._pool.recently_served) == [("a", 2000), ("b", 3000)]


def test_queued_tasks_are_visible_before_a_wait(run: Run) -> None:
    made = make_scheduler("a", "b")

    async def program() -> None:
        await made.submit_task("a", Task(weight=2.0, age=4))
        (standing,) = made.resource.engine.take_snapshot().resources[0].agents
        assert (standing.agent, standing.queue_weight, standing.queue_age) == ("a", 2000, 4)
        assert (standing.waiting, standing.active, standing.score) == (0, 0, None)

    run(program())


def test_handle_is_released_once(run: Run) -> None:
    made = make_scheduler("a", on_task_completed=lambda *facts: reported.append(facts))
    reported: list[tuple[object, ...]] = []

    async def program() -> None:
        await made.submit_task("a", task := Task())
        handle = await made.acquire_start("a")
        assert (handle.agent_id, len(handle.handle_id), handle.task) == ("a", 12, task)
        assert repr(handle) == f"AcquireHandle(handle_id={handle.handle_id!r}, agent_id='a')"
        assert made.resource.utilization == 1.0
        await made.release_handle(handle)
        await made.release_handle(handle)
        await made.release_handle(AcquireHandle(agent_id="a"))
        assert made.logical_tick == 1
        assert reported == [("a", task, None)]

    run(program())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_hooks_receive_each_task(run: Run, kind: str) -> None:
    reported: list[object] = []

    async def async_hook(*facts: object) -> None:
        await asyncio.sleep(0)
        reported.append(facts)

    hook = async_hook if kind == "async" else lambda *facts: reported.append(facts)
    made = make_scheduler("a", on_task_started=hook, on_task_completed=hook)

    async def program() -> None:
        async with made.acquire("a"):
            pass
        assert reported == []
        await made.submit_task("a", task := Task())
        async with made.acquire("a"):
            assert reported == [("a", task)]
        assert reported == [("a", task), ("a", task, None)]

    run(program())


def test_excess_waiters_are_rejected(run: Run, settle: Until) -> None:
    made = make_scheduler("a", max_waiters=1)
    assert (made.max_waiters, make_scheduler("a").max_waiters) == (1, 100)

    async def program() -> None:
        handle = await made.acquire_start("a")
        waiter = asyncio.create_task(made.acquire_start("a"))
        await settle(lambda: made.resource.waiter_count == 1)
        with pytest.raises(BackpressureError, match="Too many waiters"):
            await asyncio.create_task(made.acquire_start("a"))
        await made.release_handle(handle)
        await made.release_handle(await waiter)

    run(program())


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_negative_timeout_is_rejected(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        make_scheduler("a").acquire("a", timeout=timeout)


def test_errors_can_be_created_and_pickled() -> None:
    assert str(BackpressureError("full")) == "full"
    assert str(ShutdownError()) == ""
    error = BudgetExceededError("a", 9.0, 10.0, 2.0)
    assert (error.agent_id, error.agent, error.current, error.limit, error.task_cost) == ("a", "a", 9.0, 10.0, 2.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.limit) == (str(error), 10.0)
    assert copy.copy(error).task_cost == 2.0


async def begin_in_callback(made: AsyncLOCOScheduler) -> object:
    calls = OpenCalls(made)
    await asyncio.create_task(calls.begin_call("key", "a", Task()))
    return calls


async def begin_in_blocking_callback(made: AsyncLOCOScheduler) -> object:
    calls = OpenCalls(made)
    await asyncio.to_thread(calls.begin_call_blocking, "key", "a", Task())
    return calls


async def acquire_in_callback(made: AsyncLOCOScheduler) -> object:
    return await asyncio.create_task(made.acquire_start("a"))


@pytest.mark.parametrize("begin", [acquire_in_callback, begin_in_callback, begin_in_blocking_callback])
def test_slot_without_its_callbacks_context_is_not_lent(
    run: Run, settle: Until, begin: Callable[[AsyncLOCOScheduler], Awaitable[object]]
) -> None:
    made = make_scheduler("a", "b")

    async def program() -> None:
        held = await begin(made)
        gc.collect()
        (waiter,) = await start(made, settle, pass_by(made, "b"))
        (lease,) = (ticket for ticket in made.resource.engine.list_tickets() if ticket.state.is_holding)
        lease.touched_at -= 10  # seconds
        made.resource.engine.run_due_actions()
        assert (made.resource.holder_count, made.resource.waiter_count) == (1, 1)
        assert lease.state.is_holding
        del held
        gc.collect()
        await waiter

    run(program())
    assert is_empty(made)
