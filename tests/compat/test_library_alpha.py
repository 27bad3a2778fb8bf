"""The tuner of alpha, by hand, of a scheduler and of the process."""

import asyncio

import pytest
from library_callers import Run, make_scheduler

import loco_otel
from loco_otel import (
    AdaptiveAlphaTuner,
    AsyncLOCOScheduler,
    Task,
)
from loco_otel._core.alpha_tuner import AlphaTuner


def test_alpha_falls_where_some_wait_far_longer() -> None:
    rule = AlphaTuner(0.25)
    assert rule.update_alpha(1, [1, 1, 1], 3, 3) == 0.25
    assert rule.update_alpha(2, [0, 0, 30], 3, 3) == pytest.approx(0.24)
    for tick in range(3, 50):
        rule.update_alpha(tick, [0, 0, 30], 3, 3)
    assert rule.alpha == 0.0
    assert rule.adjustments[0] == (2, pytest.approx(0.24), "ages differ")


def test_alpha_rises_with_queues_below_starvation() -> None:
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


def test_many_agents_are_sampled_rarely() -> None:
    rule = AlphaTuner(0.25)
    assert [tick for tick in range(1, 10) if rule.is_due(tick, 3)] == list(range(1, 10))
    rule = AlphaTuner(0.25)
    assert [tick for tick in range(1, 400) if rule.is_due(tick, 1600)] == [1, 102, 203, 304]


def test_scheduler_tunes_itself_at_each_release(run: Run) -> None:
    made = make_scheduler("old", "young", "idle", auto_tune=True)
    still = make_scheduler("old", "young")

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


def test_tuner_samples_on_request(run: Run) -> None:
    made = make_scheduler("a", "b")
    tuner = AdaptiveAlphaTuner(made, step_size=0.1, min_alpha=0.1)
    made.get_agent("a").tasks.append(Task(age=50))
    made.get_agent("b").tasks.append(Task())
    assert [round(tuner.update(), 2) for _ in range(3)] == [0.15, 0.1, 0.1]
    assert made.alpha == tuner.alpha == 0.1
    assert len(tuner.adjustments) == 2


def test_process_tunes_itself_where_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCO_AUTO_TUNE", "true")
    made = loco_otel.configure(capacity=1)
    assert made.resource.view._queue_set.tuner is not None
    loco_otel.configure(auto_tune=False)
    assert made.resource.view._queue_set.tuner is None
    loco_otel.configure(auto_tune=True, policy="fifo")
    assert made.resource.view._queue_set.tuner is None
