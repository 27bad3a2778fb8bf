"""What is emitted is in the catalogue, what is in the catalogue is emitted, and it is the contract."""

import re

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import Gauge, Histogram, Sum
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import Attributes
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from telemetry_scenario import Rig, everything

from loco_otel._telemetry.attributes import ATTRIBUTES, TENANT
from loco_otel._telemetry.catalogue import (
    METRICS,
    SPAN_INFERENCE,
    SPANS,
    InstrumentKind,
    MetricDefinition,
    SpanDefinition,
    SpanEventDefinition,
)
from loco_otel._version import __version__

A, R, RESULT = "loco.agent.id", "loco.resource.name", "loco.outcome"
PRIORITY, WORKFLOW = "loco.priority", "gen_ai.workflow.name"
OP, P, M = "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"

# By hand, from the contract: what users build dashboards on must not change by accident.
BUDGET = {"loco.budget.scope", "loco.budget.key", "loco.budget.period"}
STORED = BUDGET | {"loco.budget.store"}
CONTRACT = {
    "loco.acquire.requests": ("counter", "{request}", "loco_acquire_requests_total", {A, R, RESULT}),
    "loco.grants": ("counter", "{grant}", "loco_grants_total", {R, "loco.grant.reason"}),
    "loco.wait.duration": ("histogram", "s", "loco_wait_duration_seconds", {A, R, RESULT, PRIORITY}),
    "loco.slot.time": ("observable counter", "s", "loco_slot_time_seconds_total", {A, R}),
    "loco.capacity.time": ("observable counter", "s", "loco_capacity_time_seconds_total", {R}),
    "loco.pause.time": ("observable counter", "s", "loco_pause_time_seconds_total", {A, R}),
    "loco.wait.ticks": ("histogram", "{tick}", "loco_wait_ticks", {A, R, PRIORITY}),
    "loco.hold.duration": ("histogram", "s", "loco_hold_duration_seconds", {A, R}),
    "loco.requests.waiting": ("observable gauge", "{request}", "loco_requests_waiting", {A, R}),
    "loco.requests.active": ("observable gauge", "{request}", "loco_requests_active", {A, R}),
    "loco.requests.waiting.max": ("observable gauge", "{request}", "loco_requests_waiting_max", set()),
    "loco.queue.weight": ("observable gauge", "{weight}", "loco_queue_weight", {A, R}),
    "loco.queue.age": ("observable gauge", "{tick}", "loco_queue_age", {A, R}),
    "loco.wait.time": ("observable counter", "s", "loco_wait_time_seconds_total", {A, R, "loco.wait.cause"}),
    "loco.queue.wait": ("observable gauge", "s", "loco_queue_wait_seconds", {A, R}),
    "loco.leases.expired": ("counter", "{lease}", "loco_leases_expired_total", {R}),
    "loco.bypassed": ("counter", "{request}", "loco_bypassed_total", {"loco.bypass.reason"}),
    "loco.engine.mode": ("observable gauge", "{mode}", "loco_engine_mode", {"loco.engine.mode"}),
    "loco.engine.processes": ("observable gauge", "{process}", "loco_engine_processes", set()),
    "loco.engine.overbooked": ("observable gauge", "{request}", "loco_engine_overbooked", {R}),
    "loco.engine.duration": ("histogram", "s", "loco_engine_duration_seconds", set()),
    "loco.engine.errors": ("observable counter", "{error}", "loco_engine_errors_total", {"loco.engine.error"}),
    "loco.events.dropped": ("observable counter", "{event}", "loco_events_dropped_total", set()),
    "loco.recoveries": ("observable counter", "{recovery}", "loco_recoveries_total", set()),
    "loco.load.score": ("observable gauge", "{score}", "loco_load_score", {A, R}),
    "loco.resource.capacity": ("observable gauge", "{request}", "loco_resource_capacity", {R}),
    "loco.resource.saturation": ("observable gauge", "{saturation}", "loco_resource_saturation", {R}),
    "loco.limit.reference": ("observable gauge", "{request}", "loco_limit_reference", {R}),
    "loco.limit.changes": ("counter", "{change}", "loco_limit_changes_total", {R, "loco.limit.direction"}),
    "loco.limit.decisions": (
        "counter", "{decision}", "loco_limit_decisions_total", {"loco.limit.reason", "loco.limit.action"},
    ),
    "loco.run.duration": ("histogram", "s", "loco_run_duration_seconds", {WORKFLOW, PRIORITY}),
    "loco.run.wait": ("histogram", "s", "loco_run_wait_seconds", {WORKFLOW, PRIORITY}),
    "loco.run.slowdown": ("histogram", "{ratio}", "loco_run_slowdown", {WORKFLOW, PRIORITY}),
    "loco.runs.active": ("observable gauge", "{run}", "loco_runs_active", {WORKFLOW, PRIORITY}),
    "loco.ratelimit.limit": ("observable gauge", "{unit}", "loco_ratelimit_limit", {R, "loco.ratelimit.kind"}),
    "loco.ratelimit.remaining": (
        "observable gauge", "{unit}", "loco_ratelimit_remaining", {R, "loco.ratelimit.kind"},
    ),
    "loco.gate.closed": ("observable gauge", "s", "loco_gate_closed_seconds", {R, "loco.gate.cause"}),
    "loco.scheduler.alpha": ("observable gauge", "{alpha}", "loco_scheduler_alpha", {R}),
    "loco.scheduler.ticks": ("observable counter", "{tick}", "loco_scheduler_ticks_total", {R}),
    "loco.fairness.index": ("observable gauge", "{index}", "loco_fairness_index", {R}),
    "loco.throttles": (
        "counter", "{throttle}", "loco_throttles_total", {R, P, "error.type", "loco.throttle.kind"},
    ),
    "loco.tokens": ("counter", "{token}", "loco_tokens_total", {A, P, M, "gen_ai.token.type"}),
    "loco.spend": ("counter", "USD", "loco_spend_USD_total", {A, P, M, TENANT}),
    "loco.spend.unpriced": ("counter", "{request}", "loco_spend_unpriced_total", {P, M, "loco.spend.kind"}),
    "loco.spend.weight": ("counter", "{weight}", "loco_spend_weight_total", {A, P, M}),
    "loco.budget.charged": ("observable counter", "USD", "loco_budget_charged_USD_total", BUDGET),
    "loco.budget.weight.charged": ("observable counter", "{weight}", "loco_budget_weight_charged_total", BUDGET),
    "loco.budget.reset.timestamp": (
        "observable gauge", "s", "loco_budget_reset_timestamp_seconds", STORED | {"loco.budget.unit"},
    ),
    "loco.budget.limit": ("observable gauge", "USD", "loco_budget_limit_USD", STORED),
    "loco.budget.spent": ("observable gauge", "USD", "loco_budget_spent_USD", STORED),
    "loco.budget.reserved": ("observable gauge", "USD", "loco_budget_reserved_USD", STORED),
    "loco.budget.weight.limit": ("observable gauge", "{weight}", "loco_budget_weight_limit", STORED),
    "loco.budget.weight.spent": ("observable gauge", "{weight}", "loco_budget_weight_spent", STORED),
    "loco.budget.weight.reserved": ("observable gauge", "{weight}", "loco_budget_weight_reserved", STORED),
    "loco.budget.decisions": (
        "counter", "{decision}", "loco_budget_decisions_total",
        {*BUDGET, "loco.budget.unit", "loco.budget.action"},
    ),
    "gen_ai.client.operation.duration": (
        "histogram", "s", "gen_ai_client_operation_duration_seconds", {OP, P, M},
    ),
    "gen_ai.client.operation.time_to_first_chunk": (
        "histogram", "s", "gen_ai_client_operation_time_to_first_chunk_seconds", {OP, P, M},
    ),
    "gen_ai.client.token.usage": (
        "histogram", "{token}", "gen_ai_client_token_usage", {OP, P, M, "gen_ai.token.type"},
    ),
    "loco.active": (
        "observable gauge", "{instrumentor}", "loco_active", {"loco.sdk.name", "loco.sdk.version"},
    ),
    "loco.info": (
        "observable gauge", "{resource}", "loco_info", {R, "loco.policy", "loco.capacity.mode", "loco.version"},
    ),
    "loco.children": ("observable gauge", "{process}", "loco_children", set()),
}  # fmt: skip

