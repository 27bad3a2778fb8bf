"""Reads OTLP in JSON, an export in each line: what a collector's file exporter and OpenTelemetry's own write."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from loco_otel._telemetry import attributes as key
from loco_otel.errors import LocoError

_SCOPE = "loco_otel"
_NANO = 1e-9


class FileError(LocoError):
    """A file has nothing to report. The message names the cause."""


class RecordedSpan(NamedTuple):
    """A span of loco-otel, or the inference span that another instrumentation has made of a call that it scheduled."""

    name: str
    is_own: bool
    parent: str
    """The id of the span that it is in; empty without one."""
    start: float
    """Seconds since the epoch."""
    end: float
    attributes: Mapping[str, Any]
    events: tuple[tuple[str, float, Mapping[str, Any]], ...]
    """Name, time and attributes."""


def read_spans(path: Path) -> list[RecordedSpan]:
    """Return the spans of loco-otel in a file, and those of others that have its attributes.

    Raises:
        FileError: the file can't be read, is not in OTLP's JSON, or has no span of loco-otel.

    """
    spans: list[RecordedSpan] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    spans += _read_export(json.loads(line), path, number)
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except json.JSONDecodeError as error:
        raise FileError(f"{path} is not OTLP in JSON, an export in each line: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is not OTLP in JSON: {type(error).__name__} {error} in a span") from error
    if not any(span.is_own for span in spans):
        raise FileError(f"{path} has no span of loco-otel: were its traces exported, and is it installed there?")
    return spans


def _read_export(export: Any, path: Path, number: int) -> Iterator[RecordedSpan]:
    if not isinstance(export, dict):
        raise FileError(f"{path}, line {number}: an export is a JSON object")
    for resource in export.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            is_own = scope.get("scope", {}).get("name") == _SCOPE
            for item in scope.get("spans", ()):
                span = _read_span(item, is_own=is_own)
                if is_own or key.WAIT_DURATION in span.attributes:
                    yield span


def _read_span(span: Mapping[str, Any], *, is_own: bool) -> RecordedSpan:
    return RecordedSpan(
        span["name"],
        is_own,
        span.get("parentSpanId", ""),
        int(span["startTimeUnixNano"]) * _NANO,
        int(span["endTimeUnixNano"]) * _NANO,
        _read_attributes(span.get("attributes", ())),
        tuple(
            (event["name"], int(event["timeUnixNano"]) * _NANO, _read_attributes(event.get("attributes", ())))
            for event in span.get("events", ())
        ),
    )


def _read_attributes(pairs: Any) -> dict[str, Any]:
    return {pair["key"]: _read_value(pair.get("value", {})) for pair in pairs}


def _read_value(value: Mapping[str, Any]) -> Any:
    if "intValue" in value:  # a string in JSON, as it may have 64 bits
        return int(value["intValue"])
    if "doubleValue" in value:
        return float(value["doubleValue"])
    if "arrayValue" in value:
        return [_read_value(it) for it in value["arrayValue"].get("values", ())]
    return next(iter(value.values()), None)
