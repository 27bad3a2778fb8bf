"""Everybody comes at once: who is served, and in which order.

The scenario `burst` in simulated time, under each policy and beside what others do:

    python examples/burst.py
"""

from rich.console import Console

from loco_otel.simulation import compare_policies, load_scenario, print_results, simulate_policy

scenario = load_scenario("burst")
outcomes = compare_policies(scenario, ["load", "fair", "fifo", "round-robin", "semaphore"], seeds=range(42, 62))
print_results(scenario, outcomes, Console(width=100))

order = [served.agent.removeprefix("agent-") for served in simulate_policy(scenario, "load", seed=42)]
print("\nserved in this order:", " ".join(order))
