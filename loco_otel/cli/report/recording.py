"""The values of metrics over the time of a run, and sums over them: a small memory of one run."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from math import inf
from typing import NamedTuple

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.catalogue import MetricDefinition
from loco_otel.cli.capacities import add_capacities
from loco_otel.cli.metrics_page import MetricsPage, to_label
from loco_otel.cli.quantiles import estimate_quantile
from loco_otel.snapshots import EngineMode

MAX_TIMES = 601
"""Times that a recording keeps; before it has more, it drops every second one. Odd, so that the last one stays."""

_BUDGET_METRICS = (
    catalogue.BUDGET_LIMIT, catalogue.BUDGET_SPENT, catalogue.BUDGET_RESERVED, catalogue.BUDGET_WEIGHT_LIMIT,
    catalogue.BUDGET_WEIGHT_SPENT, catalogue.BUDGET_WEIGHT_RESERVED,
)  # fmt: skip
RECORDED = (
    catalogue.REQUESTS_ACTIVE, catalogue.REQUESTS_WAITING, catalogue.CAPACITY, catalogue.REQUESTS, catalogue.THROTTLES,
    catalogue.WAIT_TIME, catalogue.SLOT_TIME, catalogue.CAPACITY_TIME, catalogue.SPENT, catalogue.TOKENS,
    catalogue.UNPRICED, catalogue.ENGINE_MODE, *_BUDGET_METRICS,
)  # fmt: skip
"""Metrics that a report shows, beside the buckets of `loco.wait.duration`."""

Point = tuple[str, ...]
"""Values of attributes."""


class _Series(NamedTuple):
    source: str
    name: str
    labels: frozenset[tuple[str, str]]


class Recording:
    """Values of series at times, from one process or several.

    Args:
        origin: what was recorded, in words.

    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.notes: list[str] = []
        self.times: list[float] = []
        """Seconds since the epoch."""
        self._values: dict[_Series, list[float | None]] = {}

    def begin_time(self, at: float) -> None:
        """Begin the values of a later time."""
        if len(self.times) >= MAX_TIMES:
            self._thin_out()
        self.times.append(at)

    def set_value(self, source: str, name: str, labels: Mapping[str, str], value: float) -> None:
        """Store a value of the time that was begun last."""
        values = self._values.setdefault(_Series(source, name, frozenset(labels.items())), [])
        values.extend([None] * (len(self.times) - 1 - len(values)))
        values.append(value)

    def add_page(self, page: MetricsPage) -> None:
        """Store the values of a page at the time that was begun last."""
        for metric in RECORDED:
            for sample in page.list_samples(metric):
                self.set_value(page.url, sample.name, sample.labels, sample.value)
        for sample in page.list_samples(catalogue.WAIT_DURATION, "bucket"):
            self.set_value(page.url, sample.name, sample.labels, sample.value)

    def sum_gauge(self, metric: MetricDefinition, *keys: str) -> dict[Point, list[float]]:
        """Return a gauge over the times, summed by these attributes; 0 where there is no value."""
        sums: dict[Point, list[float]] = {}
        for series, values in self._list_series(metric.prometheus_name):
            total = sums.setdefault(_get_point(series, keys), [0.0] * len(self.times))
            for number, value in enumerate(values):
                total[number] += value or 0.0
        return sums

    def sum_capacity(self) -> list[float]:
        """Return the slots of all resources over the times, those of a shared engine once; 0 where there is none."""
        modes = {
            series.source: values
            for series, values in self._list_series(catalogue.ENGINE_MODE.prometheus_name)
            if _get_point(series, (key.ENGINE_MODE,)) == (EngineMode.REMOTE,)
        }
        by_resource = defaultdict[Point, list[list[tuple[bool, float]]]](list)
        for series, capacities in self._list_series(catalogue.CAPACITY.prometheus_name):
            shared = zip_longest(modes.get(series.source, ()), capacities)
            by_resource[_get_point(series, (key.RESOURCE,))].append([(mode == 1, it or 0.0) for mode, it in shared])
        totals = [0.0] * len(self.times)
        for reported in by_resource.values():
            for number, at in enumerate(zip_longest(*reported, fillvalue=(False, 0.0))):
                totals[number] += add_capacities(at)
        return totals

    def sum_counter(self, metric: MetricDefinition, *keys: str, part: str = "") -> dict[Point, list[float]]:
        """Return what a counter has grown by since the first time, summed by these attributes.

        A series that begins later has begun at 0. One that falls is that of a process that was restarted.
        """
        name = f"{metric.prometheus_name}_{part}" if part else metric.prometheus_name
        sums: dict[Point, list[float]] = {}
        for series, values in self._list_series(name):
            total = sums.setdefault(_get_point(series, keys), [0.0] * len(self.times))
            grown, before = 0.0, values[0] or 0.0
            for number in range(len(self.times)):
                value = values[number] if number < len(values) else None
                if value is not None:
                    grown += value - (before if before <= value else 0.0)
                    before = value
                total[number] += grown
        return sums

    def get_last(self, metric: MetricDefinition, *keys: str) -> dict[Point, list[float]]:
        """Return the last values of a gauge, one of each process, by these attributes."""
        found = defaultdict[Point, list[float]](list)
        for series, values in self._list_series(metric.prometheus_name):
            found[_get_point(series, keys)].append(next(it for it in reversed(values) if it is not None))
        return dict(found)

    def estimate_wait(self, share: float, *keys: str, start: int = 0, end: int | None = None) -> dict[Point, float]:
        """Return a quantile of the waits that ended between two times, in seconds, by these attributes."""
        buckets = defaultdict[Point, dict[float, float]](dict)
        counts = self.sum_counter(catalogue.WAIT_DURATION, "le", *keys, part="bucket")
        last = len(self.times) - 1 if end is None else end
        for (bound, *point), grown in counts.items():
            buckets[tuple(point)][inf if bound == "+Inf" else float(bound)] = grown[last] - grown[start]
        estimates = {point: estimate_quantile(share, it) for point, it in buckets.items()}
        return {point: value for point, value in estimates.items() if value is not None}

    def _list_series(self, name: str) -> Iterable[tuple[_Series, Sequence[float | None]]]:
        return ((series, values) for series, values in self._values.items() if series.name == name)

    def _thin_out(self) -> None:
        self.times = self.times[::2]
        for series, values in self._values.items():
            kept = values[::2]
            if len(values) % 2 == 0:  # of a process that has ended: its last counts stay
                kept[-1] = values[-1]
            self._values[series] = kept


def _get_point(series: _Series, keys: Iterable[str]) -> Point:
    labels = dict(series.labels)
    return tuple(labels.get(to_label(it), "") for it in keys)
