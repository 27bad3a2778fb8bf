"""Runs of a scenario: kinds of dependent calls, and the runs that arrive."""

import random
from functools import lru_cache
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from loco_otel.events import Priority

_SAMPLE = 4000
"""Runs by which the mean work of a run is estimated, for the rate of arrivals."""


class RunKind(BaseModel):
    """Runs with the same behaviour: steps one after the other, of one call or several. A field completes "must be"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1)] = Field(description="a name")
    share: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(default=1.0, description="a number above 0")
    """Of all runs that arrive, among the shares of all kinds."""
    steps: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        default=(1, 1), description="two whole numbers of at least 1, the smaller first"
    )
    """The fewest and the most steps."""
    fan_out: Annotated[int, Field(ge=1, le=1000)] = Field(default=1, description="a whole number from 1 to 1000")
    """Calls of each second step, made at once; the other steps make one."""
    think: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0, description="a number of ticks of at least 0"
    )
    """Mean time between the end of a step and the next, exponentially distributed."""
    median: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1.0, description="a number of ticks above 0"
    )
    """The median of the time that a call holds its slot; it is lognormally distributed."""
    sigma: Annotated[float, Field(ge=0, le=3)] = Field(default=0.0, description="a number from 0 to 3")
    """The standard deviation of its logarithm; 0 is a fixed time."""
    agents: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = Field(
        default=("agent",), description="a list of names"
    )
    """The agents of the steps, in turn."""
    priority: Priority = Field(default=Priority.NORMAL, description=f"one of {', '.join(Priority)}")
    deadline: Annotated[float, Field(gt=0)] | None = Field(default=None, description="a number of ticks above 0")
    """Ticks after its arrival by which each of its calls must be granted."""


class Step(NamedTuple):
    """Calls that are made at once."""

    services: tuple[float, ...]
    """How long each holds its slot."""
    think: float
    """Time between the end of the last of them and the next step."""
    agent: str


class ArrivingRun(NamedTuple):
    """One run."""

    at: float
    kind: RunKind
    steps: tuple[Step, ...]

    @property
    def work(self) -> float:
        """The time for which its calls hold slots, all together."""
        return sum(sum(step.services) for step in self.steps)

    @property
    def alone(self) -> float:
        """How long it takes if no call of it waits."""
        return sum(max(step.services) + step.think for step in self.steps)


def generate_runs(kinds: tuple[RunKind, ...], load: float, capacity: int, ticks: int, seed: int) -> list[ArrivingRun]:
    """Return the runs that arrive within a number of ticks, as a Poisson process, equal for all policies.

    Args:
        kinds: of the runs.
        load: the share of the slots' time that all calls need.
        capacity: slots.
        ticks: during which runs arrive.
        seed: of the random numbers.

    """
    rate = load * capacity / _estimate_mean_work(kinds)
    rng = random.Random(seed)  # noqa: S311 - a simulation
    runs: list[ArrivingRun] = []
    at = 0.0
    while at < ticks:
        at += rng.expovariate(rate)
        runs.append(_draw_run(rng, kinds, at))
    return runs


@lru_cache(maxsize=16)
def _estimate_mean_work(kinds: tuple[RunKind, ...]) -> float:
    return sum(_draw_run(random.Random(seed), kinds, 0.0).work for seed in range(_SAMPLE)) / _SAMPLE  # noqa: S311


def _draw_run(rng: random.Random, kinds: tuple[RunKind, ...], at: float) -> ArrivingRun:
    chosen = rng.random() * sum(kind.share for kind in kinds)
    for kind in kinds:
        chosen -= kind.share
        if chosen <= 0:
            break
    steps = []
    for number in range(rng.randint(*kind.steps)):
        calls = kind.fan_out if number % 2 else 1
        services = tuple([kind.median * rng.lognormvariate(0.0, kind.sigma) for _ in range(calls)])
        think = rng.expovariate(1 / kind.think) if kind.think else 0.0
        steps.append(Step(services, think, kind.agents[number % len(kind.agents)]))
    return ArrivingRun(at, kind, tuple(steps))
