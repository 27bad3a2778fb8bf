"""When the engine counts as away, and for how long a process waits between attempts."""

from math import inf

import pytest

from loco_otel._engine.redis.modes import ModeSwitch, compute_share
from loco_otel.snapshots import EngineMode


def test_a_short_failure_changes_nothing() -> None:
    switch = ModeSwitch("local", 0.25)
    assert not switch.record_failure(1.0, 1.2)
    assert not switch.record_success()
    assert not switch.record_failure(5.0, 5.2)
    assert switch.mode is EngineMode.REMOTE


@pytest.mark.parametrize("on_error", ["local", "closed", "open"])
def test_the_mode_changes_once_after_the_timeout(on_error: str) -> None:
    switch = ModeSwitch(on_error, 0.25)
    assert not switch.record_failure(1.0, 1.1)
    assert switch.record_failure(1.2, 1.25)
    assert switch.mode.value == on_error
    assert not switch.record_failure(3.0, 4.0)
    assert switch.record_success()
    assert switch.mode is EngineMode.REMOTE
    assert not switch.record_success()


def test_attempts_follow_at_once_until_the_timeout() -> None:
    switch = ModeSwitch("local", 0.25)
    switch.record_failure(1.0, 1.0)
    assert 0.05 <= switch.compute_delay(0.0, 1.0) < switch.compute_delay(0.99, 1.0) <= 0.1
    assert switch.compute_delay(0.99, 1.24) == pytest.approx(0.01)
    switch.record_failure(1.0, 1.25)
    assert switch.compute_delay(0.0, 1.25) == 0.25
    assert switch.compute_delay(1.0, 1.25) == 1.0


@pytest.mark.parametrize(
    ("capacity", "processes", "share"), [(8, 3, 2), (8, 1, 8), (2, 4, 1), (8, 0, 8), (0, 3, 0), (inf, 4, inf)]
)
def test_shares_add_up_to_the_capacity_at_most(capacity: float, processes: int, share: float) -> None:
    assert compute_share(capacity, processes) == share
