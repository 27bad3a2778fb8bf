"""When a process comes by itself: at the time of a gate if it is named, later if not."""

from math import inf
from typing import Any

import pytest

from loco_otel._engine.redis.batches import Reply
from loco_otel._engine.redis.kick_plan import KickPlan

NOW = 1_000_000


def reply(*lines: Any, due: int = 0, expiry: int = NOW + 5000) -> Reply:
    return Reply.parse([NOW, "ok", "e1", {}, lines, due, expiry, 2])


def line(name: str, gate: Any = ()) -> list[Any]:
    return [name, 1, 0, 3, 7, 1, "fifo", "0", 0, ["60", "0.5"], {}, gate, {}, {}, "", ""]


def gated(name: str, milliseconds: int, *, is_named: bool) -> list[Any]:
    return line(name, [NOW + milliseconds, "requests", is_named, name])


@pytest.fixture
def plan() -> KickPlan:
    return KickPlan(5.0)


def test_the_named_process_comes_at_the_time_of_the_gate(plan: KickPlan) -> None:
    plan.update(reply(gated("llm", 3000, is_named=True)), 10.0, 0.9, has_waiters=True)
    assert plan.at == 13.0


@pytest.mark.parametrize(("fraction", "late"), [(0.0, 0.1), (1.0, 0.25)])
def test_the_others_come_later(plan: KickPlan, fraction: float, late: float) -> None:
    plan.update(reply(gated("llm", 3000, is_named=False)), 10.0, fraction, has_waiters=True)
    assert plan.at == pytest.approx(13.0 + late)


def test_the_others_come_at_most_four_times_a_second(plan: KickPlan) -> None:
    plan.update(reply(gated("llm", 10, is_named=False)), 10.0, 0.0, has_waiters=True)
    assert plan.at == 10.25


def test_a_process_without_waiters_does_not_come(plan: KickPlan) -> None:
    plan.update(reply(gated("llm", 3000, is_named=True), due=NOW + 5), 10.0, 0.0, has_waiters=False)
    assert plan.at == inf


def test_a_reply_about_another_resource_leaves_a_plan(plan: KickPlan) -> None:
    plan.update(reply(gated("one", 3000, is_named=True)), 10.0, 0.0, has_waiters=True)
    plan.update(reply(line("two")), 11.0, 0.0, has_waiters=True)
    assert plan.at == 13.0
    plan.update(reply(line("one")), 12.0, 0.0, has_waiters=True)
    assert plan.at == inf


def test_a_gate_that_only_a_grant_opens_needs_nobody(plan: KickPlan) -> None:
    plan.update(reply(line("llm", [-1, "tokens", False, "llm"])), 10.0, 0.0, has_waiters=True)
    assert plan.at == inf


def test_what_was_due_stays_due_until_its_resource_is_reported(plan: KickPlan) -> None:
    """A beat may be left out while batches are in flight, which need not concern this resource."""
    plan.update(reply(gated("one", 1000, is_named=True)), 10.0, 0.0, has_waiters=True)
    plan.clear()
    plan.update(reply(line("two")), 12.0, 0.0, has_waiters=True)
    assert plan.at == 11.0


def test_the_end_of_learning_is_a_time_to_come(plan: KickPlan) -> None:
    plan.update(reply(due=NOW + 2500), 10.0, 0.0, has_waiters=True)
    assert plan.at == 12.5


@pytest.mark.parametrize(("left", "at"), [(2000, 12.005), (2600, inf)])
def test_only_a_process_that_missed_a_heartbeat_is_awaited(plan: KickPlan, left: int, at: float) -> None:
    plan.update(reply(expiry=NOW + left), 10.0, 0.0, has_waiters=True)
    assert plan.at == pytest.approx(at)
