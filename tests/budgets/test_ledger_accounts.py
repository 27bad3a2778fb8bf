"""How many accounts the ledger keeps, and how often it checks which of them it may evict."""

from datetime import UTC, datetime

import pytest

from loco_otel._budgets import accounts as module
from loco_otel._budgets.accounts import LedgerState
from loco_otel.money import Budget, Charge, Period, Scope

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()
DAY = 86_400.0
EACH = Budget(Scope.AGENT, None, 100, period=Period.DAY)


def charge(agent: str) -> Charge:
    return Charge(agent, None, None, "gpt-4o", 10, 1000)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ACCOUNTS", 4)


def test_accounts_of_a_past_period_are_evicted() -> None:
    ledger = LedgerState([EACH], UTC, 100.0)
    for number in range(4):
        ledger.settle_reservation(str(number), charge(f"agent {number}"), NOON)
    ledger.settle_reservation("new", charge("new"), NOON + DAY)
    assert [standing.key.key for standing in ledger.read_statuses(NOON + DAY)] == ["new"]


def test_sweeps_become_rare_where_nothing_can_be_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    forget = LedgerState._prune_accounts

    def look(ledger: LedgerState, now: float) -> None:
        nonlocal looks
        looks += 1
        forget(ledger, now)

    monkeypatch.setattr(LedgerState, "_prune_accounts", look)
    ledger = LedgerState([EACH], UTC, 100.0)
    for number in range(1000):
        ledger.settle_reservation(str(number), charge(f"agent {number}"), NOON)
    assert len(ledger.read_statuses(NOON)) == 1000, "what is spent is not forgotten"
    assert 0 < looks < 10
