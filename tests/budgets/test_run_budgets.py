"""Budgets of runs, sessions and workflows, in tokens and calls, in memory and in a file."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE
from timed_ledger import TimedLedger, use_set_clock

from loco_otel._budgets.account import Decision, decide_admission
from loco_otel._budgets.ledger import Ledger
from loco_otel._budgets.ledger_client import LedgerClient
from loco_otel._budgets.memory_ledger import MemoryLedger
from loco_otel._budgets.sqlite_ledger import LedgerView, SqliteLedger
from loco_otel._config.settings import Settings
from loco_otel._runtime.runtime import Runtime
from loco_otel.errors import BudgetExceededError
from loco_otel.money import Action, Budget, Charge, Period, Scope, Unit

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()
IDLE = 900.0
CALLERS = 64

Make = Callable[..., Ledger]


@pytest.fixture(params=["memory", "file", "server"])
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Ledger] = []

    def make(*budgets: Budget, name: str = "ledger.db") -> Ledger:
        ledger: Ledger
        if request.param == "memory":
            ledger = MemoryLedger(budgets, UTC, lease=10_000.0, run_idle_timeout=IDLE)
        elif request.param == "file":
            ledger = SqliteLedger(
                tmp_path / name, budgets, UTC, lease=10_000.0, run_idle_timeout=IDLE, lock_timeout=PATIENCE
            )
        else:
            use_set_clock(monkeypatch)
            server, namespace = request.getfixturevalue("shared_server"), request.getfixturevalue("namespace")
            ledger = TimedLedger(server, f"{namespace}-{name}", budgets, UTC, 10_000.0, NOON)
            ledger.run_idle_timeout = IDLE
        made.append(ledger)
        return ledger

    yield make
    for ledger in made:
        ledger.close()


def charge(run: str | None = "r", usd: int | None = 10, **others: object) -> Charge:
    fields: dict[str, object] = {"tenant": None, "team": None, "model": "gpt-4o", "weight": 1000, **others}
    return Charge(agent="a", usd=usd, run=run, input_tokens=30, output_tokens=20, **fields)  # type: ignore[arg-type]


def each_run(limit: int, unit: Unit, **others: object) -> Budget:
    return Budget(Scope.RUN, None, limit, unit, **others)  # type: ignore[arg-type]


def spent(ledger: Ledger, now: float = NOON) -> dict[str, int]:
    return {status.key.key: status.spent for status in ledger.read_statuses(now)}


@pytest.fixture
def _interrupted_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other threads run between the check of a call and its reservation."""

    def decide(*args: Any, **options: Any) -> Decision:
        decision = decide_admission(*args, **options)
        time.sleep(0)  # no pause: it passes on the interpreter's lock
        return decision

    for module in ("accounts", "sqlite_ledger"):
        monkeypatch.setattr(f"loco_otel._budgets.{module}.decide_admission", decide)


@pytest.mark.usefixtures("_interrupted_checks")
@pytest.mark.parametrize("is_settled", [False, True], ids=["reserved", "settled"])
@pytest.mark.parametrize(
    ("unit", "limit", "admitted"),
    [(Unit.CALLS, 10, 10), (Unit.TOKENS, 549, 10), (Unit.USD, 100, 10), (Unit.WEIGHT, 10_999, 10)],
)
def test_calls_of_one_run_at_a_barrier_keep_its_cap(
    make: Make, unit: Unit, limit: int, admitted: int, is_settled: bool
) -> None:
    ledger = make(each_run(limit, unit))
    # A file or server is shared by two ledgers, as by two processes.
    ledgers = [ledger, ledger if isinstance(ledger, MemoryLedger) else make(each_run(limit, unit))]
    start, reserved = (threading.Barrier(CALLERS, timeout=PATIENCE) for _ in range(2))
    sent: list[str] = []

    def call(number: int) -> None:
        own, name = ledgers[number % 2], str(number)
        start.wait()
        is_admitted = own.reserve_estimate(name, charge(), NOON).admitted
        if not is_settled:
            reserved.wait()
        if is_admitted:
            sent.append(name)
            own.settle_reservation(name, charge(), NOON)

    workers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(sent) == admitted
    assert spent(ledger) == {"r": charge().amount(unit) * admitted}
    assert ledger.reserve_estimate("other", charge("another run"), NOON).admitted


