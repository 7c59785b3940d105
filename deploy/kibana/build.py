"""Writes the saved objects of Kibana and of OpenSearch Dashboards: `python deploy/kibana/build.py`.

Both descend from one program, and share its classic visualisations; what is written around these differs. Queries are
in the syntax of Lucene, because a server can be asked the very same: tests/integrations/test_dashboards.py does.
"""
# ruff: noqa: INP001 - a script beside what it writes, in no package

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

Json = dict[str, Any]
Flavour = Literal["kibana", "opensearch-dashboards"]

ALERTS, METRICS = "modelvigil-alerts-*", "modelvigil-metrics-*"
MAINTENANCE, DEAD_LETTERS = "modelvigil-maintenance-*", "modelvigil-dead-letters-*"
DATA_VIEWS = (ALERTS, METRICS, MAINTENANCE, DEAD_LETTERS)

_PANE = "modelvigil.kind:pane"
_PERFORMANCE = (
    "modelvigil.kind:performance AND modelvigil.window:pane AND modelvigil.order:label_arrival "
    "AND NOT _exists_:modelvigil.segment.name"
)
_OPENED = "modelvigil.status:opened"
_WIDTH = 48
_VERSIONS: Mapping[Flavour, Mapping[str, str]] = {
    "kibana": {"index-pattern": "8.0.0", "visualization": "8.5.0", "search": "8.0.0", "dashboard": "8.9.0"},
    "opensearch-dashboards": {
        "index-pattern": "7.6.0",
        "visualization": "7.10.0",
        "search": "7.9.3",
        "dashboard": "7.9.3",
    },
}
"""Of the formats of the objects: newer programs bring them up to date when they import them."""


class Panel(NamedTuple):
    """One part of a dashboard."""

    title: str
    view: str
    kind: Literal["metric", "line", "histogram", "horizontal_bar", "table", "search"]
    query: str
    aggregations: Sequence[Json]
    """Of a search: one for each column."""
    width: int
    height: int


class Dashboard(NamedTuple):
    """Panels, from left to right and from top to bottom."""

    title: str
    description: str
    panels: Sequence[Panel]


def _value(kind: str, label: str, field: str | None = None) -> Json:
    return {"type": kind, "schema": "metric", "params": {"customLabel": label} | ({"field": field} if field else {})}


def _over_time() -> Json:
    params = {"field": "@timestamp", "interval": "auto", "min_doc_count": 1, "useNormalizedEsInterval": True}
    return {"type": "date_histogram", "schema": "segment", "params": params | {"drop_partials": False}}


def _by(field: str, label: str, *, schema: str = "group", size: int = 10) -> Json:
    params = {"field": field, "size": size, "order": "desc", "orderBy": "1", "otherBucket": False}
    # Of rows of a table none may vanish because a record says nothing there: many models have no version.
    missing = {"missingBucket": schema == "bucket", "missingBucketLabel": "(none)"}
    return {"type": "terms", "schema": schema, "params": params | missing | {"customLabel": label}}


_BY_MODEL = _by("modelvigil.model_id", "model")


def _trend(title: str, value: Json, *, query: str, view: str = METRICS) -> Panel:
    return Panel(title, view, "line", query, (value, _over_time(), _BY_MODEL), 24, 12)


def _ranking(title: str, field: str, label: str, *, view: str, query: str = "") -> Panel:
    count = _value("count", "events")
    return Panel(title, view, "horizontal_bar", query, (count, _by(field, label, schema="segment")), 16, 12)


def _performance(title: str, field: str, *, kind: str = "avg") -> Panel:
    return _trend(title, _value(kind, title, f"modelvigil.{field}"), query=_PERFORMANCE)


_COUNT = _value("count", "steps")
_INCIDENTS = _value("cardinality", "incidents", "modelvigil.incident_id")
_LATEST = ("modelvigil.severity", "modelvigil.status", "modelvigil.kind", "modelvigil.model_id", "message")
_REJECTED = ("modelvigil.reason", "modelvigil.topic", "modelvigil.partition", "modelvigil.offset", "modelvigil.detail")
_SEVERITY = _by("modelvigil.severity", "severity")

