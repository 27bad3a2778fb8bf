"""Adds many measurements of one point to a histogram of OpenTelemetry's SDK in one step.

The API records one measurement at a time, and the SDK validates, hashes and matches its attributes each time: 100
thousand instructions, six times a call. The specification's `Bind`, in development, will replace this module, which
depends on private names of the SDK. It is therefore used only with the SDK's own classes, and only if a self-check
finds that a private provider reports the same data either way; see docs/decisions/0012-bulk-measurements.md.
"""

import sys
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cache
from time import time_ns
from typing import Any, TypeAlias

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram

Attributes: TypeAlias = Mapping[str, str | int]

_SDK = "opentelemetry.sdk.metrics._internal"
_CHECKED_VALUES = (0.0, 0.5, 0.5, 7.0, 1.0, 64.0, 3.25)
_CHECKED_BOUNDS = (0.5, 1.0, 8.0)


def find_bucket_bounds(histogram: Any, attributes: Attributes) -> tuple[float, ...] | None:
    """Return the bounds of a point's buckets; None if measurements cannot be added in bulk.

    The point has a measurement already, so that the views that apply to it are known.
    """
    if not is_bulk_supported() or type(histogram) is not _get_sdk_class("instrument", "_Histogram"):
        return None
    consumer = histogram._measurement_consumer
    if type(consumer) is not _get_sdk_class("measurement_consumer", "SynchronousMeasurementConsumer"):
        return None
    known: set[tuple[float, ...]] = set()
    for match in _iter_matches(histogram):
        aggregation = _find_aggregation(match, attributes)
        if not _is_explicit(aggregation):
            return None
        known.add(aggregation._boundaries)
    # Several readers may have buckets of their own: then no bucket's last measurement is known.
    return known.pop() if len(known) == 1 else None


def add_measurements(histogram: Histogram, attributes: Attributes, values: Sequence[float], context: Context) -> None:
    """Add measurements to a histogram for which `find_bucket_bounds` returned bounds. They leave no exemplars.

    Where the point has been removed meanwhile, as a collection with delta temporality does, they are recorded one by
    one, with `context`.
    """
    is_enabled: Callable[[], bool] | None = getattr(histogram, "_is_enabled", None)
    if is_enabled is not None and not is_enabled():
        return
    for match in _iter_matches(histogram):
        with match._lock:
            aggregation = _find_aggregation(match, attributes)
            is_added = _is_explicit(aggregation)
            if is_added:
                _add_to_aggregation(aggregation, values)
        if not is_added:
            measurement: Any = _get_sdk_class("measurement", "Measurement")
            for value in values:
                match.consume_measurement(measurement(value, time_ns(), histogram, context, attributes), False)


@cache
def is_bulk_supported() -> bool:
    """Return whether measurements added in bulk give the same data as recorded ones, with this SDK."""
    try:
        return _collect_checked(in_bulk=True) == _collect_checked(in_bulk=False)
    except Exception:  # a name that this SDK has not
        return False


def _collect_checked(*, in_bulk: bool) -> list[object]:
    """Return what readers of either temporality report after two rounds of measurements, without times."""
    # Not imported above: programs without an SDK need none of it.
    from opentelemetry.sdk.metrics import Histogram as SdkHistogram  # noqa: PLC0415
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

    readers = [
        InMemoryMetricReader({SdkHistogram: temporality})
        for temporality in (AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA)
    ]
    provider = MeterProvider(readers, Resource.get_empty(), shutdown_on_exit=False)
    histogram = provider.get_meter(__name__).create_histogram(
        "self_check", explicit_bucket_boundaries_advisory=_CHECKED_BOUNDS
    )
    attributes: dict[str, str | int] = {"text": "a", "number": 1}
    found: list[object] = []
    for values in (_CHECKED_VALUES, _CHECKED_VALUES[:3]):
        histogram.record(values[0], attributes)
        if in_bulk:
            add_measurements(histogram, attributes, values[1:], Context())
        else:
            for value in values[1:]:
                histogram.record(value, attributes)
        for reader in readers:
            data: Any = reader.get_metrics_data()
            found += [
                (dict(point.attributes), point.count, point.sum, point.min, point.max, point.bucket_counts)
                for metric in data.resource_metrics[0].scope_metrics[0].metrics
                for point in metric.data.data_points
            ]
    return found


def _get_sdk_class(module: str, name: str) -> object:
    """Return a class of the SDK; None if the program has not imported it."""
    return getattr(sys.modules.get(f"{_SDK}.{module}"), name, None)


def _iter_matches(histogram: Any) -> Iterator[Any]:
    """Return what holds the points of a histogram: one object for each reader and view."""
    for storage in histogram._measurement_consumer._reader_storages.values():
        yield from storage._instrument_view_instrument_matches.get(histogram, ())


def _find_aggregation(match: Any, attributes: Attributes) -> Any:
    """Return the sums of a point; None if it has no measurement."""
    kept = match._view._attribute_keys
    if kept is not None:
        attributes = {name: value for name, value in attributes.items() if name in kept}
    hash_attributes: Any = _get_sdk_class("_view_instrument_match", "_hash_attributes")
    hashed: Hashable = frozenset(attributes.items()) if hash_attributes is None else hash_attributes(attributes)
    return match._attributes_aggregation.get(hashed)


def _is_explicit(aggregation: object) -> bool:
    return type(aggregation) is _get_sdk_class("aggregation", "_ExplicitBucketHistogramAggregation")


def _add_to_aggregation(aggregation: Any, values: Sequence[float]) -> None:
    """Do what `aggregate` of the SDK does, for each value."""
    bounds = aggregation._boundaries
    buckets = [bisect_left(bounds, value) for value in values]
    with aggregation._lock:
        if aggregation._value is None:
            aggregation._value = aggregation._get_empty_bucket_counts()
        counts = aggregation._value
        for bucket in buckets:
            counts[bucket] += 1
        aggregation._sum += sum(values)
        if aggregation._record_min_max:
            aggregation._min = min(aggregation._min, *values)
            aggregation._max = max(aggregation._max, *values)
