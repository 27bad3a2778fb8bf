"""Busy and quiet agents ask for more than can be served.

The scenario `fairness` in simulated time, under each policy and beside what others do:

    python examples/fairness.py
"""

from rich.console import Console

from loco_otel.simulation import compare_policies, load_scenario, print_results

scenario = load_scenario("fairness")
outcomes = compare_policies(scenario, ["load", "fair", "fifo", "round-robin", "semaphore"], seeds=range(42, 62))
print_results(scenario, outcomes, Console(width=100))