@pytest.mark.parametrize("has_file", [False, True], ids=["memory", "file"])
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12))
@settings(max_examples=25)
def test_run_within_its_limit_is_never_refused(has_file: bool, costs: list[int]) -> None:
    total, most = max(sum(costs), 1), len(costs)
    limits = [(total, Unit.USD), (most, Unit.CALLS), (50 * most, Unit.TOKENS), (1000 * most, Unit.WEIGHT)]
    budgets = [*(each_run(*limit) for limit in limits), each_run(most, Unit.CALLS, period=Period.MINUTE)]
    with tempfile.TemporaryDirectory() as folder:
        ledger = SqliteLedger(Path(folder) / "l.db", budgets) if has_file else MemoryLedger(budgets)
        for number, cost in enumerate(costs):
            name, call = str(number), charge(usd=cost)
            assert ledger.check_estimate(call, NOON).admitted
            assert ledger.reserve_estimate(name, call, NOON).admitted
            ledger.reserve_estimate(f"of another run, {name}", charge("s", usd=total), NOON)
            if number % 3 == 1:
                ledger.settle_reservation(name, call, NOON)
            elif number % 3:
                ledger.cancel_reservation(name, NOON, sent=True)
        assert not ledger.reserve_estimate("one more", charge(), NOON).admitted
        ledger.close()


@pytest.mark.parametrize("scope", [Scope.SESSION, Scope.WORKFLOW])
def test_sessions_and_workflows_have_budgets(make: Make, scope: Scope) -> None:
    ledger = make(Budget(scope, None, 1, Unit.CALLS), Budget(scope, "vip", 2, Unit.CALLS))
    one, vip = charge(**{scope.value: "one"}), charge(**{scope.value: "vip"})
    assert [ledger.reserve_estimate(f"one{n}", one, NOON).admitted for n in range(2)] == [True, False]
    assert [ledger.reserve_estimate(f"vip{n}", vip, NOON).admitted for n in range(3)] == [True, True, False]
    assert ledger.reserve_estimate("none", charge(), NOON).admitted


@pytest.mark.parametrize("unit", list(Unit))
def test_limit_of_zero_admits_no_call(make: Make, unit: Unit) -> None:
    ledger = make(Budget(Scope.ALL, "*", 0, unit), Budget(Scope.AGENT, "b", 0, unit, action=Action.ALERT))
    assert not ledger.check_estimate(charge(usd=None), NOON).admitted
    decision = ledger.reserve_estimate("1", charge(usd=None, weight=0), NOON)
    assert not decision.admitted
    assert [status.limit for status in decision.exceeded] == [0]
    ledger.set_budgets([Budget(Scope.ALL, "*", 10**9, unit)], UTC)
    assert ledger.reserve_estimate("1", charge(), NOON).admitted


def test_sent_call_counts_whatever_its_answer(make: Make) -> None:
    ledger = make(each_run(2, Unit.CALLS), each_run(100, Unit.USD))
    for name, was_sent in (("refused by the provider", True), ("never sent", False), ("timed out", True)):
        assert ledger.reserve_estimate(name, charge(), NOON).admitted
        ledger.cancel_reservation(name, NOON, sent=was_sent)
    (exceeded,) = ledger.reserve_estimate("third", charge(), NOON).exceeded
    assert (exceeded.key.unit, exceeded.spent, exceeded.reserved) == (Unit.CALLS, 2, 0)


def test_silent_run_is_forgotten(make: Make) -> None:
    ledger = make(each_run(1, Unit.CALLS))
    for name in ("r", "s"):
        ledger.reserve_estimate(name, charge(name), NOON)
        ledger.settle_reservation(name, charge(name), NOON)
    later = NOON + IDLE - 1
    assert not ledger.reserve_estimate("r2", charge("r"), later).admitted, "a refused call is no silence"
    assert not ledger.check_estimate(charge("r"), later + IDLE - 1).admitted, "nor is one that is refused early"
    ledger.renew_reservations([], later + 2)
    assert spent(ledger, later + 2) == {"r": 1}
    assert ledger.reserve_estimate("s2", charge("s"), later + 2).admitted


