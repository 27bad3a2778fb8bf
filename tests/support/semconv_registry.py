"""Reads a registry of semantic conventions from its files alone, without the catalogue."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

ROOT = Path(__file__).parents[2] / "semconv"
_HERE = Path(__file__).parent / "conventions"
STAND_INS = {
    "https://opentelemetry.io/schemas/1.44.0": _HERE / "core",
    "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev": _HERE / "genai",
}
"""Where a registry that ours depends on is read from, as the network is no part of a test."""


class Attribute(NamedTuple):
    type: str
    values: frozenset[object]
    """All that it can be; empty where that is open."""


class Levels(NamedTuple):
    """Which attributes something has."""

    required: frozenset[str]
    optional: frozenset[str]


class SpanForm(NamedTuple):
    type: str
    kind: str
    name: str
    """With keys of attributes in braces."""
    levels: Levels
    events: frozenset[str]

    @property
    def prefix(self) -> str:
        """What every name begins with."""
        return self.name.split("{")[0]

    def named(self, attributes: Mapping[str, object]) -> str:
        """Return the name that goes with attributes; those that are not there leave no gap."""
        keys = [word.strip("{}") for word in self.name.split()]
        return " ".join(str(attributes.get(key, "")) if "." in key else key for key in keys).strip()


class MetricForm(NamedTuple):
    instrument: str
    unit: str
    levels: Levels
    bounds: tuple[float, ...]


@dataclass(frozen=True)
class Registry:
    """What a registry defines, and what it takes from those that it depends on."""

    attributes: Mapping[str, Attribute]
    spans: tuple[SpanForm, ...]
    events: Mapping[str, Levels]
    metrics: Mapping[str, MetricForm]

    @classmethod
    def load(cls, directory: Path, dependencies: Mapping[str, Path] = STAND_INS) -> Self:
        """Read all files of a registry.

        Raises:
            KeyError: a dependency or an attribute is nowhere defined.

        """
        manifest = yaml.safe_load((directory / "manifest.yaml").read_text(encoding="utf-8"))
        needed = [cls.load(dependencies[it["schema_url"]], dependencies) for it in manifest.get("dependencies", ())]
        document = _merged(path for path in sorted(directory.glob("*.yaml")) if path.name != "manifest.yaml")
        return cls._of(document, needed)

    @classmethod
    def _of(cls, document: Mapping[str, Any], needed: Iterable["Registry"]) -> Self:
        attributes = {key: row for registry in needed for key, row in registry.attributes.items()}
        for row in document.get("attributes", ()):
            assert row["key"] not in attributes, f"{row['key']} is defined twice"
            attributes[row["key"]] = _attribute(row["type"])
        wanted = document.get("imports", {}).get("metrics", ())
        metrics = {
            name: row
            for registry in needed
            for name, row in registry.metrics.items()
            if any(fnmatchcase(name, pattern) for pattern in wanted)
        }
        for pattern in wanted:
            if not any(fnmatchcase(name, pattern) for name in metrics):
                raise KeyError(pattern)
        for row in document.get("metrics", ()):
            bounds = row.get("annotations", {}).get("explicit_bucket_boundaries", ())
            metrics[row["name"]] = MetricForm(row["instrument"], row["unit"], _levels(row, attributes), tuple(bounds))
        events = {row["name"]: _levels(row, attributes) for row in document.get("events", ())}
        spans = [
            SpanForm(
                row["type"],
                row["kind"],
                row["name"]["note"].strip("`"),
                _levels(row, attributes),
                frozenset(row.get("annotations", {}).get("span_events", ())),
            )
            for row in document.get("spans", ())
        ]
        return cls(attributes, tuple(spans), events, metrics)

    def span(self, name: str, attributes: Mapping[str, object]) -> SpanForm | None:
        """Return what a span of this name has to be. Where no word of the name is fixed, its attributes decide."""
        by_prefix = (form for form in self.spans if form.prefix and name.startswith(form.prefix))
        by_attributes = (form for form in self.spans if form.named(attributes) == name)
        return next(chain(by_prefix, by_attributes), None)

    def names(self) -> set[str]:
        """Return the names of all that can be seen: types of spans, events, metrics."""
        return {f"span {form.type}" for form in self.spans} | {
            *(f"event {name}" for name in self.events),
            *(f"metric {name}" for name in self.metrics),
        }


def _merged(paths: Iterable[Path]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in paths:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert document.pop("file_format") == "definition/2"
        for section, rows in document.items():
            assert section not in merged, f"{section} in two files"
            merged[section] = rows
    return merged


def _attribute(kind: str | Mapping[str, Any]) -> Attribute:
    if isinstance(kind, str):
        return Attribute(kind, frozenset())
    values = frozenset(member["value"] for member in kind["members"])
    (value_type,) = {type(value) for value in values}
    return Attribute({str: "string", int: "int"}[value_type], values)


def _levels(row: Mapping[str, Any], attributes: Mapping[str, Attribute]) -> Levels:
    levels = {ref["ref"]: ref["requirement_level"] for ref in row.get("attributes", ())}
    for key in levels:
        if key not in attributes:
            raise KeyError(key)
    required = frozenset(key for key, level in levels.items() if level == "required")
    return Levels(required, frozenset(levels) - required)
