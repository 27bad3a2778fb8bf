"""Scenarios of a simulation, read from TOML files: groups of agents with tasks, or runs of dependent calls."""

import tomllib
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, model_validator

from loco_otel.errors import LocoError
from loco_otel.simulation.run_kinds import RunKind

_FOLDER = files("loco_otel.simulation") / "scenarios"


class ScenarioError(LocoError):
    """A scenario is invalid. The message names the cause and the allowed values."""


class Group(BaseModel):
    """Agents with the same behaviour. A field's description completes "must be"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1)] = Field(description="a name")
    count: Annotated[int, Field(ge=1, le=10_000)] = Field(default=1, description="a whole number from 1 to 10000")
    weight: Annotated[float, Field(gt=0, le=1e6)] = Field(default=1.0, description="a number above 0")
    tasks: Annotated[int, Field(ge=0, le=100_000)] = Field(default=0, description="a whole number of at least 0")
    """The tasks of each agent on its arrival."""
    at: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(default=0.0, description="a tick of at least 0")
    """The tick of its arrival."""
    rate: Annotated[float, Field(ge=0, le=1000)] = Field(default=0.0, description="a number from 0 to 1000")
    """Mean number of further tasks of each agent per tick."""
    tenant: str | None = Field(default=None, description="a name")
    service: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="a number of ticks above 0"
    )
    """How long a task holds its slot; None for the scenario's value."""

    def list_agents(self) -> list[str]:
        """Return the names of its agents."""
        return [self.name] if self.count == 1 else [f"{self.name}-{number}" for number in range(self.count)]


class Scenario(BaseModel):
    """A whole scenario."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="a name")
    description: str = Field(default="", description="a text")
    ticks: Annotated[int, Field(ge=1, le=1_000_000)] = Field(description="a whole number from 1 to 1000000")
    """The number of ticks; a task holds its slot for one tick unless `service` is set."""
    capacity: Annotated[int, Field(ge=1)] = Field(default=1, description="a whole number of at least 1")
    service: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=1.0, description="a number of ticks above 0"
    )
    spread: Literal["fixed", "exponential"] = Field(default="fixed", description="fixed or exponential")
    """The distribution of service times."""
    alpha: Annotated[float, Field(ge=0, le=1)] = Field(default=0.25, description="a number from 0 to 1")
    load: Annotated[float, Field(gt=0, le=10)] = Field(default=0.9, description="a number above 0, at most 10")
    """Of runs: the share of the slots' time that all calls need."""
    half_life: Annotated[float, Field(gt=0)] = Field(default=inf, description="a number of ticks above 0")
    """Of `las`; inf for service that never fades, which is null in JSON."""
    groups: tuple[Group, ...] = Field(default=(), description="tables, each with a name")
    runs: tuple[RunKind, ...] = Field(default=(), description="tables, each with a name")

    @field_serializer("half_life")
    def _convert_to_json(self, half_life: float) -> float | None:
        return None if half_life == inf else half_life

    @model_validator(mode="after")
    def _check_arrivals(self) -> Self:
        if bool(self.groups) == bool(self.runs):
            raise ValueError("a scenario has either groups or runs")
        for kind in self.runs:
            if kind.steps[0] > kind.steps[1]:
                raise ValueError(f"the steps of {kind.name} must be two whole numbers, the smaller first")
        return self


def list_built_in() -> list[str]:
    """Return the names of the built-in scenarios."""
    return sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))


def load_scenario(name: str) -> Scenario:
    """Load a built-in scenario, or a file whose name ends in `.toml`.

    Raises:
        ScenarioError: the name is unknown, or the file is invalid.

    """
    try:
        if name.endswith(".toml"):
            text = Path(name).expanduser().read_text(encoding="utf-8")
        elif name in list_built_in():
            text = (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
        else:
            known = ", ".join(list_built_in())
            raise ScenarioError(f"{name!r} is no scenario: there are {known}, and files whose names end in .toml")
        return Scenario.model_validate(tomllib.loads(text))
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{name}: {_describe_error(error)}") from error


def _describe_error(error: OSError | ValueError) -> str:
    if not isinstance(error, ValidationError):
        return getattr(error, "strerror", None) or str(error)
    reasons = []
    for detail in error.errors(include_url=False):
        if not detail["loc"]:
            reasons.append(str(detail["ctx"]["error"]))
            continue
        *path, key = detail["loc"]
        if isinstance(key, int) and len(path) > 1:
            *path, key = path  # an entry of a list
        place = f"{path[0]}[{int(path[1]) + 1}]." if len(path) > 1 else ""
        model: type[BaseModel] = Scenario if not path else RunKind if path[0] == "runs" else Group
        field = model.model_fields.get(str(key))
        if detail["type"] == "missing":
            reasons.append(f"{place}{key} is missing")
        elif field is None:
            reasons.append(f"{place}{key} is none of {', '.join(model.model_fields)}")
        else:
            reasons.append(f"{place}{key}={detail['input']!r}: must be {field.description}")
    return "; ".join(reasons)
