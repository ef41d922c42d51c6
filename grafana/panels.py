"""The panels, variables and annotations of the dashboards, made of what `boards/*.yml` says.

Every panel has a description, and every query names its datasource by the
variable of that name, so the dashboards work wherever they are imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models import prometheus as prometheus_model
from grafana_foundation_sdk.models import units

SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_SERVER: Final = 'server=~"$server"'
_ALIASES: Final = f'{_SERVER},model=~"$model",alias=~"$alias"'
_SELECTORS: Final = {"<server>": _SERVER, "<aliases>": _ALIASES, "<releases>": f'{_ALIASES},release=~"$release"'}
"""What stands in a query of `boards/*.yml` for the labels that the dashboard's variables choose."""
_GOOD: Final = {0: ((None, "green"), (1, "red")), 1: ((None, "red"), (1, "green"))}
_SHAPES: Final = {
    "rows": prometheus_model.PromQueryFormat.TABLE,
    "histogram": prometheus_model.PromQueryFormat.HEATMAP,
}

Described = Mapping[str, Any]
"""A panel as `boards/*.yml` describes it."""
Steps = Sequence[Sequence[Any]]
Panel = Any
"""A panel's builder: the library's own have no type in common that has their methods."""


def panel(described: Described) -> Panel:
    """One panel; its first key is its kind, and says its title.

    Raises:
        ValueError: Its kind is unknown.
    """
    kind = next(iter(described))
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of panel {kind!r}; known: {', '.join(_KINDS)}")
    builder, width, height, finish = _KINDS[kind]
    made = builder().title(described[kind]).description(described["description"]).datasource(SOURCE)
    made = made.span(described.get("width", width)).height(described.get("height", height))
    for index, query in enumerate(described.get("queries") or [{**described, "expr": described["query"]}]):
        made = made.with_target(_query(kind, query, chr(ord("A") + index)))
    return finish(made, described)


def _query(kind: str, query: Described, ref: str) -> prometheus.Dataquery:
    shape = _SHAPES.get(kind, prometheus_model.PromQueryFormat.TIME_SERIES)
    built = prometheus.Dataquery().expr(_expanded(query["expr"])).ref_id(ref).datasource(SOURCE).format(shape)
    built = built.editor_mode(prometheus_model.QueryEditorMode.CODE)
    built = built.instant() if kind in {"figure", "rows"} else built.range()
    return built.legend_format(query["legend"]) if "legend" in query else built


def _expanded(expr: str) -> str:
    for name, selector in _SELECTORS.items():
        expr = expr.replace(name, selector)
    return expr


def _steps(steps: Steps) -> dashboard.ThresholdsConfig:
    found = [model.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(found)


def _lines(made: Panel, described: Described) -> Panel:
    """Curves over time; `limit` draws a line where it gets bad."""
    made = made.unit(described.get("unit", units.Short)).min(0)
    made = made.fill_opacity(8).show_points(common_model.VisibilityMode.NEVER)
    legend = common.VizLegendOptions().show_legend(True).placement(common_model.LegendPlacement.BOTTOM)
    made = made.legend(legend.display_mode(common_model.LegendDisplayMode.LIST).calcs(["lastNotNull"]))
    tooltip = common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI)
    made = made.tooltip(tooltip.sort(common_model.SortOrder.DESCENDING))
    if "limit" in described:
        style = common.GraphThresholdsStyleConfig().mode(common_model.GraphTresholdsStyleMode.DASHED)
        made = made.thresholds(_steps(((None, "green"), (described["limit"], "red")))).thresholds_style(style)
    return made


def _figure(made: Panel, described: Described) -> Panel:
    """One number of now for each series; `good` says which value is green, or `steps` which value has which colour.

    `words` are shown instead of values, and `show_legend` shows the series' name instead of its value.
    """
    steps = described.get("steps") or _GOOD.get(described.get("good"), ((None, "text"),))
    made = made.unit(described.get("unit", units.Short)).thresholds(_steps(steps))
    made = made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    made = made.graph_mode(common_model.BigValueGraphMode.NONE)
    if described.get("show_legend"):
        made = made.text_mode(common_model.BigValueTextMode.NAME)
    if "words" in described:
        shown = {value: model.ValueMappingResult(text=text) for value, text in described["words"].items()}
        made = made.mappings([model.ValueMap(options=shown)])
    return made


