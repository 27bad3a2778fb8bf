"""`loco-otel budgets` and `loco-otel spend`, on a real ledger."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE

from loco_otel._budgets.forecast import predict_exhaustion
from loco_otel._budgets.sqlite_ledger import SqliteLedger
from loco_otel.cli.main import main
from loco_otel.money import AccountKey, Action, Budget, BudgetStatus, Charge, Period, Scope, Unit

NOW = 1_800_000_000.0
KEY = AccountKey(Scope.ALL, "*", Unit.USD, Period.DAY)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(
        path,
        [
            Budget(Scope.AGENT, "analyst", 5_000_000, period=Period.DAY),
            Budget(Scope.ALL, "*", 20_000_000),
            Budget(Scope.TEAM, "red", 100_000, Unit.WEIGHT),
        ],
    )
    ledger.settle_reservation("1", charge("analyst", "gpt-4o", 1_250_001), NOW - 3600)
    ledger.settle_reservation("2", charge("writer", "gpt-4o-mini", 2_000, team="red"), NOW - 60)
    ledger.settle_reservation("3", charge("writer", "our-own", None, team="red"), NOW - 60)
    ledger.reserve_estimate("4", charge("analyst", "gpt-4o", 250_000), NOW)
    yield path
    ledger.close()


def charge(agent: str, model: str, usd: int | None, team: str | None = None) -> Charge:
    return Charge(agent, None, team, model, usd, 3000, "openai", None, None, 100, 20)


def run(*arguments: object, ledger: Path | None = None, environ: dict[str, str] | None = None) -> Result:
    asked = [str(it) for it in arguments] + ([] if ledger is None else ["--ledger", str(ledger)])
    clean = dict.fromkeys(("LOCO_LEDGER", "LOCO_CONFIG", "LOCO_BUDGET_ZONE"))
    return CliRunner().invoke(main, asked, env={**clean, "COLUMNS": "200", **(environ or {})})


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loco_otel.cli.main.time.time", lambda: NOW)


@pytest.mark.usefixtures("noon")
def test_budgets_are_a_table(path: Path) -> None:
    shown = run("budgets", environ={"LOCO_LEDGER": str(path)})
    assert shown.exit_code == 0, shown.output
    header, *rows = [line.split() for line in shown.output.splitlines()]
    assert header[:8] == ["scope", "key", "period", "limit", "spent", "reserved", "used", "left"]
    by_scope = {row[0]: row[1:] for row in rows}
    assert by_scope["agent"][:7] == ["analyst", "day", "$5.00", "$1.250001", "$0.25", "30%", "$3.499999"]
    assert by_scope["all"][:5] == ["*", "total", "$20.00", "$1.252001", "$0.25"]
    assert by_scope["all"][-6:] == ["-", "in", "14", "h", "58", "min"]
    assert by_scope["team"][:4] == ["red", "total", "100", "weight"]


@pytest.mark.usefixtures("noon")
def test_budgets_as_json(path: Path) -> None:
    told = json.loads(run("budgets", "--json", ledger=path).output)["budgets"]
    analyst, everything, team = told
    assert analyst == {
        "scope": "agent", "key": "analyst", "unit": "usd", "period": "day", "on_exceeded": "reject",
        "limit": 5.0, "spent": 1.250001, "reserved": 0.25, "left": 3.499999, "used": pytest.approx(0.3, rel=1e-3),
        "resets_at": 1800057600.0, "runs_out_at": pytest.approx(NOW + 3600 * 3.749999 / 1.250001),
    }  # fmt: skip
    assert everything["resets_at"] is None
    assert (team["unit"], team["spent"], team["limit"]) == ("weight", 6.0, 100.0)


def test_spending_is_a_table_with_a_sum(path: Path) -> None:
    shown = run("spend", ledger=path)
    assert shown.exit_code == 0, shown.output
    rows = [line.split() for line in shown.output.splitlines() if line.strip()]
    assert rows[1:] == [
        ["analyst", "gpt-4o", "1", "$1.250001", "3", "100", "20", "0", "0"],
        ["writer", "gpt-4o-mini", "1", "$0.002", "3", "100", "20", "0", "0"],
        ["writer", "our-own", "1", "$0.00", "3", "100", "20", "1", "0"],
        ["all", "3", "$1.252001", "9", "300", "60", "1", "0"],
    ]


def test_spending_as_json_is_grouped_as_requested(path: Path) -> None:
    told = json.loads(run("spend", "--by", "team", "--json", ledger=path).output)["spend"]
    assert [(it["team"], it["calls"], it["usd"], it["unpriced"]) for it in told] == [
        (None, 1, 1.250001, 0),
        ("red", 2, 0.002, 1),
    ]
    later = json.loads(run("spend", "--by", "agent", "--since", "2099-01-01", "--json", ledger=path).output)
    assert later == {"spend": []}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["spend", "--by", "colour"],
            2,
            "by must be of agent, tenant, team, workflow, session, provider, model, run, not 'colour'",
        ),
        (["spend", "--since", "yesterday"], 2, "yesterday"),
    ],
)
def test_invalid_request_is_rejected(arguments: list[str], code: int, said: str, path: Path) -> None:
    shown = run(*arguments, ledger=path)
    assert (shown.exit_code, said in shown.output) == (code, True), shown.output


@pytest.mark.parametrize("command", ["budgets", "spend"])
def test_missing_ledger_names_the_setting(command: str, tmp_path: Path) -> None:
    shown = run(command)
    assert shown.exit_code == 2
    assert "set LOCO_LEDGER to the path of a file" in shown.output
    nowhere = tmp_path / "none.db"
    shown = run(command, ledger=nowhere)
    assert shown.exit_code == 1
    assert f"the ledger {nowhere} can't be used" in shown.output
    assert not nowhere.exists()
    shown = run(command, environ={"LOCO_CAPACITY": "none"})
    assert shown.exit_code == 1
    assert "LOCO_CAPACITY=none: must be" in shown.output


def test_installed_command_reads_a_ledger_in_use(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loco_otel.cli", "spend", "--ledger", path, "--json"],
        check=True, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert len(json.loads(done.stdout)["spend"]) == 3


# The forecast.


def standing(spent: int, since: float | None, *, limit: int = 100, resets_at: float | None = None) -> BudgetStatus:
    return BudgetStatus(KEY, limit, spent, 0, resets_at, Action.REJECT, since)


@pytest.mark.parametrize(
    ("it", "out"),
    [
        (standing(50, NOW - 100), NOW + 100),
        (standing(50, NOW - 100, resets_at=NOW + 101), NOW + 100),
        (standing(50, NOW - 100, resets_at=NOW + 100), None),
        (standing(100, NOW - 100), NOW),
        (standing(130, NOW - 100), NOW),
        (standing(0, None), None),
        (standing(0, NOW - 100), None),
        (standing(50, NOW), None),
        (standing(0, None, limit=0), NOW),
    ],
)
def test_forecast_shows_when_a_budget_runs_out(it: BudgetStatus, out: float | None) -> None:
    assert predict_exhaustion(it, NOW) == out


@given(st.integers(0, 10**12), st.integers(1, 10**12), st.floats(0, 10**6))
def test_forecast_is_sooner_with_more_spent(spent: int, limit: int, ago: float) -> None:
    less, more = (predict_exhaustion(standing(amount, NOW - ago, limit=limit), NOW) for amount in (spent, spent + 1))
    assert less is None or (more is not None and NOW <= more <= less)


def test_names_are_shown_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    agent, session = "x[/y][bold]planner[/bold]", ":tada:"
    ledger = SqliteLedger(path, [Budget(Scope.AGENT, agent, 5_000_000)])
    ledger.settle_reservation("1", charge(agent, "gpt-4o[1m]", 10)._replace(session=session), NOW)
    ledger.close()
    for command in (("budgets",), ("spend", "--by", "agent,session,model")):
        shown = run(*command, ledger=path)
        assert shown.exit_code == 0, shown.output
        assert agent in shown.output
    assert session in shown.output
    assert "gpt-4o[1m]" in shown.output


@pytest.mark.parametrize("columns", ["40", "80", None])
def test_amounts_are_never_truncated(columns: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path, [Budget(Scope.AGENT, "an agent of a rather long name", 1_234_567_890_123)])
    ledger.settle_reservation("1", charge("an agent of a rather long name", "gpt-4o", 123_456_789), NOW)
    ledger.close()
    environ = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    if columns is not None:
        environ["COLUMNS"] = columns
    command = [sys.executable, "-m", "loco_otel.cli", "budgets", "--ledger", str(path)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout
    assert "…" not in shown
    if columns is None:  # not a terminal: a line each
        assert "$1234567.890123" in shown.replace(",", "")
        assert len(shown.splitlines()) == 2
