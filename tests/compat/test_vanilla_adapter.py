"""The adapter for functions of the program's own."""

import asyncio
from typing import Any

import pytest
from library_callers import Run, Until, make_scheduler

from loco_otel import (
    Task,
)
from loco_otel.adapters.vanilla import VanillaAdapter


def test_adapter_runs_queued_tasks(run: Run, settle: Until) -> None:
    made = make_scheduler()
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


def test_custom_adapter_receives_results(run: Run) -> None:
    class Noting(VanillaAdapter):
        async def on_completed(self, agent_id: str, task: Task, result: Any) -> None:
            noted.append((agent_id, result, made.resource.holder_count))

    made, noted = make_scheduler(), list[object]()

    async def program() -> None:
        adapter = Noting(made)
        await adapter.register_agent("s", lambda agent_id, task: "sync")
        await adapter.submit_task("s", Task())
        assert await adapter.run_next("s") == "sync"

    run(program())
    assert noted == [("s", "sync", 0)]
