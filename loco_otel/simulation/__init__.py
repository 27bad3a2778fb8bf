"""Scenarios of agents that compete for slots, run on the real core in simulated time: see docs/simulator.md."""

from loco_otel.simulation.baselines import BASELINES
from loco_otel.simulation.compare import PolicyResult, compare_policies, results_as_json, simulate_policy
from loco_otel.simulation.compare_runs import (
    BY_RUN,
    ORACLE,
    RUN_POLICIES,
    RunPolicyResult,
    compare_runs,
    run_results_as_json,
)
from loco_otel.simulation.plot import plot_results
from loco_otel.simulation.run import ServedTask
from loco_otel.simulation.scenario import Group, Scenario, ScenarioError, list_built_in, load_scenario
from loco_otel.simulation.text import print_results, print_run_results

__all__ = [
    "BASELINES",
    "BY_RUN",
    "ORACLE",
    "RUN_POLICIES",
    "Group",
    "PolicyResult",
    "RunPolicyResult",
    "Scenario",
    "ScenarioError",
    "ServedTask",
    "compare_policies",
    "compare_runs",
    "list_built_in",
    "load_scenario",
    "plot_results",
    "print_results",
    "print_run_results",
    "results_as_json",
    "run_results_as_json",
    "simulate_policy",
]
