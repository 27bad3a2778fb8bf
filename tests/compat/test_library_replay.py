"""Replays step by step, without a loop."""

import pytest

from loco_otel import (
    Agent,
    LOCOScheduler,
    Task,
    jains_fairness,
)
from loco_otel.testing import RunResult, SyncTestScheduler, mock_agent


def test_each_step_of_a_replay_has_its_reason() -> None:
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


def test_bare_formula_starves_visibly() -> None:
    replay = SyncTestScheduler([mock_agent("light", 1), mock_agent("heavy")], alpha=1.0)
    for _ in range(500):
        replay.step({"heavy": [Task(weight=5.0), Task(weight=5.0)]})
    assert replay.get_agent("light").dmax == 500.0


def test_run_counts_served_tasks() -> None:
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
