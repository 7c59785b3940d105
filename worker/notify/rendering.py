"""Texts of an alert: named fields, and templates that are filled with them.

Templates are `string.Template`: a name becomes a text, and nothing can be called, indexed or looked into.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from string import Template

from worker.core.events import AlertEvent, Headline, SegmentName
from worker.notify.records import Alert

_YEAR_9999_MS = 253_402_300_799_000
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def rendered(template: str, named: Mapping[str, str], escape: Callable[[str], str] = str) -> str:
    """Fill a template; what is not known of an alert is an empty text. Lines that stay empty at the end are dropped."""
    return Template(template).safe_substitute({name: escape(text) for name, text in named.items()}).rstrip()


def fields(alert: Alert, runbooks_url: str = "") -> dict[str, str]:
    """Return all fields that a template can name."""
    event = alert.event
    headline = event.headline
    version = f" version {event.model_version}" if event.model_version else ""
    named = {
        "alert_id": event.alert_id,
        "duration": duration(event.duration_ms) if event.duration_ms is not None else "",
        "expected": _expected(headline) if headline else "",
        "feature": feature_of(event),
        "fingerprint": event.fingerprint,
        "headline": headline_of(headline) if headline else "",
        "incident_id": event.incident_id,
        "kind": event.kind,
        "late": f"computed {duration(alert.lag_ms)} late" if alert.lag_ms is not None else "",
        "model_id": event.model_id,
        "model_version": event.model_version or "",
        "observed": value(headline.observed) if headline else "",
        "opened_at": moment(event.opened_at_ms),
        "resolved_at": moment(event.resolved_at_ms) if event.resolved_at_ms is not None else "",
        "runbook": runbook(event.runbook, runbooks_url),
        "segment": segment_of(event),
        "severity": event.severity,
        "shard": str(event.shard),
        "situation": _situation(event),
        "situation_id": situation_id(event),
        "status": event.status,
        "summary": event.summary,
        "timestamp": moment(event.timestamp_ms),
        "title": f"[{event.status} {event.severity}] {event.kind} {event.model_id}{version}",
    }
    return named | {"details": _details(named, event)}


def moment(epoch_ms: int) -> str:
    """Write a time as RFC 3339 in UTC."""
    bounded = datetime.fromtimestamp(min(max(epoch_ms, 0), _YEAR_9999_MS) / 1000, UTC)
    return f"{bounded.isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def duration(length_ms: int) -> str:
    """Write a length of time with its two largest units."""
    left, parts = max(0, length_ms), []
    for unit_ms, name in _UNITS:
        count, left = divmod(left, unit_ms)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or f"{max(0, length_ms)} ms"


def value(observed: float | bool | str | None) -> str:  # noqa: FBT001 - a feature's value
    """Write what was observed."""
    if observed is None:
        return "nothing"
    if isinstance(observed, bool):
        return str(observed).lower()
    return f"{observed:.6g}" if isinstance(observed, int | float) else observed


def runbook(name: str, base: str) -> str:
    """Return where the runbook is: its name, or its address if the place of all of them is known."""
    return name if not base or "://" in name else f"{base.rstrip('/')}/{name}.md"


def segment_of(event: AlertEvent) -> str:
    """Return the segment as `name=value`, empty without one."""
    evidence = event.change or event.performance
    segment: SegmentName | None = evidence.segment if evidence else None
    return f"{segment.name}={segment.value}" if segment else ""


def feature_of(event: AlertEvent) -> str:
    """Return the feature, segment or metric that an alert is most about; empty if it is about the events as such."""
    if event.change and event.change.changed:
        return event.change.changed[0].name
    if event.features:
        return event.features[0].name
    return event.headline.name if event.headline else ""


def situation_id(event: AlertEvent) -> str:
    """Return what groups incidents: one that belongs to no situation is alone."""
    return event.situation.situation_id if event.situation else event.incident_id


def headline_of(headline: Headline) -> str:
    """Return the worst of an alert on one line."""
    what = " ".join(filter(None, (headline.name, headline.measure)))
    expected = _expected(headline)
    return f"{what} {value(headline.observed)}" + (f", expected {expected}" if expected else "")


def _expected(headline: Headline) -> str:
    low, high = headline.low, headline.high
    middle = f"{headline.expected:.6g}" if headline.expected is not None else ""
    if low is not None and high is not None:
        return f"{middle} ({low:.6g} to {high:.6g})".lstrip()
    if high is not None:
        return f"{middle} (at most {high:.6g})".lstrip()
    return f"{middle} (at least {low:.6g})".lstrip() if low is not None else middle


def _situation(event: AlertEvent) -> str:
    situation = event.situation
    if situation is None or situation.incidents < 2:  # noqa: PLR2004 - alone, it is its own situation
        return ""
    cause = "" if situation.cause_incident_id == event.incident_id else f"; began with: {situation.cause_summary}"
    return f"one of {situation.incidents} incidents ({situation.open_incidents} open){cause}"


def _details(named: Mapping[str, str], event: AlertEvent) -> str:
    """Return a line for each thing that is known."""
    lines = {
        "": named["headline"],
        "segment": named["segment"],
        "situation": named["situation"],
        "opened": named["opened_at"],
        "resolved": f"{named['resolved_at']} after {named['duration']}" if event.duration_ms is not None else "",
        "flapping": "it comes and goes" if event.flapping else "",
        "late": named["late"],
        "runbook": named["runbook"],
    }
    return "\n".join(f"{name}: {text}" if name else text for name, text in lines.items() if text)
