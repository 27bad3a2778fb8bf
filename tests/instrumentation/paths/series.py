"""One form for what arrives on either path: Prometheus' own, a value for each sample's name and labels."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by name of sample and labels; those of a metric's origin are left out."""

_ORIGIN = ("otel_scope_", "scope_", "service_", "telemetry_", "instance", "job", "__name__")

# From OpenTelemetry's page on Prometheus compatibility, as much as can come up here.
_UNITS = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "%": "percent"}


def ours(name: str) -> bool:
    return name.startswith(("loco_", "gen_ai_"))


def translated(name: str, unit: str, kind: str, monotonic: bool) -> str:
    """Return the name under which Prometheus keeps an OTLP metric, where its OTLP receiver translates as by default.

    Dots become underscores, the unit follows unless the name has it, `1` is a gauge's ratio, what is in braces
    is dropped, and a counter's total ends the name.
    """
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    unit = re.sub(r"\{.*?\}", "", unit)
    suffix = ("ratio" if kind == "gauge" else "") if unit == "1" else _UNITS.get(unit, unit)
    if suffix and suffix not in words:
        words.append(suffix)
    if kind == "sum" and monotonic:
        words = [*(word for word in words if word != "total"), "total"]
    return "_".join(words)


def of_otlp(metrics: Iterable[Mapping[str, Any]]) -> Series:
    """Translate metrics in OTLP's JSON; of one that came twice, the first."""
    series: Series = {}
    for metric in metrics:
        ((kind, data),) = [(kind, metric[kind]) for kind in ("gauge", "sum", "histogram") if kind in metric]
        name = translated(metric["name"], metric["unit"], kind, data.get("isMonotonic", False))
        if kind != "gauge":
            assert data["aggregationTemporality"] == 2, "Prometheus takes cumulative values alone"
        for point in data["dataPoints"]:
            labels = {item["key"].replace(".", "_"): _text(item["value"]) for item in point.get("attributes", ())}
            for sample, value in _samples(name, kind, point):
                series.setdefault((sample[0], frozenset({**labels, **sample[1]}.items())), value)
    return series


def of_page(page: str) -> Series:
    """Read what the Prometheus exporter shows."""
    return of_samples(
        ({**sample.labels, "__name__": sample.name}, sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    )


def of_samples(samples: Iterable[tuple[Mapping[str, str], float]]) -> Series:
    """Take samples as Prometheus answers them."""
    series: Series = {}
    for labels, value in samples:
        if ours(labels["__name__"]):
            # A page's family has one set of labels; to Prometheus an empty one is none.
            told = {
                key: _bound(at) if key == "le" else at
                for key, at in labels.items()
                if at and not key.startswith(_ORIGIN)
            }
            name_and_labels = labels["__name__"], frozenset(told.items())
            assert name_and_labels not in series, "twice"
            series[name_and_labels] = value
    return series


def _samples(name: str, kind: str, point: Mapping[str, Any]) -> Iterable[tuple[tuple[str, Mapping[str, str]], float]]:
    if kind != "histogram":
        yield (name, {}), float(point["asInt"] if "asInt" in point else point["asDouble"])
        return
    yield (f"{name}_count", {}), float(point["count"])
    yield (f"{name}_sum", {}), point["sum"]
    below = 0
    for bound, count in zip([*point["explicitBounds"], "+Inf"], point["bucketCounts"], strict=True):
        below += int(count)
        yield (f"{name}_bucket", {"le": _bound(bound)}), float(below)


def _bound(text: str | float) -> str:
    """Return a bucket's bound in one spelling: `1` and `1.0` are the same."""
    return str(float(text))


def _text(value: Mapping[str, Any]) -> str:
    """Return an attribute's value as a label has it."""
    ((kind, content),) = value.items()
    assert kind in {"stringValue", "intValue"}
    return str(content)
