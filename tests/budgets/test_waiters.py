"""Which waiting calls are rejected, and which are checked at all, as accounts are charged."""

from collections.abc import Callable

import pytest
from budget_queue import WEIGHTS, BudgetQueue
from hypothesis import given
from hypothesis import strategies as st

from loco_otel._config.settings import Settings
from loco_otel._core.ticket import State
from loco_otel.events import Outcome
from loco_otel.money import Scope
from loco_otel.testing import RecordingListener


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loco_otel._engine.timer.Timer.start_watching", lambda *_: True)


def test_charge_of_a_run_at_its_cap_checks_its_waiters_alone() -> None:
    queue = BudgetQueue({"scope": "run", "limit": 25})
    others = [queue.wait(f"r{number}") for number in range(50)]
    own = [queue.wait("r") for _ in range(3)]
    queue.checks = 0
    queue.charge("r", 20_000)
    assert [(ticket.state, ticket.outcome) for ticket in own] == [(State.REJECTED, Outcome.BUDGET)] * 3
    assert {ticket.state for ticket in others} == {State.WAITING}
    queue.charge("r", 20_000)
    assert queue.checks == 3


@pytest.mark.parametrize(("on_exceeded", "checks"), [("reject", 50), ("downgrade", 2 * 50)])
def test_waiter_is_checked_once_when_it_no_longer_fits(on_exceeded: str, checks: int) -> None:
    queue = BudgetQueue({"scope": "all", "limit": 1000, "on_exceeded": on_exceeded})
    for number in range(50):
        queue.wait(f"r{number}")
    queue.checks = 0
    queue.charge("s", 985_000)
    assert queue.checks == 0
    for _ in range(9):
        queue.charge("s", 1000)
    assert queue.checks == checks, "with `downgrade` also whether the next cheaper model fits"


def test_waiter_of_a_new_period_is_rejected_in_it() -> None:
    queue = BudgetQueue({"scope": "all", "limit": 20, "period": "minute"})
    queue.wait("r", "tiny")
    queue.charge("s", 18_000)
    queue.now += 60
    ticket = queue.wait("r", "big")
    queue.charge("s", 12_000)
    assert ticket.state is State.REJECTED


def test_waiter_without_a_cheaper_model_left_is_rejected() -> None:
    queue = BudgetQueue(
        {"scope": "agent", "key": "a", "limit": 4, "on_exceeded": "downgrade"},
        {"scope": "model", "key": "mini", "limit": 5},
    )
    ticket = queue.wait("r", "big", "a")
    assert ticket.state is State.WAITING
    queue.charge("s", 4000, "mini", "b")
    assert ticket.state is State.REJECTED


def test_waiters_that_left_are_forgotten() -> None:
    queue = BudgetQueue({"scope": "run", "limit": 25})
    for _ in range(3):
        ticket = queue.wait("r")
        queue.budgets.untrack_waiter(ticket)
        queue.budgets.untrack_waiter(ticket)
    index = queue.budgets._waiters
    assert (index._waiters, index._entries, index._rooms) == ({}, {}, {})


def test_lower_limits_reject_waiters() -> None:
    queue = BudgetQueue({"scope": "run", "limit": 25})
    ticket = queue.wait("r")
    budgets = [{"scope": "all", "limit": 11, "unit": "weight"}]
    queue.budgets.apply_settings(Settings.load({}).changed(budgets=budgets))
    queue.budgets.recheck_waiters()
    assert ticket.state is State.WAITING
    queue.charge("s", 2000)
    assert ticket.state is State.REJECTED


def test_report_has_no_charges_of_single_runs() -> None:
    queue = BudgetQueue({"scope": "run", "limit": 25}, {"scope": "agent", "limit": 25})
    queue.engine.add_listener(RecordingListener())
    queue.charge("r", 2000)
    assert {key.scope: amount for key, amount in queue.budgets.read_report().charged.items()} == {Scope.AGENT: 2000}


def test_report_has_the_budgets_of_runs_without_their_accounts() -> None:
    queue = BudgetQueue(
        {"scope": "session", "limit": 25}, {"scope": "run", "limit": 25}, {"scope": "agent", "limit": 25}
    )
    queue.charge("r", 2000)
    report = queue.budgets.read_report()
    assert [status.key.scope for status in report.statuses] == [Scope.AGENT]
    assert [budget.scope for budget in report.call_budgets] == [Scope.SESSION, Scope.RUN]
    assert {status.key.scope for status in queue.budgets.read_statuses()} == {Scope.AGENT, Scope.RUN}


_RUNS, _AGENTS, _MODELS = st.sampled_from("rs"), st.sampled_from("ab"), st.sampled_from(sorted(WEIGHTS))
_WAITS = st.tuples(st.just(BudgetQueue.wait), _RUNS, _MODELS, _AGENTS)
_CHARGES = st.tuples(st.just(BudgetQueue.charge), _RUNS, st.integers(0, 8000), _MODELS, _AGENTS)
_STEPS = st.one_of(_WAITS, _CHARGES, st.integers(1, 90))
_ACTIONS = st.sampled_from(["reject", "downgrade", "alert"])


@given(st.lists(_STEPS, max_size=40), _ACTIONS, _ACTIONS, _ACTIONS)
def test_no_call_waits_that_no_budget_can_admit(
    steps: list[int | tuple[Callable[..., object], object]], of_runs: str, of_agents: str, of_models: str
) -> None:
    queue = BudgetQueue(
        {"scope": "run", "limit": 30, "on_exceeded": of_runs},
        {"scope": "agent", "limit": 20, "on_exceeded": of_agents, "period": "minute"},
        {"scope": "model", "key": "m*", "limit": 25, "on_exceeded": of_models},
        {"scope": "all", "key": "*", "limit": 70},
    )
    for step in steps:
        if isinstance(step, int):
            queue.now += step
        else:
            operation, *arguments = step
            operation(queue, *arguments)
            assert queue.list_overlooked() == []
