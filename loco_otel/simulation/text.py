"""Prints the results of a simulation as tables."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from loco_otel.simulation.compare import PolicyResult
from loco_otel.simulation.compare_runs import RunPolicyResult
from loco_otel.simulation.scenario import Scenario


def print_results(scenario: Scenario, outcomes: Sequence[PolicyResult], console: Console) -> None:
    """Print a table of the policies, and a table of the waits under each."""
    seeds = outcomes[0].seeds
    console.print(f"{scenario.name}: {scenario.description}", style="bold", markup=False)
    runs = "one run" if seeds == 1 else f"means over {seeds} runs"
    console.print(f"{scenario.ticks} ticks, {scenario.capacity} at a time, {runs}\n", style="dim", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("policy")
    for name in ("served", "busy", "Jain served", "Jain waits", "starved"):
        table.add_column(name, justify="right")
    for it in outcomes:
        numbers = (f"{it.served:.0f}", f"{it.busy:.0%}", f"{it.jain_served:.3f}", f"{it.jain_waits:.3f}")
        table.add_row(it.policy, *numbers, f"{it.starved:.2f}".rstrip("0").rstrip("."))
    console.print(table)
    console.print()
    waits = Table(box=None, pad_edge=False, header_style="bold", title="Waits in ticks", title_justify="left")
    waits.add_column("agents")
    waits.add_column("policy")
    for name in ("asked", "served", "mean", "p50", "p95", "p99", "longest"):
        waits.add_column(name, justify="right")
    for number, group in enumerate(outcomes[0].groups):
        for row, it in enumerate(outcomes):
            own = it.groups[number]
            times = (f"{value:.1f}" for value in (own.mean, own.p50, own.p95, own.p99, own.longest))
            waits.add_row(group.group if not row else "", it.policy, str(own.asked), str(own.served), *times)
    console.print(waits)


def print_run_results(scenario: Scenario, results: Sequence[RunPolicyResult], console: Console) -> None:
    """Print a table of the latencies of all runs under each policy, and one of each kind of run."""
    seeds = results[0].seeds
    console.print(f"{scenario.name}: {scenario.description}", style="bold", markup=False)
    over = "one simulation" if seeds == 1 else f"{seeds} simulations"
    console.print(
        f"runs arrive during {scenario.ticks} ticks at load {scenario.load:g}, {scenario.capacity} calls at a time,"
        f" {over}; slowdown is latency / what a run takes alone\n",
        style="dim",
        markup=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold", title="Latency of runs in ticks", title_justify="left")
    for name in ("runs", "policy"):
        table.add_column(name)
    for name in ("ended", "p50", "p95", "p99", "slowdown", "its p99", "finished", "missed"):
        table.add_column(name, justify="right")
    for number in range(-1, len(scenario.runs)):
        for row, result in enumerate(results):
            own = result.all if number < 0 else result.kinds[number]
            times = (f"{value:.1f}" for value in (own.p50, own.p95, own.p99))
            slowdowns = f"{own.slowdown:.2f}", f"{own.slowdown_p99:.1f}"
            name = own.kind if not row else ""
            table.add_row(name, result.policy, str(own.runs), *times, *slowdowns, str(own.finished), str(own.missed))
    console.print(table)
