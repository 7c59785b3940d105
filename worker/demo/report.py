"""What came of a demo: what was counted, and whether the injected fault was caught; said plainly either way.

Caught: an incident of the faulty model became critical while the fault lasted, and most of its evidence rows are of
that time. Every other incident that became critical is a false alarm, whatever its model.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from worker.core.events import AlertEvent
from worker.demo import fault as injected
from worker.demo.fault import Fault
from worker.demo.stream import LABEL_DELAY_S


class Result(NamedTuple):
    """Everything that the report is made of."""

    seconds: float
    sent: int
    written: int
    delivery_error: str | None
    counted: int
    dead_letters: int
    behind: int
    opened: int
    worker_exit_code: int
    fault: Fault
    started_ms: int
    criticals: Sequence[AlertEvent]
    label_alerts: Sequence[AlertEvent]
    asked_in_fault: int
    right_in_fault: int
    accuracy: float
    """Of the same model on rows that are in order."""

    @property
    def is_complete(self) -> bool:
        """Whether every event that Kafka has taken is in the metrics or among the dead letters, once."""
        return self.counted + self.dead_letters == self.written


class Judgement(NamedTuple):
    """What the critical alerts amount to."""

    caught: AlertEvent | None
    false_alarms: int


def judge(criticals: Sequence[AlertEvent], fault: Fault, started_ms: int) -> Judgement:
    """Judge the alerts of severity critical, in the order in which they were published."""
    first: dict[str, AlertEvent] = {}
    for alert in criticals:
        if alert.status != "resolved":
            first.setdefault(alert.incident_id, alert)
    of_the_fault = [alert for alert in first.values() if _is_of_the_fault(alert, fault, started_ms)]
    caught = min(of_the_fault, key=lambda alert: alert.timestamp_ms, default=None)
    return Judgement(caught, len(first) - len(of_the_fault))


def _is_of_the_fault(alert: AlertEvent, fault: Fault, started_ms: int) -> bool:
    if alert.model_id != injected.MODEL_ID or not _inside(alert.timestamp_ms, fault, started_ms):
        return False
    inside = [row for row in alert.evidence if _inside(row.timestamp_ms, fault, started_ms)]
    return 2 * len(inside) > len(alert.evidence)


def _inside(time_ms: int, fault: Fault, started_ms: int) -> bool:
    """Timestamps are whole milliseconds, cut off: so is the beginning."""
    return started_ms + int(fault.begin_s * 1000) <= time_ms < started_ms + fault.end_s * 1000


def lines(result: Result) -> Iterator[str]:
    """Say what came of it, in a few lines."""
    yield from _counts(result)
    verdict = judge(result.criticals, result.fault, result.started_ms)
    yield f"Alerts opened: {result.opened}."
    yield from _fault_story(result, verdict.caught)
    yield f"False alarms (critical incidents that are not the fault's): {verdict.false_alarms}."


def _counts(result: Result) -> Iterator[str]:
    yield (
        f"Events in: {result.written:,} in {result.seconds:.1f} s. "
        f"Counted by the worker's metrics: {result.counted:,}, and {result.dead_letters} dead letters."
    )
    if result.delivery_error:
        yield f"Kafka did not take {result.sent - result.written:,} of the events: {result.delivery_error}."
    if result.behind:
        yield f"The worker was stopped {result.behind:,} events before the end of its input."
    elif not result.is_complete:
        yield "These numbers do NOT agree: that is a bug in the worker."
    if result.worker_exit_code:
        yield f"The worker ended with exit code {result.worker_exit_code}."


def _fault_story(result: Result, caught: AlertEvent | None) -> Iterator[str]:
    fault = result.fault
    if result.seconds <= fault.begin_s:
        yield f"The fault was planned for {fault.begin_s:.1f} s and had not begun."
        return
    end_s = min(fault.end_s, result.seconds)
    yield f"The fault, from {fault.begin_s:.1f} s to {end_s:.1f} s: {injected.DESCRIPTION}."
    if result.asked_in_fault:
        right = result.right_in_fault / result.asked_in_fault
        yield f"  The model was right on {right:.0%} of these events (otherwise on {result.accuracy:.0%})."
    if caught is None:
        yield f"  It was NOT caught: no incident of {injected.MODEL_ID} became critical while it lasted."
        return
    after_s = (caught.timestamp_ms - result.started_ms) / 1000 - fault.begin_s
    yield f"  It was CAUGHT: critical {max(after_s, 0.0):.2f} s after it began. {_named(caught)}"
    yield from _resolved_early(result, caught, end_s)
    yield from _labels_story(result)


def _labels_story(result: Result) -> Iterator[str]:
    """Say when labels, which come later, confirmed that the model was wrong."""
    since_ms = result.started_ms + result.fault.begin_s * 1000
    late = f"  Its labels, which come {LABEL_DELAY_S:.0f} s late,"
    drops = (
        alert
        for alert in result.label_alerts
        if (alert.model_id, alert.status) == (injected.MODEL_ID, "opened")
        and alert.kind in ("performance.drop", "drift.concept")
        and alert.timestamp_ms >= since_ms
    )
    first = next(drops, None)
    if first is None:
        yield f"{late} have not shown it yet."
    else:
        yield f"{late} confirmed it after {(first.timestamp_ms - since_ms) / 1000:.1f} s: {first.summary}."


def _resolved_early(result: Result, caught: AlertEvent, end_s: float) -> Iterator[str]:
    """Say so if the incident was declared over while its cause was still there."""
    for alert in result.criticals:
        second = (alert.timestamp_ms - result.started_ms) / 1000
        if alert.incident_id == caught.incident_id and alert.status == "resolved" and second < end_s:
            yield f"  But it was resolved at {second:.1f} s already: the worker had come to take the fault for normal."


def _named(caught: AlertEvent) -> str:
    if not caught.features:
        return "The alert named no feature."
    name = caught.features[0].name
    right = "the broken one" if name in injected.FEATURES else f"but {', '.join(injected.FEATURES)} was broken"
    return f"The feature named first was {name}, {right}."