def _rows(made: Panel, described: Described) -> Panel:
    """A table of now. Several queries are joined by the labels that they share.

    `columns` maps a label, or ``Value #A`` for the value of the first query, to its heading, in this order.
    """
    made = made.show_header(True)
    columns: Mapping[str, str] = described["columns"]
    if "queries" in described:
        made = made.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    shown = {"include": {"pattern": f"^({'|'.join(columns)})$"}}
    made = made.with_transformation(model.DataTransformerConfig(id_val="filterFieldsByName", options=shown))
    order = {name: index for index, name in enumerate(columns)}
    options = {"indexByName": order, "renameByName": dict(columns), "excludeByName": {}}
    return made.with_transformation(model.DataTransformerConfig(id_val="organize", options=options))


def _states(made: Panel, _: Described) -> Panel:
    """A bar for each series, as long as it is there."""
    made = made.merge_values(True).show_value(common_model.VisibilityMode.NEVER)
    return made.thresholds(_steps(((None, "green"),)))


def _histogram(made: Panel, _: Described) -> Panel:
    """The buckets of a histogram, over time."""
    made = made.calculate(False).y_axis(heatmap.YAxisConfig().unit(units.Seconds))
    color = heatmap.HeatmapColorOptions().mode(heatmap_model.HeatmapColorMode.SCHEME).scheme("Blues").steps(64)
    return made.color(color)


_KINDS: Final[Mapping[str, tuple[Callable[[], Panel], int, int, Callable[[Panel, Described], Panel]]]] = {
    "lines": (timeseries.Panel, 12, 8, _lines),
    "figure": (stat.Panel, 4, 4, _figure),
    "rows": (table.Panel, 24, 8, _rows),
    "states": (statetimeline.Panel, 24, 6, _states),
    "histogram": (heatmap.Panel, 12, 8, _histogram),
}
"""Of each kind of panel: its builder, its width (of 24) and height where none is given, and what else it needs."""


def labels_of(label: str, query: str, *, every: bool = True) -> dashboard.QueryVariable:
    """A variable whose values are the values of `label` in the series of `query`.

    Args:
        label: Whose values; the variable has its name.
        query: A selector; may use variables before it.
        every: Several at a time, or all of them.
    """
    built = dashboard.QueryVariable(label).label(label).datasource(SOURCE)
    built = built.query({"query": f"label_values({query}, {label})", "refId": label})
    built = built.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    built = built.sort(model.VariableSort.ALPHABETICAL_ASC)
    if every:
        everything = model.VariableOption(selected=True, text=["All"], value=["$__all"])
        built = built.multi(True).include_all(True).all_value(".*").current(everything)
    return built


class Annotation:
    """Events that a query finds; Grafana marks where a series of it begins."""

    def __init__(self, name: str, expr: str, title: str, color: str) -> None:
        expr = _expanded(expr)
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


ANNOTATIONS: Final = {
    "switches": Annotation(
        "switches",
        "(policyctl_alias_info{<aliases>} unless policyctl_alias_info offset 20s)"
        " and on (server) policyctl_build_info offset 20s",
        "{{model}} ({{alias}}) serves {{release}}",
        "blue",
    ),
    "failed moves": Annotation(
        "moves that ended otherwise",
        'increase(policyctl_moves_total{<aliases>,outcome!="done"}[20s]) > 0',
        "{{kind}} of {{model}} ({{alias}}): {{outcome}}",
        "red",
    ),
    "alerts": Annotation(
        "alerts",
        'ALERTS{alertname=~"Policy.*",alertstate="firing"}',
        "{{alertname}} {{model}} {{alias}}",
        "orange",
    ),
}


def board(described: Described) -> dashboard.Dashboard:
    """A dashboard with links to the others."""
    made = dashboard.Dashboard(described["title"]).uid(described["uid"]).description(described["description"])
    made = made.tags(["policyctl"]).timezone("browser").refresh("10s").time("now-1h", "now")
    made = made.tooltip(model.DashboardCursorSync.CROSSHAIR).readonly()
    links = dashboard.DashboardLink("policyctl").type(model.DashboardLinkType.DASHBOARDS).tags(["policyctl"])
    made = made.link(links.keep_time(True).include_vars(True).as_dropdown(True))
    made = made.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    made = made.with_variable(labels_of("server", "policyctl_build_info"))
    chosen = _SERVER
    for label in described["variables"]:
        every = label != "model" or not described.get("one_model")
        made = made.with_variable(labels_of(label, f"policyctl_alias_info{{{chosen}}}", every=every))
        chosen += f',{label}=~"${label}"'
    for name in described["annotations"]:
        made = made.annotation(ANNOTATIONS[name])  # type: ignore[arg-type]
    for each in described["panels"]:
        made = made.with_panel(panel(each))
    return made
