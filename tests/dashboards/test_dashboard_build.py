"""The committed files are what the builder makes, and they use the catalogue's metrics, all of them."""

import re
import subprocess
import sys

import promql_parser
import pytest
from dashboard_files import (
    DASHBOARDS,
    FOLDER,
    PanelQuery,
    expand_to_all,
    list_panels,
    list_queries,
    list_selectors,
    list_variables,
)

from dashboards.builder.files import render_files
from dashboards.builder.metrics import CATALOGUE, get_labels
from loco_otel._telemetry.catalogue import InstrumentKind

ORIGIN = {"job", "instance", "le", "service_version", "__name__", "otel_metric_overflow"}
"""Labels that come from elsewhere than the catalogue."""
FOREIGN = {"up", "target_info", "ALERTS"}

QUERIES = list_queries()


def _find_metric(series: str) -> str | None:
    """Return the OpenTelemetry name of a series."""
    for name, row in CATALOGUE.items():
        parts = ("_bucket", "_sum", "_count") if row.kind is InstrumentKind.HISTOGRAM else ("",)
        if series in {row.prometheus_name + part for part in parts}:
            return name
    return None


def test_dashboards_are_those_of_the_builder() -> None:
    assert set(DASHBOARDS) == {"loco-overview", "loco-scheduling", "loco-spend", "loco-agent"}
    for name, text in render_files().items():
        assert (FOLDER / name).read_text() == text, f"{name} is stale: run `make dashboards`"


def test_builder_reports_no_stale_file() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dashboards.builder", "--check"], check=False, cwd=FOLDER.parent, capture_output=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_query_uses_metrics_and_labels_of_catalogue(query: PanelQuery) -> None:
    expr = expand_to_all(query.dashboard, query.expr)
    for selector in list_selectors(expr):
        if selector.name in FOREIGN or selector.name is None:
            continue
        metric = _find_metric(selector.name)
        assert metric, f"{selector.name} is no metric of the catalogue"
        used = {matcher.name for matcher in selector.matchers.matchers}
        assert used - ORIGIN <= get_labels(metric)
    grouped = {
        label.strip()
        for group in re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", expr)
        for label in group.split(",")
        if label.strip()
    }
    selected = [selector.name for selector in list_selectors(expr) if selector.name and selector.name not in FOREIGN]
    shown = {label for series in selected for label in get_labels(_find_metric(series) or "")}
    assert grouped - ORIGIN <= shown


def test_every_metric_is_shown() -> None:
    series = {it.name for query in QUERIES for it in list_selectors(expand_to_all(query.dashboard, query.expr))}
    shown = {_find_metric(name) for name in series if name}
    assert set(CATALOGUE) - shown == set()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panel_titles_and_ids_are_unique(name: str) -> None:
    for field in ("title", "id"):
        values = [panel[field] for panel in DASHBOARDS[name]["panels"]]
        assert len(set(values)) == len(values)
    assert DASHBOARDS[name]["uid"] == name


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_a_text_without_data(name: str) -> None:
    assert [it["title"] for it in list_panels(name) if not it["fieldConfig"]["defaults"].get("noValue")] == []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap_and_fill_their_rows(name: str) -> None:
    cells = [
        (x, y)
        for panel in DASHBOARDS[name]["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(0 <= x < 24 for x, _ in cells)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_annotations_and_variables_parse(name: str) -> None:
    exprs = [expand_to_all(name, item["expr"]) for item in DASHBOARDS[name]["annotations"]["list"]]
    for variable in list_variables(name).values():
        (selector,) = re.findall(r"^label_values\((.+), \w+\)$", variable["query"]["query"])
        exprs.append(expand_to_all(name, selector))
    for expr in exprs:
        promql_parser.parse(expr)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_filters_are_variables_of_the_dashboard(name: str) -> None:
    used = {
        found
        for query in QUERIES
        if query.dashboard == name
        for found in re.findall(r"\$([a-z_]\w*)", query.expr)
        if not found.startswith("__")
    }
    assert used == set(list_variables(name)), "each variable filters some panel"
