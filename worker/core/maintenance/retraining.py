"""Requests for a training elsewhere: what says that a model is out of date, and what there is to train it on.

An incident that opens is a reason. Reasons that come up within the cooldown wait for the next request, so that a bad
day is one request and not forty.
"""

from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from worker.core.events import AlertEvent, RetrainReason, RetrainReport, SegmentName
from worker.core.kernels.arrays import I64
from worker.core.maintenance.labelled_buffer import OFFSET, TIME
from worker.core.options.maintenance import RetrainOptions
from worker.core.state import COUNT_MAX, refuse_if

_Time = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class StoredRetraining(Struct, frozen=True, forbid_unknown_fields=True):
    """The state: reasons that were not told yet, and when the last request was."""

    reasons: list[RetrainReason] = []
    requested_ms: _Time | None = None
    first_ms: _Time | None = None
    """Event time of the first of them."""
    refused: Annotated[int, Meta(ge=0, le=COUNT_MAX)] = 0
    is_drifted: bool = False


class Retraining:
    """Collects reasons, and asks for a training when there are some and the cooldown is over."""

    def __init__(self, options: RetrainOptions, labelled_topic: str) -> None:
        self._options = options
        self._labelled_topic = labelled_topic
        self._reasons: list[RetrainReason] = []
        self._requested_ms: int | None = None
        self._first_ms: int | None = None
        self._is_drifted = False
        self.refused = 0
        """Reasons beyond `reasons_max`, that were not kept."""

    def opened(self, alert: AlertEvent) -> None:
        """Take an incident that has opened for a reason, if it is one."""
        self._is_drifted |= alert.kind == "drift.concept"
        if alert.kind not in self._options.kinds:
            return
        if len(self._reasons) >= self._options.reasons_max:
            self.refused += 1
            return
        if self._first_ms is None:
            self._first_ms = alert.timestamp_ms
        performance, change = alert.performance, alert.change
        since = alert.onset_ms if performance is None else performance.since_ms
        self._reasons.append(
            RetrainReason(
                alert_kind=alert.kind,
                incident_id=alert.incident_id,
                severity=alert.severity,
                summary=alert.summary,
                segment=_segment(alert),
                since_ms=change.changed[0].since_ms
                if since is None and change is not None and change.changed
                else since,
            )
        )

    @property
    def is_drifted(self) -> bool:
        """Whether concept drift was told since it was last taken note of."""
        return self._is_drifted

    def take_drifted(self) -> bool:
        """Tell whether concept drift was told since the last time."""
        is_drifted, self._is_drifted = self._is_drifted, False
        return is_drifted

    def is_due(self, now_ms: int, marks: I64) -> bool:
        """Tell whether there is a reason, the cooldown is over at an event time, and there are labels to train on.

        For those it waits no longer than for the cooldown.
        """
        if not self._reasons or not self._is_over(self._requested_ms, now_ms):
            return False
        return len(self._since(marks)) >= self._options.labels_min or self._is_over(self._first_ms, now_ms)

    def _is_over(self, since_ms: int | None, now_ms: int) -> bool:
        # A watermark that was set back must not hold requests up for ever.
        return since_ms is None or now_ms < since_ms or now_ms - since_ms >= self._options.cooldown_ms

    def _since(self, marks: I64) -> I64:
        """Return the marks of the labelled rows since the first reason."""
        begins = [each.since_ms for each in self._reasons if each.since_ms is not None]
        return marks[marks[:, TIME] >= (min(begins) if begins else 0)]

    def due(self, now_ms: int, labels: int, marks: I64) -> RetrainReport | None:
        """Return the request that is due at an event time; `marks`: of the latest labelled rows (n x MARKS)."""
        if not self.is_due(now_ms, marks):
            return None
        since = self._since(marks)
        reasons, self._reasons, self._requested_ms, self._first_ms = self._reasons, [], now_ms, None
        return RetrainReport(
            reasons=reasons,
            labels=labels,
            labelled_topic=self._labelled_topic,
            first_offset=int(np.min(since[:, OFFSET])) if len(since) else None,
            last_offset=int(np.max(since[:, OFFSET])) if len(since) else None,
            labels_since=len(since),
        )

    def state(self) -> StoredRetraining:
        """Return what is to be stored."""
        return StoredRetraining(list(self._reasons), self._requested_ms, self._first_ms, self.refused, self._is_drifted)

    def restore(self, stored: StoredRetraining) -> None:
        """Take over what `state` gave; ValueError for what cannot be."""
        too_many = len(stored.reasons) > self._options.reasons_max
        refuse_if("stored requests for training", {"there are too many reasons": too_many})
        self._reasons, self._requested_ms, self.refused = list(stored.reasons), stored.requested_ms, stored.refused
        self._first_ms, self._is_drifted = stored.first_ms, stored.is_drifted


def _segment(alert: AlertEvent) -> SegmentName | None:
    if alert.performance is not None:
        return alert.performance.segment
    return None if alert.change is None else alert.change.segment
