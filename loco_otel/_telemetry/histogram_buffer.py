"""Buffers the measurements of histograms, by point.

Of each point and bucket the last measurement is recorded by the API, so that it leaves its exemplar, and before it the
last one of a sampled span, which leaves its own if the program's filter omits the others. All further ones are added in
one step, where the SDK's histogram allows that.
"""

from bisect import bisect_left
from collections import deque
from itertools import repeat, starmap
from math import inf, isfinite
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
_Pending: TypeAlias = tuple[float, Context]
"""A value and its context."""
_Measurement: TypeAlias = tuple[float, Context, bool]
"""The same, and whether the span of the context is sampled."""

_MAX_PENDING, _MAX_PENDING_OF_POINT = 512, 32
"""Measurements of all points, and of one, at which these are sorted by their buckets. Each holds a context, too."""
_MIN_SORTED_TOGETHER = 4
_MAX_CONTEXTS = 512
"""The most contexts of sorted measurements that are held, which refer to spans of calls that have ended."""
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
        self.pending = 0
        """Measurements that are not sorted yet."""
        self._values = self._contexts = self._singles = 0
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def add_point(self, point: "HistogramPoint") -> None:
        """Include a point in what a forked child discards."""
        self._points.append(point)

    def include_point(self, point: "HistogramPoint") -> None:
        """Include a point in the next flush, and bound what is pending."""
        if not point.is_filled:
            point.is_filled = True
            self._filled.append(point)
        if self.pending >= _MAX_PENDING:
            for filled in self._filled.copy():
                self._sort_point(filled)
        elif len(point.pending) >= _MAX_PENDING_OF_POINT:
            self._sort_point(point)

    def _sort_point(self, point: "HistogramPoint") -> None:
        self.pending -= len(point.pending)
        self.count(*point.sort_pending())

    def count(self, values: int, contexts: int, singles: int) -> None:
        """Count what a point has buffered, and flush if it is too much."""
        self._values += values
        self._contexts += contexts
        self._singles += singles
        if self._values >= _MAX_VALUES or self._contexts >= _MAX_CONTEXTS or self._singles >= _MAX_SINGLE:
            self.flush()

    def flush(self) -> None:
        """Record the buffered measurements. Thread-safe."""
        self.pending = self._values = self._contexts = self._singles = 0
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

    __slots__ = (
        "_attributes",
        "_buffer",
        "_histogram",
        "_latest",
        "_singles",
        "_values",
        "bounds",
        "is_filled",
        "pending",
    )

    def __init__(self, histogram: Histogram, attributes: Attributes, buffer: HistogramBuffer) -> None:
        self._histogram = histogram
        self._attributes = attributes
        self._buffer = buffer
        self.is_filled = False
        """Whether the next flush includes it."""
        self.bounds: tuple[float, ...] | None = None
        """The bounds of its buckets; None if measurements cannot be added in bulk."""
        self.pending: deque[_Pending] = deque()
        """Measurements that are not sorted yet."""
        self._latest: dict[int, _Measurement] = {}
        """The last measurement of each bucket. If its span is not sampled, the last sampled one before it is under the
        complement of the bucket's number.
        """
        self._values: deque[float] = deque()
        """All others."""
        self._singles: deque[_Pending] = deque()
        """Measurements that cannot be added in bulk."""

    def record_first(self, value: float, context: Context) -> None:
        """Record the first measurement, which creates the point, and find out how to add the others."""
        self._histogram.record(value, self._attributes, context)
        self.bounds = find_bucket_bounds(self._histogram, self._attributes)
        self._buffer.add_point(self)

    def record_single(self, value: float, context: Context) -> None:
        """Buffer a measurement that cannot be added in bulk."""
        self._singles.append((value, context))
        self._buffer.include_point(self)
        self._buffer.count(0, 0, 1)

    def sort_pending(self) -> tuple[int, int, int]:
        """Divide the pending measurements into the last ones of each bucket and all others. Thread-safe.

        Returns:
            How many more values, contexts and single measurements are held.

        """
        pending, bounds = _drain(self.pending), self.bounds
        if not pending or bounds is None:
            return 0, 0, 0
        counts = len(self._values), len(self._latest), len(self._singles)
        values = [value for value, _ in pending]
        last = None if len(pending) < _MIN_SORTED_TOGETHER else _find_last(bounds, pending, values)
        if last is None:
            for value, context in pending:
                self._sort_measurement(bounds, value, context)
        else:
            for value, context in last:
                values.remove(value)
                self._sort_measurement(bounds, value, context)
            self._values.extend(values)
        return len(self._values) - counts[0], len(self._latest) - counts[1], len(self._singles) - counts[2]

    def _sort_measurement(self, bounds: tuple[float, ...], value: float, context: Context) -> None:
        if not 0 <= value < inf:
            self._singles.append((value, context))
            return
        bucket, is_sampled = bisect_left(bounds, value), _is_sampled(context)
        latest = self._latest
        replaced = latest.pop(bucket, None)
        if is_sampled:
            older = latest.pop(~bucket, None)
            if older is not None:
                self._values.append(older[0])
        elif replaced is not None and replaced[2]:
            sampled, replaced = replaced, latest.pop(~bucket, None)
            self._keep_latest(~bucket, sampled)
        self._keep_latest(bucket, (value, context, is_sampled))
        if replaced is not None:
            self._values.append(replaced[0])

    def _keep_latest(self, place: int, measurement: _Measurement) -> None:
        if self._latest.setdefault(place, measurement) is not measurement:
            self._values.append(measurement[0])

    def flush(self) -> None:
        """Record what is buffered. Thread-safe."""
        self.sort_pending()
        latest: list[tuple[int, _Measurement]] = []
        while self._latest:
            try:
                latest.append(self._latest.popitem())
            except KeyError:  # another thread removed the last one
                break
        # The complements first, which are negative: they are older.
        latest.sort(key=itemgetter(0))
        for value, context in (*_drain(self._singles), *(measurement[:2] for _, measurement in latest)):
            self._histogram.record(value, self._attributes, context)
        values = _drain(self._values)
        if values:
            add_measurements(self._histogram, self._attributes, values, ROOT_CONTEXT)

    def discard(self) -> None:
        """Discard what is buffered."""
        self.pending.clear()
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
        if point.bounds is None:
            point.record_single(value, context)
            return
        point.pending.append((value, context))
        buffer = self._buffer
        buffer.pending += 1
        if len(point.pending) >= _MAX_PENDING_OF_POINT or buffer.pending >= _MAX_PENDING or not point.is_filled:
            buffer.include_point(point)

    def order_values(self, attributes: Attributes) -> PointValues:
        """Return the values of the point with these attributes."""
        return self._point_limit.order_values(attributes)


def _find_last(bounds: tuple[float, ...], pending: list[_Pending], values: list[float]) -> list[_Pending] | None:
    """Return the last measurement of each bucket, if the others have only values to add.

    They have where all are outside of spans, or the last one of each bucket is of a sampled span. Then
    `HistogramPoint._sort_measurement` of each gives the same.
    """
    if min(values) < 0 or not isfinite(sum(values)):
        return None
    last = [*dict(zip(map(bisect_left, repeat(bounds), values), pending, strict=False)).values()]
    contexts = [context for _, context in pending]
    if contexts.count(ROOT_CONTEXT) == len(contexts) or all(_is_sampled(context) for _, context in last):
        return last
    return None


def _is_sampled(context: Context) -> bool:
    return context is not ROOT_CONTEXT and bool(get_span(context).get_span_context().trace_flags & TraceFlags.SAMPLED)


def _drain(items: deque[_Item]) -> list[_Item]:
    """Remove all items, and return them. Other threads may remove some at once."""
    drained: list[_Item] = []
    try:  # noqa: SIM105 - `suppress` takes longer than all else here
        drained.extend(starmap(items.popleft, repeat((), len(items))))
    except IndexError:
        pass  # another thread removed the last one; the list has those before
    return drained
