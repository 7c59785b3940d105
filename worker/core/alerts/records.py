"""Incidents as alert records: the struct that subscribers read, built only when a step is told."""

from typing import Literal, NamedTuple

from worker.core.alerts.incident import Incident, Step
from worker.core.events import AlertEvent, DetectorScore, EvidenceRow, FeatureEvidence
from worker.core.events.alerts import AnomalyGroup
from worker.core.identity import derived_id

_GROUPS_MIN = 2
_GROUPS_TOLD = 3
KIND: Literal["anomaly.input"] = "anomaly.input"


class Origin(NamedTuple):
    """Whose alert it is, and where its events can be read again."""

    model_id: str
    shard: int
    topic: str


class Story(NamedTuple):
    """What is told of an incident beside its course: the rarest event's scores and features; all events in groups."""

    scores: list[DetectorScore]
    disagreement: bool
    features: list[FeatureEvidence]
    groups: list[AnomalyGroup]


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
        summary=summary(step, incident, origin.model_id, story),
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
        groups=story.groups,
        evidence=[
            EvidenceRow(origin.topic, origin.shard, row.offset, row.event_id, row.time_ms, row.p_value)
            for row in incident.evidence
        ],
    )


def summary(step: Step, incident: Incident, model_id: str, story: Story) -> str:
    """One sentence for a person who is woken by it."""
    in_groups = _in_groups(story.groups)
    if step.status == "resolved":
        return f"{model_id}: no further unusual input, {_count(incident.flagged)} in all{in_groups}"
    text = f"{model_id}: {_count(incident.flagged)} (p = {incident.rarest.p_value:.2g})"
    if story.features:
        top = story.features[0]
        text += f", most unusual: {top.name} = {_plain(top.observed)}"
        if top.expected is not None:
            text += f" (usually {_plain(top.expected_low)} to {_plain(top.expected_high)})"
    return text + in_groups


def _in_groups(groups: list[AnomalyGroup]) -> str:
    """Say what the causes may be, if there are several."""
    if len(groups) < _GROUPS_MIN:
        return ""
    told = (f"{group.share:.0%} {_lead(group)}" for group in groups[:_GROUPS_TOLD])
    more = ", ..." if len(groups) > _GROUPS_TOLD else ""
    return f"; {len(groups)} groups: {', '.join(told)}{more}"


def _lead(group: AnomalyGroup) -> str:
    if not group.features:
        return "no single feature"
    first = group.features[0]
    return f"{first.name} {first.direction}"


def _count(flagged: int) -> str:
    return "an unusual input" if flagged == 1 else f"{flagged} unusual inputs"


def _plain(value: float | bool | str | None) -> str:  # noqa: FBT001 - a value of a feature, not a switch
    if value is None:
        return "missing"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
