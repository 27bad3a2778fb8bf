"""Runs the same tasks under several policies, and computes waits and fairness."""

import random
from collections.abc import Iterable, Sequence
from math import ceil
from statistics import fmean
from typing import Any, NamedTuple

from loco_otel._core.fairness import jains_index
from loco_otel._core.policies.registry import make_policy_factory
from loco_otel.simulation.baselines import RoundRobinPolicy
from loco_otel.simulation.run import ServedTask, generate_arrivals, simulate_core, simulate_semaphore
from loco_otel.simulation.scenario import Scenario

SEMAPHORE = "semaphore"


class GroupWaits(NamedTuple):
    """The waits of one group's served tasks, in ticks, over all seeds."""

    group: str
    asked: int
    served: int
    mean: float
    p50: float
    p95: float
    p99: float
    longest: float


class PolicyResult(NamedTuple):
    """The results of one policy; means over all seeds."""

    policy: str
    seeds: int
    served: float
    """Tasks."""
    busy: float
    """Share of the slots' time in use."""
    jain_served: float
    """Jain's index over the served tasks of each agent with tasks; starved agents count as 0."""
    jain_waits: float
    """Jain's index over the mean waits of the agents that waited, as in loco-agent."""
    starved: float
    """Agents with tasks of which none was served."""
    groups: tuple[GroupWaits, ...]


def compare_policies(
    scenario: Scenario, policies: Iterable[str], seeds: Sequence[int], *, alpha: float | None = None, guard: int = 0
) -> list[PolicyResult]:
    """Run a scenario under each policy: those of loco-otel, `round-robin` over agents, and a plain `semaphore`.

    Args:
        scenario: the scenario.
        policies: by name.
        seeds: the seeds of the arrivals, equal for all policies.
        alpha: the alpha of `load`; None for the scenario's.
        guard: `LOCO_MAX_WAIT_TICKS`; 0 disables it, so that the policy alone decides.

    """
    return [
        _summarize_runs(
            scenario, name, [(seed, simulate_policy(scenario, name, seed, alpha=alpha, guard=guard)) for seed in seeds]
        )
        for name in policies
    ]


def simulate_policy(
    scenario: Scenario, name: str, seed: int, *, alpha: float | None = None, guard: int = 0
) -> list[ServedTask]:
    """Return the tasks that one policy served, in the order of their grants, see `compare_policies`."""
    if alpha is None:
        alpha = scenario.alpha
    if name == SEMAPHORE:
        return simulate_semaphore(scenario, seed)
    if name == RoundRobinPolicy.name:
        return simulate_core(scenario, RoundRobinPolicy, seed, guard=guard)
    draw = random.Random(seed).random  # noqa: S311 - breaks ties
    return simulate_core(scenario, make_policy_factory(name, alpha=alpha, shares={}, draw=draw), seed, guard=guard)


def results_as_json(scenario: Scenario, outcomes: Sequence[PolicyResult]) -> dict[str, Any]:
    """Return the results as plain values."""
    told = [{**it._asdict(), "groups": [group._asdict() for group in it.groups]} for it in outcomes]
    return {"scenario": scenario.model_dump(exclude={"groups"}), "outcomes": told}


def _summarize_runs(scenario: Scenario, name: str, runs: list[tuple[int, list[ServedTask]]]) -> PolicyResult:
    asked: dict[str, int] = {}
    waits: dict[str, list[float]] = {group.name: [] for group in scenario.groups}
    fair, equal, starved, busy = [], [], [], []
    for seed, served in runs:
        counts = {task.agent: 0 for task in generate_arrivals(scenario, seed)}
        own: dict[str, list[float]] = {}
        for task in generate_arrivals(scenario, seed):
            asked[task.group.name] = asked.get(task.group.name, 0) + 1
        for done in served:
            counts[done.agent] += 1
            own.setdefault(done.agent, []).append(done.wait)
            waits[done.group].append(done.wait)
        fair.append(jains_index(counts.values()))
        equal.append(jains_index(mean for mean in map(fmean, own.values()) if mean > 0))
        starved.append(sum(not count for count in counts.values()))
        busy.append(min(1.0, len(served) * scenario.service / (scenario.ticks * scenario.capacity)))
    return PolicyResult(
        policy=name,
        seeds=len(runs),
        served=fmean(len(served) for _, served in runs),
        busy=fmean(busy),
        jain_served=fmean(fair),
        jain_waits=fmean(equal),
        starved=fmean(starved),
        groups=tuple(
            _summarize_waits(group.name, asked.get(group.name, 0), waits[group.name]) for group in scenario.groups
        ),
    )


def _summarize_waits(group: str, asked: int, waits: list[float]) -> GroupWaits:
    if not waits:
        return GroupWaits(group, asked, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
    waits.sort()
    p50, p95, p99 = (waits[max(0, ceil(share * len(waits)) - 1)] for share in (0.5, 0.95, 0.99))  # the nearest rank
    return GroupWaits(group, asked, len(waits), fmean(waits), p50, p95, p99, waits[-1])
