"""What Alertmanager is told: alerts of its API v2, and which incidents are open.

Alertmanager knows an alert by all of its labels, and takes it for resolved when it has not been told for a while. So

Rule 1: an incident keeps the feature that it was first told with; when severity or situation change, the alert with the
old labels is ended in the same request that begins the one with the new ones.
Rule 2: what ends an alert has exactly the labels that it was told with.
Rule 3: a step of an incident that is further along by now is told as the incident is now: after an outage, nobody is
woken for a severity of the day before yesterday.
Rule 4: an incident that is over is not told again, whichever of the two topics says so first.
"""

from collections.abc import Mapping
from typing import Any

from worker.core.events import AlertEvent
from worker.edges.kafka.arrived import Arrived
from worker.notify.records import Alert, read
from worker.notify.rendering import feature_of, fields, moment, rendered, segment_of, situation_id
from worker.notify_settings import TargetSettings

_Labels = Mapping[str, str]


def labels_of(event: AlertEvent) -> dict[str, str]:
    """Return the labels of an incident as it is in this step. Alertmanager knows no empty ones."""
    found = {
        "alertname": event.kind,
        "model_id": event.model_id,
        "severity": event.severity,
        "fingerprint": event.fingerprint,
        "segment": segment_of(event),
        "feature": feature_of(event),
        "shard": str(event.shard),
        "situation_id": situation_id(event),
    }
    return {name: text for name, text in found.items() if text}


def posted(alert: Alert, labels: _Labels, target: TargetSettings, runbooks_url: str, now_ms: int) -> dict[str, Any]:
    """Return one alert of the API v2.

    Event time may be ahead of the clock here. Alertmanager would then take an alert for not begun, or a resolved one
    for open, so times are at most now.
    """
    event = alert.event
    named = fields(alert, runbooks_url)
    wanted = ("summary", "runbook", "headline", "situation", "late", "incident_id", "alert_id", "model_version")
    annotations = {name: named[name] for name in wanted if named[name]}
    begin_ms = min(event.opened_at_ms, now_ms)
    body: dict[str, Any] = {
        "labels": dict(labels),
        "annotations": annotations | {"description": rendered(target.template, named)},
        "startsAt": moment(begin_ms),
    }
    if event.status == "resolved":
        end_ms = event.resolved_at_ms if event.resolved_at_ms is not None else event.timestamp_ms
        body["endsAt"] = moment(max(begin_ms, min(end_ms, now_ms)))
    return body


def ended(labels: _Labels, now_ms: int) -> dict[str, Any]:
    """Return the end of an alert that goes on under other labels."""
    return {"labels": dict(labels), "annotations": {}, "startsAt": moment(now_ms - 1), "endsAt": moment(now_ms)}


class Board:
    """Which incidents are open, as the compacted topic `incidents` says, and what Alertmanager was told of them.

    Args:
        open_max: incidents that are kept; further ones are told as they come, but not again.
    """

    def __init__(self, open_max: int) -> None:
        self._open_max = open_max
        self._open: dict[str, Alert] = {}
        self._last: dict[str, Alert] = {}
        """Incidents as they were when they were taken off the board, for their labels."""
        self._over: dict[str, str] = {}
        """Incidents that the topic `alerts` has called resolved, by fingerprint: `incidents` may say it later."""
        self._told: dict[str, tuple[str, _Labels]] = {}
        """Incident and labels, by fingerprint."""
        self.left_out = 0
        """Records of open incidents that had no room."""

    def apply(self, arrived: Arrived) -> None:
        """Take a record of the topic `incidents`. Raises UnreadableError."""
        fingerprint = (arrived.key or b"").decode(errors="replace")
        if arrived.value is None:
            self._take_off(fingerprint)
            self._over.pop(fingerprint, None)
            return
        alert = read(arrived)
        fingerprint = alert.event.fingerprint
        if alert.event.status == "resolved":
            self._take_off(fingerprint)
        elif self._over.get(fingerprint) == alert.event.incident_id:
            return
        elif fingerprint not in self._open and len(self._open) >= self._open_max:
            self.left_out += 1
        else:
            self._open[fingerprint] = alert

    def open_alerts(self) -> list[Alert]:
        """Return all open incidents as they are now."""
        return list(self._open.values())

    def current(self, alert: Alert) -> Alert:
        """Return the incident of a step as it is now, if it is open and further along (rule 3)."""
        now = self._open.get(alert.event.fingerprint)
        if alert.event.status == "resolved" or now is None or now.event.incident_id != alert.event.incident_id:
            return alert
        return now if now.event.updates >= alert.event.updates else alert

    def request_of(self, alert: Alert, target: TargetSettings, runbooks_url: str, now_ms: int) -> list[dict[str, Any]]:
        """Return what to post for a step."""
        labels = self._labels(alert)
        before = self._told.get(alert.event.fingerprint)
        found = [posted(alert, labels, target, runbooks_url, now_ms)]
        return [ended(before[1], now_ms), *found] if before is not None and before[1] != labels else found

    def took(self, alert: Alert) -> None:
        """Note that Alertmanager has what `request_of` gave."""
        event = alert.event
        if event.status != "resolved":
            labels = self._labels(alert)
            self._told.pop(event.fingerprint, None)
            self._told[event.fingerprint] = (event.incident_id, labels)
            _bound(self._told, self._open_max)
            return
        self._told.pop(event.fingerprint, None)
        now = self._open.get(event.fingerprint)
        if now is None or now.event.incident_id == event.incident_id:
            self._take_off(event.fingerprint)
            self._over[event.fingerprint] = event.incident_id
            _bound(self._over, self._open_max)

    def _labels(self, alert: Alert) -> _Labels:
        """Return the labels to tell a step with (rules 1 and 2)."""
        event = alert.event
        told = self._told.get(event.fingerprint)
        same = told is not None and told[0] == event.incident_id
        if event.status == "resolved":
            if told is not None and same:
                return told[1]
            known = self._open.get(event.fingerprint) or self._last.get(event.fingerprint)
            of_it = known is not None and known.event.incident_id == event.incident_id
            return labels_of(known.event if known is not None and of_it else event)
        labels = labels_of(event)
        if told is not None and same:
            labels.pop("feature", None)
            labels |= {"feature": told[1]["feature"]} if "feature" in told[1] else {}
        return labels

    def _take_off(self, fingerprint: str) -> None:
        alert = self._open.pop(fingerprint, None)
        if alert is not None:
            self._last.pop(fingerprint, None)
            self._last[fingerprint] = alert
            _bound(self._last, self._open_max)


def _bound(kept: dict[str, Any], entries_max: int) -> None:
    """Forget the oldest beyond a maximum."""
    while len(kept) > entries_max:
        del kept[next(iter(kept))]
