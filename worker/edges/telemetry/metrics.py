"""Every Prometheus metric of a worker, declared once. Names and labels are a contract: never renamed.

What is not known has no sample; 0 is said only where 0 is known. `deploy/metrics.md` is made from this file.
"""

from typing import Literal

from msgspec import Struct

from worker.core.events import InputTopic, RejectCode
from worker.edges.telemetry.log_fields import Count, Gauge, Stage
from worker.recovery.problems import ProblemKind

PREFIX = "modelvigil_"
OTHER = "other"
"""The label `model` of what is counted of models beyond `ops.models_max`."""
_STAGES = (Stage.FETCH, Stage.HANDLE, Stage.COMMIT, Stage.SNAPSHOT, Stage.RESTORE)
_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ALERT_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
_ALERT_LATE_S = (1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
_FIT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WINDOW = "of the last complete pane"
_LABELLED = (
    "of the latest of the shortest sliding windows (engine.performance.windows_ms), without these of the latest pane"
)


class Metric(Struct, frozen=True, eq=False):
    """One metric: what it is called without the prefix, what it means, and by which labels its series differ."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    """Values of its only label from which series begin at 0, before anything has happened."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram."""

    @property
    def full_name(self) -> str:
        """As Prometheus knows it."""
        return PREFIX + self.name


def _counter(name: str, text: str, *labels: str, known: tuple[str, ...] = ()) -> Metric:
    return Metric(name, "counter", text, labels, known)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "gauge", text, labels)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...], known: tuple[str, ...] = ()) -> Metric:
    return Metric(name, "histogram", text, labels, known, buckets)


def _of_model(name: str, text: str) -> Metric:
    return _gauge(f"model_{name}", text, "model", "shard")


def _of_feature(name: str, text: str) -> Metric:
    return _gauge(f"feature_{name}", f"{text} in the last complete pane", "model", "shard", "feature")


