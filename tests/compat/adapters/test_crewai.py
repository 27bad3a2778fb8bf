"""The CrewAI adapter with real crews against a real server. Runs in the pair that contains crewai."""

import asyncio
import os
import threading
import warnings
from typing import Any

import pytest
from library_callers import Run, Until

if os.environ.get("SDK_PAIR") != "agents_old":
    pytest.skip("crewai requires older SDKs: make test-agents_old runs these tests", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of CrewAI's own imports
    from crewai import LLM, Agent, Crew, Task
from llm_server import LlmServer
from loco_otel_instrumentation.openai import OpenAIInstrumentor

import loco_otel
from loco_otel.adapters.crewai import CrewAIAdapter

pytestmark = pytest.mark.filterwarnings(
    *[f"ignore::{kind}Warning" for kind in ("Deprecation", "Resource", "User")]
)  # CrewAI's


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CREWAI_DISABLE_TELEMETRY", "CREWAI_DISABLE_TRACKING", "OTEL_SDK_DISABLED"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("CREWAI_TRACING_ENABLED", "false")


def make_crew(server: LlmServer, *roles: str, **options: Any) -> Crew:
    llm = LLM(model="openai/gpt-4o", api_key="sk-test", base_url=server.url("openai"))
    agents = [Agent(role=role, goal="answer", backstory="an expert", llm=llm) for role in roles]
    tasks = [Task(description=f"task of {agent.role}", expected_output="text", agent=agent) for agent in agents]
    return Crew(agents=agents, tasks=tasks, verbose=False, tracing=False, **options)


def test_d21_crew_runs_under_one_slot_beside_the_loop(run: Run, server: LlmServer, scheduler: Any) -> None:
    made = scheduler(capacity=2)

    async def program() -> None:
        adapter = CrewAIAdapter(made)
        server.hold()
        runs = [asyncio.create_task(adapter.run_crew(make_crew(server, "writer"), f"crew{n}")) for n in range(3)]
        # The loop runs while the crews work.
        assert (await asyncio.to_thread(server.wait_for, in_progress=2)).received == 2
        server.release(100)
        outputs = await asyncio.gather(*runs)
        assert all(str(output) for output in outputs)

    run(program())
    assert server.peak() == 2
    assert made.metrics.cost_by_agent() == {f"crew{n}": 3.0 for n in range(3)}


def test_d21_documented_task_descriptions_are_the_tasks(run: Run, server: LlmServer, scheduler: Any) -> None:
    crew = make_crew(server, "researcher", "writer")

    async def program() -> None:
        await CrewAIAdapter(scheduler()).run_crew(crew, task_descriptions=["find alpha", "write beta", "check gamma"])

    run(program())
    prompts = [str(record.body) for record in server.requests()]
    assert ["find alpha" in prompts[0], "write beta" in prompts[1], "check gamma" in prompts[2]] == [True] * 3
    assert [task.description for task in crew.tasks] == ["task of researcher", "task of writer"]


def test_d21_callback_lets_others_go_between_tasks(run: Run, server: LlmServer, scheduler: Any, settle: Until) -> None:
    made = scheduler(capacity=1)
    adapter = CrewAIAdapter(made)
    steps: list[str] = []

    def step(output: Any) -> None:
        steps.append("step")
        adapter.step_callback(output)

    async def program() -> None:
        server.hold()
        crew = make_crew(server, "writer", "reviewer", task_callback=step)
        running = asyncio.create_task(adapter.run_crew(crew))
        await asyncio.to_thread(server.wait_for, in_progress=1)

        async def other() -> None:
            await adapter.before_step("other")
            steps.append("other")
            await adapter.after_step("other")

        waiting = asyncio.create_task(other())
        await settle(lambda: made.resource.waiter_count == 1)
        server.release(100)
        await asyncio.gather(running, waiting)

    run(program())
    assert steps.index("other") < len(steps) - 1
    assert made.metrics.completed_by_agent() == {"crew": 1, "other": 1}


def test_steps_are_scheduled_by_role(server: LlmServer, scheduler: Any) -> None:
    made = scheduler(capacity=1)
    adapter = CrewAIAdapter(made)
    crews = [make_crew(server, "Researcher", "Manager") for _ in range(3)]
    with adapter.schedule_steps():
        threads = [threading.Thread(target=crew.kickoff) for crew in crews]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.peak() == 1
    assert made.metrics.cost_by_agent() == {"Researcher": 9.0, "Manager": 3.0}


def test_failed_crew_frees_its_slot(run: Run, server: LlmServer, scheduler: Any) -> None:
    made = scheduler()
    adapter = CrewAIAdapter(made)

    async def program() -> None:
        server.throttle(None, status=400)
        with pytest.raises(Exception, match="400"):
            await adapter.run_crew(make_crew(server, "writer"))

    run(program())
    assert made.metrics.cost_by_agent() == {}


def test_patched_calls_run_under_the_crews_slot(run: Run, server: LlmServer, patched: Any) -> None:
    patched(OpenAIInstrumentor())
    made = loco_otel.configure(capacity=1)

    async def program() -> None:
        await CrewAIAdapter(made).run_crew(make_crew(server, "writer", "reviewer"))

    run(program())
    assert server.state().received >= 2
    assert (made.logical_tick, made.resource.holder_count) == (1, 0)


def test_d21_documented_steps_take_a_role(run: Run, scheduler: Any) -> None:
    made = scheduler(capacity=2)

    async def program() -> None:
        adapter = CrewAIAdapter(made, role_weights={"coder": 4.0})
        await adapter.before_step("agent-1", role="coder")
        await adapter.before_step("agent-1", role="Researcher")
        assert made.resource.holder_count == 2
        for _ in range(3):
            await adapter.after_step("agent-1")

    run(program())
    assert made.metrics.cost_by_agent() == {"agent-1": 7.0}
