"""Incidents as alert records: the struct that subscribers read, built only when a step is told."""

from typing import Literal, NamedTuple

from worker.core.alerts.incident import Incident, Step
from worker.core.events import AlertEvent, DetectorScore, EvidenceRow, FeatureEvidence
from worker.core.identity import derived_id

KIND: Literal["anomaly.input"] = "anomaly.input"


class Origin(NamedTuple):
    """Whose alert it is, and where its events can be read again."""

    model_id: str
    shard: int
    topic: str


class Story(NamedTuple):
    """What is told of an incident beside its course: the rarest event's scores and features."""

    scores: list[DetectorScore]
    disagreement: bool
    features: list[FeatureEvidence]


def alert_record(step: Step, incident: Incident, origin: Origin, alert_rate: float, story: Story) -> AlertEvent:
    """Build the record of one step."""
    fingerprint = derived_id("fingerprint", KIND, origin.model_id, origin.shard)
    incident_id = derived_id("incident", fingerprint, incident.first.offset)
    return AlertEvent(
        alert_id=derived_id("alert", incident_id, step.status, step.offset),
        incident_id=incident_id,
        fingerprint=fingerprint,
        kind=KIND,
        status=step.status,
        severity=incident.severity,
        summary=summary(step, incident, origin.model_id, story.features),
        runbook=KIND,
        model_id=origin.model_id,
        model_version=step.model_version,
        shard=origin.shard,
        timestamp_ms=step.watermark_ms,
        opened_at_ms=incident.first.watermark_ms,
        last_flagged_ms=incident.last.watermark_ms,
        resolved_at_ms=step.watermark_ms if step.status == "resolved" else None,
        flagged_events=incident.flagged,
        events=step.sequence - incident.first.sequence + 1,
        p_value=incident.rarest.p_value,
        alert_rate=alert_rate,
        scores=story.scores,
        disagreement=story.disagreement,
        features=story.features,
        evidence=[
            EvidenceRow(origin.topic, origin.shard, row.offset, row.event_id, row.time_ms, row.p_value)
            for row in incident.evidence
        ],
    )


def summary(step: Step, incident: Incident, model_id: str, features: list[FeatureEvidence]) -> str:
    """One sentence for a person who is woken by it."""
    if step.status == "resolved":
        return f"{model_id}: no further unusual input, {_count(incident.flagged)} in all"
    text = f"{model_id}: {_count(incident.flagged)} (p = {incident.rarest.p_value:.2g})"
    if not features:
        return text
    top = features[0]
    text += f", most unusual: {top.name} = {_plain(top.observed)}"
    if top.expected is None:
        return text
    return f"{text} (usually {_plain(top.expected_low)} to {_plain(top.expected_high)})"


def _count(flagged: int) -> str:
    return "an unusual input" if flagged == 1 else f"{flagged} unusual inputs"


def _plain(value: float | bool | str | None) -> str:  # noqa: FBT001 - a value of a feature, not a switch
    if value is None:
        return "missing"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
