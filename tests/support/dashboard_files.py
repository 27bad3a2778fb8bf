"""The committed dashboards as Grafana reads them: panels, queries, variables and annotations."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser

FOLDER = Path(__file__).parents[2] / "dashboards"
DASHBOARDS: Mapping[str, Any] = {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("loco-*.json"))}

BUILT_IN = {"__rate_interval": "1m", "__interval": "15s", "__range": "10m"}
"""Grafana's own variables, as they are for a range of ten minutes and a scrape each 15 seconds."""


class PanelQuery(NamedTuple):
    """One query, and the panel that shows it."""

    dashboard: str
    panel: Mapping[str, Any]
    target: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.dashboard}: {self.panel['title']} {self.target['refId']}"

    @property
    def expr(self) -> str:
        expr: str = self.target["expr"]
        return expr


def list_panels(name: str) -> list[Mapping[str, Any]]:
    """Return the panels of a dashboard, rows left out."""
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def list_queries() -> list[PanelQuery]:
    return [
        PanelQuery(name, panel, target)
        for name in DASHBOARDS
        for panel in list_panels(name)
        for target in panel["targets"]
    ]


def find_query(dashboard: str, title: str, ref: str = "A") -> PanelQuery:
    """Return a query by its panel and its letter."""
    (query,) = [
        it for it in list_queries() if (it.dashboard, it.panel["title"], it.target["refId"]) == (dashboard, title, ref)
    ]
    return query


def list_variables(name: str, kind: str = "query") -> dict[str, Mapping[str, Any]]:
    return {item["name"]: item for item in DASHBOARDS[name]["templating"]["list"] if item["type"] == kind}


def expand_variables(expr: str, values: Mapping[str, str]) -> str:
    """Replace variables, as Grafana does before it sends a query.

    Raises:
        KeyError: a variable that neither Grafana nor the dashboard has.

    """
    known = {**BUILT_IN, **values}
    # `$1` is a group of label_replace(): no variable has such a name, so Grafana leaves it.
    return re.sub(r"\$(?:\{(\w+)(?::\w+)?\}|([a-z_]\w*))", lambda found: known[found[1] or found[2]], expr)


def expand_to_all(name: str, expr: str) -> str:
    """Replace each variable of a dashboard by its value for all."""
    return expand_variables(expr, dict.fromkeys(list_variables(name), ".+"))


def list_children(node: Any) -> Iterator[Any]:
    """Yield the nodes that a node of a parsed query has directly."""
    for field in ("lhs", "rhs", "expr", "vector_selector", "param"):
        child = getattr(node, field, None)
        if child is not None and type(child).__module__.startswith("promql_parser"):
            yield child
    yield from getattr(node, "args", None) or ()


def walk_query(node: Any) -> Iterator[Any]:
    """Yield all nodes of a parsed query."""
    yield node
    for child in list_children(node):
        yield from walk_query(child)


def list_selectors(expr: str) -> list[promql_parser.VectorSelector]:
    return [node for node in walk_query(promql_parser.parse(expr)) if isinstance(node, promql_parser.VectorSelector)]
