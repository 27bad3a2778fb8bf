"""Buffers the measurements of histograms, by point.

Of each point and bucket the last measurement is recorded by the API, so that it leaves its exemplar; all others are
added in one step, where the SDK's histogram allows that.
"""

from bisect import bisect_left
from collections import deque
from math import inf
from typing import TypeAlias, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, Meter

from loco_otel import _fork
from loco_otel._telemetry.bulk_measurements import Attributes, add_measurements, find_bucket_bounds
from loco_otel._telemetry.call_trace import ROOT_CONTEXT
from loco_otel._telemetry.catalogue import MetricDefinition
from loco_otel._telemetry.instruments import PointLimit, PointValues, create_histogram

_Item = TypeVar("_Item")
_Measurement: TypeAlias = tuple[float, Context]

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
        self._points: dict[int, HistogramPoint] = {}
        self._values = self._contexts = self._singles = 0
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def add_point(self, point: "HistogramPoint") -> None:
        """Include a point in each flush."""
        self._points[id(point)] = point

    def count(self, values: int, contexts: int, singles: int) -> None:
        """Count what was buffered, and flush if it is too much."""
        self._values += values
        self._contexts += contexts
        self._singles += singles
        if self._values >= _MAX_VALUES or self._contexts >= _MAX_CONTEXTS or self._singles >= _MAX_SINGLE:
            self.flush()

    def flush(self) -> None:
        """Record the buffered measurements. Thread-safe."""
        self._values = self._contexts = self._singles = 0
        # Copied atomically, as another thread may add a point.
        for point in tuple(self._points.values()):
            point.flush()

    def after_fork(self) -> None:
        """Discard the buffered measurements in a forked child: the parent records them."""
        for point in self._points.values():
            point.discard()


class HistogramPoint:
    """The buffered measurements of one point.

    There is no lock, which a fork or a signal handler that flushes could find held: each step is atomic, and another
    thread that flushes meanwhile takes a measurement either before or after it.
    """

    __slots__ = ("_attributes", "_bounds", "_buffer", "_histogram", "_latest", "_singles", "_values")

    def __init__(self, histogram: Histogram, attributes: Attributes, buffer: HistogramBuffer) -> None:
        self._histogram = histogram
        self._attributes = attributes
        self._buffer = buffer
        self._bounds: tuple[float, ...] | None = None
        self._latest: dict[int, _Measurement] = {}
        """The last measurement of each bucket."""
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
        if bounds is None or not 0 <= value < inf:
            self._singles.append((value, context))
            self._buffer.count(0, 0, 1)
            return
        bucket = bisect_left(bounds, value)
        latest = self._latest
        before = latest.pop(bucket, None)
        if before is not None:
            self._values.append(before[0])
        measurement = value, context
        if latest.setdefault(bucket, measurement) is not measurement:
            self._values.append(value)
        if before is None:
            self._buffer.count(0, 1, 0)
        else:
            self._buffer.count(1, 0, 0)

    def flush(self) -> None:
        """Record what is buffered. Thread-safe."""
        singles = _drain(self._singles)
        while self._latest:
            try:
                singles.append(self._latest.popitem()[1])
            except KeyError:  # another thread removed the last one
                break
        for value, context in singles:
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

    def record_attributes(self, value: float, attributes: Attributes, context: Context) -> None:
        """Record a measurement of the point with these attributes."""
        self.record_value(value, self._point_limit.order_values(attributes), context)


def _drain(items: deque[_Item]) -> list[_Item]:
    """Remove all items, and return them. Other threads may remove some at once."""
    drained = []
    while items:
        try:
            drained.append(items.popleft())
        except IndexError:  # another thread removed the last one
            break
    return drained
