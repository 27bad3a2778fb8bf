"""The HTML page of a report: one file that loads nothing."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from string import Template

import loco_otel
from loco_otel.cli.report.figures import Plot
from loco_otel.cli.report.recording import Recording
from loco_otel.cli.report.summary import AgentSummary, BudgetSummary, RunSummary

_AGENT_TITLES = (
    "Agent", "Requests", "without a slot", "Wait p50", "Wait p95", "Waited", "Slots held", "Tokens in", "out", "USD",
)  # fmt: skip


def render_page(title: str, recording: Recording, summary: RunSummary, plots: Iterable[Plot]) -> str:
    """Return the page."""
    began = datetime.fromtimestamp(recording.times[summary.first], UTC)
    sections = [_render_agents(summary)]
    if summary.budgets:
        sections.append(_render_budgets(summary.budgets))
    notes = [*recording.notes, f"Made by loco-otel {loco_otel.__version__} from {recording.origin}."]
    template = Template(files("loco_otel.cli.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        subtitle=f"{began:%Y-%m-%d %H:%M:%S} UTC, {_format_seconds(summary.seconds)}",
        tiles="".join(_list_tiles(summary)),
        plots="".join(_render_plot(it) for it in plots) or "<p>No call was made.</p>",
        sections="".join(sections),
        footer="<br>".join(escape(it) for it in notes),
    )


def _list_tiles(summary: RunSummary) -> list[str]:
    totals = summary.totals
    used = "unlimited" if summary.utilisation is None else f"{summary.utilisation:.0%}"
    return [
        _render_tile("requests for a slot", f"{totals.decided:,}"),
        _render_tile("without a slot", f"{totals.rejected:,}", is_warm=totals.rejected > 0),
        _render_tile("refused by providers", f"{summary.refused:,}", is_warm=summary.refused > 0),
        _render_tile("wait, 95th percentile", _format_quantile(totals.p95)),
        _render_tile("waiting at once, at most", f"{summary.most_waiting}"),
        _render_tile("in slots at once, at most", f"{summary.most_active}"),
        *([] if summary.utilisation is None else [_render_tile("of the slots' time was held", used)]),
        _render_tile("spent", _format_usd(totals.spend)),
    ]


def _render_tile(label: str, value: str, *, is_warm: bool = False) -> str:
    style = ' class="warm"' if is_warm else ""
    return f'<div class="tile"><b{style}>{escape(value)}</b><p>{escape(label)}</p></div>'


def _render_plot(plot: Plot) -> str:
    caption = f"<figcaption><h2>{escape(plot.title)}</h2><p>{escape(plot.note)}</p></figcaption>"
    return f'<figure id="{plot.name}">{caption}{plot.svg}</figure>'


def _render_agents(summary: RunSummary) -> str:
    rows = [_render_row(_list_agent_cells(it)) for it in summary.agents]
    total = _render_row(_list_agent_cells(summary.totals), kind="all")
    table = _render_table(_AGENT_TITLES, [*rows, total])
    return f'<section id="agents"><h2>Agents</h2><p>Those that waited longest first.</p>{table}</section>'


def _list_agent_cells(it: AgentSummary) -> list[str]:
    return [
        escape(it.agent or "(none)"),
        f"{it.decided:,}",
        f"{it.rejected:,}",
        _format_quantile(it.p50),
        _format_quantile(it.p95),
        _format_seconds(it.waited),
        _format_seconds(it.held),
        f"{it.input_tokens:,}",
        f"{it.output_tokens:,}",
        f"{it.spend:,.4f}",
    ]


def _render_budgets(budgets: Iterable[BudgetSummary]) -> str:
    rows = []
    for it in budgets:
        used = (it.spent + it.reserved) / it.limit if it.limit else 1.0
        full = ' class="full"' if used >= 1 else ""
        bar = f'<span class="used"><i{full} style="width:{min(1.0, used):.1%}"></i></span> {used:.0%}'
        amounts = [
            _format_usd(amount) if it.unit == "usd" else f"{amount:,.0f}"
            for amount in (it.spent, it.reserved, it.limit)
        ]
        rows.append(_render_row([escape(it.name), escape(it.period), bar, *amounts]))
    table = _render_table(("Budget", "per", "used", "Spent", "Reserved", "Limit"), rows)
    return f'<section id="budgets"><h2>Budgets</h2><p>At the end of the run.</p>{table}</section>'


def _render_table(titles: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(it)}</th>" for it in titles)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _render_row(cells: Iterable[str], kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f"<tr{style}>{''.join(f'<td>{it}</td>' for it in cells)}</tr>"


def _format_seconds(seconds: float) -> str:
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left:02} min" if hours else f"{minutes} min {rest:02} s"


def _format_quantile(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"


def _format_usd(usd: float) -> str:
    return f"${usd:,.4f}" if usd < 1 else f"${usd:,.2f}"
