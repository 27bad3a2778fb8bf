"""Holds spans and metrics, as the OpenTelemetry SDK exports them, against a registry of semantic conventions."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics.export import Gauge, Histogram, Metric, MetricsData, Sum
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from opentelemetry.util.types import Attributes
from semconv_registry import Attribute, Levels, MetricForm, Registry, SpanForm

ERROR_TYPE = "error.type"
_TYPES = {"string": str, "int": int, "double": float, "boolean": bool}


class Findings(NamedTuple):
    violations: list[str]
    seen: set[str]
    """What of `Registry.names` was there."""


def check(registry: Registry, spans: Iterable[ReadableSpan] = (), metrics: Iterable[Metric] = ()) -> Findings:
    """Return what is wrong with the telemetry, and which parts of the registry it shows."""
    findings = Findings([], set())
    for span in spans:
        form = registry.span(span.name, span.attributes or {})
        if form is None:
            findings.violations.append(f"span {span.name}: not declared")
        else:
            findings.seen.update(f"event {event.name}" for event in span.events if event.name in registry.events)
            findings.seen.add(f"span {form.type}")
            findings.violations.extend(f"span {span.name}: {fault}" for fault in _span(registry, form, span))
    for metric in metrics:
        row = registry.metrics.get(metric.name)
        if row is None:
            findings.violations.append(f"metric {metric.name}: not declared")
        else:
            findings.seen.add(f"metric {metric.name}")
            findings.violations.extend(f"metric {metric.name}: {fault}" for fault in _metric(registry, row, metric))
    return findings


def exported(data: MetricsData | None) -> Iterator[Metric]:
    """Return the metrics of one collection, those of all scopes."""
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            yield from scope.metrics


def _span(registry: Registry, form: SpanForm, span: ReadableSpan) -> Iterator[str]:
    name = form.named(span.attributes or {})
    if span.name != name:
        yield f"named so, not {name}"
    kind = span.kind.name.lower()
    if kind != form.kind:
        yield f"kind {kind}, not {form.kind}"
    failed = span.status.status_code is StatusCode.ERROR
    if failed != (ERROR_TYPE in (span.attributes or {})):
        yield f"status {span.status.status_code.name} {'without' if failed else 'with'} {ERROR_TYPE}"
    yield from _attributes(registry, form.levels, span.attributes)
    for event in span.events:
        if event.name not in form.events:
            yield f"event {event.name}: not declared"
        else:
            for fault in _attributes(registry, registry.events[event.name], event.attributes):
                yield f"event {event.name}: {fault}"


def _metric(registry: Registry, form: MetricForm, metric: Metric) -> Iterator[str]:
    if metric.unit != form.unit:
        yield f"unit {metric.unit}, not {form.unit}"
    instrument = _instrument(metric.data)
    if instrument != form.instrument:
        yield f"{instrument}, not {form.instrument}"
    for point in metric.data.data_points:
        bounds = tuple(getattr(point, "explicit_bounds", ()))
        if form.bounds and bounds != form.bounds:
            yield f"bounds {bounds}"
        yield from _attributes(registry, form.levels, point.attributes)


def _instrument(data: object) -> str:
    match data:
        case Sum(is_monotonic=True):
            return "counter"
        case Sum():
            return "updowncounter"
        case Gauge():
            return "gauge"
        case Histogram():
            return "histogram"
        case _:
            return type(data).__name__


def _attributes(registry: Registry, levels: Levels, attributes: Attributes) -> Iterator[str]:
    have = dict(attributes or {})
    for key in sorted(levels.required - have.keys()):
        yield f"no {key}"
    for key, value in have.items():
        if key not in levels.required | levels.optional:
            yield f"{key}: not declared"
        else:
            fault = _value(registry.attributes[key], value)
            if fault is not None:
                yield f"{key}: {fault}"


def _value(attribute: Attribute, value: Any) -> str | None:
    item_type = attribute.type.removesuffix("[]")
    if isinstance(value, tuple) != (item_type != attribute.type):
        return f"{value!r} is no {attribute.type}"
    for item in value if isinstance(value, tuple) else (value,):
        # Exactly: True is an int to Python, and 1 is no double to OTLP.
        if type(item) is not _TYPES[item_type]:
            return f"{value!r} is no {attribute.type}"
        if attribute.values and item not in attribute.values:
            return f"{item!r} is none of its values"
    return None
