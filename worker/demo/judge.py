"""Was the injected fault caught? Judged by the published alerts alone, and said either way.

Caught: an incident of the faulty model became critical inside of the fault's time, and most of its evidence rows
were sent inside of that time. Every other incident that became critical is a false alarm, whatever its model.
"""

from collections.abc import Iterable
from typing import NamedTuple

from worker.core.events import AlertEvent, EvidenceRow
from worker.demo import fault as camera
from worker.demo.fault import Fault


class Judgement(NamedTuple):
    """What the critical alerts amount to."""

    caught: AlertEvent | None
    after_s: float | None
    named: str | None
    false_criticals: int

    @property
    def named_rightly(self) -> bool:
        """Whether the feature that the alert named first is one that was broken."""
        return self.named in camera.FEATURES


def judge(criticals: Iterable[AlertEvent], fault: Fault, started_ms: int) -> Judgement:
    """Judge all alerts of severity critical, in the order they were published."""
    first: dict[str, AlertEvent] = {}
    for alert in criticals:
        if alert.status != "resolved":
            first.setdefault(alert.incident_id, alert)
    true = [alert for alert in first.values() if _is_of_the_fault(alert, fault, started_ms)]
    caught = min(true, key=lambda alert: alert.timestamp_ms, default=None)
    if caught is None:
        return Judgement(None, None, None, len(first))
    after_s = caught.timestamp_ms / 1000 - started_ms / 1000 - fault.begin_s
    named = caught.features[0].name if caught.features else None
    return Judgement(caught, after_s, named, len(first) - len(true))


def _is_of_the_fault(alert: AlertEvent, fault: Fault, started_ms: int) -> bool:
    if alert.model_id != camera.MODEL_ID or not _inside(alert.timestamp_ms, fault, started_ms):
        return False
    inside = [row for row in alert.evidence if _row_inside(row, fault, started_ms)]
    return 2 * len(inside) > len(alert.evidence)


def _row_inside(row: EvidenceRow, fault: Fault, started_ms: int) -> bool:
    return _inside(row.timestamp_ms, fault, started_ms)


def _inside(time_ms: int, fault: Fault, started_ms: int) -> bool:
    """Timestamps are whole milliseconds, cut off: so is the beginning."""
    return started_ms + int(fault.begin_s * 1000) <= time_ms < started_ms + fault.end_s * 1000
