"""Renders the catalogue as a registry: `python -m loco_otel._telemetry.registry semconv/loco.yaml [--check]`.

The form is that of OpenTelemetry's semantic conventions, `definition/2`, which Weaver reads. Names in `loco.*` are
defined here; all others are references to the registries that `semconv/manifest.yaml` names.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from loco_otel._telemetry import generated
from loco_otel._telemetry.attributes import ATTRIBUTES, ERROR_TYPE, AttributeDefinition
from loco_otel._telemetry.catalogue import (
    METRICS,
    SPANS,
    InstrumentKind,
    MetricDefinition,
    SpanDefinition,
    SpanEventDefinition,
)

_COMMAND = "python -m loco_otel._telemetry.registry"
_HEADER = f"# Generated from the catalogue by `{_COMMAND}`. Edit the catalogue instead.\n"
_STABILITY = "development"
_PROPOSED = ("gen_ai.usage.cost.",)
"""Names that are proposed for the conventions, which do not have them yet."""
_INSTRUMENTS = {
    InstrumentKind.COUNTER: "counter",
    InstrumentKind.HISTOGRAM: "histogram",
    InstrumentKind.OBSERVABLE_GAUGE: "gauge",
    InstrumentKind.OBSERVABLE_COUNTER: "counter",
}
"""Registries do not distinguish observable instruments from others."""

_WORD = re.compile(r"[a-z][a-z0-9._/]*(\[\])?")
_RESERVED_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})

_Node: TypeAlias = "Mapping[str, _Node] | Sequence[_Node] | str | float"


def render_registry() -> str:
    """Return the registry, in YAML."""
    return _HEADER + "".join(f"{line}\n" for line in _format_lines(build_registry()))


def build_registry() -> Mapping[str, _Node]:
    """Return the registry as mappings and lists."""
    events = {event.name: event for span in SPANS for event in span.events}
    metrics: list[_Node] = [_convert_metric(row) for row in METRICS if _is_own_name(row.name)]
    imported = [row.name for row in METRICS if not _is_own_name(row.name)]
    return {
        "file_format": "definition/2",
        **({"imports": {"metrics": imported}} if imported else {}),
        "attributes": [_convert_attribute(row) for row in ATTRIBUTES.values() if _is_own_name(row.key)],
        "spans": [_convert_span(row) for row in SPANS],
        "events": [_convert_event(row) for row in events.values()],
        "metrics": metrics,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the registry, or check that it is up to date; return the exit code."""
    return generated.run_generator(_COMMAND, render_registry, arguments)


def _is_own_name(name: str) -> bool:
    return name.startswith(("loco.", *_PROPOSED))


def _convert_attribute(row: AttributeDefinition) -> _Node:
    members = [{"id": value, "value": value, "stability": _STABILITY} for value in row.values]
    return {
        "key": row.key,
        "type": {"members": members} if members else row.type,
        "brief": row.meaning,
        "stability": _STABILITY,
    }


def _convert_span(row: SpanDefinition) -> _Node:
    return {
        "type": "loco." + row.name.split()[0].strip("{}"),
        "kind": row.kind.lower(),
        "name": {"note": f"`{_format_span_name(row)}`"},
        "brief": row.description,
        "stability": _STABILITY,
        "attributes": _list_references(row),
        # Registries have no events of spans.
        **({"annotations": {"span_events": [event.name for event in row.events]}} if row.events else {}),
    }


def _format_span_name(row: SpanDefinition) -> str:
    """Return the span's name with the keys of its attributes in the braces."""

    def key(match: re.Match[str]) -> str:
        return "{" + next(key for key in (*row.attributes, *row.optional) if match[1] in key.split(".")) + "}"

    return re.sub(r"\{(\w+)\}", key, row.name)


def _convert_event(row: SpanEventDefinition) -> _Node:
    return {
        "name": row.name,
        "brief": row.description,
        "note": "An event of a span.",
        "stability": _STABILITY,
        "attributes": _list_references(row),
    }


def _convert_metric(row: MetricDefinition) -> _Node:
    return {
        "name": row.name,
        "instrument": _INSTRUMENTS[row.kind],
        "unit": row.unit,
        "brief": row.description,
        "stability": _STABILITY,
        **({"attributes": references} if (references := _list_references(row)) else {}),
        **({"annotations": {"explicit_bucket_boundaries": row.buckets}} if row.buckets else {}),
    }


def _list_references(row: SpanDefinition | SpanEventDefinition | MetricDefinition) -> list[_Node]:
    required = [_make_reference(key, "required") for key in row.attributes]
    return required + [_make_reference(key, _get_requirement_level(key)) for key in row.optional]


def _make_reference(key: str, level: _Node) -> _Node:
    return {"ref": key, "requirement_level": level}


def _get_requirement_level(key: str) -> _Node:
    return {"conditionally_required": "Where it ended in an error."} if key == ERROR_TYPE else "recommended"


def _format_lines(node: _Node, indent: str = "") -> Iterator[str]:
    """Yield YAML in block style: the subset of YAML that a registry needs, without a library."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if _is_nested(value):
                yield f"{indent}{name}:"
                yield from _format_lines(value, indent + "  ")
            else:
                yield f"{indent}{name}: {_format_scalar(value)}"
    elif isinstance(node, Sequence):
        for value in node:
            if isinstance(value, Mapping):
                first, *rest = _format_lines(value, indent + "  ")
                yield f"{indent}- {first.lstrip()}"
                yield from rest
            else:
                yield f"{indent}- {_format_scalar(value)}"


def _is_nested(node: _Node) -> bool:
    return isinstance(node, Mapping | list | tuple)


def _format_scalar(node: _Node) -> str:
    # JSON is YAML. Plain words are written without quotes, except those that YAML reads as booleans.
    bare = isinstance(node, str) and _WORD.fullmatch(node) and node not in _RESERVED_WORDS
    return str(node) if bare else json.dumps(node, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
