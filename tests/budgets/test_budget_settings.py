"""Budgets and ladders as the settings write them, and the errors of those that are invalid."""

import math

import pytest

from loco_otel._config.settings import Settings
from loco_otel.errors import ConfigurationError
from loco_otel.money import Action, Budget, Period, Scope, Unit

LINE = (
    "must be names with an amount in USD and commas between (analyst=5.00,default=2.00,*=20.00), or tables, each with "
    "a limit; amounts from 0.001 to 1000000000, or 0"
)
LIMIT = "0, or a number from 0.001 to 1000000000; whole for tokens and calls"
NO_KEY = "a budget of all has no key)"
LADDER = "a list of models, the next cheaper one first, without the model itself"


def load(tmp_path, text="", **environ):
    file = tmp_path / "loco.toml"
    file.write_text(text)
    return Settings.load({"LOCO_CONFIG": str(file), **environ})


def test_line_names_agents_the_rest_or_all(tmp_path):
    settings = load(
        tmp_path,
        LOCO_BUDGETS="analyst=5.00, default=2 ,*=20.000001,team=a=0.5",
        LOCO_BUDGET_PERIOD="Day",
        LOCO_BUDGET_ON_EXCEEDED="ALERT",
    )
    assert [budget[:6] for budget in settings.limits] == [
        (Scope.AGENT, "analyst", 5_000_000, Unit.USD, Period.DAY, Action.ALERT),
        (Scope.AGENT, None, 2_000_000, Unit.USD, Period.DAY, Action.ALERT),
        (Scope.ALL, "*", 20_000_001, Unit.USD, Period.DAY, Action.ALERT),
        (Scope.AGENT, "team=a", 500_000, Unit.USD, Period.DAY, Action.ALERT),
    ]
    (shown,) = [row.value for row in settings.rows() if row.key == "budgets"]
    assert shown == "analyst=5.00, default=2, *=20.000001, team=a=0.5"


def test_tables_express_what_lines_cannot(tmp_path):
    settings = load(
        tmp_path,
        """
        budget_period = "hour"
        [[budgets]]
        scope = "tenant"
        key = "acme"
        limit = 1.5
        period = "month"
        thresholds = [90, 10]
        [[budgets]]
        scope = "model"
        key = "gpt-4o*"
        limit = 250
        unit = "weight"
        on_exceeded = "downgrade"
        [[budgets]]
        scope = "all"
        limit = 3
        [downgrade]
        gpt-4o = "gpt-4o-mini"
        """,
    )
    assert settings.limits == (
        Budget(Scope.TENANT, "acme", 1_500_000, Unit.USD, Period.MONTH, Action.REJECT, (10, 90)),
        Budget(Scope.MODEL, "gpt-4o*", 250_000, Unit.WEIGHT, Period.HOUR, Action.DOWNGRADE),
        Budget(Scope.ALL, "*", 3_000_000, Unit.USD, Period.HOUR, Action.REJECT),
    )
    shown = {row.key: row.value for row in settings.rows()}
    assert shown["budgets"] == "tenant acme=1.5, model gpt-4o*=250 weight, *=3"
    assert shown["downgrade"] == "gpt-4o > gpt-4o-mini"


@pytest.mark.parametrize(
    ("amount"), ["nan", "inf", "-inf", "-1", "0.0000001", "1e10", "five", "", " ", "1e999999999999", "sNaN"]
)
def test_invalid_amount_is_rejected_with_its_key(amount, tmp_path):
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, LOCO_BUDGETS=f"analyst={amount}")
    assert str(refused.value).startswith(f"LOCO_BUDGETS=analyst={amount.strip()}: {LINE}")


@pytest.mark.parametrize(
    "line", ["analyst", "=5", "analyst=5,=2", "analyst=1,analyst=2", "*=1,*=2", "default=1,default=2"]
)
def test_line_without_names_or_with_one_twice_is_rejected(line, tmp_path):
    with pytest.raises(ConfigurationError, match=r"^LOCO_BUDGETS="):
        load(tmp_path, LOCO_BUDGETS=line)


