"""The seed's API as programs use it: schedulers, handles, hooks, budgets, resources, adapters and test helpers."""

import asyncio
import copy
import pickle
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

import loco_otel
from loco_otel import (
    OPTIMIZE_FOR_ALPHA,
    AcquireHandle,
    AdaptiveAlphaTuner,
    Agent,
    AsyncLOCOScheduler,
    BackpressureError,
    BudgetExceededError,
    BudgetManager,
    LOCOScheduler,
    ResourcePool,
    SharedResource,
    ShutdownError,
    Task,
    jains_fairness,
)
from loco_otel._core.alpha_tuner import AlphaTuner
from loco_otel.adapters.vanilla import VanillaAdapter
from loco_otel.testing import RunResult, SyncTestScheduler, mock_agent, mock_resource

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Until = Callable[[Callable[[], bool]], Awaitable[None]]


def scheduler(*names: str, capacity: int = 1, **options: Any) -> AsyncLOCOScheduler:
    return AsyncLOCOScheduler([Agent(name) for name in names], SharedResource("r", capacity), **options)


# -- the asynchronous scheduler ----------------------------------------------------------------------------------------


def test_what_was_ever_imported_from_where_is_there() -> None:
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
def test_any_other_alpha_is_refused(make: Any, options: dict[str, Any], message: str) -> None:
    arguments = ([], SharedResource("r")) if make is AsyncLOCOScheduler else ([],)
    with pytest.raises(ValueError, match=message):
        make(*arguments, **options)


def test_an_alpha_that_starves_is_guarded_and_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loco_otel.async_scheduler._has_warned", False)
    scheduler("a", alpha=0.9, max_wait_ticks=0)
    LOCOScheduler([], alpha=0.9)
    assert caplog.messages == []
    made = scheduler("a", alpha=0.9)
    scheduler("a", alpha=0.9)
    (message,) = caplog.messages
    assert "alpha 0.9 is above 0.5" in message
    assert made.resource.view._queue_set.max_wait_ticks == 1000


def test_agents_come_and_go(run: Run, settle: Until) -> None:
    made = scheduler("a")

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


def test_a_task_is_in_the_list_until_it_is_served(run: Run) -> None:
    made = scheduler("a")

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
def test_what_changes_while_agents_wait_decides_who_is_next(run: Run, settle: Until, change: str, first: str) -> None:
    made = scheduler("a", "b", "holder", alpha=0.5)
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


def test_what_was_served_is_what_was_granted(run: Run) -> None:
    made = scheduler("a", "b")

    async def program() -> None:
        for agent_id, weight in (("a", 2.0), ("b", 3.0)):
            await made.submit_task(agent_id, Task(weight=weight, task_type="chat"))
            async with made.acquire(agent_id):
                pass

    run(program())
    assert list(made.resource.view._pool.recently_served) == [("a", 2000), ("b", 3000)]


def test_what_is_queued_shows_before_anybody_waits(run: Run) -> None:
    made = scheduler("a", "b")

    async def program() -> None:
        await made.submit_task("a", Task(weight=2.0, age=4))
        (standing,) = made.resource.engine.take_snapshot().resources[0].agents
        assert (standing.agent, standing.queue_weight, standing.queue_age) == ("a", 2000, 4)
        assert (standing.waiting, standing.active, standing.score) == (0, 0, None)

    run(program())


def test_a_handle_is_released_once(run: Run) -> None:
    made = scheduler("a", on_task_completed=lambda *facts: told.append(facts))
    told: list[tuple[object, ...]] = []

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
        assert told == [("a", task, None)]

    run(program())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_hooks_hear_of_each_task(run: Run, kind: str) -> None:
    told: list[object] = []

    async def async_hook(*facts: object) -> None:
        await asyncio.sleep(0)
        told.append(facts)

    hook = async_hook if kind == "async" else lambda *facts: told.append(facts)
    made = scheduler("a", on_task_started=hook, on_task_completed=hook)

    async def program() -> None:
        async with made.acquire("a"):
            pass
        assert told == []
        await made.submit_task("a", task := Task())
        async with made.acquire("a"):
            assert told == [("a", task)]
        assert told == [("a", task), ("a", task, None)]

    run(program())


