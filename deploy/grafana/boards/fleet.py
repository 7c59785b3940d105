"""The overview: all models at a glance, and whether the workers keep up."""

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.boards.panels import (
    GREEN,
    RED,
    YELLOW,
    ZERO_IS_GOOD,
    About,
    Column,
    Query,
    Steps,
    bars,
    board,
    choice,
    counts,
    lines,
    number,
    rows,
    stacked,
)

_DRIFT: Steps = ((None, GREEN), (0.1, YELLOW), (0.25, RED))
_COVERAGE: Steps = ((None, RED), (0.2, YELLOW), (0.5, GREEN))
_UNUSUAL: Steps = ((None, GREEN), (0.01, YELLOW), (0.02, RED))
_LATENCY: Steps = ((None, GREEN), (0.5, YELLOW), (2, RED))
_LAG: Steps = ((None, GREEN), (10, YELLOW), (60, RED))
_MODEL = "/d/modelvigil-model?var-model=${__data.fields.model}&${__url_time_range}"


def fleet() -> dashboard.Dashboard:
    """Build the dashboard."""
    made = board("modelvigil-fleet", "modelvigil: all models", "Which model needs a look, and do the workers keep up?")
    made.with_variable(choice("job", "Job", "modelvigil_ready"))
    _now(made)
    _models(made)
    _flow(made)
    return made


def _now(made: dashboard.Dashboard) -> None:
    for panel in (
        number(
            About(
                "Critical incidents", "Open incidents of severity critical.", "prometheus/ModelvigilCriticalIncident"
            ),
            Query('sum(modelvigil_incidents_open{job=~"$job", severity="critical"}) or vector(0)'),
            "short",
            ZERO_IS_GOOD,
        ),
        number(
            About("Firing alerts", "Alerts of our rules that fire in Prometheus now.", "prometheus/README"),
            Query('count(ALERTS{alertname=~"Modelvigil.+", alertstate="firing"}) or vector(0)'),
            "short",
            ZERO_IS_GOOD,
        ),
        number(
            About(
                "Workers not ready", "Workers that do not answer, or are not ready.", "prometheus/ModelvigilNotReady"
            ),
            Query('count(up{job=~"$job"} == 0 or modelvigil_ready{job=~"$job"} == 0) or vector(0)'),
            "short",
            ZERO_IS_GOOD,
        ),
        number(
            About("Models", "Models with a complete pane."),
            Query('count(count by (model) (modelvigil_model_window_end_timestamp_seconds{job=~"$job"}))'),
            "short",
        ),
        number(
            About("Events", "Prediction events processed per second, all workers."),
            Query('sum(rate(modelvigil_events_processed_total{job=~"$job"}[$__rate_interval]))'),
            "cps",
        ),
        number(
            About(
                "Behind", "Age of the newest record of the worker that is most behind.", "prometheus/ModelvigilLagging"
            ),
            Query('max(modelvigil_consumer_lag_seconds{job=~"$job"})'),
            "s",
            _LAG,
        ),
    ):
        made.with_panel(panel)


def _models(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Models"))
    made.with_panel(
        rows(
            About(
                "All models",
                "The last complete window of each model, over all shards. An empty cell: not known, or of no meaning "
                "for this kind of model. Click on a model for its own dashboard.",
            ),
            "model",
            [
                Column(
                    "Critical",
                    'sum by (model) (modelvigil_incidents_open{job=~"$job", severity="critical"})',
                    "short",
                    ZERO_IS_GOOD,
                ),
                Column("Warnings", 'sum by (model) (modelvigil_incidents_open{job=~"$job", severity="warning"})'),
                Column("Accuracy", "model:modelvigil_model_accuracy_ratio:mean", "percentunit"),
                Column("R²", "model:modelvigil_model_r2_score:mean"),
                Column("Drift (PSI)", "model:modelvigil_model_drift_psi:max", "short", _DRIFT),
                Column("Unusual", "model:modelvigil_model_anomaly_ratio:mean", "percentunit", _UNUSUAL),
                Column("Labelled", "model:modelvigil_model_label_coverage_ratio:mean", "percentunit", _COVERAGE),
                Column("Events", "model:modelvigil_model_events:rate5m", "cps"),
                Column(
                    "Window ended",
                    'time() - max by (model) (modelvigil_model_window_end_timestamp_seconds{job=~"$job"})',
                    "s",
                ),
            ],
            _MODEL,
        )
    )
    for panel in (
        bars(
            About("Lowest accuracy", "The ten models with the lowest accuracy.", "performance.drop"),
            Query("sort(bottomk(10, model:modelvigil_model_accuracy_ratio:mean))", "{{model}}"),
            "percentunit",
            ((None, RED), (0.7, YELLOW), (0.9, GREEN)),
        ),
        bars(
            About(
                "Most drift",
                "The ten models whose inputs have drifted most: population stability index of the worst feature.",
                "drift.input",
            ),
            Query("sort_desc(topk(10, model:modelvigil_model_drift_psi:max))", "{{model}}"),
            "short",
            _DRIFT,
        ),
        bars(
            About("Fewest labels", "The ten models with the lowest share of labelled predictions.", "label.coverage"),
            Query("sort(bottomk(10, model:modelvigil_model_label_coverage_ratio:mean))", "{{model}}"),
            "percentunit",
            _COVERAGE,
        ),
        counts(
            About("Open incidents", "By severity, all models.", "README"),
            "severity",
            'modelvigil_incidents_open{job=~"$job"}',
        ),
        counts(
            About("Incidents opened", "In the last hour, by kind.", "README"),
            "kind",
            "model_kind:modelvigil_incidents_opened:increase1h",
        ),
        lines(
            About("Most unusual", "Share of unusual events, the ten models with the highest.", "anomaly.rate"),
            [Query("topk(10, model:modelvigil_model_anomaly_ratio:mean)", "{{model}}")],
            "percentunit",
            _UNUSUAL,
            span=8,
        ),
    ):
        made.with_panel(panel)


def _flow(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Flow"))
    for panel in (
        lines(
            About("Records read", "Per second, by topic."),
            [Query("job_topic:modelvigil_records_consumed:rate5m", "{{topic}}")],
            "cps",
            span=8,
        ),
        lines(
            About("Backlog", "Records that wait, by topic.", "prometheus/ModelvigilLagGrowing"),
            [Query("job_topic:modelvigil_consumer_lag_records:sum", "{{topic}}")],
            "short",
            span=8,
        ),
        lines(
            About(
                "From event to alert",
                "From Kafka's timestamp of a record to the moment at which the alert that it causes can be read; over "
                "15 minutes. The aim is half a second for 99 in 100.",
                "prometheus/ModelvigilAlertsSlow",
            ),
            [
                Query("job:modelvigil_event_to_alert_seconds:p50_15m", "half"),
                Query("job:modelvigil_event_to_alert_seconds:p99_15m", "99 in 100"),
            ],
            "s",
            _LATENCY,
            span=8,
        ),
        lines(
            About("Input that cannot be used", "Share of all records.", "prometheus/ModelvigilDeadLetters"),
            [Query("job:modelvigil_records_rejected:ratio_rate5m", "{{job}}")],
            "percentunit",
            ((None, GREEN), (0.01, RED)),
        ),
        stacked(
            About("Alerts held back", "In the last hour, by reason.", "README"),
            [Query('sum by (reason) (increase(modelvigil_alerts_suppressed_total{job=~"$job"}[1h]))', "{{reason}}")],
            "short",
        ),
    ):
        made.with_panel(panel)