DATA = {
    InstrumentKind.COUNTER: Sum,
    InstrumentKind.OBSERVABLE_COUNTER: Sum,
    InstrumentKind.HISTOGRAM: Histogram,
    InstrumentKind.OBSERVABLE_GAUGE: Gauge,
}
TYPES = {"string": str, "int": int, "double": float, "boolean": bool, "string[]": tuple, "double[]": tuple}


@pytest.fixture(scope="module")
def rig() -> Rig:
    rig = Rig()
    everything(rig)
    return rig


def test_catalogue_is_the_contract() -> None:
    rows = {row.name: (row.kind.value, row.unit, row.prometheus_name, set(row.attributes)) for row in METRICS}
    assert rows == CONTRACT


def test_every_metric_is_emitted_and_no_other(rig: Rig) -> None:
    assert set(rig.metrics()) == {row.name for row in METRICS}


@pytest.mark.parametrize("row", METRICS, ids=lambda row: row.name)
def test_metric_matches_its_row(rig: Rig, row: MetricDefinition) -> None:
    metric = rig.metrics()[row.name]

    assert metric.unit == row.unit
    assert metric.description == row.description
    assert isinstance(metric.data, DATA[row.kind])
    if isinstance(metric.data, Sum):
        assert metric.data.is_monotonic
    assert metric.data.data_points
    for point in metric.data.data_points:
        assert set(row.attributes) <= set(point.attributes or ()) <= {*row.attributes, *row.optional}
        _check_values(point.attributes)
        assert tuple(getattr(point, "explicit_bounds", ())) == row.buckets


