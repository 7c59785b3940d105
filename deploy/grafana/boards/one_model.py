"""One model: how good it is, what it says, what it gets, and what was told of it."""

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
    board,
    choice,
    counts,
    lines,
    number,
    right_axis,
    rows,
)

_DRIFT: Steps = ((None, GREEN), (0.1, YELLOW), (0.25, RED))
_UNUSUAL: Steps = ((None, GREEN), (0.01, YELLOW), (0.02, RED))
_HERE = 'model=~"$model", shard=~"$shard"'
_END = "modelvigil_model_window_end_timestamp_seconds"


def one_model() -> dashboard.Dashboard:
    """Build the dashboard."""
    made = board(
        "modelvigil-model", "modelvigil: one model", "Performance, predictions, inputs and incidents of a model."
    )
    made.with_variable(choice("model", "Model", _END, several=False))
    made.with_variable(choice("shard", "Shard", f'{_END}{{model=~"$model"}}'))
    made.with_variable(choice("feature", "Feature", 'modelvigil_feature_missing_ratio{model=~"$model"}', several=False))
    _now(made)
    _performance(made)
    _answers(made)
    _inputs(made)
    _told(made)
    return made


def _now(made: dashboard.Dashboard) -> None:
    for panel in (
        number(
            About("Critical incidents", "Open now, in all shards.", "README"),
            Query('sum(modelvigil_incidents_open{model=~"$model", severity="critical"}) or vector(0)'),
            "short",
            ZERO_IS_GOOD,
        ),
        number(
            About("Other incidents", "Open now, in all shards.", "README"),
            Query('sum(modelvigil_incidents_open{model=~"$model", severity!="critical"}) or vector(0)'),
            "short",
            ((None, GREEN), (1, YELLOW)),
        ),
        number(
            About("Events", "Per second, in the last complete pane."),
            Query(f"sum(modelvigil_model_events_per_second{{{_HERE}}})"),
            "cps",
        ),
        number(
            About("Unusual events", "Share in the last complete pane, of the worst shard.", "anomaly.input"),
            Query(f"max(modelvigil_model_anomaly_ratio{{{_HERE}}})"),
            "percentunit",
            _UNUSUAL,
        ),
        number(
            About("Drift", "Population stability index of the worst feature, in the worst shard.", "drift.input"),
            Query(f"max(modelvigil_model_drift_psi{{{_HERE}}})"),
            "short",
            _DRIFT,
        ),
        number(
            About("Last window ended", "Age of the newest complete pane.", "stale.predictions"),
            Query(f"time() - max({_END}{{{_HERE}}})"),
            "s",
            ((None, GREEN), (300, YELLOW), (1800, RED)),
        ),
    ):
        made.with_panel(panel)


def _performance(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Performance, by labels"))
    scores = [
        Query(f'model:modelvigil_model_{name}:mean{{model=~"$model"}}', title)
        for name, title in (
            ("accuracy_ratio", "accuracy"),
            ("f1_score", "F1"),
            ("f1_macro_score", "F1, mean of classes"),
            ("r2_score", "R²"),
            ("mse", "MSE (right axis)"),
            ("mae", "MAE (right axis)"),
        )
    ]
    made.with_panel(
        right_axis(
            lines(
                About(
                    "Scores and errors",
                    "Of the latest sliding window by prediction time (1 h by default), over all shards, weighted by "
                    "labels. Which of them are there depends on what the model does.",
                    "performance.drop",
                ),
                scores,
                "short",
            ),
            "/right axis/",
        )
    )
    made.with_panel(
        right_axis(
            lines(
                About("Labels", "Share of predictions with a label, and how many there are.", "label.coverage"),
                [
                    Query('model:modelvigil_model_label_coverage_ratio:mean{model=~"$model"}', "share"),
                    Query('model:modelvigil_model_labels:sum{model=~"$model"}', "labels (right axis)"),
                ],
                "short",
                span=6,
            ),
            "/right axis/",
        )
    )
    made.with_panel(
        lines(
            About("Wait for labels", "Median time from a prediction to its label, by shard.", "label.lag"),
            [Query(f"modelvigil_model_label_lag_seconds{{{_HERE}}}", "shard {{shard}}")],
            "s",
            span=6,
        )
    )


def _answers(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Predictions"))
    for panel in (
        lines(
            About("Prediction", "Numbers only: of classes there is no mean. By shard.", "drift.prediction"),
            [
                Query(f"modelvigil_model_prediction_mean{{{_HERE}}}", "mean, shard {{shard}}"),
                Query(f"modelvigil_model_prediction_median{{{_HERE}}}", "median, shard {{shard}}"),
                Query(
                    f"modelvigil_model_prediction_standard_deviation{{{_HERE}}}", "standard deviation, shard {{shard}}"
                ),
            ],
            "short",
        ),
        lines(
            About("Events by shard", "Per second, in published panes."),
            [Query(f"sum by (shard) (rate(modelvigil_model_events_total{{{_HERE}}}[5m]))", "shard {{shard}}")],
            "cps",
            span=6,
        ),
        lines(
            About("Unusual events by shard", "Share in each pane.", "anomaly.rate"),
            [Query(f"modelvigil_model_anomaly_ratio{{{_HERE}}}", "shard {{shard}}")],
            "percentunit",
            _UNUSUAL,
            span=6,
        ),
    ):
        made.with_panel(panel)


def _inputs(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Inputs"))
    made.with_panel(
        lines(
            About("Drift by feature", "Population stability index, the ten features that drift most.", "drift.input"),
            [Query(f"topk(10, max by (feature) (modelvigil_feature_drift_psi{{{_HERE}}}))", "{{feature}}")],
            "short",
            _DRIFT,
        )
    )
    made.with_panel(
        lines(
            About("Feature $feature", "The chosen feature, by shard. Of text it is the length.", "drift.input"),
            [
                Query(f'modelvigil_feature_{name}{{{_HERE}, feature="$feature"}}', f"{title}, shard {{{{shard}}}}")
                for name, title in (
                    ("mean", "mean"),
                    ("median", "median"),
                    ("standard_deviation", "standard deviation"),
                    ("missing_ratio", "missing"),
                )
            ],
            "short",
        )
    )
    made.with_panel(
        rows(
            About("Features", "The last complete pane; the mean of shards, for drift and missing the worst one."),
            "feature",
            [
                Column("Drift (PSI)", f"max by (feature) (modelvigil_feature_drift_psi{{{_HERE}}})", "short", _DRIFT),
                Column("Missing", f"max by (feature) (modelvigil_feature_missing_ratio{{{_HERE}}})", "percentunit"),
                Column("Mean", f"avg by (feature) (modelvigil_feature_mean{{{_HERE}}})"),
                Column("Median", f"avg by (feature) (modelvigil_feature_median{{{_HERE}}})"),
                Column("Deviation", f"avg by (feature) (modelvigil_feature_standard_deviation{{{_HERE}}})"),
            ],
        )
    )


def _told(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Told"))
    for panel in (
        counts(
            About("Open incidents", "By severity.", "README"), "severity", 'modelvigil_incidents_open{model=~"$model"}'
        ),
        counts(
            About("Incidents opened", "In the last hour, by kind.", "README"),
            "kind",
            'model_kind:modelvigil_incidents_opened:increase1h{model=~"$model"}',
        ),
        counts(
            About("Maintenance events", "In the last hour, by kind: what would make the model better."),
            "kind",
            'model_kind:modelvigil_maintenance_events:increase1h{model=~"$model"}',
        ),
    ):
        made.with_panel(panel)
