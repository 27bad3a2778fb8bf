"""Plots the results of a simulation."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from loco_otel.simulation.compare import PolicyResult
from loco_otel.simulation.scenario import Scenario, ScenarioError

_MAX_GROUPS = 12
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Distinguishable by colour-blind people (P. Tol's bright scheme)."""


def plot_results(scenario: Scenario, outcomes: Sequence[PolicyResult], path: Path) -> None:
    """Write a plot of each group's waits and of fairness; the file name's suffix selects the format.

    Raises:
        ScenarioError: matplotlib is missing, or the file can't be written.

    """
    try:
        figure_of: Any = import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise ScenarioError("a picture needs matplotlib: pip install 'loco-otel[plot]'") from error
    figure = figure_of(figsize=(10, 4.2), layout="constrained")
    waits, fairness = figure.subplots(1, 2, width_ratios=(3, 1.4))
    groups = [group.name for group in scenario.groups][:_MAX_GROUPS]
    width = 0.8 / len(outcomes)
    for number, outcome in enumerate(outcomes):
        colour = _COLOURS[number % len(_COLOURS)]
        shift = (number - (len(outcomes) - 1) / 2) * width
        places = [place + shift for place in range(len(groups))]
        own = outcome.groups[:_MAX_GROUPS]
        waits.bar(places, [group.mean for group in own], width, color=colour, label=outcome.policy)
        waits.plot(places, [group.p95 for group in own], "_", color="black", markersize=9)
        fairness.bar(
            [place + shift for place in (0, 1)], [outcome.jain_served, outcome.jain_waits], width, color=colour
        )
    waits.set_xticks(range(len(groups)), groups)
    waits.set_ylabel("wait in ticks: mean, and 95th percentile (line)")
    figure.legend(loc="outside lower center", ncols=len(outcomes), frameon=False)
    fairness.set_xticks((0, 1), ("of service", "of waits"))
    fairness.set_ylabel("Jain's index")
    fairness.set_ylim(0, 1.05)
    for axes in (waits, fairness):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{scenario.name}: {scenario.ticks} ticks, {scenario.capacity} at a time")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{path}: {error}") from error
