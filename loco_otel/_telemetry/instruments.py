"""Rows of the catalogue become instruments."""

from itertools import count

from opentelemetry.metrics import CallbackT, Counter, Histogram, Meter

from loco_otel._telemetry.attributes import OTHER
from loco_otel._telemetry.catalogue import Kind, Metric

VALUE_LIMIT = 200
"""Values of any one attribute key before the rest become `other`."""


def counter(meter: Meter, row: Metric) -> Counter:
    """Create the counter of a row."""
    return meter.create_counter(row.name, row.unit, row.description)


def histogram(meter: Meter, row: Metric) -> Histogram:
    """Create the histogram of a row, with the row's buckets; a view of the program's overrides them."""
    return meter.create_histogram(row.name, row.unit, row.description, explicit_bucket_boundaries_advisory=row.buckets)


def observe(meter: Meter, row: Metric, callback: CallbackT) -> None:
    """Create the observable instrument of a row; `callback` is asked at each collection."""
    if row.kind is Kind.OBSERVABLE_COUNTER:
        meter.create_observable_counter(row.name, [callback], row.unit, row.description)
    else:
        meter.create_observable_gauge(row.name, [callback], row.unit, row.description)


class Fold:
    """Bounds what a key can hold: the first `limit` values pass, all others become `other`.

    Listener and collecting threads share one. There is no lock, which a fork could leave held: a value
    is known for good under the number that it got first, and each number is given once.
    """

    def __init__(self, limit: int = VALUE_LIMIT) -> None:
        self._limit = limit
        self._known: dict[str, dict[str, int]] = {}
        self._numbers: dict[str, count[int]] = {}

    def __call__(self, key: str, value: str) -> str:
        """Return `value`, or `other`."""
        known = self._known.get(key)
        if known is None:
            # The numbers first: whoever finds the values finds them too.
            self._numbers.setdefault(key, count())
            known = self._known.setdefault(key, {})
        number = known.get(value)
        if number is None:
            if len(known) >= self._limit:
                return OTHER
            number = known.setdefault(value, next(self._numbers[key]))
        return value if number < self._limit else OTHER
