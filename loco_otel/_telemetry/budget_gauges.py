"""What the instruments of budgets read from a report."""

import operator
from collections.abc import Callable, Iterable
from typing import NamedTuple

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel._telemetry.catalogue import MetricDefinition
from loco_otel._telemetry.instruments import PointValues, label_budget
from loco_otel._telemetry.metrics_source import MetricsSource
from loco_otel.money import AccountKey, BudgetReport, BudgetStatus, Unit


class BudgetGauge(NamedTuple):
    """One instrument of the budgets in one unit, or in both.

    Budgets with the same labels are combined: their keys are folded into `other`.
    """

    metric: MetricDefinition
    unit: Unit | None
    read: Callable[[BudgetReport], Iterable[tuple[AccountKey, float]]]
    """Returns the value of each budget that has one."""
    combine: Callable[[float, float], float] = operator.add

    def list_points(self, source: MetricsSource) -> Iterable[tuple[PointValues, float]]:
        """Yield the values of the attributes, and the value, of each budget."""
        report = source.read_budgets()
        store = report.store.value
        for account, value in self.read(report):
            scope, _, unit, period = account
            if self.unit is None or unit is self.unit:
                budget = {
                    key.BUDGET_SCOPE: scope.value,
                    key.BUDGET_KEY: label_budget(source.cardinality_limit, account),
                    key.BUDGET_PERIOD: period.value,
                    key.BUDGET_UNIT: unit.value,
                    key.BUDGET_STORE: store,
                }
                yield tuple(map(budget.get, self.metric.attributes)), value


def _read_status(field: Callable[[BudgetStatus], int]) -> Callable[[BudgetReport], Iterable[tuple[AccountKey, float]]]:
    return lambda report: [(status.key, status.key.unit.amount(field(status))) for status in report.statuses]


def _read_charged(report: BudgetReport) -> Iterable[tuple[AccountKey, float]]:
    # From 0 on, so that `increase()` does not miss the first charge.
    known = dict.fromkeys((status.key for status in report.statuses), 0)
    return [(account, account.unit.amount(amount)) for account, amount in {**known, **report.charged}.items()]


def _read_resets(report: BudgetReport) -> Iterable[tuple[AccountKey, float]]:
    return [(status.key, status.resets_at) for status in report.statuses if status.resets_at is not None]


BUDGET_GAUGES = (
    BudgetGauge(catalogue.BUDGET_CHARGED, Unit.USD, _read_charged),
    BudgetGauge(catalogue.BUDGET_WEIGHT_CHARGED, Unit.WEIGHT, _read_charged),
    BudgetGauge(catalogue.BUDGET_RESET, None, _read_resets, max),
    BudgetGauge(catalogue.BUDGET_LIMIT, Unit.USD, _read_status(lambda budget: budget.limit)),
    BudgetGauge(catalogue.BUDGET_SPENT, Unit.USD, _read_status(lambda budget: budget.spent)),
    BudgetGauge(catalogue.BUDGET_RESERVED, Unit.USD, _read_status(lambda budget: budget.reserved)),
    BudgetGauge(catalogue.BUDGET_WEIGHT_LIMIT, Unit.WEIGHT, _read_status(lambda budget: budget.limit)),
    BudgetGauge(catalogue.BUDGET_WEIGHT_SPENT, Unit.WEIGHT, _read_status(lambda budget: budget.spent)),
    BudgetGauge(catalogue.BUDGET_WEIGHT_RESERVED, Unit.WEIGHT, _read_status(lambda budget: budget.reserved)),
)
"""All of them."""
