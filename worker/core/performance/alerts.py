"""Broken limits and drifts as alert records."""

from typing import Literal, NamedTuple

from worker.core.events import AlertEvent, AlertKind, LimitEvidence, SegmentName
from worker.core.identity import derived_id
from worker.core.metric_names import COVERAGE, LAG_METRICS
from worker.core.performance.concept import DriftStep
from worker.core.performance.limits import Condition, Step
from worker.core.telling import Owner, Place, evidence_rows


class Subject(NamedTuple):
    """Whose alert it is."""

    owner: Owner
    segment: SegmentName | None


class Facts(NamedTuple):
    """What an alert tells beside the step itself."""

    now_ms: int
    place: Place
    """The prediction that made it known."""
    confidence: float
    labels: int
    classes: list[str]
    evidence: list[Place]
    """The latest predictions that were wrong, or where the window begins and what made it known."""
    evidence_max: int


def kind_of(condition: Condition) -> AlertKind:
    """Return the kind of the alerts of a condition."""
    if condition.metric == COVERAGE:
        return "label.coverage"
    if condition.metric in LAG_METRICS:
        return "label.lag"
    return "performance.drop" if condition.needs_reference else "performance.limit"


def limit_alert(subject: Subject, step: Step, facts: Facts) -> AlertEvent:
    """Build the record of one step of a broken limit."""
    estimate, breach, condition = step.estimate, step.breach, step.condition
    if estimate.value is None or estimate.low is None or estimate.high is None:
        raise AssertionError("a limit was judged without an estimate")
    reference = step.reference.value if step.reference is not None and condition.needs_reference else None
    evidence = LimitEvidence(
        metric=condition.metric,
        limit_kind=condition.sort,
        observed=estimate.value,
        low=estimate.low,
        high=estimate.high,
        confidence=facts.confidence,
        support=estimate.support,
        limit=step.limit,
        reference=reference,
        since_ms=breach.since_ms,
        labels=facts.labels,
        segment=subject.segment,
        classes=facts.classes,
    )
    return _record(
        subject,
        (kind_of(condition), condition.key),
        (step.status, breach.severity, breach.opened_ms, breach.opened_offset),
        facts,
        evidence,
    )


def drift_alert(subject: Subject, step: DriftStep, facts: Facts, detector: str, effect_min: float) -> AlertEvent:
    """Build the record of a concept drift, or of its end."""
    drift = step.drift
    evidence = LimitEvidence(
        metric="error",
        limit_kind="drift",
        observed=step.now,
        low=step.now,
        high=step.now,
        confidence=facts.confidence,
        support=float(facts.labels),
        limit=drift.before + effect_min,
        reference=drift.before,
        since_ms=drift.opened_ms,
        labels=facts.labels,
        segment=subject.segment,
        classes=facts.classes,
        detector=detector,
    )
    severity: Literal["warning", "critical"] = (
        "critical" if drift.after - drift.before >= 2.0 * effect_min else "warning"
    )
    told = (step.status, severity, drift.opened_ms, drift.opened_offset)
    return _record(subject, ("drift.concept", detector), told, facts, evidence)


def _record(
    subject: Subject,
    what: tuple[AlertKind, str],
    told: tuple[Literal["opened", "updated", "resolved"], Literal["warning", "critical"], int, int],
    facts: Facts,
    evidence: LimitEvidence,
) -> AlertEvent:
    kind, key = what
    status, severity, opened_ms, opened_offset = told
    segment = ("", "") if subject.segment is None else (subject.segment.name, subject.segment.value)
    owner = subject.owner
    fingerprint = derived_id("fingerprint", kind, owner.model_id, owner.shard, key, *segment)
    # Of when it opened nothing: that may depend on how predictions and labels come one after the other.
    incident_id = derived_id("incident", fingerprint, opened_offset)
    return AlertEvent(
        alert_id=derived_id("alert", incident_id, status, facts.place.offset),
        incident_id=incident_id,
        fingerprint=fingerprint,
        kind=kind,
        status=status,
        severity=severity,
        summary=summary(subject, status, evidence),
        runbook=kind,
        model_id=owner.model_id,
        model_version=owner.model_version,
        shard=owner.shard,
        timestamp_ms=facts.now_ms,
        opened_at_ms=opened_ms,
        last_flagged_ms=facts.now_ms,
        resolved_at_ms=facts.now_ms if status == "resolved" else None,
        evidence=evidence_rows(owner, facts.evidence, facts.evidence_max),
        performance=evidence,
    )


def summary(subject: Subject, status: str, evidence: LimitEvidence) -> str:
    """One sentence for a person who is woken by it."""
    where = "" if subject.segment is None else f" [{subject.segment.name} = {subject.segment.value}]"
    whose = f"{subject.owner.model_id}{where}"
    name = evidence.metric.replace("_", " ")
    if status == "resolved":
        return f"{whose}: {name} is back at {evidence.observed:.4g}"
    if evidence.limit_kind == "drift":
        return (
            f"{whose}: the mean {name} rose from {evidence.reference:.3g} to {evidence.observed:.3g}"
            f" ({evidence.detector})"
        )
    text = f"{whose}: {name} is {evidence.observed:.4g} ({evidence.low:.4g} to {evidence.high:.4g})"
    if evidence.reference is None:
        text += f", the limit is {evidence.limit:.4g}"
    else:
        text += f", it was {evidence.reference:.4g}"
    text += f", {evidence.labels} labels"
    return f"{text}, most in {', '.join(evidence.classes)}" if evidence.classes else text
