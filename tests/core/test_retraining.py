"""Requests for a training: what is a reason, when they are told, and what there is to train on."""

from typing import Any

import msgspec
import numpy as np
import pytest

from worker.core.events import AlertEvent, Changed, ChangeEvidence, LimitEvidence, SegmentName
from worker.core.kernels.arrays import I64
from worker.core.maintenance.retraining import Retraining, StoredRetraining
from worker.core.options.maintenance import RetrainOptions

OPTIONS = RetrainOptions(cooldown_ms=1_000, reasons_max=2, labels_min=3)
SEGMENT = SegmentName("region", "north")
NOTHING: I64 = np.zeros((0, 3), dtype=np.int64)


def alert(kind: str, at_ms: int = 10_000, **fields: Any) -> AlertEvent:  # noqa: ANN401 - fields of the struct
    """Return an incident that opens."""
    plain = {
        "alert_id": "a",
        "incident_id": f"i{at_ms}",
        "fingerprint": "f",
        "kind": kind,
        "status": "opened",
        "severity": "warning",
        "summary": f"{kind} happened",
        "runbook": "r",
        "model_id": "m",
        "model_version": None,
        "shard": 0,
        "timestamp_ms": at_ms,
        "opened_at_ms": at_ms,
        "last_flagged_ms": at_ms,
        "resolved_at_ms": None,
    }
    return msgspec.structs.replace(msgspec.convert(plain, AlertEvent), **fields)


def limit(since_ms: int) -> LimitEvidence:
    """Return evidence of a metric of a segment."""
    return LimitEvidence(
        metric="accuracy",
        limit_kind="minimum",
        observed=0.5,
        low=0.4,
        high=0.6,
        confidence=0.99,
        support=100.0,
        limit=0.8,
        reference=None,
        since_ms=since_ms,
        labels=100,
        segment=SEGMENT,
        classes=[],
    )


def marks(*times_ms: int) -> I64:
    """Return marks of labelled rows: their offsets count down from 100, as labels do not come in order."""
    count = len(times_ms)
    return np.stack([np.arange(count), 100 - np.arange(count), np.array(times_ms)], axis=1).astype(np.int64)


def test_only_kinds_that_are_asked_for_are_reasons() -> None:
    """An anomaly says nothing about the model; a drop of its performance does."""
    retraining = Retraining(OPTIONS, "labels")
    retraining.opened(alert("anomaly.input"))
    assert not retraining.is_due(10_000, marks(1, 2, 3))
    retraining.opened(alert("performance.limit", performance=limit(9_000)))
    report = retraining.due(10_000, 77, marks(8_000, 9_000, 9_500, 9_600))
    assert report is not None
    assert [(each.alert_kind, each.segment, each.since_ms) for each in report.reasons] == [
        ("performance.limit", SEGMENT, 9_000)
    ]
    assert (report.labels, report.labelled_topic, report.labels_since) == (77, "labels", 3)
    assert (report.first_offset, report.last_offset) == (97, 99)


def test_a_reason_is_told_once_and_others_wait_for_the_cooldown() -> None:
    """A bad day is one request: the next one comes a cooldown later in event time, with all that came up meanwhile."""
    retraining, enough = Retraining(OPTIONS, "labels"), marks(20_000, 20_000, 20_000)
    retraining.opened(alert("drift.concept", onset_ms=9_900))
    assert retraining.due(10_000, 1, enough) is not None
    assert retraining.due(10_000, 1, enough) is None
    retraining.opened(alert("drift.input", 10_100))
    retraining.opened(alert("performance.drop", 10_200))
    assert not retraining.is_due(10_999, enough)
    report = retraining.due(11_000, 2, enough)
    assert report is not None
    assert [each.alert_kind for each in report.reasons] == ["drift.input", "performance.drop"]


def test_it_waits_for_labels_but_no_longer_than_the_cooldown() -> None:
    """There is nothing to train on at once; a model whose labels do not come any more is told all the same."""
    retraining = Retraining(OPTIONS, "labels")
    retraining.opened(alert("drift.concept", 10_000, onset_ms=9_900))
    assert not retraining.is_due(10_500, marks(9_899, 9_900, 9_950))
    assert retraining.is_due(10_500, marks(9_899, 9_900, 9_950, 9_960))
    report = retraining.due(11_000, 5, NOTHING)
    assert report is not None
    assert (report.first_offset, report.last_offset, report.labels_since) == (None, None, 0)


def test_a_watermark_that_goes_back_holds_nothing_up() -> None:
    """Event time may be set back; a request must not wait for years then."""
    retraining = Retraining(OPTIONS, "labels")
    retraining.opened(alert("drift.concept", 10**12))
    assert retraining.due(10**12 + 1_000, 1, NOTHING) is not None
    retraining.opened(alert("drift.concept", 20_000))
    assert retraining.is_due(20_000, marks(1, 2, 3))
    assert retraining.due(21_000, 1, NOTHING) is not None


def test_reasons_are_bounded() -> None:
    """Those beyond the bound are counted."""
    retraining = Retraining(OPTIONS, "labels")
    for number in range(5):
        retraining.opened(alert("drift.input", 10_000 + number))
    assert retraining.refused == 3
    report = retraining.due(10_004, 1, marks(0, 0, 0))
    assert report is not None
    assert len(report.reasons) == 2


def test_concept_drift_is_told_once() -> None:
    """Fits are hastened by it, whether it is a reason to train or not."""
    retraining = Retraining(RetrainOptions(kinds=()), "labels")
    told = []
    for kind in ("drift.input", "drift.concept"):
        retraining.opened(alert(kind))
        told.append(retraining.is_drifted)
    assert told == [False, True]
    assert (retraining.take_drifted(), retraining.take_drifted()) == (True, False)
    assert not retraining.is_due(10**12, NOTHING)


def test_since_when_is_told_by_the_largest_change() -> None:
    """Of a drift of the inputs, whose evidence tells it by feature, largest first."""
    retraining = Retraining(OPTIONS, "labels")
    largest, second = (
        Changed(name=name, measure="share", observed=0.5, expected=0.1, effect=effect, since_ms=since, since_offset=1)
        for name, effect, since in (("x", 2.0, 5_000), ("y", 1.0, 9_000))
    )
    change = ChangeEvidence(changed=[largest, second], changed_count=2, looked_at=3, events=100)
    retraining.opened(alert("drift.input", change=change))
    report = retraining.due(10_000, 1, marks(4_000, 5_000, 5_000, 5_000))
    assert report is not None
    assert report.reasons[0].since_ms == 5_000
    assert report.labels_since == 3


def test_a_restored_one_goes_on_as_before() -> None:
    """Reasons, cooldown, refusals and drift survive; too many reasons are refused."""
    retraining = Retraining(OPTIONS, "labels")
    retraining.opened(alert("drift.concept"))
    assert retraining.due(11_000, 1, NOTHING) is not None
    for number in range(3):
        retraining.opened(alert("drift.concept", 11_100 + number))
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(retraining.state()), type=StoredRetraining)
    twin = Retraining(OPTIONS, "labels")
    twin.restore(stored)
    assert twin.state() == retraining.state()
    assert twin.refused == 1
    assert twin.is_drifted
    for now_ms in (11_500, 12_099, 12_100):
        assert twin.due(now_ms, 9, marks(1, 2)) == retraining.due(now_ms, 9, marks(1, 2))
    with pytest.raises(ValueError, match="too many reasons"):
        Retraining(msgspec.structs.replace(OPTIONS, reasons_max=1), "labels").restore(stored)
