"""The terminal application of `loco-otel top`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from rich.table import Table
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Footer, Header, Static

from loco_otel.cli.top import cells
from loco_otel.cli.top.readings import PageReader, Reading
from loco_otel.cli.top.state import AgentState, BudgetState, LiveState, ResourceState, build_state

_SLOW = 2.0
"""Seconds after which a request that is still under way is reported."""
_ADVICE = """\
Start a program whose metrics are on a page:

    OTEL_METRICS_EXPORTER=prometheus opentelemetry-instrument python app.py

or name the page of one that runs:

    loco-otel top http://localhost:9464/metrics
"""


class _Column(NamedTuple):
    title: str
    value: Callable[[AgentState], Any]
    """By which agents are sorted."""
    cell: Callable[[AgentState], Text | str]
    is_text: bool = False


_COLUMNS: Mapping[str, _Column] = {
    "agent": _Column("Agent", lambda it: it.agent, lambda it: Text(it.agent, style="bold"), is_text=True),
    "resource": _Column("Resource", lambda it: it.resource, lambda it: it.resource, is_text=True),
    "active": _Column("Active", lambda it: it.active, lambda it: cells.format_count(it.active, "■", "green")),
    "waiting": _Column("Waiting", lambda it: it.waiting, lambda it: cells.format_count(it.waiting, "□", "yellow")),
    "score": _Column(
        "L", lambda it: it.score or 0.0, lambda it: "-" if it.score is None else f"{it.score:.3f}"
    ),
    "oldest": _Column(
        "Oldest wait", lambda it: it.oldest_wait, lambda it: cells.format_seconds(it.oldest_wait) if it.waiting else "-"
    ),
    "p95": _Column(
        "Wait p95", lambda it: it.p95 or 0.0, lambda it: "-" if it.p95 is None else cells.format_seconds(it.p95)
    ),
    "wait": _Column("Waited", lambda it: it.waited, lambda it: cells.format_seconds(it.waited)),
    "spend": _Column("Spend", lambda it: it.spend, lambda it: cells.format_usd(it.spend)),
    "budget": _Column(
        "Budget", lambda it: it.budget.used if it.budget else 0.0, lambda it: cells.format_budget(it.budget)
    ),
    "causes": _Column("Held up by", lambda it: it.causes[0][1] if it.causes else 0.0, cells.format_causes),
}  # fmt: skip
"""Columns of the table of agents."""


class TopApp(App[None]):
    """Shows resources, agents and budgets of running processes.

    Args:
        urls: the Prometheus page of each.
        interval: seconds between two readings.
        timeout: seconds that a page may take.

    """

    TITLE = "loco-otel top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #endpoints, #resources, #budgets { height: auto; padding: 0 1; }
    #endpoints { color: $text-muted; }
    #agents { height: auto; max-height: 60vh; margin: 1 0; }
    #notice { height: auto; padding: 1 2; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("p", "toggle_pause", "Pause"),
        ("a", "sort_agents('agent')", "Agent"),
        ("h", "sort_agents('active')", "Holding"),
        ("w", "sort_agents('waiting')", "Waiting"),
        ("l", "sort_agents('score')", "L"),
        ("o", "sort_agents('oldest')", "Oldest"),
        ("t", "sort_agents('wait')", "Waited"),
        ("s", "sort_agents('spend')", "Spend"),
        ("b", "sort_agents('budget')", "Budget"),
        ("r", "reverse_order", "Reverse"),
        ("q", "quit", "Quit"),
    ]

    def __init__(self, urls: Sequence[str], interval: float = 1.0, timeout: float = 5.0) -> None:
        super().__init__()
        self._interval = interval
        self._readers = [PageReader(url, interval, timeout) for url in urls]
        self._sort_key, self._is_descending = "waiting", True
        self._is_paused = False

    @property
    def sort_order(self) -> tuple[str, bool]:
        """The column by which agents are sorted, and whether the largest come first."""
        return self._sort_key, self._is_descending

    def compose(self) -> ComposeResult:
        """Return the widgets."""
        yield Header(icon="")
        with VerticalScroll():
            yield Static(id="notice")
            yield Static(id="endpoints")
            yield Static(id="resources")
            yield DataTable(id="agents", cursor_type="row", zebra_stripes=True)
            yield Static(id="budgets")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one("#agents", DataTable).focus()
        for reader in self._readers:
            reader.start()
        self.set_interval(self._interval, self.show_state)
        self.show_state()

    def on_unmount(self) -> None:
        """End the threads."""
        for reader in self._readers:
            reader.close()

    def show_state(self) -> None:
        """Show the present state, except while paused, or once the widgets are gone."""
        if self._is_paused or not self.query("#budgets"):
            return
        readings = [reader.get_reading() for reader in self._readers]
        state = build_state(readings)
        has_page = any(it.page is not None for it in readings)
        for name in ("endpoints", "resources", "agents", "budgets"):
            self.query_one(f"#{name}").display = has_page
        self.query_one("#notice").display = not has_page
        if has_page:
            self.query_one("#endpoints", Static).update(_describe_endpoints(readings))
            self.query_one("#resources", Static).update(_build_resource_table(state.resources))
            self._fill_agents(state)
            self.query_one("#budgets", Static).update(_build_budget_table(state.budgets))
        else:
            self.query_one("#notice", Static).update(_describe_absence(readings, self._interval))
        self._show_title(readings)

    def action_toggle_pause(self) -> None:
        """Stop to update what is shown, or update again."""
        self._is_paused = not self._is_paused
        if self._is_paused:
            self.sub_title = "paused: p continues"
        self.show_state()

    def action_sort_agents(self, name: str) -> None:
        """Sort agents by a column; a second time, in the other order."""
        if name == self._sort_key:
            self._is_descending = not self._is_descending
        else:
            self._sort_key, self._is_descending = name, not _COLUMNS[name].is_text
        self._sort_again()

    def action_reverse_order(self) -> None:
        """Sort agents in the other order."""
        self._is_descending = not self._is_descending
        self._sort_again()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort agents by the column that was clicked."""
        if event.column_key.value in _COLUMNS:
            self.action_sort_agents(str(event.column_key.value))

    def _sort_again(self) -> None:
        is_paused, self._is_paused = self._is_paused, False
        self.show_state()
        self._is_paused = is_paused

    def _show_title(self, readings: Sequence[Reading]) -> None:
        current = sum(it.is_current for it in readings)
        order = "descending" if self._is_descending else "ascending"
        column = _COLUMNS[self._sort_key].title
        self.sub_title = f"{current} of {len(readings)} processes, by {column.lower()}, {order}"

    def _fill_agents(self, state: LiveState) -> None:
        table = self.query_one("#agents", DataTable)
        cursor = table.cursor_row
        columns = [name for name in _COLUMNS if name != "resource" or len(state.resources) > 1]
        if [it.value for it in table.columns] != columns:
            table.clear(columns=True)
            for name in columns:
                table.add_column(_COLUMNS[name].title, key=name)
        agents = sorted(state.agents, key=lambda it: (it.agent, it.resource))
        agents.sort(key=_COLUMNS[self._sort_key].value, reverse=self._is_descending)
        table.clear()
        for agent in agents:
            row = [
                Text(cell) if isinstance(cell, str) else cell
                for cell in (_COLUMNS[name].cell(agent) for name in columns)
            ]
            table.add_row(*row)
        table.move_cursor(row=cursor)


