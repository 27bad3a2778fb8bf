"""Scenarios of agents that want the same slots, run on the real core in simulated time: see docs/simulator.md."""

from loco_otel.simulation.baselines import BASELINES
from loco_otel.simulation.compare import Outcome, as_json, compare, served_by
from loco_otel.simulation.plot import plot
from loco_otel.simulation.run import Served
from loco_otel.simulation.scenario import Group, Scenario, ScenarioError, built_in, load_scenario
from loco_otel.simulation.text import show

__all__ = [
    "BASELINES",
    "Group",
    "Outcome",
    "Scenario",
    "ScenarioError",
    "Served",
    "as_json",
    "built_in",
    "compare",
    "load_scenario",
    "plot",
    "served_by",
    "show",
]