DASHBOARDS = (
    Dashboard(
        "modelvigil: alerts",
        "Incidents of models: how many, of what kind, which models and features; maintenance events and dead letters.",
        (
            Panel("Incidents", ALERTS, "metric", "", (_INCIDENTS,), 12, 8),
            Panel(
                "Opened, critical", ALERTS, "metric", f"{_OPENED} AND modelvigil.severity:critical", (_COUNT,), 12, 8
            ),
            Panel("Opened by severity", ALERTS, "histogram", _OPENED, (_COUNT, _over_time(), _SEVERITY), 24, 8),
            _ranking("Opened by kind", "modelvigil.kind", "kind", view=ALERTS, query=_OPENED),
            _ranking("Opened by model", "modelvigil.model_id", "model", view=ALERTS, query=_OPENED),
            _ranking("Most unusual features", "modelvigil.headline.name", "feature", view=ALERTS, query=_OPENED),
            Panel(
                "Strongest by kind",
                ALERTS,
                "table",
                "",
                (
                    _value("max", "strength (doublings)", "modelvigil.strength"),
                    _INCIDENTS,
                    _by("modelvigil.kind", "kind", schema="bucket", size=25),
                ),
                24,
                12,
            ),
            Panel(
                "Maintenance events",
                MAINTENANCE,
                "table",
                "",
                (
                    _value("count", "events"),
                    _by("modelvigil.kind", "kind", schema="bucket", size=30),
                    _by("modelvigil.model_id", "model", schema="bucket"),
                ),
                24,
                12,
            ),
            Panel("Latest steps", ALERTS, "search", "", [{"field": field} for field in _LATEST], 48, 16),
            _ranking("Dead letters by reason", "modelvigil.reason", "reason", view=DEAD_LETTERS),
            Panel("Dead letters", DEAD_LETTERS, "search", "", [{"field": field} for field in _REJECTED], 32, 12),
        ),
    ),
    Dashboard(
        "modelvigil: metrics",
        "What models do, by pane: traffic, unusual events, drift, predictions; and what labels say of them.",
        (
            _trend("Events", _value("sum", "events", "modelvigil.events"), query=_PANE),
            _trend("Unusual events (share)", _value("avg", "share", "modelvigil.anomaly_rate"), query=_PANE),
            _trend("Drift of the worst feature (PSI)", _value("max", "PSI", "modelvigil.drift_psi"), query=_PANE),
            _trend("Prediction, mean", _value("avg", "mean", "modelvigil.prediction.mean"), query=_PANE),
            _trend(
                "Prediction, standard deviation",
                _value("avg", "standard deviation", "modelvigil.prediction.standard_deviation"),
                query=_PANE,
            ),
            _performance("Labelled events", "labelled", kind="sum"),
            _performance("Accuracy", "metrics.accuracy.value"),
            _performance("F1, macro", "metrics.f1_macro.value"),
            _performance("R²", "metrics.r2.value"),
            _performance("MSE", "metrics.mse.value"),
            _performance("Label lag, median (ms)", "label_lag.median.value"),
            Panel(
                "Models",
                METRICS,
                "table",
                _PANE,
                (
                    _value("sum", "events", "modelvigil.events"),
                    _value("avg", "unusual (share)", "modelvigil.anomaly_rate"),
                    _value("max", "drift (PSI)", "modelvigil.drift_psi"),
                    _value("max", "latest pane", "modelvigil.pane_end_ms"),
                    _by("modelvigil.model_id", "model", schema="bucket", size=100),
                    _by("modelvigil.model_version", "version", schema="bucket"),
                ),
                24,
                12,
            ),
        ),
    ),
)


def render(flavour: Flavour) -> str:
    """Return all objects, one to a line."""
    objects = [
        _saved(flavour, "index-pattern", view, {"title": view, "timeFieldName": "@timestamp"}) for view in DATA_VIEWS
    ]
    for dashboard in DASHBOARDS:
        objects += [_panel(flavour, dashboard, panel) for panel in dashboard.panels]
        objects.append(_dashboard(flavour, dashboard))
    return "".join(json.dumps(each, ensure_ascii=False, sort_keys=True) + "\n" for each in objects)


def _identifier(*names: str) -> str:
    letters = "".join(each if each.isalnum() else "-" for each in "-".join(names).lower())
    return "-".join(filter(None, letters.split("-")))


def _saved(flavour: Flavour, kind: str, name: str, attributes: Json, references: Sequence[Json] = ()) -> Json:
    version = _VERSIONS[flavour][kind]
    stamps: Json = {"migrationVersion": {kind: version}}
    if flavour == "kibana":
        stamps = {"coreMigrationVersion": "8.8.0", "typeMigrationVersion": version}
    found = {"type": kind, "id": _identifier(name), "attributes": attributes, "references": list(references)}
    return found | stamps


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _panel(flavour: Flavour, dashboard: Dashboard, panel: Panel) -> Json:
    source = {
        "query": {"query": panel.query, "language": "lucene"},
        "filter": [],
        "indexRefName": "kibanaSavedObjectMeta.searchSourceJSON.index",
    }
    reference = {"name": source["indexRefName"], "type": "index-pattern", "id": _identifier(panel.view)}
    attributes: Json = {
        "title": f"{dashboard.title}: {panel.title}",
        "description": "",
        "version": 1,
        "kibanaSavedObjectMeta": {"searchSourceJSON": _text(source)},
    }
    kind = "visualization"
    if panel.kind == "search":
        kind = "search"
        columns = [column["field"] for column in panel.aggregations]
        attributes |= {"columns": columns, "sort": [["@timestamp", "desc"]]}
    else:
        attributes |= {"visState": _text(_state(attributes["title"], panel)), "uiStateJSON": "{}"}
    return _saved(flavour, kind, attributes["title"], attributes, [reference])


