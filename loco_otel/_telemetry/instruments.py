"""Rows of the catalogue become instruments."""

from collections import deque
from collections.abc import Mapping
from itertools import count

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackT, Histogram, Meter, Observation

from loco_otel import _fork
from loco_otel._telemetry.attributes import OTHER
from loco_otel._telemetry.catalogue import InstrumentKind, MetricDefinition

VALUE_LIMIT = 200
"""Values of any one attribute key before the rest become `other`."""


def create_histogram(meter: Meter, row: MetricDefinition) -> Histogram:
    """Create the histogram of a row, with the row's buckets; a view of the program's overrides them."""
    return meter.create_histogram(row.name, row.unit, row.description, explicit_bucket_boundaries_advisory=row.buckets)


def create_observable(meter: Meter, row: MetricDefinition, callback: CallbackT) -> None:
    """Create an instrument that is read: `callback` is asked at each collection."""
    if row.kind in {InstrumentKind.COUNTER, InstrumentKind.OBSERVABLE_COUNTER}:
        meter.create_observable_counter(row.name, [callback], row.unit, row.description)
    else:
        meter.create_observable_gauge(row.name, [callback], row.unit, row.description)


class CounterSums:
    """The sums of a counter, by the values of its attributes.

    One thread at a time adds; any may read.

    Args:
        row: the counter.
        parts: how many of what is added make one of the row's unit: whole parts add up exactly.

    """

    def __init__(self, row: MetricDefinition, parts: int = 1) -> None:
        self.row = row
        self._parts = parts
        self._sums: dict[tuple[str, ...], float] = {}

    def add_amount(self, amount: float, *values: str) -> None:
        """Add to the point with these values, in the order of the row's keys."""
        sums = self._sums
        sums[values] = sums.get(values, 0) + amount

    def start_at_zero(self, *values: str) -> None:
        """Let a point begin with 0, so that its first value is seen to be an increase. Any thread may."""
        self._sums.setdefault(values, 0)

    def list_observations(self, context: Context) -> list[Observation]:
        """Return all points."""
        keys, parts = self.row.attributes, self._parts
        # Copied in one step: somebody may add meanwhile.
        return [
            Observation(amount if parts == 1 else amount / parts, dict(zip(keys, values, strict=True)), context)
            for values, amount in self._sums.copy().items()
        ]


class HistogramBuffer:
    """Keeps measurements of histograms back, and records them many at a time.

    In the midst of a call the SDK's code is cold, and takes twice as long as in a row. Whoever collects flushes first,
    so every collection is complete.
    """

    def __init__(self, most: int = 128) -> None:
        self._max_values = most
        self._values: deque[tuple[Histogram, float, Mapping[str, str | int], Context]] = deque()
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def record_value(
        self, histogram: Histogram, value: float, attributes: Mapping[str, str | int], context: Context
    ) -> None:
        """Keep one measurement, and record all when there are many."""
        self._values.append((histogram, value, attributes, context))
        if len(self._values) >= self._max_values:
            self.flush()

    def flush(self) -> None:
        """Record what is kept. Any threads may do so at once."""
        kept = self._values
        while kept:
            try:
                histogram, value, attributes, context = kept.popleft()
            except IndexError:  # another thread has taken the last
                return
            histogram.record(value, attributes, context)

    def after_fork(self) -> None:
        """Drop the values that are kept: the parent records them."""
        self._values.clear()


class CardinalityLimit:
    """Bounds what a key can hold: the first `limit` values pass, all others become `other`.

    Listener and collecting threads share one. There is no lock, which a fork could leave held: a value
    is known for good under the number that it got first, and each number is given once.
    """

    def __init__(self, limit: int = VALUE_LIMIT) -> None:
        self._limit = limit
        self._numbers_by_value: dict[str, dict[str, int]] = {}
        self._next_numbers: dict[str, count[int]] = {}

    def __call__(self, key: str, value: str) -> str:
        """Return `value`, or `other`."""
        known = self._numbers_by_value.get(key)
        if known is None:
            # The numbers first: whoever finds the values finds them too.
            self._next_numbers.setdefault(key, count())
            known = self._numbers_by_value.setdefault(key, {})
        number = known.get(value)
        if number is None:
            if len(known) >= self._limit:
                return OTHER
            number = known.setdefault(value, next(self._next_numbers[key]))
        return value if number < self._limit else OTHER
