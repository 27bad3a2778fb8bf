"""`stop()` and the stop file refuse what the process's scheduler schedules, and nothing of other schedulers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from library_callers import Run, Until, is_empty, make_scheduler, pass_by, start

import loco_otel
from loco_otel import StoppedError, Task
from loco_otel.adapters.crewai import CrewAIAdapter
from loco_otel.compat.adapters.open_calls import OpenCalls
from loco_otel.events import LimitAction, LimitDecided
from loco_otel.testing import RecordingListener


async def answer() -> str:
    await asyncio.sleep(0)
    return "done"


async def stream() -> AsyncIterator[str]:
    yield "done"


async def read_stream() -> str:
    (chunk,) = [chunk async for chunk in await loco_otel.wrap(stream, agent_id="a")]
    return str(chunk)


async def acquire() -> str:
    made = loco_otel.get_scheduler()
    await made.submit_task("a", Task())
    try:
        async with made.acquire("a"):
            return "done"
    finally:
        made.get_agent("a").tasks.clear()  # a refused request leaves the task to the program


async def acquire_by_handle() -> str:
    made = loco_otel.get_scheduler()
    if "a" not in made.agents:
        made.register_agent(loco_otel.Agent("a"))
    await made.release_handle(await made.acquire_start("a"))
    return "done"


async def begin_blocking() -> str:
    calls = OpenCalls(loco_otel.get_scheduler())
    calls.begin_call_blocking("key", "a", Task())
    calls.end_call("key")
    return "done"


async def hold_resource() -> str:
    async with loco_otel.get_scheduler().resource.held_by("a"):
        return "done"


WAYS: dict[str, Callable[[], Awaitable[str]]] = {
    "wrap": lambda: loco_otel.wrap(answer, agent_id="a"),
    "wrap in a thread": lambda: loco_otel.wrap(lambda: "done", agent_id="a"),
    "wrap a stream": read_stream,
    "scheduled": loco_otel.scheduled(agent_id="a")(answer),
    "acquire": acquire,
    "acquire_start": acquire_by_handle,
    "callbacks": begin_blocking,
    "resource": hold_resource,
}


@pytest.mark.parametrize("way", WAYS)
def test_stopped_agent_gets_no_slot_until_resumed(run: Run, way: str) -> None:
    made = loco_otel.configure(capacity=1)

    async def program() -> None:
        loco_otel.stop(agent="a")
        with pytest.raises(StoppedError) as caught:
            await WAYS[way]()
        assert (caught.value.scope, caught.value.key, caught.value.agent) == ("agent", "a", "a")
        assert is_empty(made)
        assert "a" not in made.agents or made.get_agent("a").tasks == []
        assert await loco_otel.wrap(answer, agent_id="b") == "done"
        loco_otel.resume(agent="a")
        assert await WAYS[way]() == "done"

    run(program())


@pytest.mark.parametrize("way", WAYS)
def test_call_granted_during_a_stop_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    made = loco_otel.configure(capacity=1)
    engine = made.resource.engine
    submit = engine.submit

    def submit_and_stop(ticket: Any) -> None:
        submit(ticket)
        loco_otel.stop(agent="a")

    async def program() -> None:
        monkeypatch.setattr(engine, "submit", submit_and_stop)
        with pytest.raises(StoppedError):
            await WAYS[way]()
        assert is_empty(made)
        assert "a" not in made.agents or made.get_agent("a").tasks == []

    run(program())


def test_stop_file_refuses_every_wrap_until_it_is_removed(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "stops"
    made = loco_otel.configure(capacity=1, stop_file=str(file))
    assert run(loco_otel.wrap(answer, agent_id="a")) == "done"
    file.write_text("*\n")
    with pytest.raises(StoppedError, match="all calls"):
        run(loco_otel.wrap(answer, agent_id="a"))
    file.unlink()
    assert run(loco_otel.wrap(answer, agent_id="a")) == "done"
    assert is_empty(made)
    assert made.metrics.completed_by_agent() == {"a": 2}


def test_stop_turns_a_waiting_wrap_away(run: Run, settle: Until) -> None:
    made = loco_otel.configure(capacity=1)

    async def program() -> None:
        async with made.resource.held_by("holder"):
            (waiter,) = await start(made, settle, loco_otel.wrap(answer, agent_id="a"))
            assert loco_otel.stop(agent="a") == 1
            with pytest.raises(StoppedError):
                await waiter

    run(program())
    assert is_empty(made)


def test_observe_mode_counts_a_stopped_wrap_and_runs_it(run: Run) -> None:
    made = loco_otel.configure(mode="observe")
    listener = RecordingListener()
    made.resource.engine.add_listener(listener)
    loco_otel.stop(agent="a")
    assert run(loco_otel.wrap(answer, agent_id="a")) == "done"
    made.resource.engine.flush()
    assert [event.action for event in listener.events if isinstance(event, LimitDecided)] == [LimitAction.WOULD]


def test_stopped_crew_ends_between_two_steps(run: Run) -> None:
    made = loco_otel.configure(capacity=1)
    adapter = CrewAIAdapter(made)

    class Crew:
        def kickoff(self) -> None:
            adapter.step_callback()
            loco_otel.stop(agent="crew")
            adapter.step_callback()

    with pytest.raises(StoppedError):
        run(adapter.run_crew(Crew()))
    assert is_empty(made)
    assert made.metrics.completed_by_agent() == {"crew": 0}


def test_scheduler_of_the_programs_own_is_not_stopped(run: Run) -> None:
    loco_otel.configure(capacity=1)
    made = make_scheduler("a")
    loco_otel.stop(agent="a")
    assert run(pass_by(made, "a")) is None
