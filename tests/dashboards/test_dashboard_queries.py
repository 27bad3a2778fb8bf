"""Every query of every panel, variable and annotation returns data from a real Prometheus that has every metric."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dashboard_files import (
    DASHBOARDS,
    PanelQuery,
    expand_to_all,
    expand_variables,
    find_query,
    list_queries,
    list_variables,
)
from dashboard_prometheus import Prometheus, run_promtool
from metric_history import write_history

END = int(time.time()) // 3600 * 3600


PROGRAMS = [name for name in ("prometheus", "prometheus-3") if shutil.which(name)]
"""Debian's Prometheus, and the newest that Debian has, where `.ci/run` has installed it."""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data folder of a Prometheus with a history of every metric."""
    folder = tmp_path_factory.mktemp("history")
    (folder / "history.txt").write_text(write_history(END))
    run_promtool("tsdb", "create-blocks-from", "openmetrics", folder / "history.txt", folder / "data")
    return folder / "data"


@pytest.fixture(scope="module", params=PROGRAMS)
def prometheus(
    request: pytest.FixtureRequest, history: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(history, folder / "data")
    with Prometheus(folder, program=request.param) as server:
        yield server


def _list_choices(prometheus: Prometheus, dashboard: str, variable: str) -> list[str]:
    query = list_variables(dashboard)[variable]["query"]["query"]
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert found
    selector = expand_variables(found[1], dict.fromkeys(list_variables(dashboard), ".+"))
    return prometheus.list_label_values(found[2], selector, END - 600, END)


@pytest.mark.parametrize(("dashboard", "variable"), [(name, it) for name in DASHBOARDS for it in list_variables(name)])
def test_variable_has_values(prometheus: Prometheus, dashboard: str, variable: str) -> None:
    assert _list_choices(prometheus, dashboard, variable)


def _returns_data(prometheus: Prometheus, query: PanelQuery, expr: str) -> bool:
    if query.target["instant"]:
        return bool(prometheus.query(expr, END))
    return bool(prometheus.query_range(expr, END - 600, END, 15))


@pytest.mark.parametrize("query", list_queries(), ids=lambda query: query.name)
def test_query_returns_data_with_one_many_and_all(prometheus: Prometheus, query: PanelQuery) -> None:
    variables = list_variables(query.dashboard)
    everything = {name: variables[name]["allValue"] for name in variables}
    assert _returns_data(prometheus, query, expand_variables(query.expr, everything)), "all"
    for variable in variables:
        choices = _list_choices(prometheus, query.dashboard, variable)
        # Grafana joins several values as a regular expression, and quotes their dots.
        many = "(" + "|".join(re.escape(value).replace("\\", "\\\\") for value in choices) + ")"
        assert _returns_data(prometheus, query, expand_variables(query.expr, {**everything, variable: many})), "many"
        one = [
            _returns_data(prometheus, query, expand_variables(query.expr, {**everything, variable: value}))
            for value in choices
        ]
        assert any(one), f"one {variable} of {choices}"


@pytest.mark.parametrize(
    ("dashboard", "annotation"),
    [(name, it["name"]) for name in DASHBOARDS for it in DASHBOARDS[name]["annotations"]["list"]],
)
def test_annotation_returns_data(prometheus: Prometheus, dashboard: str, annotation: str) -> None:
    (expr,) = [it["expr"] for it in DASHBOARDS[dashboard]["annotations"]["list"] if it["name"] == annotation]
    expr = expand_variables(expr, dict.fromkeys(list_variables(dashboard), ".+"))
    assert prometheus.query_range(expr, END - 600, END, 60)


def test_unknown_metric_returns_nothing(prometheus: Prometheus) -> None:
    assert prometheus.query("sum(loco_no_such_metric)", END) == []


_ENGINE, _ALONE = "loco_engine_mode", 'job="alone",instance="3"'
_SHARING = ('job="sharing",instance="1"', 'job="sharing",instance="2"')
_BUDGET = 'loco_budget_scope="all",loco_budget_key="*",loco_budget_period="day"'


def _list_series() -> dict[str, str]:
    """Return series of a job that shares an engine and a ledger, and of one that shares nothing."""
    values = {f'{_ENGINE}{{{it},{_ENGINE}="remote"}}': "1x10" for it in _SHARING}
    for it, slots, used in ((_SHARING[0], 4, 0.2), (_SHARING[1], 4, 0.3), (_ALONE, 10, 5)):
        values[f'loco_resource_capacity{{{it},loco_resource_name="llm_api"}}'] = f"{slots}x10"
        values[f'loco_resource_saturation{{{it},loco_resource_name="llm_api"}}'] = f"{used}x10"
        values[f'loco_limit_changes_total{{{it},loco_resource_name="llm_api",loco_limit_direction="up"}}'] = "0+6x10"
        store = "memory" if it == _ALONE else "ledger"
        values[f'loco_budget_spent_USD{{{it},{_BUDGET},loco_budget_store="{store}"}}'] = "0+0.1x10"
        values[f"loco_budget_charged_USD_total{{{it},{_BUDGET}}}"] = "0+0.1x10"
    return values


@pytest.mark.parametrize(
    ("dashboard", "title", "ref", "value"),
    [
        ("loco-overview", "Slots in use and capacity", "B", 4 + 10),
        ("loco-overview", "Saturation", "A", 5),
        ("loco-scheduling", "Changes of the limit", "A", 2 * 6 / 60),
        ("loco-spend", "Spent and reserved", "A", 2 * 1.0),
        ("loco-overview", "Ledger against counters", "B", 2 * 1.0),
    ],
)
def test_panel_of_jobs_that_share_and_do_not(
    tmp_path: Path, dashboard: str, title: str, ref: str, value: float
) -> None:
    query = find_query(dashboard, title, ref)
    labels = {
        "loco_resource_name": "llm_api",
        "loco_limit_direction": "up",
        "loco_budget_scope": "all",
        "loco_budget_key": "*",
        "loco_budget_period": "day",
    }
    kept = [f'{name}="{it}"' for name, it in labels.items() if re.search(rf"by \([^)]*{name}", query.expr)]
    test = {
        "interval": "1m",
        "input_series": [{"series": series, "values": it} for series, it in _list_series().items()],
        "promql_expr_test": [
            {
                "expr": f"round({expand_to_all(dashboard, query.expr)}, 0.001)",
                "eval_time": "10m",
                "exp_samples": [{"labels": f"{{{','.join(kept)}}}", "value": value}],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": [test]}))
    assert "SUCCESS" in run_promtool("test", "rules", tmp_path / "test.yml")
