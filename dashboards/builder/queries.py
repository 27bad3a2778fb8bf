"""PromQL as text, with the selectors of a dashboard's variables."""

from collections.abc import Sequence

from dashboards.builder.metrics import find_metric, get_labels, to_label
from loco_otel._telemetry import attributes as key
from loco_otel._telemetry.catalogue import InstrumentKind

ORIGIN_FILTER = 'job=~"$job",instance=~"$instance"'
"""The variables that every query of every panel has."""

RATE = "$__rate_interval"
RANGE = "$__range"

AGENT, RESOURCE, MODEL, TENANT = map(to_label, (key.AGENT, key.RESOURCE, key.MODEL, key.TENANT))
BUDGET_LABELS = ("loco_budget_scope", "loco_budget_key", "loco_budget_period")
BUDGET = ", ".join(BUDGET_LABELS)

IS_SHARED = 'loco_engine_mode="remote"'
"""The series of `loco.engine.mode` that is 1 while a shared engine grants the slots of a process."""

IS_LEDGER = 'loco_budget_store="ledger"'
IN_MEMORY = 'loco_budget_store!="ledger"'

_VARIABLES = {RESOURCE: "resource", AGENT: "agent", MODEL: "model", TENANT: "tenant"}
"""The variable that filters a label, on the dashboards that have it."""


class Selectors:
    """Series of metrics, filtered by the variables that one dashboard has."""

    def __init__(self, variables: Sequence[str]) -> None:
        self._variables = frozenset(variables)

    def select(self, name: str, where: str = "", *, part: str = "", unfiltered: Sequence[str] = ()) -> str:
        """Return a selector.

        Args:
            name: the metric's OpenTelemetry name.
            where: further matchers.
            part: the series of a histogram: `bucket`, `sum` or `count`.
            unfiltered: variables that are ignored.

        Raises:
            ValueError: a part of what is no histogram, or a histogram without one.

        """
        metric, labels = find_metric(name), get_labels(name)
        if (metric.kind is InstrumentKind.HISTOGRAM) != bool(part):
            raise ValueError(f"{name} is a {metric.kind}: part is {part!r}")
        matchers = [ORIGIN_FILTER]
        matchers += [
            f'{label}=~"${variable}"'
            for label, variable in _VARIABLES.items()
            if label in labels and variable in self._variables and variable not in unfiltered
        ]
        if where:
            matchers.append(where)
        return f"{metric.prometheus_name}{f'_{part}' if part else ''}{{{','.join(matchers)}}}"

    def sum_gauge(self, name: str, by: str = "", where: str = "") -> str:
        """Return a gauge's sum over processes."""
        return f"sum{_format_by(by)}({self.select(name, where)})"

    def count_requests(self, name: str) -> str:
        """Return a gauge's sum over processes: 0 where they run and no request is in that state."""
        return f"{self.sum_gauge(name)} or 0 * {self.sum_gauge('loco.info')}"

    def max_gauge(self, name: str, by: str = "", where: str = "") -> str:
        """Return a gauge's highest value over processes."""
        return f"max{_format_by(by)}({self.select(name, where)})"

    def sum_capacity(self) -> str:
        """Return the slots of each resource: those that processes share once, and those that each has of its own."""
        return self._prefer_shared("max", "sum", "loco.resource.capacity")

    def saturation(self) -> str:
        """Return the saturation of each resource: of shared slots all processes use a part."""
        return self._prefer_shared("sum", "max", "loco.resource.saturation")

    def _prefer_shared(self, shared: str, own: str, name: str) -> str:
        return prefer_shared(shared, own, self.select(name), self.select("loco.engine.mode", IS_SHARED))

    def change_rate(self) -> str:
        """Return the changes of each limit per second: each process counts those of a shared limit."""
        series = f"rate({self.select('loco.limit.changes')}[{RATE}])"
        by = f"{RESOURCE}, {to_label(key.LIMIT_DIRECTION)}"
        return prefer_shared("max", "sum", series, self.select("loco.engine.mode", IS_SHARED), by)

    def sum_rate(self, name: str, by: str = "", where: str = "", *, part: str = "") -> str:
        """Return a counter's rate per second."""
        return f"sum{_format_by(by)}(rate({self.select(name, where, part=part)}[{RATE}]))"

    def sum_increase(self, name: str, by: str = "", where: str = "", *, window: str) -> str:
        """Return a counter's increase over a window, as Prometheus extrapolates it."""
        return f"sum{_format_by(by)}(increase({self.select(name, where)}[{window}]))"

    def sum_growth(self, name: str, by: str = "", where: str = "") -> str:
        """Return what a counter has grown by in the range that the dashboard shows.

        The last value less the one at the beginning of the range; a series that has begun since counts whole. This is
        exact, where `increase` extrapolates and misses the first value of a series. Only a series that was reset, by
        a process that was restarted as the same instance, is left to `increase`.
        """
        series = self.select(name, where)
        last = f"max_over_time({series}[{RANGE}])"
        return (
            f"sum{_format_by(by)}((increase({series}[{RANGE}]) and resets({series}[{RANGE}]) > 0) "
            f"or ({last} - ({series} offset {RANGE} or 0 * {last})))"
        )

    def quantile(self, share: float, name: str, by: str = "", where: str = "", *, window: str = RATE) -> str:
        """Return a histogram's quantile."""
        labels = f"le, {by}" if by else "le"
        return (
            f"histogram_quantile({share}, sum by ({labels}) "
            f"(rate({self.select(name, where, part='bucket')}[{window}])))"
        )

    def budget_amount(self, name: str) -> str:
        """Return a budget's gauge in USD or weight: the ledger's amount once, and those of each process in memory."""
        shared, own = self.select(name, IS_LEDGER), self.select(name, IN_MEMORY)
        return f"sum by ({BUDGET}) (max by ({BUDGET}) ({shared}) or {own})"


def _format_by(labels: str) -> str:
    return f" by ({labels}) " if labels else " "


def divide(left: str, right: str) -> str:
    """Return a quotient; no series where the right side is 0."""
    return f"{left} / ({right} > 0)"


def prefer_shared(shared: str, own: str, series: str, modes: str, by: str = RESOURCE) -> str:
    """Return series, aggregated in one way over processes that share their slots, and then in another.

    Args:
        shared: the aggregation over processes with a shared engine.
        own: the aggregation over its result and each process with slots of its own.
        series: of resources.
        modes: those that are 1 of processes with a shared engine.
        by: the labels that are left.

    """
    is_shared = f"on (job, instance) ({modes} == 1)"
    return f"{own} by ({by}) ({shared} by ({by}) ({series} and {is_shared}) or ({series} unless {is_shared}))"


def find_ledgers(prefix: str, window: str) -> str:
    """Return series of each job that had a ledger in a window, those of processes that have ended included."""
    return f"max_over_time({find_metric(f'{prefix}.limit').prometheus_name}{{{IS_LEDGER}}}[{window}])"


def sum_by_store(series: str, by: str, ledgers: str) -> str:
    """Return the sum of counters of budgets: over all jobs with a ledger, and for each other job.

    These counters have no label for the store. All budgets of a process have the same store.

    Args:
        series: of budgets.
        by: the labels that are left, besides the `job` of budgets in memory.
        ledgers: series of the jobs with a ledger.

    """
    return (
        f"sum by ({by}) ({series} and on (job) {ledgers})\nor sum by (job, {by}) ({series} unless on (job) {ledgers})"
    )
