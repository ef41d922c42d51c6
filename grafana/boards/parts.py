"""What every dashboard is made of: variables, queries, panels and the annotations of the journal.

Every panel has a description, and every query names its datasource by the
variable of that name, so the dashboards work wherever they are imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import prometheus as prometheus_model
from grafana_foundation_sdk.models import units

SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG: Final = "policyctl"
ALIASES: Final = 'server=~"$server",model=~"$model",alias=~"$alias"'
RELEASES: Final = ALIASES + ',release=~"$release"'
SERVER: Final = 'server=~"$server"'
GOOD_IS_ZERO: Final = ((None, "green"), (1, "red"))
GOOD_IS_ONE: Final = ((None, "red"), (1, "green"))
NEUTRAL: Final = ((None, "text"),)

Steps = Sequence[tuple[float | None, str]]
Panel = Any
"""A panel's builder: the library's own have no type in common that has their methods."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL, with the dashboard's variables.
        legend: How a series is called.
        instant: Its value of now, not over the time that is shown.
        columns: Its labels as columns of a table.
        buckets: Its series are the buckets of a histogram.
    """

    expr: str
    legend: str = ""
    instant: bool = False
    columns: bool = False
    buckets: bool = False

    def build(self, ref: str) -> Builder[Any]:
        """The query for Grafana."""
        formats = prometheus_model.PromQueryFormat
        shape = formats.TABLE if self.columns else formats.HEATMAP if self.buckets else formats.TIME_SERIES
        built = prometheus.Dataquery().expr(self.expr).ref_id(ref).datasource(SOURCE).format(shape)
        built = built.editor_mode(prometheus_model.QueryEditorMode.CODE)
        built = built.instant() if self.instant or self.columns else built.range()
        return built.legend_format(self.legend) if self.legend else built


def _filled(panel: Any, title: str, description: str, queries: Sequence[Query], width: int, height: int) -> Any:
    panel = panel.title(title).description(description).datasource(SOURCE).span(width).height(height)
    for index, query in enumerate(queries):
        panel = panel.with_target(query.build(chr(ord("A") + index)))
    return panel


def _steps(steps: Steps) -> dashboard.ThresholdsConfig:
    found = [model.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str = units.Short,
    width: int = 12,
    height: int = 8,
    limit: float | None = None,
) -> Panel:
    """Curves over time; `limit` draws a line where it gets bad."""
    panel = _filled(timeseries.Panel(), title, description, queries, width, height).unit(unit).min(0)
    panel = panel.fill_opacity(8).show_points(common_model.VisibilityMode.NEVER)
    legend = common.VizLegendOptions().show_legend(True).placement(common_model.LegendPlacement.BOTTOM)
    panel = panel.legend(legend.display_mode(common_model.LegendDisplayMode.LIST).calcs(["lastNotNull"]))
    tooltip = common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI)
    panel = panel.tooltip(tooltip.sort(common_model.SortOrder.DESCENDING))
    if limit is not None:
        style = common.GraphThresholdsStyleConfig().mode(common_model.GraphTresholdsStyleMode.DASHED)
        panel = panel.thresholds(_steps(((None, "green"), (limit, "red")))).thresholds_style(style)
    return panel


def figure(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str = units.Short,
    steps: Steps = NEUTRAL,
    width: int = 4,
    words: Mapping[str, str] | None = None,
    name: bool = False,
) -> Panel:
    """One number of now.

    Args:
        title: Of the panel.
        description: What it says.
        query: An instant one; each of its series is a number.
        unit: Grafana's.
        steps: From which value on it has which colour.
        width: Of 24.
        words: What to show instead of a value.
        name: Show what the series is called, not its value.
    """
    panel = _filled(stat.Panel(), title, description, [query], width, 4).unit(unit).thresholds(_steps(steps))
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel = panel.graph_mode(common_model.BigValueGraphMode.NONE)
    if name:
        panel = panel.text_mode(common_model.BigValueTextMode.NAME)
    if words:
        shown = {value: model.ValueMappingResult(text=text) for value, text in words.items()}
        panel = panel.mappings([model.ValueMap(options=shown)])
    return panel


def rows(
    title: str, description: str, *queries: Query, columns: Mapping[str, str], width: int = 24, height: int = 8
) -> Panel:
    """A table of now.

    Args:
        title: Of the panel.
        description: What it says.
        queries: With `Query.columns`; several are joined by the labels that they share.
        columns: Label, or ``Value #A`` for the value of the first query, to heading; in this order, all else is hidden.
        width: Of 24.
        height: Of the panel.
    """
    panel = _filled(table.Panel(), title, description, queries, width, height).show_header(True)
    if len(queries) > 1:
        panel = panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    kept = "^(" + "|".join(columns) + ")$"
    panel = panel.with_transformation(
        model.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"pattern": kept}})
    )
    order = {name: index for index, name in enumerate(columns)}
    return panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize", options={"indexByName": order, "renameByName": dict(columns), "excludeByName": {}}
        )
    )


def states(title: str, description: str, query: Query, *, width: int = 24, height: int = 6) -> Panel:
    """A bar for each series, as long as it is there."""
    panel = _filled(statetimeline.Panel(), title, description, [query], width, height)
    panel = panel.merge_values(True).show_value(common_model.VisibilityMode.NEVER)
    return panel.thresholds(_steps(((None, "green"),)))


def histogram(title: str, description: str, query: Query, *, width: int = 12, height: int = 8) -> Panel:
    """The buckets of a histogram, over time."""
    panel = _filled(heatmap.Panel(), title, description, [query], width, height).calculate(False)
    panel = panel.y_axis(heatmap.YAxisConfig().unit(units.Seconds))
    color = heatmap.HeatmapColorOptions().mode(heatmap_model.HeatmapColorMode.SCHEME).scheme("Blues").steps(64)
    return panel.color(color)


def labels_of(name: str, label: str, query: str, *, every: bool = True) -> dashboard.QueryVariable:
    """A variable whose values are the values of `label` in the series of `query`.

    Args:
        name: Of the variable.
        label: Whose values.
        query: A selector; may use variables before it.
        every: Several at a time, or all of them.
    """
    built = dashboard.QueryVariable(name).label(name).datasource(SOURCE)
    asked: dict[str, object] = {"query": f"label_values({query}, {label})", "refId": f"{name}"}
    built = built.query(asked).refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    built = built.sort(model.VariableSort.ALPHABETICAL_ASC)
    if every:
        everything = model.VariableOption(selected=True, text=["All"], value=["$__all"])
        built = built.multi(True).include_all(True).all_value(".*").current(everything)
    return built


class Annotation:
    """Events that a query finds; Grafana marks where a series of it begins."""

    def __init__(self, name: str, expr: str, title: str, color: str) -> None:
        self._payload = {
            "name": name,
            "datasource": SOURCE,
            "enable": True,
            "iconColor": color,
            "expr": expr,
            "titleFormat": title,
            "step": "10s",
            "target": {"expr": expr, "refId": name, "datasource": SOURCE},
        }

    def build(self) -> Any:
        """The annotation for Grafana; the library's own class lacks what its Prometheus source reads."""
        return dict(self._payload)


