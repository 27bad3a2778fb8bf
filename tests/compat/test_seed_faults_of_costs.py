"""What loco-agent got wrong, through its own API: blocked loops, memory, time, events."""

import asyncio
import gc
import json
import math
import threading
import time
import tracemalloc

import pytest
from library_callers import Run, make_scheduler, pass_by
from patience import PATIENCE

import loco_otel
from loco_otel import (
    Agent,
    AsyncLOCOScheduler,
    BudgetManager,
    SharedResource,
    Task,
)


def test_d21d_sync_functions_do_not_block_the_loop(run: Run) -> None:
    """In the seed five calls of 0.2 s at capacity 5 took a second, in which the loop was blocked."""
    loco_otel.configure(capacity=5)
    together = threading.Barrier(5)

    async def program() -> list[str]:
        def call(name: str) -> str:
            together.wait(PATIENCE)  # they all run at the same time, or never
            return name

        return list(await asyncio.gather(*(loco_otel.wrap(call, agent_id=name, name=name) for name in "abcde")))

    assert run(program()) == list("abcde")


def test_d21f_usage_of_calls_is_fed_back(run: Run) -> None:
    made = make_scheduler("a")

    async def program() -> None:
        assert made.metrics.learnt_weight("summary") is None
        made.metrics.record_actual_tokens("a", Task(task_type="summary"), 5000)
        made.metrics.record_actual_tokens("a", Task(task_type="small"), 10)
        for task, weight in (
            (Task(task_type="summary"), 5.0),
            (Task(task_type="summary", weight=1.0), 1.0),
            (Task(task_type="small"), 1.0),
            (Task(), 1.0),
        ):
            await made.submit_task("a", task)
            assert task.weight == weight

    run(program())
    assert made.get_agent("a").queue_depth_weighted == 8.0
    assert made.metrics.empirical_weight("summary") == 5000.0


def test_d27_memory_does_not_grow_with_calls(run: Run) -> None:
    """The seed kept 190 bytes of each call."""
    made = make_scheduler("a", budget=BudgetManager(default_limit=1e9))
    calls = 3000

    async def work() -> None:
        for _ in range(calls):
            await made.submit_task("a", Task(weight=2.0))
            async with made.acquire("a"):
                made.get_agent("a").serve_oldest_task()
            made.metrics.record_actual_tokens("a", Task(), 100)
            async with made.hold("a", Task()):
                with pytest.raises(TimeoutError):
                    await asyncio.create_task(pass_by(made, "a", timeout=0))

    async def program() -> int:
        await work()  # some of what was done is kept, up to a bound
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        await work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        grown = run(program())
    finally:
        tracemalloc.stop()
    assert grown / calls < 20
    assert made.metrics.completed_by_agent() == {"a": 4 * calls}
    assert len(made.get_agent("a").completed_tasks) == 1000


def test_d27_ten_thousand_tasks_are_served_as_fast_as_ten(run: Run) -> None:
    def cost(count: int) -> float:
        agent = Agent("a", tasks=[Task() for _ in range(count)])
        AsyncLOCOScheduler([agent], SharedResource("r"))
        best = math.inf
        for _ in range(5):
            started = time.process_time()
            for _ in range(100):
                task = agent.serve_oldest_task()
                assert task is not None
                agent.tasks.append(task)
            best = min(best, time.process_time() - started)
        return best

    assert cost(10_000) < 10 * cost(10)


def test_d28_no_event_is_built_without_listeners(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_scheduler("a")
    built: list[object] = []
    monkeypatch.setattr(json, "dumps", built.append)
    for name in ("emit_enqueue", "emit_grant", "emit_release"):
        monkeypatch.setattr(f"loco_otel.logging.{name}", lambda *args, **_: built.append(args))

    async def program() -> None:
        await made.submit_task("a", Task())
        await pass_by(made, "a")
        async with made.hold("a", Task()):
            pass

    run(program())
    assert built == []
    assert made.metrics.total_cost() == 2.0
