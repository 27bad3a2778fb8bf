"""Alpha, and the goal that sets it."""

import pytest
from setting_checks import load_fault

from loco_otel._config.settings import OPTIMIZE_FOR_ALPHA, Settings


@pytest.mark.parametrize(("goal", "alpha"), OPTIMIZE_FOR_ALPHA.items())
def test_goal_resolves_to_its_alpha(goal, alpha):
    settings = Settings.load({"LOCO_OPTIMIZE_FOR": goal})

    assert settings.alpha == alpha
    assert settings.origin("alpha") == "LOCO_OPTIMIZE_FOR"


def test_alpha_replaces_the_goal():
    settings = Settings.load({"LOCO_ALPHA": "0.1"})

    assert settings.alpha == 0.1
    assert settings.optimize_for is None


def test_alpha_with_a_goal_is_rejected():
    both = {"LOCO_ALPHA": "0.1", "LOCO_OPTIMIZE_FOR": "latency"}

    assert load_fault(both) == "LOCO_OPTIMIZE_FOR=latency and LOCO_ALPHA=0.1: set one of them, not both"


def test_alpha_with_a_goal_in_the_file_is_rejected(config):
    environ = config('alpha = 0.1\noptimize_for = "latency"')
    path = environ["LOCO_CONFIG"]

    assert load_fault(environ) == (f"optimize_for=latency in {path} and alpha=0.1 in {path}: set one of them, not both")


def test_alpha_and_goal_of_environment_override_the_file(config):
    settings = Settings.load({**config('optimize_for = "latency"'), "LOCO_ALPHA": "0.4"})
    assert (settings.alpha, settings.optimize_for) == (0.4, None)

    settings = Settings.load({**config("alpha = 0.4"), "LOCO_OPTIMIZE_FOR": "latency"})
    assert (settings.alpha, settings.optimize_for) == (0.0, "latency")
