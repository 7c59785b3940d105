"""The kinds of panels and variables that our dashboards are made of, with one look for all."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import NamedTuple, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

RUNBOOKS = "https://wiki.example.org/modelvigil/runbooks"
"""Where deploy/runbooks can be read: the same as in the rules of Prometheus."""
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "modelvigil"
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"
HIGH, LOW = 8, 4

_AnyPanel = TypeVar("_AnyPanel", stat.Panel, timeseries.Panel, table.Panel, bargauge.Panel, heatmap.Panel)


class Query(NamedTuple):
    """An expression, and what its series are called."""

    expr: str
    legend: str = ""


class About(NamedTuple):
    """What a panel shows, for whoever does not know it, and the page that helps when it looks bad."""

    title: str
    says: str
    runbook: str = ""
    """Below `RUNBOOKS`, without `.md`."""


Steps = Sequence[tuple[float | None, str]]
"""From each value on, this colour; the first one has no value."""
ZERO_IS_GOOD: Steps = ((None, GREEN), (1, RED))


def number(about: About, query: Query, unit: str, steps: Steps = ((None, BLUE),), span: int = 4) -> stat.Panel:
    """One number as it is now, with its past as a line behind it."""
    panel = _panel(stat.Panel(), about, [query], unit, (span, LOW), steps)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.color_mode(looks.BigValueColorMode.VALUE).graph_mode(looks.BigValueGraphMode.AREA)
    return panel.mappings([_nan_as("none")])


def lines(about: About, queries: Sequence[Query], unit: str, steps: Steps = (), span: int = 12) -> timeseries.Panel:
    """Lines over time; steps are drawn as dashed lines."""
    panel = _panel(timeseries.Panel(), about, queries, unit, (span, HIGH), steps)
    panel.fill_opacity(8).line_width(1).span_nulls(300_000)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(show_legend=True)
        .display_mode(looks.LegendDisplayMode.TABLE)
        .placement(looks.LegendPlacement.BOTTOM)
        .calcs(["lastNotNull", "max"])
    )
    panel.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING))
    if steps:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(looks.GraphTresholdsStyleMode.DASHED))
    return panel


def counts(about: About, by: str, series: str) -> timeseries.Panel:
    """Return a third of a row with sums by a label; where there is nothing to count it shows 0."""
    zero = f'label_replace(vector(0), "{by}", "none", "", "")'
    return stacked(about, [Query(f"sum by ({by}) ({series}) or {zero}", f"{{{{{by}}}}}")], "short", span=8)


def stacked(about: About, queries: Sequence[Query], unit: str, span: int = 12) -> timeseries.Panel:
    """Areas on top of each other, whose sum means something."""
    panel = lines(about, queries, unit, span=span)
    return panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL)).fill_opacity(30)


def bars(about: About, query: Query, unit: str, steps: Steps, span: int = 8) -> bargauge.Panel:
    """Things compared as they are now, one bar each."""
    panel = _panel(bargauge.Panel(), about, [query], unit, (span, HIGH), steps, instant=True)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.orientation(looks.VizOrientation.HORIZONTAL).display_mode(looks.BarGaugeDisplayMode.BASIC)
    return panel.min(0)


def buckets(about: About, query: Query, unit: str, span: int = 12) -> heatmap.Panel:
    """A histogram over time."""
    panel = _panel(heatmap.Panel(), about, [], unit, (span, HIGH), ())
    panel.with_target(_target(query, 0).format(PromQueryFormat.HEATMAP))
    panel.calculate(calculate=False).y_axis(heatmap.YAxisConfig().unit(unit)).cell_gap(1)
    return panel.color(heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))


class Column(NamedTuple):
    """A column of a table: a query, and how its values are shown."""

    title: str
    expr: str
    unit: str = "short"
    steps: Steps = ()


def rows(about: About, by: str, columns: Sequence[Column], link: str = "") -> table.Panel:
    """A table with one row for each value of a label. `link`: where a click on that value leads."""
    queries = [Query(column.expr) for column in columns]
    panel = _panel(table.Panel(), about, queries, "short", (24, HIGH + 2), (), instant=True)
    values = {f"Value #{letter}": column.title for letter, column in zip(ascii_uppercase, columns, strict=False)}
    panel.with_transformation(
        model.DataTransformerConfig(id_val="joinByField", options={"byField": by, "mode": "outer"})
    )
    order = {name: place for place, name in enumerate([by, *values])}
    kept = {"include": {"names": [by, *values]}}
    panel.with_transformation(model.DataTransformerConfig(id_val="filterFieldsByName", options=kept))
    panel.with_transformation(
        model.DataTransformerConfig(id_val="organize", options={"indexByName": order, "renameByName": values})
    )
    for column in columns:
        panel.override_by_name(column.title, _column_look(column))
    if link:
        target = {"title": "Details", "url": link}
        panel.override_by_name(by, [model.DynamicConfigValue(id_val="links", value=[target])])
    return panel


def _column_look(column: Column) -> list[model.DynamicConfigValue]:
    look = [model.DynamicConfigValue(id_val="unit", value=column.unit)]
    if column.steps:
        look.append(model.DynamicConfigValue(id_val="thresholds", value=_thresholds(column.steps).build()))
        look.append(model.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}))
    return look


def right_axis(panel: timeseries.Panel, names: str) -> timeseries.Panel:
    """Give series whose name fits a regular expression an axis of their own, without limits."""
    placement = model.DynamicConfigValue(id_val="custom.axisPlacement", value="right")
    return panel.override_by_regexp(names, [placement])


def choice(
    name: str, label: str, series: str, *, several: bool = True, of: str | None = None
) -> dashboard.QueryVariable:
    """A variable whose values are those that a label has in a series."""
    query = f"label_values({series}, {of or name})"
    variable = dashboard.QueryVariable(name).label(label).datasource(SOURCE)
    variable.query({"query": query, "refId": "variable"}).refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    variable.sort(model.VariableSort.NUMERICAL_ASC if name == "shard" else model.VariableSort.ALPHABETICAL_ASC)
    if several:
        everything = model.VariableOption(selected=True, text="All", value="$__all")
        variable.multi(multi=True).include_all(include_all=True).all_value(".*").current(everything)
    return variable


def board(uid: str, title: str, says: str) -> dashboard.Dashboard:
    """An empty dashboard with the choice of the Prometheus, and links to the other ones."""
    made = dashboard.Dashboard(title).uid(uid).description(says).tags([TAG]).readonly()
    made.refresh("30s").time("now-6h", "now").timezone("browser").tooltip(model.DashboardCursorSync.CROSSHAIR)
    made.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    others = dashboard.DashboardLink("modelvigil").type(model.DashboardLinkType.DASHBOARDS)
    made.link(
        others.tags([TAG]).as_dropdown(as_dropdown=False).keep_time(keep_time=True).include_vars(include_vars=True)
    )
    books = dashboard.DashboardLink("Runbooks").type(model.DashboardLinkType.LINK).url(f"{RUNBOOKS}/README.md")
    return made.link(books.icon("doc").target_blank(target_blank=True))


def _panel(
    panel: _AnyPanel,
    about: About,
    queries: Sequence[Query],
    unit: str,
    size: tuple[int, int],
    steps: Steps,
    *,
    instant: bool = False,
) -> _AnyPanel:
    panel.title(about.title).description(about.says).datasource(SOURCE).unit(unit).span(size[0]).height(size[1])
    for place, query in enumerate(queries):
        target = _target(query, place)
        panel.with_target(target.instant().format(PromQueryFormat.TABLE) if instant else target)
    if steps:
        panel.thresholds(_thresholds(steps))
    if about.runbook:
        page = dashboard.DashboardLink("Runbook").type(model.DashboardLinkType.LINK)
        panel.links([page.url(f"{RUNBOOKS}/{about.runbook}.md").target_blank(target_blank=True)])
    return panel


def _target(query: Query, place: int) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend or "__auto").datasource(SOURCE)
    return target.ref_id(ascii_uppercase[place]).range()


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    made = [model.Threshold(value=value, color=color) for value, color in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def _nan_as(text: str) -> model.SpecialValueMap:
    shown = model.ValueMappingResult(text=text)
    match = model.SpecialValueMatch.NULL_AND_NAN
    return model.SpecialValueMap(model.DashboardSpecialValueMapOptions(match=match, result=shown))