def _describe_endpoints(readings: Sequence[Reading]) -> Text:
    lines = []
    for reading in readings:
        if reading.is_current:
            is_slow = reading.pending > _SLOW
            late = f" has not answered for {cells.format_seconds(reading.pending)}" if is_slow else ""
            lines.append(Text.assemble(("● ", "yellow" if is_slow else "green"), reading.url, (late, "yellow")))
            continue
        ago = cells.format_seconds(reading.seconds)
        last = f"; last page {ago} ago" if reading.page is not None else f", for {ago}"
        lines.append(Text.assemble(("○ ", "red"), (f"{reading.fault}{last}", "red")))
    return Text("\n").join(lines)


def _describe_absence(readings: Sequence[Reading], interval: float) -> Text:
    text = Text("No program with loco-otel answers.\n\n", style="bold red")
    for reading in readings:
        fault = f"{reading.url} has not answered yet" if reading.pending > _SLOW else reading.fault
        text.append(f"  {fault}\n", style="not bold")
    return text.append(f"\n{_ADVICE}\nTrying again each {interval:g} s.", style="not bold default")


def _build_resource_table(resources: Sequence[ResourceState]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("Resource", "Policy", "Slots", "", "Waiting", ""):
        table.add_column(title, justify="left", no_wrap=True)
    for it in resources:
        share = 0.0 if not it.capacity else it.active / it.capacity
        bar = ("unlimited", "dim") if it.capacity is None else (cells.draw_bar(share, 20), "green on grey23")
        slots = f"{it.active} active" if it.capacity is None else f"{it.active} of {it.capacity}"
        pause = Text(f"paused by the provider for {it.pause:.1f} s", style="yellow") if it.pause else ""
        waiting = Text(str(it.waiting), style="yellow" if it.waiting else "dim")
        table.add_row(Text(it.resource, style="bold"), it.policy, Text.assemble(bar), slots, waiting, pause)
    return table


def _build_budget_table(budgets: Sequence[BudgetState]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    if not budgets:
        return table
    for title in ("Budget", "per", "used", "Spent", "Reserved", "Limit"):
        table.add_column(title, justify="right" if title in {"Spent", "Reserved", "Limit"} else "left", no_wrap=True)
    for it in budgets:
        name = it.scope if it.scope == "all" else f"{it.scope} {it.key}"
        amounts = (cells.format_amount(amount, it.unit) for amount in (it.spent, it.reserved, it.limit))
        table.add_row(Text(name, style="bold"), it.period, cells.format_budget(it), *map(Text, amounts))
    return table
