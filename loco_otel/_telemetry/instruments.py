"""Creates instruments from rows of the catalogue, and buffers their values."""

from collections import deque
from collections.abc import Mapping
from itertools import count

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackT, Histogram, Meter, Observation

from loco_otel import _fork
from loco_otel._telemetry.attributes import OTHER
from loco_otel._telemetry.catalogue import InstrumentKind, MetricDefinition

VALUE_LIMIT = 200
"""The number of values of one attribute key before the rest become `other`."""


def create_histogram(meter: Meter, row: MetricDefinition) -> Histogram:
    """Create the histogram of a row with the row's buckets, which a view of the program overrides."""
    return meter.create_histogram(row.name, row.unit, row.description, explicit_bucket_boundaries_advisory=row.buckets)


def create_observable(meter: Meter, row: MetricDefinition, callback: CallbackT) -> None:
    """Create an observable instrument whose callback runs at each collection."""
    if row.kind in {InstrumentKind.COUNTER, InstrumentKind.OBSERVABLE_COUNTER}:
        meter.create_observable_counter(row.name, [callback], row.unit, row.description)
    else:
        meter.create_observable_gauge(row.name, [callback], row.unit, row.description)


class CounterSums:
    """The sums of a counter, by attribute values.

    One thread at a time may add; any thread may read.

    Args:
        row: the counter.
        parts: how many integer parts make one unit of the row, so that sums are exact.

    """

    def __init__(self, row: MetricDefinition, parts: int = 1) -> None:
        self.row = row
        self._parts = parts
        self._sums: dict[tuple[str, ...], float] = {}

    def add_amount(self, amount: float, *values: str) -> None:
        """Add an amount to the point with these values, in the order of the row's keys."""
        sums = self._sums
        sums[values] = sums.get(values, 0) + amount

    def start_at_zero(self, *values: str) -> None:
        """Start a point at 0, so that its first increase is visible. Thread-safe."""
        self._sums.setdefault(values, 0)

    def list_observations(self, context: Context) -> list[Observation]:
        """Return all points."""
        keys, parts = self.row.attributes, self._parts
        # Copied atomically, as another thread may add.
        return [
            Observation(amount if parts == 1 else amount / parts, dict(zip(keys, values, strict=True)), context)
            for values, amount in self._sums.copy().items()
        ]


class HistogramBuffer:
    """Buffers histogram measurements and records them in batches.

    During a call the SDK's code is cold, and takes twice as long as in a batch. Every collection flushes first, so it
    is complete.
    """

    def __init__(self, most: int = 128) -> None:
        self._max_values = most
        self._values: deque[tuple[Histogram, float, Mapping[str, str | int], Context]] = deque()
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def record_value(
        self, histogram: Histogram, value: float, attributes: Mapping[str, str | int], context: Context
    ) -> None:
        """Store one measurement, and record all if the buffer is full."""
        self._values.append((histogram, value, attributes, context))
        if len(self._values) >= self._max_values:
            self.flush()

    def flush(self) -> None:
        """Record the buffered measurements. Thread-safe."""
        kept = self._values
        while kept:
            try:
                histogram, value, attributes, context = kept.popleft()
            except IndexError:  # another thread removed the last one
                return
            histogram.record(value, attributes, context)

    def after_fork(self) -> None:
        """Discard the buffered measurements in a forked child: the parent records them."""
        self._values.clear()


class CardinalityLimit:
    """Limits the values of a key: the first `limit` pass, all others become `other`.

    Listener and collecting threads share it. It has no lock, which a fork could leave held: a value keeps the number
    that it got first, and each number is used once.
    """

    def __init__(self, limit: int = VALUE_LIMIT) -> None:
        self._limit = limit
        self._numbers_by_value: dict[str, dict[str, int]] = {}
        self._next_numbers: dict[str, count[int]] = {}

    def __call__(self, key: str, value: str) -> str:
        """Return `value`, or `other`."""
        known = self._numbers_by_value.get(key)
        if known is None:
            # The numbers first: a thread that finds the values also finds them.
            self._next_numbers.setdefault(key, count())
            known = self._numbers_by_value.setdefault(key, {})
        number = known.get(value)
        if number is None:
            if len(known) >= self._limit:
                return OTHER
            number = known.setdefault(value, next(self._next_numbers[key]))
        return value if number < self._limit else OTHER
