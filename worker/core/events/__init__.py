"""Every record that enters or leaves through a topic, as a typed struct: the contract of the worker.

The JSON Schemas in `schemas/` are generated from this package. Fields are only ever added, never renamed.
All times are milliseconds since the epoch, in event time; "not enough data yet" is null, never 0.
"""

from worker.core.events.alerts import (
    AlertEvent,
    AlertKind,
    DetectorScore,
    EvidenceRow,
    FeatureEvidence,
    GoodPane,
    Headline,
    Situation,
    StaleEvidence,
)
from worker.core.events.audit import AuditEvent
from worker.core.events.changes import Changed, ChangeEvidence
from worker.core.events.feedback import (
    FalsePositiveFeedback,
    FeedbackEvent,
    IgnoreFeedback,
    IncidentFeedback,
    Scope,
    SilenceFeedback,
    TruePositiveFeedback,
    UndoFeedback,
)
from worker.core.events.inputs import (
    FEATURES_PER_EVENT_MAX,
    NAME_CHARS_MAX,
    FeatureValue,
    Identifier,
    LabelEvent,
    Name,
    PredictionEvent,
    PredictionValue,
    RejectCode,
    Timestamp,
)
from worker.core.events.maintenance import MaintenanceEvent
from worker.core.events.metrics import SCHEMA_VERSION, ColumnMetric, HistogramRecord, MetricEvent
from worker.core.events.performance import (
    AccuracyEstimate,
    BucketCounts,
    ClassificationParts,
    ClassMetrics,
    LabelLag,
    LimitEvidence,
    MetricValue,
    PerformanceEvent,
    RegressionParts,
    ScoreHistogram,
    SegmentName,
)
from worker.core.events.scores import ScoreEvent
from worker.core.events.topics import InputTopic, Output, OutputTopic, RawBatch

__all__ = [
    "FEATURES_PER_EVENT_MAX",
    "NAME_CHARS_MAX",
    "SCHEMA_VERSION",
    "AccuracyEstimate",
    "AlertEvent",
    "AlertKind",
    "AuditEvent",
    "BucketCounts",
    "ChangeEvidence",
    "Changed",
    "ClassMetrics",
    "ClassificationParts",
    "ColumnMetric",
    "DetectorScore",
    "EvidenceRow",
    "FalsePositiveFeedback",
    "FeatureEvidence",
    "FeatureValue",
    "FeedbackEvent",
    "GoodPane",
    "Headline",
    "HistogramRecord",
    "Identifier",
    "IgnoreFeedback",
    "IncidentFeedback",
    "InputTopic",
    "LabelEvent",
    "LabelLag",
    "LimitEvidence",
    "MaintenanceEvent",
    "MetricEvent",
    "MetricValue",
    "Name",
    "Output",
    "OutputTopic",
    "PerformanceEvent",
    "PredictionEvent",
    "PredictionValue",
    "RawBatch",
    "RegressionParts",
    "RejectCode",
    "Scope",
    "ScoreEvent",
    "ScoreHistogram",
    "SegmentName",
    "SilenceFeedback",
    "Situation",
    "StaleEvidence",
    "Timestamp",
    "TruePositiveFeedback",
    "UndoFeedback",
]
