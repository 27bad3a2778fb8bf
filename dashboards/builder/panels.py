"""Panels with the options that all dashboards share: one unit, a description, a text for an empty panel."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = options.DataSourceRef(type_val="prometheus", uid="${prometheus_datasource}")

COUNT, RATIO, SECONDS, USD = units.Short, units.PercentUnit, units.Seconds, units.Dollars
PER_SECOND = units.CountsPerSecond

PanelBuilder = Builder[models.Panel]
_Plotted = TypeVar("_Plotted", stat.Panel, timeseries.Panel, bargauge.Panel)
_Described = TypeVar("_Described", stat.Panel, timeseries.Panel, bargauge.Panel, heatmap.Panel, table.Panel)


class Query(NamedTuple):
    """One query of a panel."""

    expr: str
    legend: str = ""
    exemplar: bool = False


class Column(NamedTuple):
    """One column of amounts in a table."""

    title: str
    expr: str
    unit: str
    decimals: int | None = None


def make_stat(
    title: str,
    description: str,
    queries: Query | Sequence[Query],
    unit: str,
    *,
    empty: str,
    steps: Mapping[float, str] | None = None,
    width: int = 4,
    height: int = 4,
    over_range: bool = False,
    mappings: Mapping[str, str] | None = None,
) -> PanelBuilder:
    """Return a panel of large numbers.

    Args:
        title: the panel's title.
        description: what it shows and what to do about it.
        queries: one number or several.
        unit: Grafana's id of the unit.
        empty: the text without data.
        steps: colours from a value on.
        width: of 24 columns.
        height: of cells.
        over_range: whether the queries cover the whole range of the dashboard, so that no line is drawn.
        mappings: texts for values.

    """
    panel = (
        stat.Panel()
        .color_mode(options.BigValueColorMode.VALUE)
        .graph_mode(options.BigValueGraphMode.NONE if over_range else options.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(_make_thresholds(steps or {}))
    )
    if mappings:
        results = {value: models.ValueMappingResult(text=text) for value, text in mappings.items()}
        panel.mappings([models.ValueMap(options=results)])
    return _finish(panel, title, description, queries, unit, empty=empty, size=(width, height), is_instant=over_range)


def make_graph(
    title: str,
    description: str,
    queries: Query | Sequence[Query],
    unit: str,
    *,
    empty: str,
    width: int = 12,
    height: int = 8,
    is_stacked: bool = False,
    steps: Mapping[float, str] | None = None,
    maximum: float | None = None,
    links: Sequence[builders.DashboardLink] = (),
) -> PanelBuilder:
    """Return a panel of lines over time, stacked areas if the parts add up to a whole."""
    legend = (
        common.VizLegendOptions()
        .display_mode(options.LegendDisplayMode.TABLE)
        .placement(options.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["mean", "max", "lastNotNull"])
    )
    panel = (
        timeseries.Panel()
        .legend(legend)
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
        .line_width(1)
        .fill_opacity(30 if is_stacked else 8)
        .show_points(options.VisibilityMode.AUTO)
        .span_nulls(False)
        .min(0)
    )
    if is_stacked:
        panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    if maximum is not None:
        panel.max(maximum)
    if steps:
        style = common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED)
        panel.thresholds(_make_thresholds(steps)).thresholds_style(style)
    if links:
        panel.data_links(list(links))
    return _finish(panel, title, description, queries, unit, empty=empty, size=(width, height))


def make_bars(
    title: str,
    description: str,
    queries: Query | Sequence[Query],
    unit: str,
    *,
    empty: str,
    width: int = 8,
    height: int = 8,
    steps: Mapping[float, str] | None = None,
) -> PanelBuilder:
    """Return a panel of horizontal bars: one amount each, over the range of the dashboard."""
    panel = (
        bargauge.Panel()
        .orientation(options.VizOrientation.HORIZONTAL)
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .show_unfilled(True)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(_make_thresholds(steps or {}))
        .min(0)
    )
    return _finish(panel, title, description, queries, unit, empty=empty, size=(width, height), is_instant=True)


def make_heatmap(title: str, description: str, expr: str, *, empty: str, width: int = 12) -> PanelBuilder:
    """Return a heat map of a Prometheus histogram's buckets, in seconds."""
    color = (
        heatmap.HeatmapColorOptions()
        .mode(heatmap_models.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .steps(64)
        .scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .reverse(False)
    )
    target = _make_target(Query(expr, "{{le}}"), 0, is_instant=False).format(PromQueryFormat.HEATMAP)
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(color)
        .y_axis(heatmap.YAxisConfig().unit(SECONDS))
        .unit(SECONDS)
        .no_value(empty)
        .with_target(target)
    )
    return _describe(panel, title, description, width, 8)


