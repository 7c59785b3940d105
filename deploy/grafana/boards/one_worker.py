"""One worker, or several: what they do, how fast, and what holds them up."""

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.boards.panels import (
    GREEN,
    RED,
    YELLOW,
    ZERO_IS_GOOD,
    About,
    Query,
    Steps,
    board,
    buckets,
    choice,
    lines,
    number,
    right_axis,
    stacked,
)

_HERE = 'job=~"$job", instance=~"$instance"'
_LATENCY: Steps = ((None, GREEN), (0.5, YELLOW), (2, RED))


def one_worker() -> dashboard.Dashboard:
    """Build the dashboard."""
    made = board("modelvigil-worker", "modelvigil: one worker", "What a worker does, how fast, and what holds it up.")
    made.with_variable(choice("job", "Job", "modelvigil_ready"))
    made.with_variable(choice("instance", "Worker", 'modelvigil_ready{job=~"$job"}'))
    _now(made)
    _work(made)
    _state(made)
    _machine(made)
    return made


def _now(made: dashboard.Dashboard) -> None:
    for panel in (
        number(
            About("Not ready", "Processes that have partitions which are not live.", "prometheus/ModelvigilNotReady"),
            Query(f"count(modelvigil_ready{{{_HERE}}} == 0) or vector(0)"),
            "short",
            ZERO_IS_GOOD,
        ),
        number(
            About("Refused", "Partitions left alone: a person decides.", "prometheus/ModelvigilPartitionRefused"),
            Query(f'sum(modelvigil_shards{{{_HERE}, state="refused"}})'),
            "short",
            ZERO_IS_GOOD,
        ),
        number(
            About("Restoring", "Time left until all partitions are live.", "prometheus/ModelvigilRestoringLong"),
            Query(f"max(modelvigil_restore_seconds_left{{{_HERE}}}) or vector(0)"),
            "s",
            ((None, GREEN), (60, YELLOW)),
        ),
        number(
            About("State not stored for", "Oldest snapshot of what has changed.", "prometheus/ModelvigilSnapshotsOld"),
            Query(f"max(modelvigil_snapshot_age_seconds{{{_HERE}}}) or vector(0)"),
            "s",
            ((None, GREEN), (300, YELLOW), (900, RED)),
        ),
        number(
            About("Running for", "Since the last start.", "prometheus/ModelvigilRestarting"),
            Query(f"time() - max(process_start_time_seconds{{{_HERE}}})"),
            "s",
        ),
        number(
            About("Models", "Watched here; one in two shards is two.", "prometheus/ModelvigilModelsBeyondMax"),
            Query(f"sum(modelvigil_models{{{_HERE}}})"),
            "short",
        ),
    ):
        made.with_panel(panel)


