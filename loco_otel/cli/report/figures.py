"""Plots of a recording as SVG for an HTML page: text stays text, and colours follow the page's light or dark scheme."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from loco_otel._telemetry import attributes as key
from loco_otel._telemetry import catalogue
from loco_otel.cli.report.recording import Recording
from loco_otel.cli.report.summary import RunSummary
from loco_otel.errors import LocoError

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_PALETTE = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#eeca3b", "#9d755d", "#ff9da6")
_OTHER = "#9a9a9a"
_INK, _GRID, _PAPER = "#010203", "#010204", "#010205"
"""Stand for the page's colours of text, grid and paper."""
_COLOURS = {_INK: "var(--ink)", _GRID: "var(--grid)", _PAPER: "var(--paper)"}
_DECIMALS = re.compile(r"(\.\d)\d+")
"""Of coordinates: a tenth of a point is enough."""
_WINDOWS = 40
"""Over which quantiles of waits are taken."""
_MINUTE, _HOUR = 60.0, 3600.0


class FigureError(LocoError):
    """No plot can be drawn."""


class Plot(NamedTuple):
    """One plot."""

    name: str
    title: str
    note: str
    svg: str


class _Painter:
    """Draws plots of one recording, each agent in one colour."""

    def __init__(self, recording: Recording, summary: RunSummary) -> None:
        try:
            from matplotlib import rc_context  # noqa: PLC0415 - an optional extra
            from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise FigureError("a report needs matplotlib: pip install 'loco-otel[plot]'") from error
        self._rc_context: Any = rc_context
        self._figure = Figure
        self._recording = recording
        self._agents = [it.agent for it in summary.agents][: len(_PALETTE)]
        self._summary = summary
        seconds = summary.seconds
        self._scale, self._unit = (
            (_HOUR, "hours") if seconds > 3 * _HOUR else (_MINUTE, "minutes") if seconds > 5 * _MINUTE else (1.0, "s")
        )
        self._first = summary.first
        self._times = [(at - recording.times[summary.first]) / self._scale for at in recording.times]

    def draw_slots(self) -> str:
        def draw(axes: Any) -> Mapping[str, str]:
            tooltips = self._stack(
                axes, "slots", self._recording.sum_gauge(catalogue.REQUESTS_ACTIVE, key.AGENT), "{:g} active"
            )
            capacity = self._recording.sum_capacity()
            if any(capacity):
                shown = [it or float("nan") for it in capacity]
                (line,) = axes.plot(self._times, shown, color=_INK, linewidth=1.4, linestyle=(0, (4, 2)))
                line.set_drawstyle("steps-post")
                line.set_label("slots")
                line.set_gid("slots-capacity")
                tooltips = {**tooltips, "slots-capacity": f"slots, at most {max(capacity):g}"}
            axes.set_ylabel("calls in slots")
            return tooltips

        return self._draw("slots", draw)

    def draw_waiting(self) -> str:
        def draw(axes: Any) -> Mapping[str, str]:
            axes.set_ylabel("waiting calls")
            return self._stack(
                axes, "waiting", self._recording.sum_gauge(catalogue.REQUESTS_WAITING, key.AGENT), "{:g} waiting"
            )

        return self._draw("waiting", draw)

    def draw_spend(self) -> str:
        def draw(axes: Any) -> Mapping[str, str]:
            axes.set_ylabel("USD since the start")
            return self._stack(
                axes, "spend", self._recording.sum_counter(catalogue.SPENT, key.AGENT), "${:.4f}", is_step=False
            )

        return self._draw("spend", draw, is_count=False)

    def draw_quantiles(self) -> str:
        def draw(axes: Any) -> Mapping[str, str]:
            last = len(self._times) - 1 - self._first
            count = min(_WINDOWS, last)
            edges = [self._first + round(number * last / count) for number in range(count + 1)] if count else []
            tooltips = {}
            for share, style in ((0.5, (0, (3, 2))), (0.95, "solid")):
                at: list[float] = []
                values: list[float] = []
                for start, end in pairwise(edges):
                    estimate = self._recording.estimate_wait(share, start=start, end=end).get(())
                    if estimate is not None:
                        at.append((self._times[start] + self._times[end]) / 2)
                        values.append(estimate)
                name = f"p{share * 100:.0f}"
                (line,) = axes.plot(at, values, color=_PALETTE[4], linewidth=1.6, linestyle=style, label=name)
                line.set_gid(f"quantiles-{name}")
                if values:
                    tooltips[f"quantiles-{name}"] = f"{name}: at most {max(values):.2f} s"
            axes.set_ylabel("wait in s")
            axes.set_ylim(bottom=0)
            return tooltips

        return self._draw("quantiles", draw, is_count=False)

    def draw_outcomes(self) -> str:
        def draw(axes: Any) -> Mapping[str, str]:
            decided = self._recording.sum_counter(catalogue.REQUESTS, key.OUTCOME)
            throttles = self._recording.sum_counter(catalogue.THROTTLES, key.PROVIDER, key.ERROR_TYPE)
            lines = {outcome: values for (outcome,), values in decided.items() if values[-1]}
            lines |= {
                f"{provider} {error}".strip(): values for (provider, error), values in throttles.items() if values[-1]
            }
            tooltips = {}
            colours = {"granted": _PALETTE[2]}
            for number, (name, values) in enumerate(sorted(lines.items(), key=lambda it: -it[1][-1])):
                colour = colours.get(name, _PALETTE[(number + 3) % len(_PALETTE)])
                (line,) = axes.plot(self._times, values, color=colour, linewidth=1.6, label=name)
                line.set_drawstyle("steps-post")
                line.set_gid(f"outcomes-{number}")
                tooltips[f"outcomes-{number}"] = f"{name}: {values[-1]:g}"
            axes.set_ylabel("requests since the start")
            axes.set_ylim(bottom=0)
            return tooltips

        return self._draw("outcomes", draw)

    def draw_causes(self) -> str:
        causes = self._summary.causes
        waiting = [it.agent for it in self._summary.agents if any(agent == it.agent for agent, _ in causes)][:12]

        def draw(axes: Any) -> Mapping[str, str]:
            tooltips, left = {}, dict.fromkeys(waiting, 0.0)
            totals: dict[str, float] = {}
            for (_, cause), seconds in causes.items():
                totals[cause] = totals.get(cause, 0.0) + seconds
            for number, cause in enumerate(sorted(totals, key=lambda it: (-totals[it], it))):
                widths = [causes.get((agent, cause), 0.0) for agent in waiting]
                colour = self._choose_colour(cause) if cause in self._agents else _CAUSE_COLOURS[number % 4]
                hatch = None if cause in self._agents else _HATCHES[number % len(_HATCHES)]
                bars = axes.barh(
                    range(len(waiting)), widths, left=list(left.values()), height=0.62, color=colour, label=cause,
                    hatch=hatch, edgecolor=_PAPER, linewidth=0.6,
                )  # fmt: skip
                for agent, width, bar in zip(waiting, widths, bars, strict=True):
                    if not width:
                        continue
                    gid = f"causes-{number}-{waiting.index(agent)}"
                    bar.set_gid(gid)
                    tooltips[gid] = f"{agent} waited {width:.1f} s for {cause}"
                    left[agent] += width
            axes.set_yticks(range(len(waiting)), waiting)
            axes.invert_yaxis()
            axes.set_xlabel("seconds of waiting")
            axes.grid(axis="x")
            axes.grid(visible=False, axis="y")
            return tooltips

        return self._draw("causes", draw, height=1.5 + 0.42 * max(1, len(waiting)), is_over_time=False)

    def _stack(
        self,
        axes: Any,
        name: str,
        values: Mapping[tuple[str, ...], Sequence[float]],
        text: str,
        *,
        is_step: bool = True,
    ) -> dict[str, str]:
        """Draw one area above the other, that of the agents that have no colour last."""
        shown = {agent: list(values[agent,]) for agent in self._agents if (agent,) in values}
        rest = [it for (agent,), it in values.items() if agent not in self._agents]
        if rest:
            shown["other agents"] = [sum(it) for it in zip(*rest, strict=True)]
        shown = {agent: it for agent, it in shown.items() if any(it)}
        if not shown:
            return {}
        colours = [self._choose_colour(agent) for agent in shown]
        areas = axes.stackplot(
            self._times,
            list(shown.values()),
            labels=list(shown),
            colors=colours,
            step="post" if is_step else None,
            alpha=0.9,
            edgecolor=_PAPER,
            linewidth=0.4,
        )
        tooltips = {}
        for number, (agent, area) in enumerate(zip(shown, areas, strict=True)):
            gid = f"{name}-area-{number}"
            area.set_gid(gid)
            tooltips[gid] = (
                f"{agent}: at most {text.format(max(shown[agent]))}, at last {text.format(shown[agent][-1])}"
            )
        return tooltips

    def _choose_colour(self, agent: str) -> str:
        return _PALETTE[self._agents.index(agent)] if agent in self._agents else _OTHER

    def _draw(
        self,
        name: str,
        draw: Callable[[Any], Mapping[str, str]],
        *,
        height: float = 2.6,
        is_over_time: bool = True,
        is_count: bool = True,
    ) -> str:
        with self._rc_context(_STYLE | {"svg.hashsalt": name}):
            figure = self._figure(figsize=(7.2, height), layout="constrained")
            axes = figure.subplots()
            tooltips = draw(axes)
            if is_over_time:
                axes.set_xlim(0, max(self._times[-1], 1e-3))
                axes.set_ylim(bottom=0)
                axes.locator_params(axis="y", nbins=5, **({"integer": True} if is_count else {}))
                axes.set_xlabel(f"{self._unit} since the first call")
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.set_axisbelow(True)
            if axes.get_legend_handles_labels()[0]:
                figure.legend(loc="outside upper left", ncols=5, frameon=False, handlelength=1.2, columnspacing=1.4)
            written = io.BytesIO()
            figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return _embed_svg(written.getvalue(), name, tooltips)


