"""Labelled events on their way into the series: columns of what is known of each, in the order in which it was."""

from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from worker.core.kernels.arrays import F64, I8, I16, I32, I64
from worker.core.kernels.tally import LAG_BUCKETS, bucket_lags
from worker.core.performance.label_join import Columns, Joined
from worker.core.state import COUNT_MAX

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_Offset = Annotated[int, Meta(ge=-1, le=2**62)]


class Labelled(NamedTuple):
    """Labelled events (n). `old_labels` count only where `corrected` is 1; `slots`: their rows in the join."""

    slots: I64
    corrected: I8
    times_ms: I64
    arrived_ms: I64
    labels: F64
    label_kinds: I8
    old_labels: F64
    old_kinds: I8
    predictions: F64
    prediction_kinds: I8
    probabilities: F64
    offsets: I64
    """Of the predictions."""
    lag_buckets: I16
    segments: I32
    blocks: I32
    """For each series: the block that holds the contribution, NO_BLOCK for none yet."""
    causes: I64
    """Offsets of the records that labelled them."""
    numbers: I64
    """What the follower has given each prediction, -1 for none."""

    def part(self, rows: slice | I64) -> "Labelled":
        """Return some of the events, in order."""
        return Labelled._make(column[rows] for column in self)

    @property
    def size(self) -> int:
        """The number n of events."""
        return len(self.slots)


def labelled(joined: Joined, columns: Columns, causes: I64) -> Labelled:
    """Return what a call of the join has labelled; `causes`: offsets of the rows of the call.

    The lag of an event is that of its first label, so that a correction changes nothing of it.
    """
    slots = joined.slots
    first = joined.corrected == 0
    fresh = np.zeros(len(slots), dtype=np.int16)
    bucket_lags(joined.label_ms - joined.times_ms, fresh)
    columns.lag_bucket[slots[first]] = fresh[first]
    return Labelled(
        slots=slots,
        corrected=joined.corrected,
        times_ms=joined.times_ms,
        arrived_ms=np.maximum(joined.label_ms, joined.times_ms),
        labels=joined.labels,
        label_kinds=joined.label_kinds,
        old_labels=joined.old_labels,
        old_kinds=joined.old_kinds,
        predictions=columns.prediction[slots],
        prediction_kinds=columns.prediction_kind[slots],
        probabilities=columns.probabilities[slots],
        offsets=columns.offset[slots],
        lag_buckets=columns.lag_bucket[slots],
        segments=columns.segments[slots],
        blocks=columns.blocks[slots],
        causes=causes[joined.rows],
        numbers=columns.number[slots],
    )


class Pending(Struct, array_like=True, forbid_unknown_fields=True):
    """A labelled event before the task is known."""

    key: tuple[int, int]
    time_ms: _Count
    arrived_ms: _Count
    label: float
    label_kind: Annotated[int, Meta(ge=0, le=2)]
    prediction: float
    prediction_kind: Annotated[int, Meta(ge=0, le=2)]
    probabilities: list[float | None]
    offset: _Offset
    lag_bucket: Annotated[int, Meta(ge=0, lt=LAG_BUCKETS)]
    segments: list[int]
    cause: _Offset
