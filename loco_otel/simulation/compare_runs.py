"""Runs the same runs under several policies, and computes latencies and slowdowns."""

import random
from collections.abc import Iterable, Sequence
from math import ceil
from statistics import fmean
from typing import Any, NamedTuple

from loco_otel._core.policies.registry import make_policy_factory
from loco_otel.simulation.run_kinds import generate_runs
from loco_otel.simulation.scenario import Scenario
from loco_otel.simulation.simulate_runs import EndedRun, RemainingWorkPolicy, simulate_runs

BY_RUN = ":run"
"""After the name of a policy: it orders runs, as with `LOCO_QUEUE_BY=run`."""
ORACLE = RemainingWorkPolicy.name
RUN_POLICIES = ("fifo", "load", "fair", "fair:run", "las:run", ORACLE)
"""What a scenario with runs is compared under, unless others are named."""


class KindResult(NamedTuple):
    """The runs of one kind, over all seeds."""

    kind: str
    runs: int
    p50: float
    """Of the latency, in ticks."""
    p95: float
    p99: float
    slowdown: float
    """The mean: latency in units of what the run would take alone."""
    slowdown_p99: float
    finished: int
    """Runs that ended before the last arrival, without a miss."""
    missed: int
    """Runs with a call that could not be granted by its deadline."""


class RunPolicyResult(NamedTuple):
    """The results of one policy."""

    policy: str
    seeds: int
    all: KindResult
    kinds: tuple[KindResult, ...]


def compare_runs(
    scenario: Scenario, policies: Iterable[str], seeds: Sequence[int], *, guard: int = 0
) -> list[RunPolicyResult]:
    """Run a scenario with runs under each policy.

    Args:
        scenario: the scenario. Under `fifo` its priorities and deadlines do not apply: it is the baseline.
        policies: by name, with `:run` after it to order runs; and `oracle`.
        seeds: the seeds of the arrivals, equal for all policies.
        guard: `LOCO_MAX_WAIT_TICKS`; 0 disables it, so that the policy alone decides.

    """
    return [
        _summarize_policy(scenario, name, [_simulate_policy(scenario, name, seed, guard) for seed in seeds])
        for name in policies
    ]


def run_results_as_json(scenario: Scenario, results: Sequence[RunPolicyResult]) -> dict[str, Any]:
    """Return the results as plain values."""
    outcomes = [
        {**it._asdict(), "all": it.all._asdict(), "kinds": [kind._asdict() for kind in it.kinds]} for it in results
    ]
    return {"scenario": scenario.model_dump(mode="json", exclude={"groups", "runs"}), "outcomes": outcomes}


def _simulate_policy(scenario: Scenario, name: str, seed: int, guard: int) -> list[EndedRun]:
    runs = generate_runs(scenario.runs, scenario.load, scenario.capacity, scenario.ticks, seed)
    if name == ORACLE:
        return simulate_runs(runs, None, scenario.capacity, by_run=True, guard=guard, has_priorities=False)
    policy = name.removesuffix(BY_RUN)
    draw = random.Random(seed).random  # noqa: S311 - breaks ties
    factory = make_policy_factory(policy, alpha=scenario.alpha, shares={}, draw=draw, half_life=scenario.half_life)
    is_baseline = policy == "fifo"
    return simulate_runs(
        runs, factory, scenario.capacity, by_run=name != policy, guard=guard, has_priorities=not is_baseline
    )


def _summarize_policy(scenario: Scenario, name: str, seeds: list[list[EndedRun]]) -> RunPolicyResult:
    ended = [run for runs in seeds for run in runs]
    kinds = [
        _summarize_kind(kind.name, [run for run in ended if run.kind == kind.name], scenario.ticks)
        for kind in scenario.runs
    ]
    return RunPolicyResult(name, len(seeds), _summarize_kind("all", ended, scenario.ticks), tuple(kinds))


def _summarize_kind(name: str, ended: list[EndedRun], ticks: int) -> KindResult:
    done = [run for run in ended if not run.missed]
    latencies, slowdowns = sorted(run.latency for run in done), sorted(run.slowdown for run in done)
    return KindResult(
        kind=name,
        runs=len(ended),
        p50=_find_rank(latencies, 0.5),
        p95=_find_rank(latencies, 0.95),
        p99=_find_rank(latencies, 0.99),
        slowdown=fmean(slowdowns) if slowdowns else 0.0,
        slowdown_p99=_find_rank(slowdowns, 0.99),
        finished=sum(run.ended_at < ticks for run in done),
        missed=len(ended) - len(done),
    )


def _find_rank(values: list[float], share: float) -> float:
    """Return the value at the nearest rank; 0 without values."""
    return values[max(0, ceil(share * len(values)) - 1)] if values else 0.0
