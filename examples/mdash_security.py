"""A scan by many agents of different weight.

The scenario `mdash_security` in simulated time, under each policy and beside what others do:

    python examples/mdash_security.py
"""

from rich.console import Console

from loco_otel.simulation import compare_policies, load_scenario, print_results

scenario = load_scenario("mdash_security")
outcomes = compare_policies(scenario, ["load", "fair", "fifo", "round-robin", "semaphore"], seeds=range(42, 62))
print_results(scenario, outcomes, Console(width=100))