def test_too_many_waiters_are_turned_away(run: Run, settle: Until) -> None:
    made = scheduler("a", max_waiters=1)
    assert (made.max_waiters, scheduler("a").max_waiters) == (1, 100)

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
def test_a_timeout_is_no_negative_number(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        scheduler("a").acquire("a", timeout=timeout)


def test_errors_can_be_made_and_passed_on() -> None:
    assert str(BackpressureError("full")) == "full"
    assert str(ShutdownError()) == ""
    error = BudgetExceededError("a", 9.0, 10.0, 2.0)
    assert (error.agent_id, error.agent, error.current, error.limit, error.task_cost) == ("a", "a", 9.0, 10.0, 2.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.limit) == (str(error), 10.0)
    assert copy.copy(error).task_cost == 2.0


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_a_budget_is_kept_by_hand() -> None:
    budget = BudgetManager(default_limit=100.0)
    budget.set_limit("a", max_cost=50.0)
    assert budget.check("a", task_cost=10.0) is True
    budget.record_spend("a", cost=10.0)
    assert (budget.remaining("a"), budget.spent("a"), budget.get_limit("a")) == (40.0, 10.0, 50.0)
    assert budget.summary() == {"a": {"limit": 50.0, "spent": 10.0, "remaining": 40.0}}
    with pytest.raises(BudgetExceededError, match=r"current=10.0 \+ task=40.5 > limit=50.0"):
        budget.check("a", 40.5)
    assert budget.check("a", 40.0)
    budget.remove_limit("a")
    assert budget.get_limit("a") == 100.0
    budget.reset("a")
    assert budget.spent("a") == 0.0
    budget.record_spend("a", 1.0)
    budget.record_spend("b", 1.0)
    budget.reset_all()
    assert (budget.spent("a"), budget.spent("b")) == (0.0, 0.0)
    assert BudgetManager().check("anybody", 1e9)
    assert (BudgetManager().get_limit("a"), BudgetManager().remaining("a")) == (None, None)


def test_many_small_amounts_add_up_exactly() -> None:
    budget = BudgetManager(default_limit=1.0)
    for _ in range(10):
        assert budget.reserve("a", 0.1)
    with pytest.raises(BudgetExceededError):
        budget.reserve("a", 0.000001)
    for _ in range(10):
        budget.settle("a", 0.1, spent=True)
    assert (budget.spent("a"), budget.reserved("a"), budget.remaining("a")) == (1.0, 0.0, 0.0)


def test_a_budget_may_come_later(run: Run) -> None:
    made = scheduler("a")

    async def program() -> None:
        await made.submit_task("a", Task(weight=2.0))
        made.budget = BudgetManager(default_limit=1.0)
        with pytest.raises(BudgetExceededError):
            async with made.acquire("a"):
                pass
        made.budget = None
        await made.submit_task("a", Task(weight=2.0))
        async with made.acquire("a") as task:
            assert task is not None

    run(program())


# -- resources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, -1, 1.5, None])
def test_a_resource_has_slots(capacity: Any) -> None:
    with pytest.raises(ValueError, match="Capacity must be"):
        SharedResource("r", capacity)
    with pytest.raises(ValueError, match="Capacity must be"):
        mock_resource().capacity = capacity


def test_a_resource_alone_is_a_fair_semaphore(run: Run, settle: Until) -> None:
    resource = SharedResource("r", 2)
    assert repr(resource) == "SharedResource(name='r', capacity=2)"

    async def program() -> None:
        assert await resource.try_acquire("a")
        await resource.wait_for_slot("b")
        assert not await resource.try_acquire("c")
        assert (resource.holder_count, resource.available_slots, resource.utilization) == (2, 0, 1.0)
        assert resource.is_holding("a")
        assert not resource.is_holding("c")
        first, second = (asyncio.create_task(resource.wait_for_slot(agent)) for agent in "cd")
        await settle(lambda: resource.waiter_count == 2)
        await resource.cancel_waiter("d")
        with pytest.raises(loco_otel.AcquireRejectedError):
            await second
        await resource.release("nobody")
        await resource.release("a")
        await first
        await resource.release("b")
        await resource.release("c")
        async with resource.held_by("e"):
            assert resource.holder_count == 1
        await resource.grant("f")
        await resource.release("f")
        assert (resource.holder_count, resource.waiter_count, resource.available_slots) == (0, 0, 2)

    run(program())


def test_a_pool_of_resources(run: Run) -> None:
    pool = ResourcePool()
    with pytest.raises(RuntimeError, match="No resources"):
        _ = pool.primary
    llm = SharedResource("llm", 2)
    made = AsyncLOCOScheduler([Agent("a")], llm, alpha=0.4, max_waiters=7, auto_tune=True)
    pool.add(llm)
    pool.add(SharedResource("db"))
    assert (pool.names, pool.primary.name, pool.get("llm")) == (["db", "llm"], "db", llm)
    assert (made.alpha, made.max_waiters) == (0.4, 7)
    with pytest.raises(ValueError, match="already in pool"):
        pool.add(SharedResource("db"))
    with pytest.raises(ValueError, match="Unknown resource"):
        pool.get("gpu")

    async def program() -> None:
        await made.submit_task("a", Task())
        async with made.acquire("a") as task:
            assert task is not None
            async with pool.acquire_multiple("b", ["llm", "db", "llm"]):
                assert pool.utilization() == {"db": 1.0, "llm": 1.0}
            assert pool.utilization() == {"db": 0.0, "llm": 0.5}
        with pytest.raises(ValueError, match="Unknown resource"):
            async with pool.acquire_multiple("b", ["llm", "gpu"]):
                pass
        async with pool.acquire_multiple("b", []):
            assert set(pool.utilization().values()) == {0.0}
        busy = SharedResource("busy")
        async with busy.held_by("a"):
            with pytest.raises(RuntimeError, match="in use"):
                pool.add(busy)

    run(program())


# -- adaptive alpha ----------------------------------------------------------------------------------------------------


def test_alpha_falls_where_some_wait_far_longer() -> None:
    rule = AlphaTuner(0.25)
    assert rule.update_alpha(1, [1, 1, 1], 3, 3) == 0.25
    assert rule.update_alpha(2, [0, 0, 30], 3, 3) == pytest.approx(0.24)
    for tick in range(3, 50):
        rule.update_alpha(tick, [0, 0, 30], 3, 3)
    assert rule.alpha == 0.0
    assert rule.adjustments[0] == (2, pytest.approx(0.24), "ages differ")


def test_alpha_rises_where_queues_grow_and_never_to_where_agents_starve() -> None:
    rule = AlphaTuner(0.25, high=0.5)
    for tick in range(1, 100):
        rule.update_alpha(tick, [5, 5], 100 * 2 ** (tick // 3), 10 + tick)  # two arrivals a release
    assert rule.alpha == pytest.approx(0.9 / 3)
    steady = AlphaTuner(0.44)
    for tick in range(1, 20):
        steady.update_alpha(tick, [5, 5], 100 * 2**tick, 10)
    assert steady.alpha == 0.45
    flooded = AlphaTuner(0.25)
    for tick in range(1, 20):
        flooded.update_alpha(tick, [5, 5], 10, 9 * tick)
    assert flooded.alpha == pytest.approx(0.9 / 11)  # ten arrivals a release
    assert {reason for _, _, reason in flooded.adjustments} == {"starvation bound"}


def test_a_look_at_many_agents_is_taken_seldom() -> None:
    rule = AlphaTuner(0.25)
    assert [tick for tick in range(1, 10) if rule.is_due(tick, 3)] == list(range(1, 10))
    rule = AlphaTuner(0.25)
    assert [tick for tick in range(1, 400) if rule.is_due(tick, 1600)] == [1, 102, 203, 304]


def test_a_scheduler_tunes_itself_at_each_release(run: Run) -> None:
    made = scheduler("old", "young", "idle", auto_tune=True)
    still = scheduler("old", "young")

    async def program() -> None:
        for each in (made, still):
            await each.submit_task("old", Task(age=100))
            for _ in range(4):
                await each.submit_task("young", Task())

            async def work(each: AsyncLOCOScheduler) -> None:
                async with each.acquire("young"):
                    await asyncio.sleep(0)

            await asyncio.gather(*(work(each) for _ in range(4)))
        assert made.tuner is not None
        assert made.alpha == made.tuner.alpha < 0.25 == still.alpha
        tick, alpha, reason = made.tuner.adjustments[-1]
        assert (alpha, reason) == (made.alpha, "ages differ")
        assert tick <= made.logical_tick

    run(program())


def test_a_tuner_looks_when_told_to(run: Run) -> None:
    made = scheduler("a", "b")
    tuner = AdaptiveAlphaTuner(made, step_size=0.1, min_alpha=0.1)
    made.get_agent("a").tasks.append(Task(age=50))
    made.get_agent("b").tasks.append(Task())
    assert [round(tuner.update(), 2) for _ in range(3)] == [0.15, 0.1, 0.1]
    assert made.alpha == tuner.alpha == 0.1
    assert len(tuner.adjustments) == 2


def test_the_process_tunes_itself_where_the_settings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCO_AUTO_TUNE", "true")
    made = loco_otel.configure(capacity=1)
    assert made.resource.view._queue_set.tuner is not None
    loco_otel.configure(auto_tune=False)
    assert made.resource.view._queue_set.tuner is None
    loco_otel.configure(auto_tune=True, policy="fifo")
    assert made.resource.view._queue_set.tuner is None


# -- step by step ------------------------------------------------------------------------------------------------------


def test_each_step_of_a_replay_says_why() -> None:
    replay = LOCOScheduler([Agent("a", tasks=[Task(age=3)]), Agent("b", tasks=[Task(weight=4.0)])], alpha=0.5)
    assert replay.compute_load_scores() == {"a": 0.625, "b": 0.5}
    agent, task, scores = replay._step()
    assert agent is replay.get_agent("a")
    assert task is not None
    assert replay.history[0] == {
        "tick": 0,
        "scores": scores,
        "served_agent_id": "a",
        "served_task_id": task.task_id,
        "served_task_age": 3,
        "queue_depths": {"a": 0, "b": 1},
        "dmax_vals": {"a": 0.0, "b": 1.0},
    }
    assert (replay.tick, replay.total_tasks_remaining(), replay.mean_wait_time("a")) == (1, 1, 3.0)
    assert [replay.new_task(2.0, "x").task_id for _ in range(2)] == ["0", "1"]
    assert replay._step({"a": [replay.new_task(9.0)]}).served_task is not None
    assert replay._step().selected_agent is not None
    assert replay._step() == (None, None, {})
    assert replay.select_agent({}) is None
    with pytest.raises(ValueError, match="Unknown agent"):
        replay._step({"c": [Task()]})
    for _ in range(3):
        replay._step()
    assert len(LOCOScheduler([], max_history=2).history) == 0


def test_the_bare_formula_starves_and_shows_it() -> None:
    replay = SyncTestScheduler([mock_agent("light", 1), mock_agent("heavy")], alpha=1.0)
    for _ in range(500):
        replay.step({"heavy": [Task(weight=5.0), Task(weight=5.0)]})
    assert replay.get_agent("light").dmax == 500.0


def test_a_run_counts_what_was_served() -> None:
    replay = SyncTestScheduler([mock_agent("a", 3), mock_agent("b", 2, task_weight=2.0)], alpha=0.25)
    result = replay.run_all()
    assert (result.service_order, result.service_counts) == (["b", "a", "b", "a", "a"], {"b": 2, "a": 3})
    assert (result.total_ticks, replay.tick, replay.total_tasks_remaining()) == (5, 5, 0)
    assert replay.mean_wait_time("a") == pytest.approx(8 / 3)
    assert replay.jains_fairness() == jains_fairness([8 / 3, 1.0])
    replay.add_tasks("a", [Task()])
    assert replay.step().served_task is not None
    assert RunResult().service_counts == {}
    assert [task.task_id for task in mock_agent("z", 2).tasks] == ["z-t0", "z-t1"]
    assert (jains_fairness([1, 2, 0, -1]), jains_fairness([])) == (0.9, 1.0)


# -- the vanilla adapter -----------------------------------------------------------------------------------------------


def test_an_adapter_runs_what_is_queued(run: Run, settle: Until) -> None:
    made = scheduler()
    adapter = VanillaAdapter(made)

    async def handler(agent_id: str, task: Task) -> tuple[str, float]:
        if task.task_type == "bad":
            raise KeyError(task.task_id)
        return agent_id, task.weight

    async def program() -> None:
        agent = await adapter.register_agent("v", handler)
        with pytest.raises(ValueError, match="already registered"):
            await adapter.register_agent("v", handler)
        for weight in (3.0, 4.0, 5.0):
            await adapter.submit_task("v", Task(weight=weight))
        assert await adapter.run_next("v") == ("v", 3.0)
        assert await adapter.run_all("v") == [("v", 4.0), ("v", 5.0)]
        assert await adapter.run_all("v") == []
        with pytest.raises(RuntimeError, match="no tasks"):
            await adapter.run_next("v")
        with pytest.raises(ValueError, match="Unknown agent"):
            await adapter.run_next("nobody")
        await adapter.submit_task("v", Task(task_type="bad"))
        with pytest.raises(KeyError):
            await adapter.run_next("v")
        assert (agent.tasks, len(agent.completed_tasks), made.metrics.agent_cost("v")) == ([], 4, 12.0)
        await adapter.submit_task("v", Task())
        handle = await made.acquire_start("v")
        await adapter.submit_task("v", Task())
        with pytest.raises(TimeoutError):
            await asyncio.create_task(adapter.run_next("v", timeout=0.001))
        assert len(agent.tasks.backlog) == 1  # it waits for the next run
        await made.release_handle(handle)
        await made.submit_task("without a handler", Task())
        with pytest.raises(ValueError, match="no handler"):
            await adapter.run_next("without a handler")
        await VanillaAdapter(made).register_agent("s", lambda agent_id, task: agent_id)

    run(program())


def test_an_adapter_of_ones_own_hears_of_results(run: Run) -> None:
    class Noting(VanillaAdapter):
        async def on_completed(self, agent_id: str, task: Task, result: Any) -> None:
            noted.append((agent_id, result, made.resource.holder_count))

    made, noted = scheduler(), list[object]()

    async def program() -> None:
        adapter = Noting(made)
        await adapter.register_agent("s", lambda agent_id, task: "sync")
        await adapter.submit_task("s", Task())
        assert await adapter.run_next("s") == "sync"

    run(program())
    assert noted == [("s", "sync", 0)]


def test_a_budget_managers_reservations_end_though_others_end_alike_at_the_same_moment() -> None:
    budget = BudgetManager(default_limit=10)
    budget.reserve("a", 1.0)

    class Interrupted(dict[tuple[str, int], list[str]]):
        """Lets another thread settle, if it can, in the midst of noting a reservation."""

        def setdefault(self, key: tuple[str, int], default: list[str]) -> list[str]:  # type: ignore[override]
            alike = super().setdefault(key, default)
            other.start()
            other.join(0.1)
            return alike

    other = threading.Thread(target=budget.settle, args=("a", 1.0), kwargs={"spent": False})
    budget._open_reservations = Interrupted(budget._open_reservations)
    budget.reserve("a", 1.0)
    other.join()
    budget.settle("a", 1.0, spent=False)
    assert budget.reserved("a") == 0


def test_a_wrapped_generator_that_cannot_be_made_takes_no_slot() -> None:
    loco_otel.configure(capacity=1)

    async def count(most: int) -> AsyncIterator[int]:
        yield most

    async def main() -> None:
        wrong = await loco_otel.wrap(count, agent_id="a", wrong=1)
        with pytest.raises(TypeError):
            await anext(wrong)
        assert await loco_otel.wrap(lambda: 1, agent_id="b", timeout=1) == 1
        closed = await loco_otel.wrap(count, agent_id="a", most=1)
        await closed.aclose()
        assert [each async for each in closed] == []

    asyncio.run(main())
