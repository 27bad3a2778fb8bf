"""All generated files, by their paths below `dashboards/`."""

from dashboards.builder.agent import build_agent
from dashboards.builder.frame import render_page
from dashboards.builder.overview import build_overview
from dashboards.builder.rules import render_grafana_rules, render_rules
from dashboards.builder.scheduling import build_scheduling
from dashboards.builder.spend import build_spend

PAGES = (build_overview(), build_scheduling(), build_spend(), build_agent())


def render_files() -> dict[str, str]:
    """Return the text of each generated file."""
    return {page.file_name: render_page(page) for page in PAGES} | {
        "alerts/loco.rules.yml": render_rules(),
        "alerts/loco.grafana.yml": render_grafana_rules(),
    }