def _dashboard(flavour: Flavour, dashboard: Dashboard) -> Json:
    panels, references = [], []
    for number, (panel, place) in enumerate(zip(dashboard.panels, _places(dashboard.panels), strict=True)):
        index, name = str(number), f"panel_{number}"
        kind = "search" if panel.kind == "search" else "visualization"
        panels.append(
            {
                "panelIndex": index,
                "gridData": place | {"i": index},
                "embeddableConfig": {"title": panel.title},
                "title": panel.title,
                "panelRefName": name,
                "type": kind,
                "version": "8.9.0" if flavour == "kibana" else "2.11.0",
            }
        )
        identifier = _identifier(dashboard.title, panel.title)
        references.append({"name": f"{index}:{name}" if flavour == "kibana" else name, "type": kind, "id": identifier})
    attributes = {
        "title": dashboard.title,
        "description": dashboard.description,
        "version": 1,
        "timeRestore": True,
        "timeFrom": "now-24h",
        "timeTo": "now",
        "refreshInterval": {"pause": False, "value": 60_000},
        "optionsJSON": _text({"useMargins": True, "hidePanelTitles": False, "syncColors": True}),
        "panelsJSON": _text(panels),
        "kibanaSavedObjectMeta": {
            "searchSourceJSON": _text({"query": {"query": "", "language": "lucene"}, "filter": []})
        },
    }
    return _saved(flavour, "dashboard", dashboard.title, attributes, references)


def _places(panels: Sequence[Panel]) -> Iterator[Json]:
    """Fill rows from left to right; a row is as high as its highest panel."""
    x = y = height = 0
    for panel in panels:
        if x + panel.width > _WIDTH:
            x, y, height = 0, y + height, 0
        yield {"x": x, "y": y, "w": panel.width, "h": panel.height}
        x, height = x + panel.width, max(height, panel.height)


def _state(title: str, panel: Panel) -> Json:
    aggregations = [{"id": str(number), "enabled": True} | each for number, each in enumerate(panel.aggregations, 1)]
    if panel.kind == "metric":
        parameters = _METRIC
    elif panel.kind == "table":
        parameters = _TABLE
    else:
        parameters = _chart(panel)
    return {"title": title, "type": panel.kind, "aggs": aggregations, "params": parameters}


_METRIC: Json = {
    "type": "metric",
    "addTooltip": True,
    "addLegend": False,
    "metric": {
        "percentageMode": False,
        "useRanges": False,
        "colorSchema": "Green to Red",
        "metricColorMode": "None",
        "colorsRange": [{"from": 0, "to": 10_000}],
        "labels": {"show": True},
        "invertColors": False,
        "style": {"bgFill": "#000", "bgColor": False, "labelColor": False, "subText": "", "fontSize": 36},
    },
}
_TABLE: Json = {
    "perPage": 10,
    "showPartialRows": False,
    "showMetricsAtAllLevels": False,
    "showTotal": False,
    "showToolbar": True,
    "totalFunc": "sum",
    "percentageCol": "",
}


def _chart(panel: Panel) -> Json:
    """Parameters of a chart with axes. What one of the two programs does not know it leaves alone."""
    lying = panel.kind == "horizontal_bar"
    bars = panel.kind != "line"
    label = panel.aggregations[0]["params"]["customLabel"]
    series = {
        "show": True,
        "type": "histogram" if bars else "line",
        "mode": "stacked" if bars else "normal",
        "data": {"label": label, "id": "1"},
        "valueAxis": "ValueAxis-1",
        "drawLinesBetweenPoints": True,
        "lineWidth": 2,
        "interpolate": "linear",
        "showCircles": True,
        "circlesRadius": 1,
    }
    category = {
        "id": "CategoryAxis-1",
        "type": "category",
        "position": "left" if lying else "bottom",
        "show": True,
        "style": {},
        "scale": {"type": "linear"},
        "labels": {"show": True, "rotate": 0, "filter": not lying, "truncate": 200 if lying else 100},
        "title": {},
    }
    value = {
        "id": "ValueAxis-1",
        "name": "BottomAxis-1" if lying else "LeftAxis-1",
        "type": "value",
        "position": "bottom" if lying else "left",
        "show": True,
        "style": {},
        "scale": {"type": "linear", "mode": "normal"},
        "labels": {"show": True, "rotate": 0, "filter": True, "truncate": 100},
        "title": {"text": label},
    }
    return {
        "type": panel.kind,
        "grid": {"categoryLines": False},
        "categoryAxes": [category],
        "valueAxes": [value],
        "seriesParams": [series],
        "addTooltip": True,
        "addLegend": not lying,
        "legendPosition": "right",
        "legendSize": "auto",
        "truncateLegend": True,
        "maxLegendLines": 1,
        "times": [],
        "addTimeMarker": False,
        "detailedTooltip": True,
        "isVislibVis": True,
        "palette": {"type": "palette", "name": "default"},
        "radiusRatio": 0,
        "labels": {"show": False},
        "thresholdLine": {"show": False, "value": 10, "width": 1, "style": "full", "color": "#E7664C"},
    }


def main() -> None:
    """Write both files."""
    folder = Path(__file__).parent.parent
    for flavour in _VERSIONS:
        (folder / flavour / "modelvigil.ndjson").write_text(render(flavour), encoding="utf-8")


if __name__ == "__main__":
    main()
