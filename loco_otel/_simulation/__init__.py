"""Scenarios of agents that want the same slots, run on the real core in simulated time."""

from loco_otel._simulation.baselines import BASELINES
from loco_otel._simulation.compare import Outcome, compare
from loco_otel._simulation.plot import plot
from loco_otel._simulation.run import Served, run
from loco_otel._simulation.scenario import Group, Scenario, ScenarioError, built_in, load_scenario
from loco_otel._simulation.text import show

__all__ = [
    "BASELINES",
    "Group",
    "Outcome",
    "Scenario",
    "ScenarioError",
    "Served",
    "built_in",
    "compare",
    "load_scenario",
    "plot",
    "run",
    "show",
]