SWITCHES: Final = Annotation(
    "switches",
    f"(policyctl_alias_info{{{ALIASES}}} unless policyctl_alias_info offset 20s)"
    " and on (server) policyctl_build_info offset 20s",
    "{{model}} ({{alias}}) serves {{release}}",
    "blue",
)
FAILED_MOVES: Final = Annotation(
    "moves that ended otherwise",
    f'increase(policyctl_moves_total{{{ALIASES},outcome!="done"}}[20s]) > 0',
    "{{kind}} of {{model}} ({{alias}}): {{outcome}}",
    "red",
)
ALERTS: Final = Annotation(
    "alerts",
    'ALERTS{alertname=~"Policy.*",alertstate="firing"}',
    "{{alertname}} {{model}} {{alias}}",
    "orange",
)


def board(
    uid: str, title: str, description: str, *, variables: Sequence[Any], annotations: Sequence[Annotation]
) -> dashboard.Dashboard:
    """An empty dashboard with links to the others."""
    made = dashboard.Dashboard(title).uid(uid).description(description).tags([TAG]).timezone("browser").refresh("10s")
    made = made.time("now-1h", "now").tooltip(model.DashboardCursorSync.CROSSHAIR).readonly()
    links = dashboard.DashboardLink("policyctl").type(model.DashboardLinkType.DASHBOARDS).tags([TAG])
    made = made.link(links.keep_time(True).include_vars(True).as_dropdown(True))
    source = dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    server = labels_of("server", "server", "policyctl_build_info")
    for variable in (source, server, *variables):
        made = made.with_variable(variable)
    for annotation in annotations:
        made = made.annotation(annotation)  # type: ignore[arg-type]
    return made
