"""A scan by many agents of different weight.

The scenario `mdash_security` in simulated time, under each policy and beside what others do:

    python examples/mdash_security.py
"""

from rich.console import Console

from loco_otel.simulation import compare, load_scenario, show

scenario = load_scenario("mdash_security")
outcomes = compare(scenario, ["load", "fair", "fifo", "round-robin", "semaphore"], seeds=range(42, 62))
show(scenario, outcomes, Console(width=100))