_HATCHES = ("////", "....", "xxxx", "\\\\\\\\")
_CAUSE_COLOURS = ("#b8b8b8", "#a8b4c4", "#c4b8a8", "#b4c4a8")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
    "hatch.linewidth": 0.5,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "axes.edgecolor": _GRID,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
}


def _embed_svg(content: bytes, name: str, tooltips: Mapping[str, str]) -> str:
    """Return an SVG that scales with the page, has tooltips, and ids that are unique in it."""
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(content)  # noqa: S314 - matplotlib's own output
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for size in ("width", "height"):
        del root.attrib[size]
    root.set("role", "img")
    for element in root.iter():
        own = element.get("id")
        if own is not None and own in tooltips:
            title = ET.Element(f"{{{_SVG}}}title")
            title.text = tooltips[own]
            element.insert(0, title)
            element.set("class", "data")
        if own is not None and element.tag == f"{{{_SVG}}}g":
            del element.attrib["id"]  # of the figure's parts, which nothing refers to
        path = element.get("d")
        if path:
            element.set("d", _DECIMALS.sub(r"\1", path))
        style = element.get("style")
        if style:
            for colour, variable in _COLOURS.items():
                style = style.replace(colour, variable)
            element.set("style", style.replace("'DejaVu Sans'", "inherit"))
    text = ET.tostring(root, encoding="unicode")
    # Of definitions, which other plots may have under the same name.
    return text.replace('id="', f'id="{name}-').replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')


def draw_plots(recording: Recording, summary: RunSummary) -> list[Plot]:
    """Return the plots that a recording has data for.

    Raises:
        FigureError: matplotlib is missing.

    """
    painter = _Painter(recording, summary)
    held = "By agent; the dashed line is the number of slots."
    blamed = "Seconds by the agent that held the slots, or another cause."
    plots = [
        Plot("slots", "Calls in slots", held, painter.draw_slots()),
        Plot("waiting", "Waiting calls", "By agent.", painter.draw_waiting()),
        Plot("quantiles", "Wait for a slot", "Of the calls decided in each part of the run.", painter.draw_quantiles()),
        Plot("causes", "What agents waited for", blamed, painter.draw_causes()),
        Plot("spend", "Spending", "By agent, in USD.", painter.draw_spend()),
        Plot("outcomes", "Decided requests and refusals", "Counted from the start.", painter.draw_outcomes()),
    ]
    return [plot for plot in plots if 'class="data"' in plot.svg]