@pytest.mark.parametrize("limit", [math.nan, math.inf, -math.inf, -1.0, 0.0001, True, "much", 1e12, None])
def test_running_program_is_refused_invalid_budgets(limit, tmp_path):
    with pytest.raises(ConfigurationError, match="budgets"):
        load(tmp_path).changed(budgets=[{"key": "analyst", "limit": limit}])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[budgets]]\nkey='a'", "budgets[1]={{'key': 'a'}} in {}: must be a table with a limit"),
        (
            "[[budgets]]\nlimit=-1",
            "budgets[1].limit=-1 in {}: must be 0, or a number from 0.001 to 1000000000; whole for tokens and calls",
        ),
        (
            "[[budgets]]\nlimit=1\n[[budgets]]\nlimit=1\nscope='galaxy'",
            "budgets[2].scope=galaxy in {}: must be one of agent, tenant, team, model, all, run, session, workflow",
        ),
        (
            "[[budgets]]\nlimit=1\non_exceeded='shout'",
            "budgets[1].on_exceeded=shout in {}: must be one of reject, alert, downgrade",
        ),
        (
            "[[budgets]]\nlimit=1\nthresholds=[50, 120]",
            "budgets[1].thresholds=[50, 120] in {}: must be a list of whole percentages from 1 to 100",
        ),
        (
            "[[budgets]]\nlimit=1\nlimits=2",
            "budgets[1].limits=2 in {}: must be one of limit, scope, key, unit, period, on_exceeded, thresholds",
        ),
        (
            "[[budgets]]\nlimit=1\nscope='all'\nkey='a'",
            "budgets[1]={{'limit': 1, 'scope': 'all', 'key': 'a'}} in {}: must be a table with a limit (" + NO_KEY,
        ),
        ("budget_period = 'week'", "budget_period=week in {}: must be one of minute, hour, day, month, total"),
        ("budget_on_exceeded = 'panic'", "budget_on_exceeded=panic in {}: must be one of reject, alert, downgrade"),
        ("budget_zone = 'Atlantis'", "budget_zone=Atlantis in {}: must be a time zone such as Europe/Berlin"),
        ("budget_zone = '../etc'", "budget_zone=../etc in {}: must be a time zone such as Europe/Berlin"),
        ("ledger_on_error = 'ajar'", "ledger_on_error=ajar in {}: must be closed or open"),
        ("[downgrade]\na = ['b', 'a']", "downgrade.a=['b', 'a'] in {}: must be " + LADDER + ", each once"),
        ("[downgrade]\na = 3", "downgrade.a=3 in {}: must be " + LADDER),
    ],
)
def test_file_fault_is_named_with_allowed_values(text, said, tmp_path):
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, text)
    assert str(refused.value) == said.format(tmp_path / "loco.toml")


def test_downgrade_requires_a_ladder(tmp_path):
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, LOCO_BUDGETS="analyst=5", LOCO_BUDGET_ON_EXCEEDED="downgrade")
    assert str(refused.value) == (
        "LOCO_BUDGET_ON_EXCEEDED=downgrade: downgrade needs a table of cheaper models, [downgrade] in the file that "
        "LOCO_CONFIG names"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('key = "worker-*"', "'worker-*': only the key of a model may be a glob"),
        ('key = "*"', """'*': only the key of a model may be a glob; scope = "all" is for all together"""),
        ('key = "default"', "a budget for each that no other one names has no key"),
        ('scope = "team"\nkey = "default"', "a budget for each that no other one names has no key"),
    ],
)
def test_key_that_never_matches_is_rejected(text, message, tmp_path):
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, f"[[budgets]]\nlimit = 1\n{text}")
    assert message in str(refused.value)


def test_line_rejects_globs_of_agents_and_empty_lines(tmp_path):
    with pytest.raises(ConfigurationError, match="only the key of a model may be a glob"):
        load(tmp_path, LOCO_BUDGETS="worker-*=5")
    with pytest.raises(ConfigurationError, match=r"LOCO_BUDGETS=, ,: .*it names no agent; write none for no budgets"):
        load(tmp_path, LOCO_BUDGETS=" , ,")


def test_two_budgets_for_one_scope_and_period_are_rejected(tmp_path):
    two = '[[budgets]]\nkey = "a"\nlimit = 1\n[[budgets]]\nkey = "a"\nlimit = 2\nperiod = "hour"'
    assert len(load(tmp_path, two).limits) == 2
    with pytest.raises(ConfigurationError, match="two are named a"):
        load(tmp_path, two, LOCO_BUDGET_PERIOD="hour")


def test_missing_ladder_names_the_budget_that_requires_it(tmp_path):
    rule = '[[budgets]]\nlimit = 1\non_exceeded = "downgrade"'
    with pytest.raises(ConfigurationError, match=r"^budgets=\[.*: downgrade needs a table"):
        load(tmp_path, rule, LOCO_BUDGET_ON_EXCEEDED="reject")
    with pytest.raises(ConfigurationError, match=r"^LOCO_BUDGET_ON_EXCEEDED=downgrade: downgrade needs a table"):
        load(tmp_path, LOCO_BUDGETS="a=1", LOCO_BUDGET_ON_EXCEEDED="downgrade")


def test_repeated_threshold_is_reported_once(tmp_path):
    (limit,) = load(tmp_path, "[[budgets]]\nlimit = 1\nthresholds = [50, 90, 50]").limits
    assert limit.thresholds == (50, 90)
