"""Marks results that come late, and knows since when the worker has been lagging; notes when causes of alerts came in.

A record is late when it is taken more than `lagging_ms` after Kafka's timestamp of it, whatever the reason: a backlog,
a worker that was away, an upstream that holds records back. Whoever is woken by an alert should know that it is about
the past. The mark is a Kafka header and no field of the record, because it depends on the clock: what the core computes
is a function of the input alone (law 2), and a replay of the same input must give the same bytes. Two workers that
compute the same result, one of them in vain, may well mark it differently.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from worker.core.events import InputTopic, Output, OutputTopic, RawBatch

LAG_HEADER = "modelvigil.lag_ms"
ALERT_SHARE = 4
"""An alert waits for its commit for one part in so many of the usual interval. Such a commit has records, and the sink
waits for them first: so it is not held up for long where Kafka is still ending the transaction before it."""
LATE_SHARE = 10
"""While a worker lags, results may wait for their commit for one part in so many of the lag."""
LATE_COMMIT_MS_MAX = 1_000
BACKLOG_RECORDS = 10_000
"""A fetch of so many, or of half of what it may have, is one from a backlog."""
CALM_MS = 10_000
"""Lagging is over when nothing late has been taken for so long: other inputs may be on time meanwhile."""

_MARKED = frozenset({OutputTopic.ALERTS, OutputTopic.INCIDENTS, OutputTopic.METRICS, OutputTopic.MAINTENANCE})
"""Dead letters and scores are about one record each, which has a timestamp of its own."""


def marked(outputs: Sequence[Output], lag_ms: int) -> list[Output]:
    """Return outputs, in their order, with a header that tells how late they are."""
    header = (LAG_HEADER, str(lag_ms).encode())
    return [
        output._replace(headers=(*output.headers, header)) if output.topic in _MARKED else output for output in outputs
    ]


def is_marked(output: Output) -> bool:
    """Whether an output came late."""
    return output.topic in _MARKED and any(name == LAG_HEADER for name, _ in output.headers)


class AlertCause(NamedTuple):
    """When Kafka got the record that has caused an alert of a shard."""

    shard: int
    timestamp_ms: int


def alert_causes(batch: RawBatch, outputs: Sequence[Output]) -> list[AlertCause]:
    """Return one cause for each alert among the outputs of a batch; none for a record without a timestamp."""
    offsets = [output.offset for output in outputs if output.topic is OutputTopic.ALERTS]
    places = [(offset, bisect_left(batch.offsets, offset)) for offset in offsets]
    found = [
        batch.timestamps_ms[place]
        for offset, place in places
        if place < len(batch.offsets) and batch.offsets[place] == offset
    ]
    return [AlertCause(batch.partition, timestamp_ms) for timestamp_ms in found if timestamp_ms >= 0]


class Lag:
    """How late one worker is.

    Args:
        lagging_ms: what is taken later than this is late.
    """

    def __init__(self, lagging_ms: int) -> None:
        self._lagging_ms = lagging_ms
        self._in_turn_ms: int | None = None
        self._late_ms = -1
        self._last_turn_ms = 0
        self._backlog_in_turn = False
        self._backlog = False
        self.ahead_records = 0
        """With so many left that nobody has begun with, more are to be fetched: in a backlog. Elsewhere with none: the
        longer records are waited for, the more come at once, and few are dear."""
        self.seconds = 0.0
        """How late the latest record of the last turn was that took any."""
        self.lagging = False

    def taken(self, batch: RawBatch, epoch_ms: int) -> int | None:
        """Note a batch that is being processed; return how late its results are, None if they are in time.

        A record without a timestamp (negative) is never late. Feedback tells nothing of the worker: a shard that begins
        anew reads all of it.
        """
        stamp_ms = batch.timestamps_ms[-1]
        if stamp_ms < 0:
            return None
        lag_ms = max(0, epoch_ms - stamp_ms)
        if batch.topic is not InputTopic.FEEDBACK:
            self._in_turn_ms = max(lag_ms, self._in_turn_ms or 0)
        return lag_ms if lag_ms > self._lagging_ms else None

    def fetched(self, records: int, records_max: int) -> None:
        """Note how many records a fetch had, and could have had: only where many wait, there is a backlog."""
        is_much = records >= min(BACKLOG_RECORDS, records_max / 2)
        self._backlog_in_turn |= is_much
        self.ahead_records = records // 2 if is_much else 0

    def commit_interval_ms(self, usual_ms: int, causes: Sequence[AlertCause]) -> int:
        """Return how long to work until the next commit, from the last one on, where alerts of these causes wait.

        A commit takes 10 to 40 ms, in which, but in a backlog, nothing else is done: at 200 ms that is a tenth of the
        time. So metrics may wait for it, but somebody waits for alerts. In a backlog, where all results are seconds
        late, fewer commits make the worker faster and hardly a result later. Old records alone are no backlog: the
        producer may have held them back.
        """
        if not self._backlog:
            return usual_ms // ALERT_SHARE if causes else usual_ms
        return max(usual_ms, min(LATE_COMMIT_MS_MAX, self._last_turn_ms // LATE_SHARE))

    def turn(self, now_ms: int) -> bool:
        """A turn of the loop is over; return whether lagging has begun or ended with it.

        Args:
            now_ms: by a clock that only goes on.
        """
        late = self._in_turn_ms is not None and self._in_turn_ms > self._lagging_ms
        if late:
            self._late_ms = now_ms
        if self._in_turn_ms is not None:
            self.seconds = self._in_turn_ms / 1000
        self._last_turn_ms, self._in_turn_ms = self._in_turn_ms or 0, None
        self._backlog, self._backlog_in_turn = self._backlog_in_turn, False
        before, self.lagging = self.lagging, late or (self.lagging and now_ms - self._late_ms < CALM_MS)
        if before and not self.lagging and self.seconds * 1000 > self._lagging_ms:
            self.seconds = 0.0  # nothing has come since, so nothing waits
        return self.lagging != before
