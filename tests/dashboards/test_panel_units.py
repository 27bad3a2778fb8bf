"""No panel mixes units: the dimension of each query, derived from the units of its metrics, is that of its panel."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import promql_parser
import pytest
from dashboard_files import DASHBOARDS, PanelQuery, expand_to_all, list_panels, list_queries

from dashboards.builder.metrics import CATALOGUE
from loco_otel._telemetry.catalogue import InstrumentKind

Dimension = Mapping[str, int]
"""Powers of `s`, `USD` and `token`; counts have none."""

ONE: Dimension = {}
SCALAR: Dimension = {"any": 1}
"""A literal number takes the dimension that the other side has."""

ALLOWED = {
    "short": ONE,
    "none": ONE,
    "percentunit": ONE,
    "s": {"s": 1},
    "cps": {"s": -1},
    "currencyUSD": {"USD": 1},
}


def _measure_series(series: str) -> Dimension:
    for row in CATALOGUE.values():
        unit = ONE if row.unit.startswith("{") else {row.unit: 1}
        if row.kind is InstrumentKind.HISTOGRAM:
            if series in {f"{row.prometheus_name}_bucket", f"{row.prometheus_name}_count"}:
                # histogram_quantile() turns a rate of buckets into what they measure.
                return {"bucket": 1, **unit}
        elif series == row.prometheus_name:
            return unit
    assert series in {"up", "target_info", "ALERTS", None}, series
    return ONE


def _multiply(left: Dimension, right: Dimension, power: int = 1) -> Dimension:
    total = Counter({unit: count for unit, count in left.items() if unit != "any"})
    for unit, count in right.items():
        if unit != "any":
            total[unit] += power * count
    return {unit: count for unit, count in total.items() if count}


def _measure_query(node: Any) -> Dimension:  # noqa: PLR0911 - one rule for each kind of node
    match node:
        case promql_parser.NumberLiteral():
            return SCALAR
        case promql_parser.VectorSelector():
            return _measure_series(node.name)
        case promql_parser.MatrixSelector():
            return _measure_series(node.vector_selector.name)
        case promql_parser.Call(func=func) if func.name == "rate":
            return _multiply(_measure_query(node.args[0]), {"s": 1}, -1)
        case promql_parser.Call(func=func) if func.name in {"increase", "max_over_time", "clamp_min", "label_replace"}:
            return _measure_query(node.args[0])
        case promql_parser.Call(func=func) if func.name == "time":
            return {"s": 1}
        case promql_parser.Call(func=func) if func.name == "vector":
            return SCALAR
        case promql_parser.Call(func=func) if func.name == "resets":
            return ONE
        case promql_parser.Call(func=func) if func.name == "histogram_quantile":
            measured = dict(_measure_query(node.args[1]))
            assert measured.pop("bucket") == 1
            return _multiply(measured, {"s": 1})
        case promql_parser.AggregateExpr() if str(node.op) == "count":
            return ONE
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            return _measure_query(node.expr)
        case promql_parser.BinaryExpr():
            return _measure_binary(node)
    raise AssertionError(f"no rule for {type(node).__name__} {getattr(node, 'func', '')}")


def _measure_binary(node: Any) -> Dimension:
    left, right, op = _measure_query(node.lhs), _measure_query(node.rhs), str(node.op)
    if op in {"*", "/"}:
        return _multiply(left, right, 1 if op == "*" else -1)
    if op in {"and", "unless"}:
        return left
    if op in {">", "<", "=="}:
        assert left == right or SCALAR in (left, right), (op, left, right)
        return ONE if getattr(node.modifier, "return_bool", False) else left
    assert op in {"+", "-", "or"}, op
    assert left == right or SCALAR in (left, right), (op, left, right)
    return right if left == SCALAR else left


def _is_hourly(expr: str) -> bool:
    return expr.startswith("3600 * ")


def _measure_target(query: PanelQuery) -> Dimension:
    dimension = _measure_query(promql_parser.parse(expand_to_all(query.dashboard, query.expr)))
    # 3600 is the seconds of an hour: USD per second become USD per hour, shown as USD.
    return _multiply(dimension, {"s": 1}) if _is_hourly(query.expr) else dimension


def _find_unit(query: PanelQuery) -> str:
    """Return the unit that a panel shows a query in: in a table, that of its column."""
    config = query.panel["fieldConfig"]
    if query.panel["type"] == "table" and query.panel["transformations"][-1]["id"] == "organize":
        rename = query.panel["transformations"][-1]["options"]["renameByName"]
        title = rename.get(f"Value #{query.target['refId']}") or rename["Value"]
        (found,) = [
            item["value"]
            for override in config["overrides"]
            if override["matcher"] == {"id": "byName", "options": title}
            for item in override["properties"]
            if item["id"] == "unit"
        ]
        return str(found)
    return str(config["defaults"]["unit"])


# A heat map shows counts, over bounds in the unit of its axis.
QUERIES = [query for query in list_queries() if query.panel["type"] != "heatmap"]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_query_has_the_dimension_of_its_panel(query: PanelQuery) -> None:
    assert _measure_target(query) == ALLOWED[_find_unit(query)], query.expr


@pytest.mark.parametrize("name", DASHBOARDS)
def test_heatmap_axis_has_the_unit_of_its_metric(name: str) -> None:
    for panel in list_panels(name):
        if panel["type"] == "heatmap":
            assert "_seconds_bucket" in panel["targets"][0]["expr"]
            assert panel["options"]["yAxis"]["unit"] == "s"


@pytest.mark.parametrize(
    ("expr", "dimension"),
    [
        ("rate(loco_spend_USD_total[1m])", {"USD": 1, "s": -1}),
        ("3600 * sum(rate(loco_slot_time_seconds_total[1m]))", {}),
        ("loco_queue_wait_seconds > 3", {"s": 1}),
        ("histogram_quantile(0.9, rate(loco_wait_duration_seconds_bucket[1m]))", {"s": 1}),
    ],
)
def test_dimension_follows_from_units(expr: str, dimension: Dimension) -> None:
    assert _measure_query(promql_parser.parse(expr)) == dimension


def test_dimension_of_a_mixed_sum_is_an_error() -> None:
    with pytest.raises(AssertionError):
        _measure_query(promql_parser.parse("loco_queue_wait_seconds or loco_budget_spent_USD"))