def test_run_with_a_long_call_is_not_silent(make: Make) -> None:
    ledger = make(each_run(2, Unit.CALLS))
    ledger.reserve_estimate("short", charge(), NOON)
    ledger.settle_reservation("short", charge(), NOON)
    ledger.reserve_estimate("long", charge(), NOON)
    ended = NOON + 5 * IDLE
    ledger.renew_reservations(["long"], ended)
    assert not ledger.reserve_estimate("third", charge(), ended).admitted
    ledger.settle_reservation("long", charge(), ended + IDLE)
    assert spent(ledger, ended + IDLE) == {"r": 2}


def test_calls_per_minute_are_counted_by_the_minute(make: Make) -> None:
    ledger = make(each_run(1, Unit.CALLS, period=Period.MINUTE))
    assert ledger.reserve_estimate("1", charge(), NOON).admitted
    ledger.settle_reservation("1", charge(), NOON)
    assert not ledger.reserve_estimate("2", charge(), NOON + 59).admitted
    assert ledger.reserve_estimate("3", charge(), NOON + 61).admitted


def test_totals_by_run_are_of_runs_alone(make: Make) -> None:
    ledger = make()
    for number, run in enumerate(("r", "s", "r", None)):
        ledger.settle_reservation(str(number), charge(run), NOON)
    assert [(it.by, it.calls, it.usd) for it in ledger.compute_totals(["run", "agent"])] == [
        (("r", "a"), 2, 20),
        (("s", "a"), 1, 10),
    ]
    (everything,) = ledger.compute_totals([])
    assert everything.calls == 4


def test_runs_that_are_not_counted_have_no_totals(make: Make) -> None:
    ledger = make()
    ledger.counts_runs = False
    ledger.settle_reservation("1", charge("r"), NOON)
    assert ledger.compute_totals(["run"]) == ()
    ledger.counts_runs = True
    ledger.settle_reservation("2", charge("r"), NOON)
    assert [(it.by, it.calls) for it in ledger.compute_totals(["run"])] == [(("r",), 1)]
    assert ledger.compute_totals([])[0].calls == 2


