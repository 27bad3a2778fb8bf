"""Buffers the measurements of histograms, by point.

Of each point and bucket the last measurement is recorded by the API, so that it leaves its exemplar, and before it the
last one of a sampled span, which leaves its own if the program's filter omits the others. All further ones are added in
one step, where the SDK's histogram allows that.
"""

from bisect import bisect_left
from collections import deque
from math import inf
from operator import itemgetter
from typing import TypeAlias, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, Meter
from opentelemetry.trace import TraceFlags

from loco_otel import _fork
from loco_otel._telemetry.bulk_measurements import Attributes, add_measurements, find_bucket_bounds
from loco_otel._telemetry.call_trace import ROOT_CONTEXT
from loco_otel._telemetry.catalogue import MetricDefinition
from loco_otel._telemetry.current_context import get_span
from loco_otel._telemetry.instruments import PointLimit, PointValues, create_histogram

_Item = TypeVar("_Item")
_Measurement: TypeAlias = tuple[float, Context, bool]
"""A value, its context, and whether the span of that is sampled."""

_MAX_CONTEXTS = 512
"""The most contexts that are held, which refer to spans of calls that have ended."""
_MAX_VALUES = 8192
_MAX_SINGLE = 128
"""Buffered measurements at which those that cannot be added in bulk are recorded, which then takes half the time."""


class HistogramBuffer:
    """Bounds what the points of all histograms buffer, and flushes it.

    Every collection flushes first, so it is complete. One thread at a time may record; any thread may flush.
    """

    def __init__(self) -> None:
        self._points: list[HistogramPoint] = []
        self._filled: deque[HistogramPoint] = deque()
        """The points that have buffered something since they were flushed."""
        self._values = self._contexts = self._singles = 0
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def add_point(self, point: "HistogramPoint") -> None:
        """Include a point in what a forked child discards."""
        self._points.append(point)

    def count(self, point: "HistogramPoint", values: int, contexts: int, singles: int) -> None:
        """Count what a point has buffered, include it in the next flush, and flush if it is too much."""
        if not point.is_filled:
            point.is_filled = True
            self._filled.append(point)
        self._values += values
        self._contexts += contexts
        self._singles += singles
        if self._values >= _MAX_VALUES or self._contexts >= _MAX_CONTEXTS or self._singles >= _MAX_SINGLE:
            self.flush()

    def flush(self) -> None:
        """Record the buffered measurements. Thread-safe."""
        self._values = self._contexts = self._singles = 0
        for point in _drain(self._filled):
            # First: what is buffered from now on includes the point again.
            point.is_filled = False
            point.flush()

    def after_fork(self) -> None:
        """Discard the buffered measurements in a forked child: the parent records them."""
        self._filled.clear()
        for point in self._points:
            point.is_filled = False
            point.discard()


class HistogramPoint:
    """The buffered measurements of one point.

    There is no lock, which a fork or a signal handler that flushes could find held: each step is atomic, and another
    thread that flushes meanwhile takes a measurement either before or after it.
    """

    __slots__ = ("_attributes", "_bounds", "_buffer", "_histogram", "_latest", "_singles", "_values", "is_filled")

    def __init__(self, histogram: Histogram, attributes: Attributes, buffer: HistogramBuffer) -> None:
        self._histogram = histogram
        self._attributes = attributes
        self._buffer = buffer
        self.is_filled = False
        """Whether the next flush includes it."""
        self._bounds: tuple[float, ...] | None = None
        self._latest: dict[int, _Measurement] = {}
        """The last measurement of each bucket. If its span is not sampled, the last sampled one before it is under the
        complement of the bucket's number.
        """
        self._values: deque[float] = deque()
        """All others."""
        self._singles: deque[_Measurement] = deque()
        """Measurements that cannot be added in bulk."""

    def record_first(self, value: float, context: Context) -> None:
        """Record the first measurement, which creates the point, and find out how to add the others."""
        self._histogram.record(value, self._attributes, context)
        self._bounds = find_bucket_bounds(self._histogram, self._attributes)
        self._buffer.add_point(self)

    def record_value(self, value: float, context: Context) -> None:
        """Buffer a measurement."""
        bounds = self._bounds
        is_sampled = _is_sampled(context)
        measurement = value, context, is_sampled
        if bounds is None or not 0 <= value < inf:
            self._singles.append(measurement)
            self._buffer.count(self, 0, 0, 1)
            return
        bucket = bisect_left(bounds, value)
        latest = self._latest
        replaced = latest.pop(bucket, None)
        if is_sampled:
            older = latest.pop(~bucket, None)
            if older is not None:
                self._values.append(older[0])
        elif replaced is not None and replaced[2]:
            sampled, replaced = replaced, latest.pop(~bucket, None)
            self._keep_latest(~bucket, sampled)
        self._keep_latest(bucket, measurement)
        if replaced is None:
            self._buffer.count(self, 0, 1, 0)
        else:
            self._values.append(replaced[0])
            self._buffer.count(self, 1, 0, 0)

    def _keep_latest(self, place: int, measurement: _Measurement) -> None:
        if self._latest.setdefault(place, measurement) is not measurement:
            self._values.append(measurement[0])

    def flush(self) -> None:
        """Record what is buffered. Thread-safe."""
        latest: list[tuple[int, _Measurement]] = []
        while self._latest:
            try:
                latest.append(self._latest.popitem())
            except KeyError:  # another thread removed the last one
                break
        # The complements first, which are negative: they are older.
        latest.sort(key=itemgetter(0))
        for value, context, _ in (*_drain(self._singles), *(measurement for _, measurement in latest)):
            self._histogram.record(value, self._attributes, context)
        values = _drain(self._values)
        if values:
            add_measurements(self._histogram, self._attributes, values, ROOT_CONTEXT)

    def discard(self) -> None:
        """Discard what is buffered."""
        self._singles.clear()
        self._latest.clear()
        self._values.clear()


class BufferedHistogram:
    """A histogram of the catalogue, whose measurements are buffered.

    Args:
        meter: creates the histogram.
        row: of the catalogue.
        buffer: bounds the measurements of all histograms.

    """

    def __init__(self, meter: Meter, row: MetricDefinition, buffer: HistogramBuffer) -> None:
        self._histogram = create_histogram(meter, row)
        self._buffer = buffer
        self._point_limit = PointLimit(row)
        self._points: dict[PointValues, HistogramPoint] = {}

    def record_value(self, value: float, values: PointValues, context: Context) -> None:
        """Record a measurement of the point with these values of its attributes, in the order of the row's keys."""
        point = self._points.get(values)
        if point is None:
            limited = self._point_limit.limit_values(values)
            point = self._points.get(limited)
            if point is None:
                point = HistogramPoint(self._histogram, self._point_limit.get_attributes(limited), self._buffer)
                self._points[limited] = point
                point.record_first(value, context)
                return
        point.record_value(value, context)

    def order_values(self, attributes: Attributes) -> PointValues:
        """Return the values of the point with these attributes."""
        return self._point_limit.order_values(attributes)


def _is_sampled(context: Context) -> bool:
    return context is not ROOT_CONTEXT and bool(get_span(context).get_span_context().trace_flags & TraceFlags.SAMPLED)


def _drain(items: deque[_Item]) -> list[_Item]:
    """Remove all items, and return them. Other threads may remove some at once."""
    drained = []
    while items:
        try:
            drained.append(items.popleft())
        except IndexError:  # another thread removed the last one
            break
    return drained
