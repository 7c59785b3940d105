"""What was published, and what people have said of it."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

from worker.core.events import AlertEvent, FeedbackEvent, RawBatch, TruePositiveFeedback, UndoFeedback
from worker.lagging import LAG_HEADER
from worker.replay.incidents import Incident, IncidentBook

_decode_alert: Callable[[bytes], AlertEvent] = msgspec.json.Decoder(AlertEvent).decode
_decode_feedback: Callable[[bytes], FeedbackEvent] = msgspec.json.Decoder(FeedbackEvent).decode


class Published(NamedTuple):
    """The incidents on the topic of alerts."""

    incidents: list[Incident]
    opened_at_ms: Mapping[int, int]
    """By the clock, when the last incident of each shard opened that was not told late: a worker was there until then,
    and had read what there was."""
    unreadable: int
    """Records that are no alerts of this version."""


def read_published(batches: Iterable[RawBatch], shards: Collection[int]) -> Published:
    """Read the alerts of some shards."""
    book, opened_at_ms, unreadable = IncidentBook(), dict[int, int](), 0
    for batch in batches:
        for value, written_ms, headers in zip(batch.values, batch.timestamps_ms, batch.headers, strict=True):
            try:
                step = _decode_alert(value or b"")
            except ValueError:
                unreadable += 1
                continue
            if step.shard not in shards:
                continue
            book.add(step)
            if step.status == "opened" and LAG_HEADER not in dict(headers or ()):
                opened_at_ms[step.shard] = max(written_ms, opened_at_ms.get(step.shard, 0))
    return Published(book.incidents(), opened_at_ms, unreadable)


def read_marks(batches: Iterable[RawBatch]) -> set[str]:
    """Return the ids of incidents that were marked as true positives, where that was not undone."""
    marked: dict[str, str] = {}
    for batch in batches:
        for value in batch.values:
            try:
                said = _decode_feedback(value or b"")
            except ValueError:
                continue
            if isinstance(said, TruePositiveFeedback):
                marked.setdefault(said.feedback_id, said.incident_id)
            elif isinstance(said, UndoFeedback):
                marked.pop(said.undoes, None)
    return set(marked.values())
