"""Scenarios of agents that compete for slots, run on the real core in simulated time: see docs/simulator.md."""

from loco_otel.simulation.baselines import BASELINES
from loco_otel.simulation.compare import PolicyResult, compare_policies, results_as_json, simulate_policy
from loco_otel.simulation.plot import plot_results
from loco_otel.simulation.run import ServedTask
from loco_otel.simulation.scenario import Group, Scenario, ScenarioError, list_built_in, load_scenario
from loco_otel.simulation.text import print_results

__all__ = [
    "BASELINES",
    "Group",
    "PolicyResult",
    "Scenario",
    "ScenarioError",
    "ServedTask",
    "compare_policies",
    "list_built_in",
    "load_scenario",
    "plot_results",
    "print_results",
    "results_as_json",
    "simulate_policy",
]
