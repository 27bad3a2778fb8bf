"""Creates instruments from rows of the catalogue, sums their values, and limits their points."""

from collections.abc import Mapping
from itertools import count
from typing import TypeAlias, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackT, Histogram, Meter, Observation

from loco_otel import _fork
from loco_otel._telemetry.attributes import AGENT, ATTRIBUTES, BUDGET_KEY, OTHER, SERVER_PORT
from loco_otel._telemetry.catalogue import InstrumentKind, MetricDefinition
from loco_otel.money import CALL_SCOPES, AccountKey

VALUE_LIMIT = 200
"""The number of values of one attribute key before the rest become `other`."""
POINT_LIMIT = 1000
"""The number of points of one instrument. The SDK's own limit is 2000: it would drop all attributes of the others."""

_MAX_REMEMBERED = 10_000
"""Results that a cache remembers; above it all are found again, which changes nothing."""

_Kind = TypeVar("_Kind")
_Found = TypeVar("_Found")

PointValues: TypeAlias = tuple[str | int | None, ...]
"""The values of a point's attributes, in the order of the keys; None for a missing one."""


def create_histogram(meter: Meter, row: MetricDefinition) -> Histogram:
    """Create the histogram of a row with the row's buckets, which a view of the program overrides."""
    return meter.create_histogram(row.name, row.unit, row.description, explicit_bucket_boundaries_advisory=row.buckets)


def create_observable(meter: Meter, row: MetricDefinition, callback: CallbackT) -> None:
    """Create an observable instrument whose callback runs at each collection."""
    if row.kind in {InstrumentKind.COUNTER, InstrumentKind.OBSERVABLE_COUNTER}:
        meter.create_observable_counter(row.name, [callback], row.unit, row.description)
    else:
        meter.create_observable_gauge(row.name, [callback], row.unit, row.description)


def remember(known: dict[_Kind, _Found], kind: _Kind, found: _Found) -> None:
    """Store a result in a cache, which is emptied before it grows too large."""
    if len(known) >= _MAX_REMEMBERED:
        known.clear()
    known[kind] = found


class PointLimit:
    """Limits the points of one instrument, and keeps their attributes.

    A new point gets agent `other` above four fifths of the limit, and above 95 % `other` for each open value, so that
    the total stays below the limit. A point that has been reported stays.

    Args:
        row: the instrument.
        limit: its number of points.

    """

    def __init__(self, row: MetricDefinition, limit: int = POINT_LIMIT) -> None:
        self._keys = (*row.attributes, *row.optional)
        self._agent_limit = limit * 4 // 5
        self._limit = limit * 19 // 20
        self._attributes: dict[PointValues, Mapping[str, str | int]] = {}

    def limit_values(self, values: PointValues) -> PointValues:
        """Return the values of the point to which a point with these values belongs. Thread-safe."""
        known = self._attributes
        if values in known:
            return values
        if len(known) >= self._agent_limit:
            values = self._replace_values(values, (AGENT,))
        if len(known) >= self._limit and values not in known:
            values = self._replace_values(values, self._keys)
        if values not in known:
            known[values] = {key: value for key, value in zip(self._keys, values, strict=True) if value is not None}
        return values

    def get_attributes(self, values: PointValues) -> Mapping[str, str | int]:
        """Return the attributes of the point to which a point with these values belongs; they must not be changed."""
        return self._attributes[self.limit_values(values)]

    def order_values(self, attributes: Mapping[str, str | int]) -> PointValues:
        """Return the values of attributes in the order of the keys."""
        return tuple(map(attributes.get, self._keys))

    def _replace_values(self, values: PointValues, keys: tuple[str, ...]) -> PointValues:
        return tuple(
            value if value is None or key not in keys else _fold_value(key, value)
            for key, value in zip(self._keys, values, strict=True)
        )


def _fold_value(key: str, value: str | int) -> str | int | None:
    """Return `other` for an open value, and nothing for the port of an address that is folded."""
    if key == SERVER_PORT:
        return None
    return OTHER if ATTRIBUTES[key].is_limited else value


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
        self._point_limit = PointLimit(row)
        self._sums: dict[PointValues, float] = {}
        _fork.on_child(self, _fork.ForkPhase.MEASUREMENTS)

    def after_fork(self) -> None:
        """Set all points to 0 in a forked child: its parent reports the sums until then."""
        self._sums = dict.fromkeys(self._sums, 0)

    def add_amount(self, amount: float, *values: str) -> None:
        """Add an amount to the point with these values, in the order of the row's keys."""
        sums = self._sums
        if values in sums:
            sums[values] += amount
        else:
            point = self._point_limit.limit_values(values)
            sums[point] = sums.get(point, 0) + amount

    def start_at_zero(self, *values: str) -> None:
        """Start a point at 0, so that its first increase is visible. Thread-safe."""
        self._sums.setdefault(self._point_limit.limit_values(values), 0)

    def list_observations(self, context: Context) -> list[Observation]:
        """Return all points."""
        get_attributes, parts = self._point_limit.get_attributes, self._parts
        # Copied atomically, as another thread may add.
        return [
            Observation(amount if parts == 1 else amount / parts, get_attributes(values), context)
            for values, amount in self._sums.copy().items()
        ]


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


def label_budget(limit: CardinalityLimit, account: AccountKey) -> str:
    """Return the name of a budget on metrics; `other` for those of single runs and sessions, which have no bound."""
    return OTHER if account.scope in CALL_SCOPES else limit(BUDGET_KEY, account.key)