@pytest.mark.parametrize(
    ("settings", "is_counted"),
    [
        ({}, False),
        ({"LOCO_BUDGETS": "*=5"}, False),
        ({"LOCO_RUN_LIMITS": "repeats=5"}, True),
        ({"LOCO_RUN_LIMITS": "calls=5"}, True),
        ({"LOCO_COUNT_SPEND": "true"}, True),
    ],
)
def test_runs_are_counted_if_anything_uses_them(
    settings: dict[str, str], is_counted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loco_otel._engine.timer.Timer.start_watching", lambda *_: True)
    runtime = Runtime(Settings.load({"LOCO_LEDGER": str(tmp_path / "l.db"), **settings}))
    budgets = runtime.budgets
    assert budgets.ledger_client.ledger.counts_runs == is_counted
    budgets.start_counting(by_run=False)
    assert budgets.ledger_client.ledger.counts_runs == is_counted
    budgets.start_counting(by_run=True)
    budgets.apply_settings(runtime.settings.changed(ledger=None))
    assert budgets.ledger_client.ledger.counts_runs, "also in a ledger that is opened later"
    runtime.close()


def test_file_keeps_the_last_rows_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loco_otel._budgets.sqlite_ledger._MAX_RUN_ROWS", 3)
    ledger = SqliteLedger(tmp_path / "l.db")
    ledger.renew_reservations([], NOON)
    for number in range(5):
        ledger.settle_reservation(str(number), charge(f"r{number}"), NOON)
    ledger.renew_reservations([], NOON)
    assert {it.by for it in ledger.compute_totals(["run"])} == {("r2",), ("r3",), ("r4",)}
    assert ledger.compute_totals([])[0].calls == 5
    ledger.close()


def test_file_is_cleaned_up_each_hour_without_reservations(tmp_path: Path) -> None:
    now = NOON
    client = LedgerClient(SqliteLedger(tmp_path / "l.db"), lambda: now, lambda *_: None)
    for day in range(3):
        now = NOON + day * 86_400 * 20
        client.ledger.settle_reservation(str(day), charge(f"r{day}"), now)
        client.run_maintenance()
    assert {it.by for it in client.ledger.compute_totals(["run"])} == {("r1",), ("r2",)}
    client.ledger.close()


def test_accounts_of_silent_runs_leave_the_file(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "l.db", [each_run(9, Unit.CALLS), each_run(9, Unit.CALLS, period=Period.MINUTE)])
    for number in range(3):
        ledger.reserve_estimate(str(number), charge(f"r{number}"), NOON)
        if number:
            ledger.settle_reservation(str(number), charge(f"r{number}"), NOON)
        else:
            ledger.cancel_reservation(str(number), NOON)
    view = LedgerView(tmp_path / "l.db")
    assert len(view.read_statuses(NOON)) == 6
    ledger.renew_reservations([], NOON + 2 * IDLE)
    assert view.read_statuses(NOON + 2 * IDLE) == ()
    view.close()
    ledger.close()


def test_accounts_of_a_past_period_leave_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loco_otel._budgets.sqlite_ledger._REMOVED_PER_STEP", 2)
    kept = [Budget(Scope.AGENT, "a", 9000, period=Period.DAY), Budget(Scope.SESSION, "s0", 9000, period=Period.DAY)]
    each = [Budget(scope, None, 9000, period=Period.DAY) for scope in (Scope.SESSION, Scope.MODEL)]
    in_total = Budget(Scope.TENANT, None, 9000)
    ledger = SqliteLedger(tmp_path / "l.db", [*kept, *each, in_total])
    others = SqliteLedger(tmp_path / "l.db", [Budget(Scope.TEAM, "red", 9000, period=Period.DAY)])
    for number in range(3):
        call = charge(session=f"s{number}", tenant=f"t{number}", model=f"m{number}", team="red")
        ledger.settle_reservation(str(number), call, NOON)
        others.settle_reservation(f"{number} of others", call, NOON)
    under_way = charge(session="s1", tenant="t1")
    ledger.lease = 10 * 86_400
    ledger.reserve_estimate("under way", under_way, NOON)
    view = LedgerView(tmp_path / "l.db")
    ledger.renew_reservations([], NOON + 1)
    assert len(view.read_statuses(NOON)) == 12, "their period has not passed"
    later = NOON + 2 * 86_400
    ledger.renew_reservations([], later)
    names = {"a", "red", "s0", "s1", "t0", "t1", "t2", "gpt-4o"}
    assert {status.key.key for status in view.read_statuses(later)} == names
    ledger.cancel_reservation("under way", later)
    ledger.renew_reservations([], later)
    assert {status.key.key for status in view.read_statuses(later)} == names - {"s1", "gpt-4o"}
    for each_of_them in (view, ledger, others):
        each_of_them.close()


def test_run_sums_leave_the_file_after_thirty_days(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "l.db")
    ledger.settle_reservation("1", charge(), NOON)
    ledger.renew_reservations([], NOON + 29 * 86_400)
    assert ledger.compute_totals(["run"])
    ledger.renew_reservations([], NOON + 32 * 86_400)
    assert ledger.compute_totals(["run"]) == ()
    assert ledger.compute_totals(["agent"])[0].calls == 1
    ledger.close()


def test_error_of_a_run_names_the_run_and_the_setting(make: Make) -> None:
    ledger = make(each_run(0, Unit.CALLS))
    (exceeded,) = ledger.reserve_estimate("1", charge("run-7"), NOON).exceeded
    text = str(BudgetExceededError.of(exceeded, "a", 1))
    assert "the budget of run 'run-7' has no room for it: 0 calls spent and 0 calls reserved of 0 calls" in text
    assert "LOCO_RUN_LIMITS" in text
    assert "resets" not in text
