"""Metrics by their OpenTelemetry names: those of the catalogue, then those that are planned."""

from dashboards.builder.planned import PLANNED_LABELS, PLANNED_METRICS
from loco_otel._telemetry.catalogue import METRICS, MetricDefinition

CATALOGUE = {row.name: row for row in METRICS}


def _merge_labels(row: MetricDefinition) -> MetricDefinition:
    added = tuple(key for key in PLANNED_LABELS.get(row.name, ()) if key not in row.attributes + row.optional)
    return row._replace(attributes=row.attributes + added)


KNOWN_METRICS = {
    name: _merge_labels(row) for name, row in ({row.name: row for row in PLANNED_METRICS} | CATALOGUE).items()
}
"""Every metric that a query may use. A row of the catalogue replaces the planned row of its name."""


def find_metric(name: str) -> MetricDefinition:
    """Return the metric with this OpenTelemetry name.

    Raises:
        KeyError: neither the catalogue nor the plan has it.

    """
    return KNOWN_METRICS[name]


def get_labels(name: str) -> frozenset[str]:
    """Return the Prometheus labels of a metric, those of its origin left out."""
    row = find_metric(name)
    return frozenset(to_label(key) for key in row.attributes + row.optional)


def to_label(key: str) -> str:
    """Return the Prometheus label that an attribute becomes."""
    return key.replace(".", "_")
