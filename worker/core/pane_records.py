"""One pane of one monitor as metric records: usually one, several where its columns would not fit into one."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from worker.core.codec import encode
from worker.core.columns import ColumnTable
from worker.core.events import ColumnMetric, MetricEvent
from worker.core.identity import derived_id
from worker.core.statistics.pane_metrics import column_metrics
from worker.core.statistics.panes import PaneCounts, PaneSlots

COLUMNS_BYTES_MAX = 400_000
"""Encoded columns of one metric record; Kafka's usual limit for a record is a million bytes."""


class PaneOwner(NamedTuple):
    """The monitor, and what it knows beside the pane's statistics."""

    model_id: str
    model_version: str | None
    shard: int
    phase: Literal["warming_up", "calibrating", "ready"]
    labels: int
    """That have arrived since its last metric record."""
    drift_psi: Sequence[float | None]
    """Of each column, the prediction first; empty when drift is not watched."""


def pane_records(
    owner: PaneOwner, counts: PaneCounts, slots: PaneSlots, columns: ColumnTable, slot: int, pane_ms: int
) -> Iterator[MetricEvent]:
    """Yield the records of the pane in a slot."""
    start_ms, part = int(counts.index[slot]) * pane_ms, int(counts.part[slot])
    events, scored, flagged = int(counts.events[slot]), int(counts.scored[slot]), int(counts.flagged[slot])
    first_offset = int(counts.first_offset[slot])
    of_features = [psi for psi in owner.drift_psi[1:] if psi is not None]
    whole = MetricEvent(
        metric_id=derived_id("pane", owner.model_id, owner.shard, start_ms, first_offset, part),
        model_id=owner.model_id,
        model_version=owner.model_version,
        shard=owner.shard,
        pane_start_ms=start_ms,
        pane_end_ms=start_ms + pane_ms,
        part=part,
        state=owner.phase,
        events=events,
        late_events=int(counts.late[slot]),
        unknown_features=int(counts.unknown[slot]),
        labels=owner.labels,
        first_offset=first_offset,
        last_offset=int(counts.last_offset[slot]),
        events_per_second=events * 1000.0 / pane_ms,
        scored_events=scored,
        flagged_events=flagged,
        anomaly_rate=flagged / scored if scored else None,
        drift_psi=max(of_features, default=None),
        columns=_with_drift(column_metrics(columns, slots.arrays, slot, events), owner.drift_psi),
    )
    yield from _split(whole)


def _with_drift(columns: list[ColumnMetric], drift_psi: Sequence[float | None]) -> list[ColumnMetric]:
    """Put the drift of each column beside its statistics. Where it is watched columns are frozen: none is left out."""
    if not drift_psi:
        return columns
    return [msgspec.structs.replace(column, drift_psi=psi) for column, psi in zip(columns, drift_psi, strict=True)]


def _split(metric: MetricEvent) -> Iterator[MetricEvent]:
    """Yield a metric in parts that fit into a record: the first one counts the events, the others only have columns."""
    parts: list[list[ColumnMetric]] = [[]]
    size = 0
    for column in metric.columns:
        length = len(encode(column))
        if parts[-1] and size + length > COLUMNS_BYTES_MAX:
            parts.append([])
            size = 0
        parts[-1].append(column)
        size += length
    yield msgspec.structs.replace(metric, columns=parts[0])
    for place, columns in enumerate(parts[1:], start=1):
        part = metric.part + place
        yield msgspec.structs.replace(
            metric,
            metric_id=derived_id(metric.metric_id, part),
            part=part,
            events=0,
            late_events=0,
            unknown_features=0,
            labels=0,
            events_per_second=0.0,
            scored_events=0,
            flagged_events=0,
            anomaly_rate=None,
            drift_psi=None,
            columns=columns,
        )