def _work(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Work"))
    for panel in (
        lines(
            About("Throughput", "Records read by topic, and records published by topic, per second."),
            [
                Query(
                    f"sum by (topic) (rate(modelvigil_records_consumed_total{{{_HERE}}}[$__rate_interval]))",
                    "read: {{topic}}",
                ),
                Query(
                    f"sum by (topic) (rate(modelvigil_outputs_total{{{_HERE}}}[$__rate_interval]))",
                    "published: {{topic}}",
                ),
            ],
            "cps",
        ),
        stacked(
            About(
                "Where the time goes",
                "Seconds of each second, by stage. `fetch` is mostly waiting; when the others come near 1, the worker "
                "is at its limit.",
                "prometheus/ModelvigilLagging",
            ),
            [
                Query(f"sum by (stage) (rate(modelvigil_stage_seconds_sum{{{_HERE}}}[$__rate_interval]))", "{{stage}}"),
            ],
            "percentunit",
        ),
        buckets(
            About(
                "From event to alert",
                "From Kafka's timestamp of the record to the commit of the alert that it causes.",
                "prometheus/ModelvigilAlertsSlow",
            ),
            Query(
                f"sum by (le) (increase(modelvigil_event_to_alert_seconds_bucket{{{_HERE}}}[$__rate_interval]))",
                "{{le}}",
            ),
            "s",
        ),
        lines(
            About("Slow turns", "The slowest one in a hundred of each stage.", "prometheus/ModelvigilAlertsSlow"),
            [
                Query(
                    "histogram_quantile(0.99, sum by (le, stage) (rate("
                    f"modelvigil_stage_seconds_bucket{{{_HERE}}}[5m])))",
                    "{{stage}}",
                ),
                Query(
                    "histogram_quantile(0.99, sum by (le) (rate("
                    f"modelvigil_event_to_alert_seconds_bucket{{{_HERE}}}[15m])))",
                    "event to alert",
                ),
            ],
            "s",
            _LATENCY,
        ),
        right_axis(
            lines(
                About(
                    "Behind",
                    "The ten partitions with most records that wait; age of the newest record.",
                    "prometheus/ModelvigilLagGrowing",
                ),
                [
                    Query(f"topk(10, modelvigil_consumer_lag_records{{{_HERE}}})", "{{topic}} {{partition}}"),
                    Query(
                        f"max by (instance) (modelvigil_consumer_lag_seconds{{{_HERE}}})", "s (right axis) {{instance}}"
                    ),
                ],
                "short",
            ),
            "/right axis/",
        ),
        stacked(
            About("Input that cannot be used", "Per second, by reason.", "prometheus/ModelvigilDeadLetters"),
            [
                Query(
                    f"sum by (reason) (rate(modelvigil_records_rejected_total{{{_HERE}}}[$__rate_interval]))",
                    "{{reason}}",
                ),
            ],
            "cps",
        ),
    ):
        made.with_panel(panel)


def _state(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Partitions and state"))
    for panel in (
        stacked(
            About("Partitions", "By what becomes of them.", "prometheus/ModelvigilRestoringLong"),
            [Query(f"sum by (state) (modelvigil_shards{{{_HERE}}})", "{{state}}")],
            "short",
            span=8,
        ),
        lines(
            About("Partitions that move", "In 30 minutes. `lost`: taken away.", "prometheus/ModelvigilRebalancing"),
            [Query(f"sum by (event) (increase(modelvigil_rebalances_total{{{_HERE}}}[30m]))", "{{event}}")],
            "short",
            span=8,
        ),
        lines(
            About("Transactions", "Per second, by outcome.", "prometheus/ModelvigilTransactionsAborted"),
            [
                Query(
                    f"sum by (outcome) (rate(modelvigil_transactions_total{{{_HERE}}}[$__rate_interval]))",
                    "{{outcome}}",
                ),
            ],
            "cps",
            span=8,
        ),
        right_axis(
            lines(
                About("Snapshots", "Bytes per second, and how many.", "prometheus/ModelvigilSnapshotsOld"),
                [
                    Query(f"sum(rate(modelvigil_snapshot_bytes_total{{{_HERE}}}[5m]))", "bytes"),
                    Query(f"sum(rate(modelvigil_snapshots_total{{{_HERE}}}[5m]))", "snapshots (right axis)"),
                ],
                "Bps",
            ),
            "/right axis/",
        ),
        lines(
            About(
                "Read again",
                "Records per second that are read again to restore state, and restores in an hour.",
                "prometheus/ModelvigilRestoringLong",
            ),
            [
                Query(f"sum(rate(modelvigil_restored_records_total{{{_HERE}}}[5m]))", "records per second"),
                Query(f"sum(increase(modelvigil_restores_total{{{_HERE}}}[1h]))", "restores in an hour"),
                Query(f"sum(increase(modelvigil_restores_refused_total{{{_HERE}}}[1h]))", "refused in an hour"),
            ],
            "short",
        ),
    ):
        made.with_panel(panel)


def _machine(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Fits, maintenance, machine"))
    for panel in (
        lines(
            About("Fits of detectors", "The slowest one in ten; and waiting for fits, share of the time."),
            [
                Query(
                    f"histogram_quantile(0.9, sum by (le) (rate(modelvigil_refit_seconds_bucket{{{_HERE}}}[1h])))",
                    "CPU of a fit, s",
                ),
                Query(f"sum(rate(modelvigil_refit_wait_seconds_total{{{_HERE}}}[5m]))", "waiting, s per s"),
            ],
            "short",
            span=8,
        ),
        lines(
            About(
                "Model maintenance",
                "CPU per second, here and for challengers. Level n: it uses one event in 2^n.",
                "prometheus/ModelvigilMaintenanceThinned",
            ),
            [
                Query(f"sum(rate(modelvigil_maintenance_seconds_total{{{_HERE}}}[5m]))", "here"),
                Query(f"sum(rate(modelvigil_challenger_fit_seconds_total{{{_HERE}}}[5m]))", "challengers"),
                Query(f"max(modelvigil_maintenance_thinning_level{{{_HERE}}})", "level"),
            ],
            "short",
            span=8,
        ),
        right_axis(
            lines(
                About("CPU and memory", "Of the workers' own processes.", "prometheus/ModelvigilRestarting"),
                [
                    Query(
                        f"sum by (instance) (rate(process_cpu_seconds_total{{{_HERE}}}[$__rate_interval]))",
                        "{{instance}}",
                    ),
                    Query(
                        f"sum by (instance) (process_resident_memory_bytes{{{_HERE}}}) / 2^20",
                        "MiB (right axis) {{instance}}",
                    ),
                ],
                "short",
                span=8,
            ),
            "/right axis/",
        ),
    ):
        made.with_panel(panel)
