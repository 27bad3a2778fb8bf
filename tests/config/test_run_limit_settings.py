"""The limits of runs in the settings: in a line, in a table, and what is wrong with either."""

from decimal import Decimal
from pathlib import Path

import pytest

from loco_otel._config.run_limits import RunLimits
from loco_otel._config.settings import Settings
from loco_otel.errors import ConfigurationError
from loco_otel.money import Action, Budget, Period, Scope, Unit

ALL = "usd=0.50,tokens=9000,calls=100,calls_per_minute=30,seconds=600.5,repeats=5"


def load(text: str, folder: Path) -> Settings:
    (folder / "loco.toml").write_text(text)
    return Settings.load({"LOCO_CONFIG": str(folder / "loco.toml")})


def test_line_and_table_are_the_same_limits(tmp_path: Path) -> None:
    line = Settings.load({"LOCO_RUN_LIMITS": ALL})
    table = load("[run_limits]\n" + ALL.replace(",", "\n"), tmp_path)
    assert line.run_limits == table.run_limits == Settings.load({}).changed(run_limits=ALL).run_limits
    assert line.run_limits == RunLimits(
        usd=Decimal("0.50"), tokens=9000, calls=100, calls_per_minute=30, seconds=600.5, repeats=5
    )
    assert line.limits == (
        Budget(Scope.RUN, None, 500_000, Unit.USD, Period.TOTAL, Action.REJECT, ()),
        Budget(Scope.RUN, None, 9000, Unit.TOKENS, Period.TOTAL, Action.REJECT, ()),
        Budget(Scope.RUN, None, 100, Unit.CALLS, Period.TOTAL, Action.REJECT, ()),
        Budget(Scope.RUN, None, 30, Unit.CALLS, Period.MINUTE, Action.REJECT, ()),
    )
    shown = {row.key: row.value for row in line.rows()}
    assert shown["run_limits"].replace(" ", "") == ALL


def test_none_is_no_limit() -> None:
    settings = Settings.load({"LOCO_RUN_LIMITS": "calls=1"}).changed(run_limits="none")
    assert settings.limits == ()
    assert {row.key: row.value for row in settings.rows()}["run_limits"] == "none"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("calls", "'calls' is not one of usd, tokens, calls, calls_per_minute, seconds, repeats with a number"),
        ("calls=1,calls=2", "'calls=2' is not one of"),
        ("dollars=1", "'dollars=1' is not one of"),
        ("calls=1.5", "calls is a whole number of at least 0"),
        ("calls=-1", "calls is a whole number of at least 0"),
        ("usd=0.0001", "usd is 0, or a number from 0.001"),
        ("usd=much", "usd is 0, or a number from 0.001"),
        ("seconds=0", "seconds is a number of seconds above 0"),
        ("repeats=0", "repeats is a whole number of at least 1"),
    ],
)
def test_invalid_line_is_named_with_what_is_allowed(line: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load({"LOCO_RUN_LIMITS": line})
    assert str(raised.value).startswith(f"LOCO_RUN_LIMITS={line}: must be ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[run_limits]\ncalls=true", "run_limits.calls=true in {}: must be a whole number of at least 0"),
        (
            "[run_limits]\nhours=1",
            "must be of usd, tokens, calls, calls_per_minute, seconds, repeats, and hours",
        ),
        ("run_limits=5", "run_limits=5 in {}: must be names with a number"),
        (
            "[run_limits]\ncalls=1\n[[budgets]]\nscope='run'\nunit='calls'\nlimit=2",
            "a budget of each run in calls and run_limits: set one of them",
        ),
        ("[[budgets]]\nlimit=1.5\nunit='calls'", "a limit of calls is a whole number"),
        ("mode = 'watch'", "mode=watch in {}: must be enforce or observe"),
    ],
)
def test_invalid_table_is_named_with_what_is_allowed(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(text, tmp_path)
    assert message.format(tmp_path / "loco.toml") in str(raised.value)


def test_budget_of_one_run_is_valid_beside_limits_of_each(tmp_path: Path) -> None:
    settings = load("[run_limits]\ncalls=1\n[[budgets]]\nscope='run'\nkey='nightly'\nunit='calls'\nlimit=0", tmp_path)
    assert [(budget.key, budget.limit) for budget in settings.limits] == [("nightly", 0), (None, 1)]
