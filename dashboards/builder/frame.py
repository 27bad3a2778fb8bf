"""What all dashboards have in common: variables, annotations, links, rows."""

import json
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from dashboards.builder.metrics import find_metric
from dashboards.builder.panels import PROMETHEUS, PanelBuilder
from dashboards.builder.queries import AGENT, BUDGET, MODEL, RESOURCE, TENANT

TAG = "loco-otel"

_CHOICES = {
    "job": ("Job", "loco.active", "job", ""),
    "instance": ("Instance", "loco.active", "instance", '{job=~"$job"}'),
    "resource": ("Resource", "loco.acquire.requests", RESOURCE, '{job=~"$job"}'),
    "agent": ("Agent", "loco.acquire.requests", AGENT, '{job=~"$job"}'),
    "model": ("Model", "loco.tokens", MODEL, '{job=~"$job"}'),
    "tenant": ("Tenant", "loco.spend", TENANT, '{job=~"$job"}'),
}
"""Variables: title, the metric and the label whose values are offered, and the metric's matchers."""

_ALERT = 'sum by (alertname, severity) (ALERTS{alertname=~"Loco.+",alertstate="firing"}) > 0'
_DECISIONS = find_metric("loco.budget.decisions").prometheus_name
_DECISION = f'sum by ({BUDGET}, loco_budget_action) (increase({_DECISIONS}{{job=~"$job"}}[5m])) > 0'


_NOISE = ("placement", "auto", "auto_count", "auto_min")
"""Fields that the SDK sets on everything: the first hides links and annotations in a menu."""


class Row(NamedTuple):
    """Panels under one heading."""

    title: str
    panels: Sequence[PanelBuilder]


class Page(NamedTuple):
    """One dashboard."""

    uid: str
    title: str
    description: str
    variables: Sequence[str]
    """Names of `_CHOICES`, beside the data sources, job and instance."""
    rows: Sequence[Row]

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.uid}.json"


def render_page(page: Page) -> str:
    """Return a dashboard as JSON in Grafana's classic schema, the same text each time."""
    board = (
        builders.Dashboard(page.title)
        .uid(page.uid)
        .description(page.description)
        .tags([TAG])
        .timezone("browser")
        .editable()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-1h", "now")
        .link(_make_link())
        .annotation(_make_annotation("Alerts", _ALERT, "red", "{{alertname}}", "{{severity}}"))
        .annotation(
            _make_annotation(
                "Budgets without room", _DECISION, "orange", "Budget: {{loco_budget_action}}",
                "{{loco_budget_scope}} {{loco_budget_key}}, per {{loco_budget_period}}",
            )
        )
    )  # fmt: skip
    for source in ("prometheus", "tempo"):
        title = f"{source.capitalize()} data source"
        board.with_variable(builders.DatasourceVariable(f"{source}_datasource").label(title).type(source))
    for name in ("job", "instance", *page.variables):
        board.with_variable(_make_choice(name))
    for row in page.rows:
        board.with_row(builders.Row(row.title))
        for panel in row.panels:
            board.with_panel(panel)
    content: dict[str, Any] = json.loads(json.dumps(board.build(), cls=JSONEncoder))
    for panel in content["panels"]:
        # The SDK sets none. Links to a panel survive as long as its title.
        panel["id"] = zlib.crc32(panel["title"].encode()) % 1_000_000
        panel.get("options", {}).pop("footer", None)  # Grafana 13's tables have none
    for item in (*content["templating"]["list"], *content["annotations"]["list"], *content["links"]):
        for key in _NOISE:
            item.pop(key, None)
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def make_trace_link(title: str, query: str) -> builders.DashboardLink:
    """Return a link to the traces that a TraceQL query finds in the range of the dashboard."""
    panes = {
        "loco": {
            "datasource": "${tempo_datasource}",
            "queries": [{"refId": "A", "queryType": "traceql", "query": query}],
            "range": {"from": "${__from}", "to": "${__to}"},
        }
    }
    url = "/explore?schemaVersion=1&panes=" + quote(json.dumps(panes, separators=(",", ":")), safe="${}_:.,")
    return builders.DashboardLink(title).url(url).target_blank(True)


def _make_choice(name: str) -> builders.QueryVariable:
    title, metric, label, matchers = _CHOICES[name]
    query = f"label_values({find_metric(metric).prometheus_name}{matchers}, {label})"
    return (
        builders.QueryVariable(name)
        .label(title)
        .query({"query": query, "refId": f"loco-{name}"})
        .datasource(PROMETHEUS)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _make_link() -> builders.DashboardLink:
    return (
        builders.DashboardLink("Dashboards of loco-otel")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )


def _make_annotation(name: str, expr: str, color: str, title: str, text: str) -> builders.AnnotationQuery:
    return (
        builders.AnnotationQuery()
        .name(name)
        .datasource(PROMETHEUS)
        .enable(True)
        .icon_color(color)
        .expr(expr)
        .step("60s")
        .title_format(title)
        .text_format(text)
    )
