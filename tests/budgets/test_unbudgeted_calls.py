"""Calls without budgets are counted like those of budgets that have room, also where budgets come and go meanwhile."""

import pytest
from budget_queue import BudgetQueue

from loco_otel._budgets.reservation import ActualCost
from loco_otel.events import Usage

LARGE = {"scope": "all", "key": "*", "limit": 1_000_000, "period": "total"}
FIELDS = ("agent", "run", "model", "provider")


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loco_otel._engine.timer.Timer.start_watching", lambda *_: True)


def settle(queue: BudgetQueue, run: str, model: str = "big", *, tokens: int = 9) -> None:
    ticket, reservation = queue.create_call(run, model, "a")
    reservation.settle_cost(ticket, ActualCost(Usage(tokens, 3, estimated=tokens == 1), 1500, model, None))


def test_totals_equal_those_of_budgets_with_room() -> None:
    queues = BudgetQueue(count_spend=True), BudgetQueue(LARGE, count_spend=True)
    for queue in queues:
        for run, model in (("r", "big"), ("r", "big"), ("other", "tiny")):
            settle(queue, run, model)
        settle(queue, "r", tokens=1)
    first, second = (queue.budgets.compute_totals(FIELDS) for queue in queues)
    assert first == second
    assert sum(total.calls for total in first) == 4


def test_reserved_call_is_settled_after_its_budgets_are_gone() -> None:
    queue = BudgetQueue(LARGE)
    settings = queue.budgets._settings
    ticket, reservation = queue.create_call("r", "big", "a")
    assert reservation.admit_call(ticket)
    queue.budgets.apply_settings(settings.changed(budgets=[]))
    reservation.settle_cost(ticket, ActualCost(Usage(9, 3), 1500, "big", None))
    settle(queue, "r")
    queue.budgets.apply_settings(settings)
    (status,) = queue.budgets.read_statuses()
    assert (status.reserved, status.spent) == (0, 0), "what is spent without a budget is not of the later one"
    assert queue.budgets.compute_totals(())[0].calls == 2


def test_deferred_charges_are_written_with_the_next_call() -> None:
    queue = BudgetQueue()
    ticket, reservation = queue.create_call("r", "big", "a")
    reservation.settle_in_finalizer(ticket, ActualCost(Usage(9, 3), 1500, "big", None))
    assert queue.budgets.ledger_client._deferred
    settle(queue, "r")
    assert not queue.budgets.ledger_client._deferred
    assert queue.budgets.compute_totals(())[0].calls == 2
