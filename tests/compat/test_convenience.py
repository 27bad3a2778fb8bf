"""The process's scheduler: configure once, then wrap; one scheduler with `slot` and the patched calls."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest
from library_callers import Run, Until
from patience import PATIENCE

import loco_otel
from loco_otel import AcquireTimeoutError, BudgetExceededError, Settings, ShutdownError
from loco_otel._runtime import process
from loco_otel._waiting import ownership
from loco_otel.events import Submitted
from loco_otel.testing import RecordingListener


def capacity() -> int | None:
    return loco_otel.snapshot().resources[0].capacity


# -- configure ---------------------------------------------------------------------------------------------------------


def test_missing_scheduler_error_names_the_remedy(run: Run) -> None:
    for attempt in (
        loco_otel.get_scheduler,
        lambda: run(loco_otel.wrap(print, agent_id="a")),
        lambda: run(loco_otel.scheduled(agent_id="a")(print)()),
        lambda: loco_otel.set_budget("a", 1.0),
    ):
        with pytest.raises(RuntimeError, match=r"Call loco_otel\.configure"):
            attempt()
    loco_otel.configure()
    with pytest.raises(RuntimeError, match=r"Call loco_otel\.configure\(budget_mode"):
        loco_otel.set_budget("a", 1.0)


def test_default_capacity_is_three() -> None:
    assert loco_otel.configure().resource.capacity == capacity() == 3


@pytest.mark.parametrize(
    ("environ", "changes", "slots"),
    [
        ({"LOCO_CAPACITY": "7"}, {}, 7),
        ({}, {"capacity": 5}, 5),
        ({}, {"capacity": None}, None),
        ({}, {"capacity": "auto"}, None),
        ({}, {"optimize_for": "latency", "auto_tune": True, "max_waiters": 9, "budget_mode": "alert"}, 3),
        ({}, {"stream_usage": True}, None),  # a setting of loco-otel alone: no program of the seed's
    ],
)
def test_configured_capacity_is_kept(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], changes: dict[str, Any], slots: int | None
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    loco_otel.configure(**changes)
    assert capacity() == slots
    loco_otel.configure()
    assert capacity() == (3 if changes == {"stream_usage": True} else slots)


def test_configure_changes_settings_and_returns_the_scheduler() -> None:
    made = loco_otel.configure(
        4, optimize_for="latency", resource_name="gpu", auto_tune=True, max_waiters=9, budget_mode="alert"
    )
    assert made is loco_otel.get_scheduler()
    assert isinstance(made, loco_otel.AsyncLOCOScheduler)
    assert (made.settings.capacity, made.settings.optimize_for, made.settings.auto_tune) == (4, "latency", True)
    assert (made.alpha, made.max_waiters, made.resource.name, made.resource.capacity) == (0.0, 9, "gpu", 4)
    assert made.budget is not None
    assert made.budget.on_exceeded == "alert"
    again = loco_otel.configure(max_wait_ticks=7)
    assert (again, again.settings.capacity, again.resource.name) == (made, 4, "gpu")


def test_invalid_change_changes_nothing() -> None:
    for changes in ({"capacity": -1}, {"budget_mode": "no"}, {"slots": 1}, {"optimize_for": "speed"}):
        with pytest.raises(ValueError, match=r"must be|is not a setting"):
            loco_otel.configure(**changes)
    with pytest.raises(RuntimeError):
        loco_otel.get_scheduler()
    assert capacity() is None


def test_reset_drops_the_scheduler(run: Run) -> None:
    made = loco_otel.configure(capacity=2)
    run(made.submit_task("a", loco_otel.Task()))
    loco_otel.reset()
    loco_otel.reset()
    with pytest.raises(RuntimeError):
        loco_otel.get_scheduler()
    fresh = loco_otel.configure()
    assert fresh is not made
    assert (fresh.agents, fresh.resource.capacity) == ({}, 2)
    process.replace_runtime(Settings())
    with pytest.raises(RuntimeError):
        loco_otel.get_scheduler()


# -- wrap and scheduled ------------------------------------------------------------------------------------------------


def test_call_passes_the_scheduler_and_is_charged(run: Run) -> None:
    made = loco_otel.configure(capacity=1)
    listener = RecordingListener()
    process.get_runtime().engine.add_listener(listener)
    told: list[object] = []
    made.on_task_completed = lambda agent, task, result: told.append((agent, task.weight, result))

    async def call(x: int, *, timeout: int = 0) -> tuple[int, int, int]:  # noqa: ASYNC109 - as SDKs have
        return x, timeout, made.resource.holder_count

    async def program() -> None:
        assert await loco_otel.wrap(call, agent_id="q", weight=2.0, labels={"team": "red"}, x=2) == (2, 0, 1)
        own_timeout = partial(call, timeout=9)
        assert await loco_otel.wrap(own_timeout, agent_id="q", timeout=1, x=3) == (3, 9, 1)

    run(program())
    agent = made.get_agent("q")
    assert (agent.tasks, [task.weight for task in agent.completed_tasks]) == ([], [2.0, 1.0])
    assert made.metrics.cost_by_agent() == {"q": 3.0}
    assert told == [("q", 2.0, (2, 0, 1)), ("q", 1.0, (3, 9, 1))]
    first, second = (event.ticket.request for event in listener.of(Submitted))
    assert (first.agent, first.weight, first.labels, first.timeout) == ("q", 2000, {"team": "red"}, None)
    assert second.timeout == 1


def test_slot_and_wrap_share_one_scheduler(run: Run) -> None:
    loco_otel.configure(capacity=1, acquire_timeout=0.01)

    async def nothing() -> None:
        return None

    async def program() -> None:
        inside, release = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with loco_otel.slot("a"):
                inside.set()
                await release.wait()

        holder = asyncio.create_task(hold())
        await inside.wait()
        with pytest.raises(AcquireTimeoutError):
            await loco_otel.wrap(nothing, agent_id="b")
        release.set()
        await holder
        await loco_otel.wrap(nothing, agent_id="b")

    run(program())


def test_calls_inside_a_wrapped_call_are_covered(run: Run) -> None:
    loco_otel.configure(capacity=1)

    async def program() -> None:
        async def coroutine() -> bool:
            return ownership.current_ticket() is not None and await asyncio.to_thread(
                lambda: ownership.current_ticket() is not None
            )

        assert await loco_otel.wrap(coroutine, agent_id="a")
        assert await loco_otel.wrap(lambda: ownership.current_ticket() is not None, agent_id="a")
        assert ownership.current_ticket() is None

    run(program())


def test_decorated_function_keeps_its_signature(run: Run) -> None:
    made = loco_otel.configure(capacity=1)

    @loco_otel.scheduled(agent_id="d", weight=2.0)
    async def double(x: int, *, more: int = 0) -> int:
        """Double it."""
        return 2 * x + more

    @loco_otel.scheduled(agent_id="s", timeout=5)
    def sync(x: int) -> tuple[int, bool]:
        return x, threading.current_thread() is threading.main_thread()

    assert (double.__name__, double.__doc__) == ("double", "Double it.")
    assert run(double(3, more=1)) == 7
    assert run(sync(3)) == (3, False)
    assert made.metrics.cost_by_agent() == {"d": 2.0, "s": 1.0}


def test_any_callable_is_accepted(run: Run) -> None:
    loco_otel.configure(capacity=1)

    async def coroutine(x: int) -> int:
        await asyncio.sleep(0)
        return x

    class Call:
        async def __call__(self, x: int) -> int:
            return await coroutine(x)

    async def program() -> None:
        for function in (coroutine, partial(coroutine), lambda x: coroutine(x), Call(), lambda x: x):  # noqa: PLW0108
            assert await loco_otel.wrap(function, agent_id="a", x=7) == 7

    run(program())


def test_failed_call_costs_nothing(run: Run) -> None:
    made = loco_otel.configure(capacity=1, budget_mode="reject")
    loco_otel.set_budget("a", 3.0)

    def fail() -> None:
        raise KeyError("x")

    async def program() -> None:
        for _ in range(5):
            with pytest.raises(KeyError):
                await loco_otel.wrap(fail, agent_id="a", weight=3.0)
        await loco_otel.wrap(lambda: None, agent_id="a", weight=3.0)
        with pytest.raises(BudgetExceededError):
            await loco_otel.wrap(lambda: None, agent_id="a")

    run(program())
    assert made.budget is not None
    assert made.budget.summary() == {"a": {"limit": 3.0, "spent": 3.0, "remaining": 0.0}}
    assert made.metrics.completed_by_agent() == {"a": 1}
    assert len(made.get_agent("a").completed_tasks) == 6


def test_abandoned_thread_keeps_its_slot_to_its_end(run: Run, settle: Until) -> None:
    made = loco_otel.configure(capacity=1)
    go_on, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(PATIENCE)

    async def program() -> None:
        call = asyncio.create_task(loco_otel.wrap(work, agent_id="a"))
        await settle(begun.is_set)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert made.resource.holder_count == 1
        go_on.set()
        await settle(lambda: made.resource.holder_count == 0)
        assert made.metrics.total_cost() == 0.0

    run(program())


def test_shutdown_ends_only_calls_of_the_program(run: Run) -> None:
    made = loco_otel.configure(capacity=1)

    async def program() -> None:
        assert await made.shutdown() == {"cancelled_waiters": 0, "active_holders": 0}
        with pytest.raises(ShutdownError):
            await loco_otel.wrap(print, agent_id="a")
        with loco_otel.slot("patched"):
            pass

    run(program())


# -- async generators --------------------------------------------------------------------------------------------------


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


def test_stream_holds_its_slot_until_it_ends(run: Run) -> None:
    made = loco_otel.configure(capacity=1)

    async def program() -> None:
        stream = await loco_otel.wrap(numbers, agent_id="a", weight=2.0, count=3)
        assert made.resource.holder_count == 0
        seen = []
        async for number in stream:
            seen.append((number, made.resource.holder_count))
            assert ownership.current_ticket() is None  # what the reader does is its own
            with pytest.raises(AcquireTimeoutError):
                await loco_otel.wrap(print, agent_id="b", timeout=0)
        assert seen == [(0, 1), (1, 1), (2, 1)]
        assert made.resource.holder_count == 0
        assert made.metrics.cost_by_agent() == {"a": 2.0}

    run(program())


def test_streaming_object_holds_its_slot(run: Run) -> None:
    made = loco_otel.configure(capacity=1)

    class Numbers:
        async def __call__(self, count: int) -> AsyncIterator[int]:
            for _ in range(count):
                yield made.resource.holder_count

    async def program() -> None:
        stream = await loco_otel.wrap(Numbers(), agent_id="a", count=2)
        assert [number async for number in stream] == [1, 1]
        assert made.resource.holder_count == 0

    run(program())


def test_sync_generator_is_rejected(run: Run) -> None:
    made = loco_otel.configure(capacity=1)

    def count() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"count is a sync generator.* make it an async generator"):
        loco_otel.scheduled(agent_id="a")(count)

    async def program() -> None:
        with pytest.raises(TypeError, match="sync generator"):
            await loco_otel.wrap(partial(count), agent_id="a")
        assert "a" not in made.agents

    run(program())


@pytest.mark.parametrize("end", ["close", "raise", "drop", "cancel"])
def test_broken_stream_frees_its_slot(run: Run, settle: Until, end: str) -> None:
    made = loco_otel.configure(capacity=1)
    closed: list[bool] = []

    @loco_otel.scheduled(agent_id="a")
    async def stream() -> AsyncIterator[int]:
        """Count."""
        try:
            yield 1
            if end == "raise":
                raise KeyError
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async def program() -> None:
        assert stream.__doc__ == "Count."
        reader = stream()
        assert await anext(reader) == 1
        assert made.resource.holder_count == 1
        if end == "close":
            async with aclosing(reader):
                pass
        elif end == "raise":
            with pytest.raises(KeyError):
                await anext(reader)
        elif end == "cancel":
            task = asyncio.create_task(anext(reader))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            del reader
            gc.collect()
        await settle(lambda: bool(closed) and made.resource.engine.take_snapshot().resources[0].active == 0)
        assert made.get_agent("a").completed_tasks.total - made.get_agent("a").completed_tasks.failed == (
            1 if end == "close" else 0
        )

    run(program())


def test_stream_never_started_holds_nothing(run: Run) -> None:
    made = loco_otel.configure(capacity=1)

    async def program() -> None:
        stream = await loco_otel.wrap(numbers, agent_id="a", count=1)
        await stream.aclose()
        with pytest.raises(KeyError):
            await (await loco_otel.wrap(numbers, agent_id="a", count=1)).athrow(KeyError())
        assert made.logical_tick == 0

    run(program())


def test_stream_accepts_sent_values(run: Run) -> None:
    loco_otel.configure(capacity=1)

    async def echo() -> AsyncIterator[object]:
        heard: object = None
        while True:
            try:
                heard = yield heard
            except KeyError as error:
                heard = error.args[0]

    async def program() -> None:
        stream = await loco_otel.wrap(echo, agent_id="a")
        assert await anext(stream) is None
        assert await stream.asend("hello") == "hello"
        assert await stream.athrow(KeyError("thrown")) == "thrown"
        await stream.aclose()

    run(program())


def test_wrapped_generator_that_fails_at_creation_takes_no_slot() -> None:
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
