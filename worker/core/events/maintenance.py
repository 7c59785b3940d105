"""What was brought up to date, and what is advised: evidence, decisions and ready artefacts for the serving side."""

from typing import Literal

from msgspec import Struct

from worker.core.events.artefacts import ArtefactReport, MetricChange
from worker.core.events.metrics import SCHEMA_VERSION
from worker.core.events.performance import MetricValue, SegmentName
from worker.core.events.regimes import RegimeChange
from worker.core.events.tuning import TuningReport


class RecalibrationReport(Struct, frozen=True, kw_only=True):
    """Coefficients that put the model's outputs right; deploy/maintenance.md has a server's lines for each method."""

    method: Literal["identity", "platt", "temperature", "beta", "isotonic", "vector", "linear", "segment_bias"]
    """`identity`: take back what was advised before."""
    coefficients: dict[str, list[float]]
    p_min: float | None
    """Probabilities count as at least this, and at most 1 less this, before a logarithm is taken."""
    classes: list[str]
    """In the order of outputs; of two classes the output is the probability of the last one. Empty for numbers."""
    segment: str | None
    segment_values: dict[str, int]
    """Of `segment_bias`: the declared segment, and the place of each of its values in `bias_of_segment`."""
    windows: list[int]
    """Latest labels that it was fitted on; the coefficients are the mean of the fits."""
    first_offset: int | None
    last_offset: int | None
    """Of the predictions whose labels it was fitted on."""
    metrics: list[MetricChange]


class SegmentGain(Struct, frozen=True):
    """What a trial shows in one value of a segment."""

    segment: SegmentName
    gain: MetricValue
    verdict: Literal["too_few", "worse", "likely_worse", "unsettled", "not_worse"]


class CandidateLoss(Struct, frozen=True):
    """Mean loss of one candidate of the shadow pool, older labels faded, and its standard error."""

    candidate: str
    loss: float | None
    error: float | None


class ChallengerReport(Struct, frozen=True, kw_only=True):
    """A candidate of the shadow pool against the deployed model."""

    candidate: str
    """`champion` (the model as it is), `recalibrated`, or a challenger: `recent`, `all`, `linear`, `online`."""
    loss: Literal["brier", "error", "squared_error"]
    """By which candidates are compared; squared errors in units of four times their 90 % quantile, at most 1."""
    losses: list[CandidateLoss]
    labels: int
    """Of the trial that this rests on."""
    gain: MetricValue | None = None
    """Mean loss of the model less that of the candidate; its ends are valid however often one looks."""
    evidence: float | None = None
    """Natural logarithm of the e-value of the trial."""
    segments: list[SegmentGain] = []
    metrics: list[MetricChange] = []
    artefact: ArtefactReport | None = None
    """None for `champion`, `recalibrated` and `online`."""


class RollbackReport(Struct, frozen=True, kw_only=True):
    """A version that does not keep what it was taken for."""

    former_version: str | None
    against: Literal["former", "control", "record"]
    """What it was compared with: the model before it, a candidate that both were compared with, or its own record."""
    regression: MetricValue
    """Mean loss of the version less what was promised of it."""
    labels: int


class ThresholdReport(Struct, frozen=True, kw_only=True):
    """A better decision threshold: positive from `threshold` on, on the scores of the model itself."""

    objective: Literal["accuracy", "f1", "cost", "recall_at_precision"]
    positive: str
    threshold: float
    present: float
    value: MetricChange
    """Of the objective. The threshold was chosen on older labels than these."""
    precision: MetricValue | None


class RetrainReason(Struct, frozen=True, kw_only=True):
    """An incident that says that the model is out of date."""

    alert_kind: str
    incident_id: str
    severity: str
    summary: str
    segment: SegmentName | None
    since_ms: int | None
    """Event time since when; null where that cannot be told."""


class RetrainReport(Struct, frozen=True, kw_only=True):
    """Why a model should be trained again, and what there is to train it on."""

    reasons: list[RetrainReason]
    labels: int
    """Labelled events so far."""
    labelled_topic: str
    first_offset: int | None
    last_offset: int | None
    """Of the predictions that have labels and came since the first reason began; null: none yet."""
    labels_since: int
    """How many of them have a label, of the latest ones that are kept."""


class TunedReport(Struct, frozen=True, kw_only=True):
    """Hyper-parameters that successive halving has found for a challenger."""

    candidate: str
    options: dict[str, float]
    former: dict[str, float]
    tried: int
    loss: float
    former_loss: float
    """On later labels than those that were fitted on."""


class MaintenanceEvent(Struct, frozen=True, kw_only=True):
    """Something about a model or its detectors was brought up to date, or should be."""

    schema_version: int = SCHEMA_VERSION
    maintenance_id: str
    kind: Literal[
        "schema_frozen",
        "detector_refitted",
        "task_inferred",
        "reference_taken",
        "segment_evicted",
        "detectors_reset",
        "regime_accepted",
        "drift_reference_taken",
        "recalibration_ready",
        "threshold_ready",
        "advice_changed",
        "challenger_ready",
        "challenger_withdrawn",
        "challenger_tuned",
        "rollback_advised",
        "retrain_requested",
        "regime_new",
        "regime_vanished",
        "regime_returned",
        "tuning_advised",
        "maintenance_thinned",
    ]
    model_id: str
    model_version: str | None
    """Of an advice: the version that it is about. An advice about another version than the one in service is void."""
    shard: int
    offset: int
    """The input record after which it took effect; of labels, if it is about them."""
    events: int | None
    """Events the monitor had seen by then; null for what labels have caused."""
    detector: str | None = None
    refit: int | None = None
    rows: int | None = None
    features: list[str] | None = None
    task: str | None = None
    classes: list[str] | None = None
    segment: str | None = None
    labels: int | None = None
    timestamp_ms: int | None = None
    """Event time; null for what has none."""
    summary: str | None = None
    """An advice in a sentence."""
    recalibration: RecalibrationReport | None = None
    threshold: ThresholdReport | None = None
    challenger: ChallengerReport | None = None
    rollback: RollbackReport | None = None
    retrain: RetrainReport | None = None
    regime: RegimeChange | None = None
    tuned: TunedReport | None = None
    tuning: TuningReport | None = None
    thinning: int | None = None
    """Of `maintenance_thinned`: one in 2^thinning events is used for maintenance from now on."""