class Metrics:
    """All of them, in the order in which they are shown."""

    RECORDS_CONSUMED = _counter(
        "records_consumed_total",
        "Input records read; those of feedback once for each shard",
        "topic",
        known=(InputTopic.PREDICTIONS, InputTopic.LABELS, InputTopic.FEEDBACK),
    )
    EVENTS_PROCESSED = _counter("events_processed_total", "Records that were prediction events and are in the figures")
    LABELS_PROCESSED = _counter("labels_processed_total", "Label records processed")
    RECORDS_REJECTED = _counter(
        "records_rejected_total",
        "Records that are dead letters, by the code of the reason",
        "reason",
        known=tuple(code.value for code in RejectCode),
    )
    OUTPUTS = _counter("outputs_total", "Records committed to output topics", "topic")
    OUTPUTS_LATE = _counter("outputs_late_total", "Records among these that are marked as late")
    ALERTS = _counter(
        "alerts_total", "Steps of incidents committed to the alert topic", "model", "kind", "severity", "status"
    )
    ALERTS_SUPPRESSED = _counter(
        "alerts_suppressed_total",
        "Openings of incidents that were held back, by reason",
        "reason",
        known=("silence", "window", "version_change", "ignored", "budget", "incidents_max"),
    )
    MAINTENANCE_EVENTS = _counter(
        "maintenance_events_total", "Maintenance events and notes on alerts committed", "model", "kind"
    )
    MODEL_EVENTS = _counter(
        "model_events_total", "Events in published panes; models beyond ops.models_max have none", "model", "shard"
    )
    TRANSACTIONS = _counter(
        "transactions_total",
        "Transactions by outcome; one whose outcome was unknown is counted again when it is found to be committed",
        "outcome",
        known=("committed", "aborted", "unknown"),
    )
    SNAPSHOTS = _counter("snapshots_total", "Snapshots of shards completed")
    SNAPSHOT_BYTES = _counter("snapshot_bytes_total", "Bytes of the records of complete snapshots")
    RESTORES = _counter("restores_total", "Shards restored and live")
    RESTORED_RECORDS = _counter("restored_records_total", "Records read again to restore state")
    RESTORES_REFUSED = _counter(
        "restores_refused_total",
        "Shards whose state cannot be used, by reason",
        "reason",
        known=tuple(kind.value for kind in ProblemKind),
    )
    DIGEST_MISMATCHES = _counter("digest_mismatches_total", "Restores that did not lead to the recorded state")
    ARTEFACTS_STORED = _counter("artefacts_stored_total", "Models put into the artefact store")
    ARTEFACT_FAILURES = _counter("artefact_failures_total", "Failed attempts to put a model there or to remove one")
    REBALANCES = _counter(
        "rebalances_total",
        "Changes of the partitions of this worker",
        "event",
        known=("assigned", "revoked", "lost"),
    )
    REFIT_WAIT = _counter("refit_wait_seconds_total", "Time that events have waited for fits")
    MAINTENANCE = _counter("maintenance_seconds_total", "Time spent on model maintenance in this process")
    CHALLENGER_FIT = _counter("challenger_fit_seconds_total", "CPU time of fits of challengers in other processes")

    EVENT_TO_ALERT = _histogram(
        "event_to_alert_seconds",
        "From Kafka's timestamp of the record that caused a step of an incident until its transaction was committed; "
        "steps that no record has caused, but time that went by, are not among them",
        buckets=_ALERT_S + _ALERT_LATE_S,
    )
    STAGE = _histogram(
        "stage_seconds",
        "One turn of a stage of the loop",
        "stage",
        known=tuple(stage.value for stage in _STAGES),
        buckets=_SHORT_S,
    )
    REFIT = _histogram("refit_seconds", "CPU time of one fit of a detector, wherever it ran", buckets=_FIT_S)

    CONSUMER_LAG_RECORDS = _gauge(
        "consumer_lag_records",
        "Offsets between what was read and the end of the partition, as the last answer of Kafka told it",
        "topic",
        "partition",
    )
    CONSUMER_LAG_SECONDS = _gauge("consumer_lag_seconds", "How long after Kafka's timestamp records were taken last")
    SHARDS = _gauge("shards", "Shards of this worker by state", "state")
    RESTORE_RECORDS_LEFT = _gauge("restore_records_left", "Records to be read again before all shards are live")
    RESTORE_SECONDS_LEFT = _gauge("restore_seconds_left", "Time that this will take, by the pace so far")
    SNAPSHOT_AGE = _gauge(
        "snapshot_age_seconds", "Age of the oldest snapshot among the live shards that have changed since"
    )
    READY = _gauge("ready", "1 when all that was assigned to this worker is live, else 0")
    HEARTBEAT_AGE = _gauge("heartbeat_age_seconds", "Time since the loop has last said that it is alive")
    BUILD_INFO = _gauge("build_info", "1, with the versions as labels", "version", "python")
    MODELS = _gauge("models", "Models watched here; one in two shards is two")
    MODELS_BEYOND_MAX = _gauge("models_beyond_max", "Models here that have no series, because of ops.models_max")
    INCIDENTS_OPEN = _gauge(
        "incidents_open", "Open incidents; those of models without series are under other", "model", "severity"
    )
    MAINTENANCE_SHARE = _gauge("maintenance_share_ratio", "Share of the time of the engine that maintenance takes")
    MAINTENANCE_THINNING = _gauge(
        "maintenance_thinning_level", "At level n one event in 2^n is used for model maintenance"
    )

    WINDOW_END = _of_model("window_end_timestamp_seconds", f"End {_WINDOW}")
    EVENTS_PER_SECOND = _of_model("events_per_second", f"Rate of events {_WINDOW}")
    ANOMALY_RATIO = _of_model("anomaly_ratio", f"Flagged share of the scored events {_WINDOW}")
    PREDICTION_MEAN = _of_model("prediction_mean", f"Mean of numeric predictions {_WINDOW}")
    PREDICTION_MEDIAN = _of_model("prediction_median", f"Median of numeric predictions {_WINDOW}")
    PREDICTION_DEVIATION = _of_model(
        "prediction_standard_deviation", f"Standard deviation of numeric predictions {_WINDOW}"
    )
    DRIFT_PSI = _of_model(
        "drift_psi", "Largest population stability index of all features, shown or not, when the last pane was closed"
    )
    ACCURACY = _of_model("accuracy_ratio", f"Accuracy {_LABELLED}")
    PRECISION = _of_model("precision_ratio", f"Precision of the positive class {_LABELLED}")
    RECALL = _of_model("recall_ratio", f"Recall of the positive class {_LABELLED}")
    F1 = _of_model("f1_score", f"F1 of the positive class {_LABELLED}")
    F1_MACRO = _of_model("f1_macro_score", f"Mean F1 of the classes {_LABELLED}")
    MSE = _of_model("mse", f"Mean squared error {_LABELLED}")
    MAE = _of_model("mae", f"Mean absolute error {_LABELLED}")
    R2 = _of_model("r2_score", f"Coefficient of determination {_LABELLED}")
    LABELLED = _of_model("labels", f"Labelled events {_LABELLED}")
    LABEL_COVERAGE = _of_model("label_coverage_ratio", f"Labelled share of the predictions {_LABELLED}")
    LABEL_LAG = _of_model("label_lag_seconds", f"Median time from a prediction to its label {_LABELLED}")

    FEATURE_MEAN = _of_feature("mean", "Mean of a feature")
    FEATURE_MEDIAN = _of_feature("median", "Median of a feature")
    FEATURE_DEVIATION = _of_feature("standard_deviation", "Standard deviation of a feature")
    FEATURE_MISSING = _of_feature("missing_ratio", "Share of events without a feature")
    FEATURE_DRIFT_PSI = _gauge(
        "feature_drift_psi",
        "Population stability index of a feature when the last pane was closed",
        "model",
        "shard",
        "feature",
    )


