"""Buffered measurements give the same data as recorded ones, whatever the readers, the views and the moment."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from forked_child import run_in_child
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import (
    AlwaysOnExemplarFilter,
    ExemplarFilter,
    Histogram,
    Meter,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    SumAggregation,
    View,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from loco_otel._telemetry import bulk_measurements, catalogue, histogram_buffer
from loco_otel._telemetry.call_trace import ROOT_CONTEXT
from loco_otel._telemetry.histogram_buffer import BufferedHistogram, HistogramBuffer, HistogramPoint
from loco_otel._telemetry.instruments import create_histogram

_NAME = catalogue.WAIT_DURATION.name
_CUMULATIVE, _DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
_VIEWS: dict[str, tuple[View, ...]] = {
    "none": (),
    "buckets": (View(instrument_name=_NAME, aggregation=ExplicitBucketHistogramAggregation([1, 2, 40])),),
    "no extremes": (
        View(instrument_name=_NAME, aggregation=ExplicitBucketHistogramAggregation([1], record_min_max=False)),
    ),
    "keys": (View(instrument_name=_NAME, attribute_keys={"loco.agent.id"}),),
    "no keys": (View(instrument_name=_NAME, attribute_keys=set()),),
    "two": (
        View(instrument_name=_NAME, name="one"),
        View(instrument_name=_NAME, name="other", attribute_keys={"loco.outcome"}),
    ),
    "drop": (View(instrument_name=_NAME, aggregation=DropAggregation()),),
    "exponential": (View(instrument_name=_NAME, aggregation=ExponentialBucketHistogramAggregation()),),
    "sum": (View(instrument_name=_NAME, aggregation=SumAggregation()),),
}
_tracer = TracerProvider(shutdown_on_exit=False).get_tracer("program")
_CONTEXTS = [trace.set_span_in_context(_tracer.start_span(f"call {number}")) for number in range(5)]
_UNSAMPLED = [
    ROOT_CONTEXT,
    *(
        trace.set_span_in_context(NonRecordingSpan(SpanContext(9, number, is_remote=False, trace_flags=TraceFlags(0))))
        for number in range(1, 3)
    ),
]
_values = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.75, 1024.0, -1.0, float("inf")]), st.integers(0, 50))
_measurements = st.lists(
    st.one_of(
        st.none(), st.tuples(_values, st.sampled_from(["analyst", "writer"]), st.sampled_from(_CONTEXTS + _UNSAMPLED))
    ),
    max_size=60,
)
"""What is recorded; None for a collection."""


class Sink:
    """Readers of both temporalities under some views, and the histogram that they read."""

    def __init__(
        self,
        views: Iterable[View],
        preferred: Aggregation | None = None,
        exemplar_filter: type[ExemplarFilter] = AlwaysOnExemplarFilter,
    ) -> None:
        aggregations: Any = None if preferred is None else {Histogram: preferred}
        self.readers = [
            InMemoryMetricReader({Histogram: _CUMULATIVE}, aggregations),
            InMemoryMetricReader({Histogram: _DELTA}),
        ]
        self.provider = MeterProvider(
            self.readers, exemplar_filter=exemplar_filter(), views=list(views), shutdown_on_exit=False
        )
        self.meter: Meter = self.provider.get_meter("program")
        self.buffer = HistogramBuffer()

    def create_buffered(self) -> BufferedHistogram:
        return BufferedHistogram(self.meter, catalogue.WAIT_DURATION, self.buffer)

    def collect(self, reader: InMemoryMetricReader) -> list[tuple[object, ...]]:
        self.buffer.flush()
        data = reader.get_metrics_data()
        return [] if data is None else [
            (metric.name, *_describe_point(point))
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in sorted(metric.data.data_points, key=lambda point: sorted((point.attributes or {}).items()))
        ]  # fmt: skip


def _build_attributes(agent: str) -> dict[str, str]:
    return {
        "loco.agent.id": agent,
        "loco.resource.name": "llm_api",
        "loco.outcome": "granted",
        "loco.priority": "normal",
    }


def _describe_point(point: Any) -> Iterable[object]:
    yield sorted(point.attributes.items())
    for field in ("value", "count", "sum", "min", "max", "bucket_counts", "explicit_bounds", "scale", "zero_count"):
        yield getattr(point, field, None)
    yield getattr(getattr(point, "positive", None), "bucket_counts", None)


def _list_exemplars(sink: Sink, reader: InMemoryMetricReader) -> list[tuple[object, ...]]:
    sink.buffer.flush()
    data: Any = reader.get_metrics_data()
    return sorted(
        (exemplar.value, exemplar.span_id or 0)
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
        for exemplar in point.exemplars
    )


def test_sdk_passes_the_self_check() -> None:
    assert bulk_measurements.is_bulk_supported()


@pytest.mark.parametrize("views", _VIEWS)
@given(measurements=_measurements)
def test_buffered_data_equals_recorded_data(views: str, measurements: Sequence[Any]) -> None:
    buffered, recorded = Sink(_VIEWS[views]), Sink(_VIEWS[views])
    histogram = buffered.create_buffered()
    plain = create_histogram(recorded.meter, catalogue.WAIT_DURATION)
    for measurement in (*measurements, None):
        if measurement is None:
            for mine, other in zip(buffered.readers, recorded.readers, strict=True):
                assert buffered.collect(mine) == recorded.collect(other)
            continue
        value, agent, context = measurement
        histogram.record_value(value, (agent, "llm_api", "granted", "normal"), context)
        plain.record(value, _build_attributes(agent), context)


@pytest.mark.parametrize("exemplar_filter", [TraceBasedExemplarFilter, AlwaysOnExemplarFilter])
@pytest.mark.parametrize("views", ["none", "buckets", "keys"])
@given(measurements=_measurements)
def test_last_measurement_of_each_bucket_leaves_its_exemplar(
    views: str, exemplar_filter: type[ExemplarFilter], measurements: Sequence[Any]
) -> None:
    buffered, recorded = (Sink(_VIEWS[views], exemplar_filter=exemplar_filter) for _ in range(2))
    histogram = buffered.create_buffered()
    plain = create_histogram(recorded.meter, catalogue.WAIT_DURATION)
    for value, _, context in (each for each in (*measurements, (0.25, "", _CONTEXTS[0])) if each is not None):
        if context is ROOT_CONTEXT and exemplar_filter is AlwaysOnExemplarFilter:
            continue  # the SDK then reports the span of an earlier measurement
        histogram.record_value(value, ("analyst", "llm_api", "granted", "normal"), context)
        plain.record(value, _build_attributes("analyst"), context)
    assert _list_exemplars(buffered, buffered.readers[0]) == _list_exemplars(recorded, recorded.readers[0])


def test_readers_with_buckets_of_their_own_are_recorded_singly() -> None:
    sink = Sink((), ExplicitBucketHistogramAggregation([1, 2]))
    histogram = sink.create_buffered()
    for value in (0.5, 1.5, 1.5, 9.0):
        histogram.record_value(value, ("analyst", "llm_api", "granted", "normal"), Context())
    counts = [sink.collect(reader)[0][7] for reader in sink.readers]
    assert counts[0] == (1, 2, 1)
    assert sum(counts[1]) == 4  # type: ignore[call-overload]


def test_disabled_self_check_records_singly(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("added in bulk")

    monkeypatch.setattr(bulk_measurements, "is_bulk_supported", lambda: False)
    monkeypatch.setattr(histogram_buffer, "add_measurements", fail)
    sink = Sink(())
    histogram = sink.create_buffered()
    for value in (0.5, 0.5, 0.5, 1.5):
        histogram.record_value(value, ("analyst", "llm_api", "granted", "normal"), Context())
    assert sink.collect(sink.readers[0])[0][3:5] == (4, 3.0)


def test_self_check_fails_where_a_private_name_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_measurements, "_SDK", "opentelemetry.sdk.metrics.gone")
    bulk_measurements.is_bulk_supported.cache_clear()
    try:
        assert not bulk_measurements.is_bulk_supported()
    finally:
        bulk_measurements.is_bulk_supported.cache_clear()


def test_collections_beside_measurements_lose_and_double_none() -> None:
    sink = Sink(())
    histogram = sink.create_buffered()
    done = threading.Event()
    counted = [0]

    def collect() -> None:
        while True:
            is_last = done.is_set()
            counted[0] += sum(point[3] for point in sink.collect(sink.readers[1]))  # type: ignore[misc]
            if is_last:
                return

    collecting = threading.Thread(target=collect)
    collecting.start()
    for number in range(20_000):
        histogram.record_value(number % 7, ("analyst", "llm_api", "granted", "normal"), _CONTEXTS[0])
    done.set()
    collecting.join()
    assert counted[0] == 20_000
    assert sink.collect(sink.readers[0])[0][3] == 20_000


def test_buffer_holds_few_contexts() -> None:
    sink = Sink(())
    histogram = sink.create_buffered()
    for number in range(2000):
        for value in (0.0, 0.5, 700.0):
            histogram.record_value(value, (f"agent {number % 400}", "llm_api", "granted", "normal"), _CONTEXTS[0])
    held = sum(len(point._latest) + len(point.pending) for point in sink.buffer._points)
    assert held <= histogram_buffer._MAX_CONTEXTS + histogram_buffer._MAX_PENDING
    assert sum(point[3] for point in sink.collect(sink.readers[0])) == 6000  # type: ignore[misc]


def test_flush_visits_only_points_with_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[HistogramPoint] = []
    flush = HistogramPoint.flush

    def flush_observed(point: HistogramPoint) -> None:
        flushed.append(point)
        flush(point)

    monkeypatch.setattr(HistogramPoint, "flush", flush_observed)
    sink = Sink(())
    histogram = sink.create_buffered()
    for agent in ("analyst", "writer", "writer", "writer"):
        histogram.record_value(0.5, (agent, "llm_api", "granted", "normal"), _CONTEXTS[0])
    sink.buffer.flush()
    sink.buffer.flush()
    assert len(flushed) == 1
    histogram.record_value(0.5, ("analyst", "llm_api", "granted", "normal"), _CONTEXTS[0])
    assert [point[3] for point in sink.collect(sink.readers[0])] == [2, 3]
    assert len(flushed) == 2


def test_forked_child_drops_what_its_parent_records() -> None:
    sink = Sink(())
    histogram = sink.create_buffered()
    for value in (0.5, 0.5, 0.5, -1.0):
        histogram.record_value(value, ("analyst", "llm_api", "granted", "normal"), Context())

    def check_child() -> None:
        assert sink.collect(sink.readers[0])[0][3] == 1

    assert run_in_child(check_child)
    assert sink.collect(sink.readers[0])[0][3] == 3
