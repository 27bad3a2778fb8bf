"""Budgets while `LOCO_MODE` is `observe`: they refuse nothing, and count what they would refuse."""

import pytest
from budget_queue import BudgetQueue

from loco_otel.errors import LedgerError
from loco_otel.events import LimitAction, LimitDecided, LimitReason
from loco_otel.testing import RecordingListener

DAILY = {"scope": "all", "key": "*", "period": "day"}


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loco_otel._engine.timer.Timer.start_watching", lambda *_: True)


@pytest.mark.parametrize(
    ("limit", "on_exceeded", "ends", "would"),
    [
        (0, "reject", "reject", 1),
        (0, "downgrade", "reject", 1),
        (0, "downgrade", "alert", 0),
        (4, "downgrade", "reject", 0),
        (2, "downgrade", "reject", 1),
        (0, "alert", "reject", 0),
    ],
)
def test_what_would_be_refused_is_counted(limit: int, on_exceeded: str, ends: str, would: int) -> None:
    queue = BudgetQueue({**DAILY, "limit": limit, "on_exceeded": on_exceeded}, mode="observe", downgrade_ends=ends)
    seen = RecordingListener()
    queue.engine.add_listener(seen)
    ticket, reservation = queue.create_call("r", "big", "a")
    assert reservation.admit_call(ticket)
    assert reservation.model == "big"
    queue.engine.flush()
    decided = [(event.reason, event.action) for event in seen.events if isinstance(event, LimitDecided)]
    assert decided == [(LimitReason.BUDGET, LimitAction.WOULD)] * would


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_unusable_ledger_refuses_calls_only_if_enforced(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = BudgetQueue({**DAILY, "limit": 1000}, mode=mode)
    ticket, reservation = queue.create_call("r", "big", "a")

    def fail(*_: object) -> None:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(queue.budgets.ledger_client.ledger, "reserve_estimate", fail)
    if mode == "observe":
        assert reservation.admit_call(ticket)
    else:
        with pytest.raises(LedgerError):
            reservation.admit_call(ticket)