def make_table(
    title: str,
    description: str,
    keys: Mapping[str, str],
    columns: Sequence[Column],
    *,
    empty: str,
    width: int = 24,
    height: int = 8,
    sort_by: str | None = None,
) -> PanelBuilder:
    """Return a table: one row per combination of labels, one column per query.

    Args:
        title: the panel's title.
        description: what it shows and what to do about it.
        keys: the labels that identify a row, with the titles of their columns.
        columns: the amounts.
        empty: the text without data.
        width: of 24 columns.
        height: of cells.
        sort_by: title of the column that sorts the rows, largest first.

    """
    panel = table.Panel().show_header(True).no_value(empty).cell_height(options.TableCellHeight.SM)
    fields = dict(keys)
    for index, column in enumerate(columns):
        ref = _REFS[index]
        panel.with_target(_make_target(Query(column.expr), index, is_instant=True).format(PromQueryFormat.TABLE))
        fields["Value" if len(columns) == 1 else f"Value #{ref}"] = column.title
        properties = [models.DynamicConfigValue(id_val="unit", value=column.unit)]
        if column.decimals is not None:
            properties.append(models.DynamicConfigValue(id_val="decimals", value=column.decimals))
        panel.override_by_name(column.title, properties)
    if len(columns) > 1:
        panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    organize = {
        "excludeByName": {"Time": True},
        "indexByName": {name: index for index, name in enumerate(fields)},
        "renameByName": fields,
    }
    panel.with_transformation(models.DataTransformerConfig(id_val="organize", options=organize))
    if sort_by:
        panel.sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
    # Every column of amounts has a unit of its own; this one holds for labels.
    return _describe(panel.unit(units.NoUnit), title, description, width, height)


def make_matrix(
    title: str,
    description: str,
    expr: str,
    *,
    row: str,
    column: str,
    row_title: str,
    unit: str,
    empty: str,
    width: int = 12,
) -> PanelBuilder:
    """Return a table with the values of the label `row` as rows and those of the label `column` as columns."""
    target = _make_target(Query(expr), 0, is_instant=True).format(PromQueryFormat.TABLE)
    matrix = {"columnField": column, "rowField": row, "valueField": "Value", "emptyValue": "zero"}
    panel = (
        table.Panel()
        .show_header(True)
        .no_value(empty)
        .with_target(target)
        .with_transformation(models.DataTransformerConfig(id_val="groupingToMatrix", options=matrix))
        .override_by_name(f"{row}\\{column}", [models.DynamicConfigValue(id_val="displayName", value=row_title)])
        .unit(unit)
        .decimals(1)
    )
    return _describe(panel, title, description, width, 8)


_REFS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _make_target(query: Query, index: int, *, is_instant: bool) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).datasource(PROMETHEUS).ref_id(_REFS[index])
    if query.legend:
        target.legend_format(query.legend)
    if query.exemplar:
        target.exemplar(True)
    return target.instant() if is_instant else target.range()


def _finish(
    panel: _Plotted,
    title: str,
    description: str,
    queries: Query | Sequence[Query],
    unit: str,
    *,
    empty: str,
    size: tuple[int, int],
    is_instant: bool = False,
) -> _Plotted:
    for index, query in enumerate([queries] if isinstance(queries, Query) else queries):
        panel.with_target(_make_target(query, index, is_instant=is_instant))
    panel.unit(unit).no_value(empty)
    return _describe(panel, title, description, *size)


def _describe(panel: _Described, title: str, description: str, width: int, height: int) -> _Described:
    panel.title(title).description(description).datasource(PROMETHEUS).span(width).height(height)
    return panel


def _make_thresholds(steps: Mapping[float, str]) -> builders.ThresholdsConfig:
    found = [models.Threshold(value=None, color="green")]
    found += [models.Threshold(value=value, color=color) for value, color in sorted(steps.items())]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)
