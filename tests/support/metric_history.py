"""A history of every metric of the catalogue, as a busy program would leave it: each panel has data at its end."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from dashboards.builder.metrics import CATALOGUE, to_label
from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.catalogue import InstrumentKind, MetricDefinition

STEP = 15
SPAN = 2 * 3600
"""Seconds of history."""

INSTANCES = ("10.0.0.1:9464", "10.0.0.2:9464")
VALUES: Mapping[str, tuple[str, ...]] = {
    key.AGENT: ("analyst", "crawler", "other"),
    key.RESOURCE: ("llm_api", "api.openai.com"),
    key.MODEL: ("gpt-4.1", "claude-sonnet-5"),
    key.TENANT: ("acme", "globex"),
    key.THROTTLE_KIND: ("load", "timeout"),
    key.OUTCOME: ("granted", "timeout"),
    key.BUDGET_SCOPE: ("agent",),
    key.BUDGET_KEY: ("analyst", "crawler"),
    key.BUDGET_PERIOD: ("day",),
    key.BUDGET_UNIT: ("usd", "weight"),
    key.TOKEN_TYPE: ("input", "output"),
    key.BUDGET_STORE: ("ledger",),
    key.CAPACITY_MODE: ("auto",),
    key.INACTIVE_REASON: ("",),
    key.LIMIT_DIRECTION: ("up", "down"),
    key.RATE_LIMIT_KIND: ("requests", "tokens"),
    key.BLAME_AGENT: ("analyst", "crawler"),
    key.WAIT_CAUSE: ("slot", "self", "backoff"),
}
"""Values of labels; those that are not here have one."""


def write_history(end: int) -> str:
    """Return the history until a time, in OpenMetrics' text form."""
    return "".join(f"{line}\n" for line in _list_lines(end)) + "# EOF\n"


def _list_lines(end: int) -> Iterator[str]:
    times = range(end - SPAN, end + 1, STEP)
    origins = [{"job": "app", "instance": instance} for instance in INSTANCES]
    for row in CATALOGUE.values():
        family = row.prometheus_name.removesuffix("_total")
        kind = {"counter": "counter", "histogram": "histogram"}.get(row.kind.split()[-1], "gauge")
        yield f"# TYPE {family} {kind}"
        for origin in origins:
            for labels in _list_labels(row):
                for name, more, slope, level in _list_samples(row, end):
                    text = _format_labels({**origin, **labels, **more})
                    for at in times:
                        yield f"{name}{text} {level + slope * (at - end + SPAN):.6f} {at}"
    yield "# TYPE up gauge"
    yield "# TYPE target_info gauge"
    for origin, version in zip(origins, ("1.0", "1.1"), strict=True):
        for at in times:
            yield f"up{_format_labels(origin)} 1 {at}"
            yield f"target_info{_format_labels({**origin, 'service_version': version})} 1 {at}"
    yield "# TYPE ALERTS gauge"
    for at in times:
        yield f'ALERTS{{alertname="LocoThrottleStorm",alertstate="firing",severity="warning"}} 1 {at}'


def _list_labels(row: MetricDefinition) -> Iterator[Mapping[str, str]]:
    keys = row.attributes + tuple(it for it in row.optional if it in VALUES)
    for values in product(*(VALUES.get(it, ("x",)) for it in keys)):
        yield {to_label(it): value for it, value in zip(keys, values, strict=True)}


def _list_samples(row: MetricDefinition, end: int) -> Iterator[tuple[str, Mapping[str, Any], float, float]]:
    """Yield series of a point of a metric: name, more labels, growth per second, value at the start."""
    if row.kind is InstrumentKind.HISTOGRAM:
        for number, bound in enumerate([*row.buckets, "+Inf"]):
            yield f"{row.prometheus_name}_bucket", {"le": str(bound)}, 0.01 * (number + 1), 0.0
        yield f"{row.prometheus_name}_count", {}, 0.01 * (len(row.buckets) + 1), 0.0
        yield f"{row.prometheus_name}_sum", {}, 0.5, 0.0
    elif row.name == "loco.budget.reset.timestamp":
        yield row.prometheus_name, {}, 0.0, end + 3600.0
    elif row.kind in {InstrumentKind.COUNTER, InstrumentKind.OBSERVABLE_COUNTER}:
        yield row.prometheus_name, {}, 0.001, 0.0
    else:
        yield row.prometheus_name, {}, 0.0, 8.0 if row.name.endswith(("limit", "reference")) else 3.0


def _format_labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
