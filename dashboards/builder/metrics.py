"""Metrics by their OpenTelemetry names."""

from loco_otel._telemetry.catalogue import METRICS, MetricDefinition

CATALOGUE = {row.name: row for row in METRICS}
"""Every metric that a query may use."""


def find_metric(name: str) -> MetricDefinition:
    """Return the metric with this OpenTelemetry name.

    Raises:
        KeyError: the catalogue has none.

    """
    return CATALOGUE[name]


def get_labels(name: str) -> frozenset[str]:
    """Return the Prometheus labels of a metric, those of its origin left out."""
    row = find_metric(name)
    return frozenset(to_label(key) for key in row.attributes + row.optional)


def to_label(key: str) -> str:
    """Return the Prometheus label that an attribute becomes."""
    return key.replace(".", "_")
