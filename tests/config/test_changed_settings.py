"""Settings that are changed in the program, and how they are shown."""

import math

import pytest

from loco_otel._config.settings import Settings
from loco_otel.errors import ConfigurationError


def test_settings_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        Settings.load({}).capacity = 3


def test_changed_copy_keeps_the_rest_and_lists_changes():
    settings = Settings.load({"LOCO_CAPACITY": "2", "LOCO_MAX_HOLD": "5", "LOCO_X": "1", "OTEL_SERVICE_NAME": "shop"})
    changed = settings.changed(capacity="auto", weights={"gpt-4o": 2})

    assert (settings.capacity, settings.weights) == (2, {})
    assert (changed.capacity, changed.max_hold, changed.service_name) == (None, 5.0, "shop")
    assert changed.weights == {"gpt-4o": 2.0}
    assert changed.unknown == settings.unknown != ()
    assert [changed.origin(key) for key in ("capacity", "max_hold", "policy", "service_name")] == [
        "configure()",
        "LOCO_MAX_HOLD",
        "default",
        "OTEL_SERVICE_NAME",
    ]


def test_none_can_be_set_again():
    settings = Settings.load({"LOCO_CAPACITY": "2", "LOCO_ACQUIRE_TIMEOUT": "1", "LOCO_AGENT_ID": "a"})
    changed = settings.changed(capacity=None, acquire_timeout=None, agent_id=None)

    assert (changed.capacity, changed.acquire_timeout, changed.agent_id) == (None, None, None)


def test_later_writes_to_given_values_change_nothing():
    weights = {"gpt-4o": 2}
    settings = Settings.load({}).changed(weights=weights)
    weights["gpt-4o"] = 9

    assert settings.weights == {"gpt-4o": 2.0}


def test_change_of_alpha_or_goal_replaces_the_other():
    settings = Settings.load({"LOCO_OPTIMIZE_FOR": "latency"})
    by_alpha = settings.changed(alpha=0.3, optimize_for=None)
    by_goal = by_alpha.changed(optimize_for="throughput")

    assert (by_alpha.alpha, by_alpha.optimize_for) == (0.3, None)
    assert (by_goal.alpha, by_goal.optimize_for) == (0.5, "throughput")
    assert (by_goal.origin("alpha"), by_alpha.origin("optimize_for")) == ("configure()", "default")
    assert by_alpha.changed(capacity=1).alpha == 0.3
    assert settings.changed(capacity=1, alpha=None).alpha == 0.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"capacity": "two"}, "capacity=two: must be auto or a whole number of at least 0 (0 grants no slot)"),
        ({"capacity": True}, "capacity=true: must be auto or a whole number of at least 0 (0 grants no slot)"),
        ({"alpha": math.nan}, "alpha=nan: must be a number from 0 to 0.5"),
        ({"policy": None}, "policy=none: must be load, fair, las or fifo"),
        (
            {"alpha": 0.1, "optimize_for": "latency"},
            "optimize_for=latency and alpha=0.1: set one of them, not both",
        ),
        (
            {"capcity": 2, "max_waiters": 0},
            (
                "capcity is not a setting of loco-otel; did you mean capacity?; "
                "max_waiters=0: must be none or a whole number of at least 1"
            ),
        ),
        ({"service_name": "x"}, "service_name is not a setting of loco-otel"),
        ({"weights": {"gpt-4o": 0}}, "weights.gpt-4o=0: must be a number above 0"),
    ],
)
def test_change_is_rejected_with_the_same_message(overrides, message):
    with pytest.raises(ConfigurationError) as raised:
        Settings.load({}).changed(**overrides)

    assert str(raised.value) == message


def test_rows_show_every_setting_as_it_is_written(config):
    environ = {
        **config('[weights]\n"gpt-4o" = 4\n"claude-*" = 2.5'),
        "LOCO_MAX_HOLD": "60",
        "LOCO_ALPHA": "0.1",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "b,a",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "b,a",
    }

    assert [(row.key, row.value) for row in Settings.load(environ).rows()] == [
        ("enabled", "true"),
        ("mode", "enforce"),
        ("capacity", "auto"),
        ("capacity_max", "none"),
        ("engine", "memory"),
        ("engine_namespace", "default"),
        ("engine_ttl", "5"),
        ("engine_timeout", "0.25"),
        ("engine_on_error", "local"),
        ("requests_per_minute", "none"),
        ("tokens_per_minute", "none"),
        ("policy", "load"),
        ("queue_by", "agent"),
        ("half_life", "600"),
        ("run_idle_timeout", "900"),
        ("optimize_for", "none"),
        ("alpha", "0.1"),
        ("auto_tune", "false"),
        ("max_wait_ticks", "1000"),
        ("max_waiters", "none"),
        ("acquire_timeout", "none"),
        ("max_hold", "60"),
        ("stream_usage", "false"),
        ("agent_id", "none"),
        ("log", "json"),
        ("metric_values", "200"),
        ("http_hosts", "none"),
        ("weights", "gpt-4o=4, claude-*=2.5"),
        ("prices", "none"),
        ("providers", "none"),
        ("budgets", "none"),
        ("budget_period", "total"),
        ("budget_on_exceeded", "reject"),
        ("budget_zone", "UTC"),
        ("run_limits", "none"),
        ("stop_file", "none"),
        ("downgrade", "none"),
        ("downgrade_ends", "reject"),
        ("ledger", "none"),
        ("ledger_on_error", "closed"),
        ("count_spend", "false"),
        ("resources", "none"),
        ("shares", "none"),
        ("tenant_shares", "none"),
        ("priority", "none"),
        ("service_name", "none"),
        ("disabled_instrumentations", "a, b"),
        ("semconv_opt_in", "a, b"),
    ]
