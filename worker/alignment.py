"""Keeps the labels of a shard from running ahead of its predictions, which are read side by side.

Kafka knows no order between `predictions[p]` and `labels[p]`. While a worker keeps up it does not matter. But when it
works off a backlog, the topic with the shorter records comes in faster, and labels would reach their bound before the
predictions that they belong to. So labels wait until the predictions have come as far as they, by the timestamps of
their Kafka records, or until there is nothing to wait for: they have waited for `hold_ms`, and Kafka has no more
predictions, or does not say so (after a transaction it never does) for ten times as long. Predictions never wait.
Time counts only if predictions of the partition would have come: not, while Kafka has some, between two fetches that
had as many records as they may have, all of others. A worker that is slow in a backlog is busy with other partitions
for ten seconds and more.
(Kafka Streams does the same to its inputs: KIP-353, `max.task.idle.ms`.)

What is held was not taken: whoever gets the partition reads it again. Feedback does not come through here: it is taken
as soon as it is read.
"""

from collections import deque
from collections.abc import Callable, Sequence

from worker.core.events import RawBatch

LEAD_MS = 1_000
"""So far labels may be ahead of the predictions."""

_PATIENCE = 10


class Alignment:
    """Labels that were fetched and not yet given to the engine, by partition.

    Args:
        hold_ms: 0 holds nothing.
        records_max: more held labels of a partition than this, and no more of them should be fetched.
    """

    def __init__(self, hold_ms: int, records_max: int) -> None:
        self._hold_ms = hold_ms
        self._records_max = records_max
        self._held: dict[int, deque[RawBatch]] = {}
        self._reached_ms: dict[int, int] = {}
        self._waiting_since_ms: dict[int, int] = {}
        self._came: set[int] = set()
        """Partitions of which predictions have come since `release` was last called."""
        self._looked_ms = 0
        """When that was."""

    def begin(self, partition: int, now_ms: int) -> None:
        """A shard goes live."""
        self._held[partition] = deque()
        self._reached_ms[partition] = -1
        self._waiting_since_ms[partition] = now_ms

    def forget(self, partitions: Sequence[int]) -> None:
        """Shards are gone."""
        for partition in partitions:
            for known in (self._held, self._reached_ms, self._waiting_since_ms):
                known.pop(partition, None)

    def hold(self, labels: RawBatch, now_ms: int) -> None:
        """Keep labels until they may be taken."""
        held = self._held[labels.partition]
        if not held:
            self._waiting_since_ms[labels.partition] = now_ms
        held.append(labels)

    def predictions_came(self, batch: RawBatch) -> None:
        """Predictions have come, and the engine gets them before any label that is released from here on."""
        self._came.add(batch.partition)
        latest_ms = max(batch.timestamps_ms)
        self._reached_ms[batch.partition] = max(self._reached_ms[batch.partition], latest_ms)

    def release(self, now_ms: int, may_have_more: Callable[[int], bool], *, is_dry: bool) -> list[RawBatch]:
        """Return the labels that may be taken now, in their order.

        Args:
            now_ms: by a clock that only goes on.
            may_have_more: whether there may be predictions of a partition that have not come yet.
            is_dry: the latest fetch took all that was there.
        """
        released = []
        since_ms, self._looked_ms = self._looked_ms, now_ms
        came, self._came = self._came, set()
        for partition, held in self._held.items():
            if not held:
                continue
            if not is_dry and partition not in came and may_have_more(partition):
                self._waiting_since_ms[partition] = min(now_ms, self._waiting_since_ms[partition] + now_ms - since_ms)
            limit_ms = self._reached_ms[partition] + LEAD_MS
            # However long ago that is: where predictions have come as far as the first label, there is no silence.
            silent = _up_to(held[0], limit_ms) == 0 and self._is_silent(partition, now_ms, may_have_more)
            while held:
                count = len(held[0].offsets) if silent else _up_to(held[0], limit_ms)
                if count == 0:
                    break
                self._waiting_since_ms[partition] = now_ms
                released.append(_part(held[0], 0, count))
                rest = _part(held[0], count, len(held[0].offsets))
                held.popleft()
                if rest.offsets:
                    held.appendleft(rest)
                    break
        return released

    def _is_silent(self, partition: int, now_ms: int, may_have_more: Callable[[int], bool]) -> bool:
        """Tell whether there is nothing to wait for."""
        # Since when the first label waits: one with a wrong timestamp must not hold all others up for ever.
        waited_ms = now_ms - self._waiting_since_ms[partition]
        return waited_ms >= self._hold_ms and (waited_ms >= _PATIENCE * self._hold_ms or not may_have_more(partition))

    def is_full(self, partition: int) -> bool:
        """Whether enough labels of a partition are held."""
        return sum(len(batch.offsets) for batch in self._held[partition]) > self._records_max

    @property
    def partitions(self) -> list[int]:
        """The live shards."""
        return list(self._held)


def _up_to(batch: RawBatch, limit_ms: int) -> int:
    """Return how many records there are before the first one that is later than `limit_ms`."""
    if max(batch.timestamps_ms) <= limit_ms:
        return len(batch.offsets)  # most often, and without Python for each record
    return next((place for place, stamp in enumerate(batch.timestamps_ms) if stamp > limit_ms), len(batch.offsets))


def _part(batch: RawBatch, begin: int, end: int) -> RawBatch:
    if (begin, end) == (0, len(batch.offsets)):
        return batch
    return batch._replace(
        offsets=batch.offsets[begin:end],
        timestamps_ms=batch.timestamps_ms[begin:end],
        values=batch.values[begin:end],
        keys=batch.keys[begin:end],
        headers=batch.headers[begin:end],
    )