DECLARED: tuple[Metric, ...] = tuple(each for each in vars(Metrics).values() if isinstance(each, Metric))

COUNTS: dict[Count, tuple[Metric, tuple[str, ...]]] = {
    Count.EVENTS_PROCESSED: (Metrics.EVENTS_PROCESSED, ()),
    Count.LABELS: (Metrics.LABELS_PROCESSED, ()),
    Count.ALERTS: (Metrics.OUTPUTS, ("alerts",)),
    Count.INCIDENTS: (Metrics.OUTPUTS, ("incidents",)),
    Count.METRICS: (Metrics.OUTPUTS, ("metrics",)),
    Count.MAINTENANCE: (Metrics.OUTPUTS, ("maintenance",)),
    Count.SCORES: (Metrics.OUTPUTS, ("scores",)),
    Count.DEAD_LETTERS: (Metrics.OUTPUTS, ("dead_letters",)),
    Count.OUTPUTS_LATE: (Metrics.OUTPUTS_LATE, ()),
    Count.SNAPSHOTS: (Metrics.SNAPSHOTS, ()),
    Count.SNAPSHOT_BYTES: (Metrics.SNAPSHOT_BYTES, ()),
    Count.RESTORES: (Metrics.RESTORES, ()),
    Count.RESTORED_EVENTS: (Metrics.RESTORED_RECORDS, ()),
    Count.DIGEST_MISMATCHES: (Metrics.DIGEST_MISMATCHES, ()),
    Count.ARTEFACTS_STORED: (Metrics.ARTEFACTS_STORED, ()),
    Count.ARTEFACTS_FAILED: (Metrics.ARTEFACT_FAILURES, ()),
}
"""Counters of the log line that are samples as they are; the others have labels, and are counted by these, too."""

TIMES: dict[Stage, Metric] = {
    Stage.REFIT_WAIT: Metrics.REFIT_WAIT,
    Stage.MAINTENANCE: Metrics.MAINTENANCE,
    Stage.CHALLENGER_FITS: Metrics.CHALLENGER_FIT,
}
"""Sums of seconds; the other stages are in a histogram."""

GAUGES: dict[Gauge, tuple[Metric, tuple[str, ...]]] = {
    Gauge.SHARDS_LIVE: (Metrics.SHARDS, ("live",)),
    Gauge.SHARDS_RESTORING: (Metrics.SHARDS, ("restoring",)),
    Gauge.SHARDS_REFUSED: (Metrics.SHARDS, ("refused",)),
    Gauge.RESTORE_RECORDS_LEFT: (Metrics.RESTORE_RECORDS_LEFT, ()),
    Gauge.RESTORE_SECONDS_LEFT: (Metrics.RESTORE_SECONDS_LEFT, ()),
    Gauge.STATE_AGE_SECONDS: (Metrics.SNAPSHOT_AGE, ()),
    Gauge.LAG_SECONDS: (Metrics.CONSUMER_LAG_SECONDS, ()),
    Gauge.MAINTENANCE_SHARE: (Metrics.MAINTENANCE_SHARE, ()),
    Gauge.MAINTENANCE_THINNING: (Metrics.MAINTENANCE_THINNING, ()),
}
