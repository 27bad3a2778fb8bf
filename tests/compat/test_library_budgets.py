"""Budgets of loco-agent's API, kept by hand and by a scheduler."""

import threading

import pytest
from library_callers import Run, make_scheduler

from loco_otel import (
    BudgetExceededError,
    BudgetManager,
    Task,
)


def test_budget_can_be_kept_by_hand() -> None:
    budget = BudgetManager(default_limit=100.0)
    budget.set_limit("a", max_cost=50.0)
    assert budget.check("a", task_cost=10.0) is True
    budget.record_spend("a", cost=10.0)
    assert (budget.remaining("a"), budget.spent("a"), budget.get_limit("a")) == (40.0, 10.0, 50.0)
    assert budget.summary() == {"a": {"limit": 50.0, "spent": 10.0, "remaining": 40.0}}
    with pytest.raises(BudgetExceededError, match=r"current=10.0 \+ task=40.5 > limit=50.0"):
        budget.check("a", 40.5)
    assert budget.check("a", 40.0)
    budget.remove_limit("a")
    assert budget.get_limit("a") == 100.0
    budget.reset("a")
    assert budget.spent("a") == 0.0
    budget.record_spend("a", 1.0)
    budget.record_spend("b", 1.0)
    budget.reset_all()
    assert (budget.spent("a"), budget.spent("b")) == (0.0, 0.0)
    assert BudgetManager().check("anybody", 1e9)
    assert (BudgetManager().get_limit("a"), BudgetManager().remaining("a")) == (None, None)


def test_many_small_amounts_add_up_exactly() -> None:
    budget = BudgetManager(default_limit=1.0)
    for _ in range(10):
        assert budget.reserve("a", 0.1)
    with pytest.raises(BudgetExceededError):
        budget.reserve("a", 0.000001)
    for _ in range(10):
        budget.settle("a", 0.1, spent=True)
    assert (budget.spent("a"), budget.reserved("a"), budget.remaining("a")) == (1.0, 0.0, 0.0)


def test_budget_can_be_added_later(run: Run) -> None:
    made = make_scheduler("a")

    async def program() -> None:
        await made.submit_task("a", Task(weight=2.0))
        made.budget = BudgetManager(default_limit=1.0)
        with pytest.raises(BudgetExceededError):
            async with made.acquire("a"):
                pass
        made.budget = None
        await made.submit_task("a", Task(weight=2.0))
        async with made.acquire("a") as task:
            assert task is not None

    run(program())


def test_reservations_end_one_by_one_at_the_same_instant() -> None:
    budget = BudgetManager(default_limit=10)
    budget.reserve("a", 1.0)

    class Interrupted(dict[tuple[str, int], list[str]]):
        """Lets another thread settle, if it can, in the midst of noting a reservation."""

        def setdefault(self, key: tuple[str, int], default: list[str]) -> list[str]:  # type: ignore[override]
            alike = super().setdefault(key, default)
            other.start()
            other.join(0.1)
            return alike

    other = threading.Thread(target=budget.settle, args=("a", 1.0), kwargs={"spent": False})
    budget._open_reservations = Interrupted(budget._open_reservations)
    budget.reserve("a", 1.0)
    other.join()
    budget.settle("a", 1.0, spent=False)
    assert budget.reserved("a") == 0