def test_scope_has_name_and_version(rig: Rig) -> None:
    rig.clock.now += 1
    data = rig.reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    scopes = [scope.scope, *(span.instrumentation_scope for span in rig.spans())]
    assert {(each.name, each.version, each.schema_url or None) for each in scopes if each} == {
        ("loco_otel", __version__, None)
    }


def test_every_span_and_event_is_emitted_and_no_other(rig: Rig) -> None:
    emitted = {(_row_of(span).name, event.name) for span in rig.spans() for event in span.events}
    assert emitted == {(row.name, event.name) for row in SPANS for event in row.events}
    assert {_row_of(span) for span in rig.spans()} == set(SPANS)


@pytest.mark.parametrize("row", SPANS, ids=lambda row: row.name)
def test_span_matches_its_row(rig: Rig, row: SpanDefinition) -> None:
    spans = [span for span in rig.spans() if _row_of(span) is row]
    _check(row, [span.attributes for span in spans])
    assert {span.kind for span in spans} == {SpanKind[row.kind]}
    links = [link.attributes for span in spans for link in span.links]
    assert {frozenset(attributes or ()) for attributes in links} == ({frozenset(row.link)} if row.link else set())
    for event in row.events:
        _check(event, [each.attributes for span in spans for each in span.events if each.name == event.name])


def test_nothing_is_emitted_that_others_count(rig: Rig) -> None:
    others = [span for span in rig.spans() if _row_of(span) is not SPAN_INFERENCE]
    keys = {key for span in others for key in span.attributes or ()}
    keys |= {key for span in rig.spans() for event in span.events for key in event.attributes or ()}
    assert not {key for key in keys if key.startswith("gen_ai.usage") or key == "gen_ai.operation.name"}


def test_prometheus_names_are_those_of_the_real_exporter() -> None:
    reader = PrometheusMetricReader()
    # Into a registry of its own; the oldest exporter that we support has no option for it.
    REGISTRY.unregister(reader._collector)
    registry = CollectorRegistry()
    registry.register(reader._collector)
    everything(Rig(readers=[reader]))

    text = generate_latest(registry).decode()
    samples: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {label for label in sample.labels if not label.startswith("otel_scope_")}
            samples.setdefault(sample.name, set()).update(labels)
    del samples["target_info"]

    expected: dict[str, set[str]] = {}
    for row in METRICS:
        labels = {ATTRIBUTES[key].prometheus_label for key in (*row.attributes, *row.optional)}
        if row.kind is InstrumentKind.HISTOGRAM:
            expected[f"{row.prometheus_name}_bucket"] = labels | {"le"}
            expected[f"{row.prometheus_name}_sum"] = labels
            expected[f"{row.prometheus_name}_count"] = labels
        else:
            expected[row.prometheus_name] = labels
    assert samples == expected


@pytest.mark.parametrize("row", METRICS, ids=lambda row: row.name)
def test_prometheus_names_are_the_same_through_otlp(row: MetricDefinition) -> None:
    # The two ways differ in units: seconds they both spell out, annotations they both drop, but a gauge with
    # the unit 1 would be a `_ratio` through OTLP alone.
    assert row.unit in {"s", "USD"} or re.fullmatch(r"\{[a-z]+\}", row.unit)
    assert re.fullmatch(r"[a-z_.]+", row.name)
    assert not row.name.endswith(("_total", ".total"))


def test_every_attribute_is_in_use() -> None:
    used = {key for row in METRICS for key in (*row.attributes, *row.optional)}
    for row in SPANS:
        used |= {*row.attributes, *row.optional, *row.link}
        for event in row.events:
            used |= {*event.attributes, *event.optional}
    assert used == set(ATTRIBUTES)


def test_buckets_are_sorted_floats() -> None:
    # Floats, so that the Prometheus exporter writes all `le` alike.
    for row in METRICS:
        assert list(row.buckets) == sorted(set(row.buckets))
        assert all(isinstance(bound, float) for bound in row.buckets)
        assert bool(row.buckets) == (row.kind is InstrumentKind.HISTOGRAM)


def _row_of(span: ReadableSpan) -> SpanDefinition:
    named = [row for row in SPANS if row.name.split(" ")[0] == span.name.split(" ")[0]]
    return named[0] if named else SPAN_INFERENCE


def _check(row: SpanDefinition | SpanEventDefinition, emitted: list[Attributes]) -> None:
    """Each has the keys that it must have, none that it must not, and between them they have all."""
    assert emitted
    for attributes in emitted:
        assert set(row.attributes) <= set(attributes or ()) <= {*row.attributes, *row.optional}
        _check_values(attributes)
    assert {key for attributes in emitted for key in attributes or ()} == {*row.attributes, *row.optional}


def _check_values(attributes: Attributes) -> None:
    for key, value in (attributes or {}).items():
        attribute = ATTRIBUTES[key]
        assert type(value) is TYPES[attribute.type], key
        assert not attribute.values or value in attribute.values
