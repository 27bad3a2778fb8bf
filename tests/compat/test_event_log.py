"""The JSON event log: its events, its loggers and its format."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from library_callers import Run

import loco_otel
from loco_otel import Agent, AsyncLOCOScheduler, BudgetExceededError, BudgetManager, SharedResource, Task
from loco_otel._runtime import process
from loco_otel.logging import emit_budget_exceeded, emit_error, emit_grant, emit_release, emit_timeout
from loco_otel.pretty import PrettyFormatter, install


class Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def events(self) -> list[dict[str, Any]]:
        process.get_runtime().engine.flush()
        return [json.loads(record.getMessage()) for record in self.records]


@pytest.fixture
def listen() -> Iterator[Callable[[str], Listener]]:
    """Listen on a logger at INFO, until the test ends."""
    added: list[tuple[logging.Logger, Listener]] = []

    def listen(name: str) -> Listener:
        logger, listener = logging.getLogger(name), Listener()
        logger.setLevel(logging.INFO)
        logger.addHandler(listener)
        added.append((logger, listener))
        return listener

    yield listen
    for logger, listener in added:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(listener)


@pytest.mark.parametrize("name", ["loco_otel.scheduler", "loco.scheduler", "loco", "loco_otel"])
def test_every_event_is_logged(run: Run, listen: Callable[[str], Listener], name: str) -> None:
    listener = listen(name)
    budget = BudgetManager(default_limit=4.0)
    made = AsyncLOCOScheduler([Agent("a"), Agent("b")], SharedResource("r", 1), budget=budget, alpha=0.25)

    async def program() -> None:
        await made.submit_task("b", Task("t1", 2.0, labels={"team": "red"}))
        await made.submit_task("a", Task("t2", 1.0))
        handle = await made.acquire_start("b")
        with pytest.raises(TimeoutError):
            await asyncio.create_task(made.acquire_start("a", timeout=0.001))
        waiter = asyncio.create_task(made.acquire_start("a"))
        while not made.resource.waiter_count:  # noqa: ASYNC110 - there is no notification
            await asyncio.sleep(0)
        await made.release_handle(handle)
        await made.release_handle(await waiter)
        with pytest.raises(KeyError):
            async with made.acquire("a"):
                raise KeyError("boom")
        await made.submit_task("b", Task("t3", 9.0))
        with pytest.raises(BudgetExceededError):
            await made.acquire_start("b")

    run(program())
    assert made.resource.engine.flush()
    about_b = {"agent": "b", "task_id": "t1", "task_cost": 2.0, "labels": {"team": "red"}}
    about_a = {"agent": "a", "task_id": "t2", "task_cost": 1.0}
    plain = {"agent": "a", "task_id": None, "task_cost": 0}
    granted = {"resource": "r", "utilization": 1.0}
    events = listener.events
    assert events == [
        {"tick": 0, "event": "enqueue", **about_b, "queue_depth": 2.0, "resource": "r"},
        {"tick": 0, "event": "enqueue", **about_a, "queue_depth": 1.0, "resource": "r"},
        {
            "tick": 0,
            "event": "grant",
            **about_b,
            "score": 0.25,
            "queue_depth": 2.0,
            "dmax": 0.0,
            **granted,
            "agent_cumulative_cost": 0.0,
            "budget_remaining": 4.0,
        },
        {"tick": 0, "event": "timeout", "agent": "a", "resource": "r"},
        {"tick": 0, "event": "release", **about_b, "resource": "r", "utilization": 1.0},
        {
            "tick": 1,
            "event": "grant",
            **about_a,
            "score": 1.0,
            "queue_depth": 1.0,
            "dmax": 1.0,
            **granted,
            "agent_cumulative_cost": 0.0,
            "budget_remaining": 4.0,
        },
        {"tick": 1, "event": "release", **about_a, "resource": "r", "utilization": 0.0},
        {
            "tick": 2,
            "event": "grant",
            **plain,
            "score": 0.0,
            "queue_depth": 0.0,
            "dmax": 0.0,
            **granted,
            "agent_cumulative_cost": 1.0,
            "budget_remaining": 3.0,
        },
        {"tick": 2, "event": "error", "agent": "a", "error": "KeyError('boom')", "resource": "r"},
        {"tick": 2, "event": "release", **plain, "resource": "r", "utilization": 0.0},
        {"tick": 3, "event": "enqueue", "agent": "b", "task_id": "t3", "task_cost": 9.0, "queue_depth": 9.0}
        | {"resource": "r"},
        {
            "tick": 3,
            "event": "budget_exceeded",
            "agent": "b",
            "task_id": "t3",
            "task_cost": 9.0,
            "current_spend": 2.0,
            "budget_limit": 4.0,
            "action": "reject",
            "resource": "r",
        },
    ]
    assert [record.levelname for record in listener.records] == ["INFO"] * 11 + ["WARNING"]


@pytest.mark.parametrize(("capacity", "utilization"), [(0, 1.0), (None, 0.0)])
def test_capacity_removed_during_a_call_fails_no_call(
    run: Run, listen: Callable[[str], Listener], capacity: int | None, utilization: float
) -> None:
    listener = listen("loco_otel.scheduler")
    made = loco_otel.configure(capacity=2)

    def change() -> str:
        loco_otel.configure(capacity=capacity)
        return "done"

    assert run(loco_otel.wrap(change, agent_id="a")) == "done"
    assert made.resource.utilization == made.metrics.resource_utilization() == utilization
    (release,) = (event for event in listener.events if event["event"] == "release")
    assert release["utilization"] == utilization


def test_wrap_logs_each_event_once(run: Run, listen: Callable[[str], Listener]) -> None:
    listeners = [listen(name) for name in ("loco_otel.scheduler", "loco.scheduler", "loco_otel")]
    loco_otel.configure(capacity=1)
    run(loco_otel.wrap(lambda: None, agent_id="a", weight=2.0))
    for listener in listeners:
        assert [event["event"] for event in listener.events] == ["enqueue", "grant", "release"]
        assert {event["task_cost"] for event in listener.events} == {2.0}
        assert len({event["task_id"] for event in listener.events}) == 1


def line(event: dict[str, Any], *, colour: bool = False) -> str:
    record = logging.LogRecord("loco_otel.scheduler", logging.INFO, "", 0, json.dumps(event), (), None)
    return PrettyFormatter(colour=colour).format(record)


def test_pretty_lines_are_formatted() -> None:
    task = Task("t", 2.0)
    grant = emit_grant(4, "agent", task, 0.75, 3.0, 3.0, "r", 0.5, 2.0)
    assert line(grant) == "[GRANT] agent score=0.75 waited=3 (tick 4)"
    assert line(grant, colour=True).startswith("\x1b[32m[GRANT]\x1b[0m agent ")
    assert line(emit_release(5, "agent", task, "r", 0.5)) == "[RELEASE] agent cost=2.0 util=50% (tick 5)"
    assert line(emit_release(5, "agent", None, "r", 0.5)) == "[RELEASE] agent cost=0 util=50% (tick 5)"
    exceeded = emit_budget_exceeded(5, "agent", task, 9.0, 10.0, "reject", "r")
    assert line(exceeded) == "[BUDGET] agent spend=9.0 + task=2.0 > limit=10.0 [reject]"
    unlimited = emit_budget_exceeded(5, "agent", task, 9.0, None, "alert", "r")
    assert line(unlimited) == "[BUDGET] agent spend=9.0 + task=2.0 > limit=none [alert]"
    assert line(emit_timeout(5, "agent", "r")) == "[TIMEOUT] agent no slot of r (tick 5)"
    assert line(emit_error(5, "agent", "boom", "r")) == "[ERROR] agent boom (tick 5)"


@pytest.mark.parametrize("message", ["plain", "[]", "3", '{"event": "other"}', "{}", "null"])
def test_record_without_event_is_unchanged(message: str) -> None:
    record = logging.LogRecord("any", logging.INFO, "", 0, message, (), None)
    assert PrettyFormatter().format(record) == message


def test_install_replaces_the_handlers() -> None:
    logger = logging.getLogger("loco_otel.scheduler")
    before, level = logger.handlers, logger.level
    try:
        install()
        install()
        (handler,) = logger.handlers
        assert isinstance(handler.formatter, PrettyFormatter)
        assert logger.isEnabledFor(logging.INFO)
    finally:
        logger.handlers = before
        logger.setLevel(level)


PROGRAM = """
import asyncio, loco_otel
scheduler = loco_otel.AsyncLOCOScheduler([], loco_otel.SharedResource("r"))
async def main():
    await scheduler.submit_task("a", loco_otel.Task("t", 2.0))
    async with scheduler.acquire("a"):
        pass
asyncio.run(main())
"""


def test_environment_enables_pretty_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert quiet.stderr == ""
    monkeypatch.setenv("LOCO_LOG", " Pretty")
    told = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert told.stderr.splitlines() == [
        "[ENQUEUE] a weight=2.0 queue=2.0 (tick 0)",
        "[GRANT] a score=0.25 waited=0 (tick 0)",
        "[RELEASE] a cost=2.0 util=0% (tick 0)",
    ]
