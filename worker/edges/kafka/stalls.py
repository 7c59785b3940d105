"""Notices that librdkafka has stopped reading a partition, and proves it.

After a broker was away, a consumer now and then asks it for no more records, and says nothing of it (librdkafka #4492,
#5153; seen in a soak here, after a broker had hung for 12 s). A new consumer reads on.

Rule 1: silence proves nothing, and neither does an end that lies ahead: behind it may be the marker of a transaction
        only. The proof is a record that another consumer finds where this one, its queue emptied, gets none.
Rule 2: whoever gets records is not looked at, and of the silent ones one a second at most.
"""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from confluent_kafka import KafkaException

from worker.edges.kafka.history import KafkaReader
from worker.ports import PositionGoneError

QUESTION_MAX_S = 0.5
_LOOK_S = 1.0
_AFTER_FAILURE_S = 5.0
"""A broker that is away must not cost those who read from others much time."""
_PROBE_MAX_S = 5.0
_READ_MS = 50


class Place(NamedTuple):
    """A partition that is being read."""

    topic: str
    partition: int


class _Probe(NamedTuple):
    """Another consumer, begun at the next offset of a silent place."""

    place: Place
    offset: int
    end: int
    reader: KafkaReader
    until_s: float


class StallWatch:
    """Watches the places that one consumer reads.

    Args:
        end_of: asks Kafka for the end of a place, within `QUESTION_MAX_S`; raises KafkaException.
        probe: begins to read a place from an offset on, with a consumer of its own.
        silence_s: who has been silent for so long is looked at.
    """

    def __init__(
        self, end_of: Callable[[Place], int], probe: Callable[[Place, int], KafkaReader], silence_s: float
    ) -> None:
        self._end_of = end_of
        self._begin_probe = probe
        self._silence_s = silence_s
        self._looked_s = time.monotonic()
        self._next: dict[Place, int] = {}
        self._silent_since_s: dict[Place, float] = {}
        self._without_records: dict[Place, int] = {}
        """The end up to which a probe has found none."""
        self._probe: _Probe | None = None
        self._found = False
        """The probe has found a record."""
        self._drained = False
        """Since then, there was a moment when nothing waited in the consumer's queue."""

    def begin(self, place: Place, offset: int) -> None:
        """Watch a place that is read from this offset on."""
        self.forget([place])
        self._next[place] = offset
        self.heard(place)

    def heard(self, place: Place, offset: int | None = None) -> None:
        """Note that a place is not silent, and the offset to be read next."""
        if offset is not None:
            self._next[place] = offset
        self._silent_since_s[place] = time.monotonic()

    def forget(self, places: Iterable[Place]) -> None:
        """Watch these places no more."""
        for place in places:
            self._next.pop(place, None)
            self._silent_since_s.pop(place, None)
            self._without_records.pop(place, None)
            if self._probe is not None and self._probe.place == place:
                self._end_probe()

    def next_offsets(self) -> dict[Place, int]:
        """Return where each place would have to be read on: behind the last record that came."""
        return dict(self._next)

    def holds_none_before(self, place: Place, end: int) -> bool:
        """Whether it was proven that no record is left before this end: what is there are markers of transactions."""
        return self._without_records.get(place) == end

    def stalled(self, excused: Iterable[Place], *, drained: bool) -> Place | None:
        """Look, if it is time to; return a place that is proven to have stalled.

        Those excused may be silent. `drained`: the consumer has nothing more that it has read ahead.
        """
        self._drained |= drained and self._found
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return None
        self._looked_s = now_s
        for place in excused:
            self.heard(place)
        if self._probe is not None:
            return self._verdict(self._probe, now_s)
        self._question(now_s)
        return None

    def close(self) -> None:
        """Look no more."""
        self._end_probe()

    def _question(self, now_s: float) -> None:
        """Ask for the end of the place that has been silent for longest, and send a probe if that lies ahead."""
        place = min(self._silent_since_s, key=self._silent_since_s.__getitem__, default=None)
        if place is None or now_s - self._silent_since_s[place] < self._silence_s:
            return
        self.heard(place)
        try:
            end = self._end_of(place)
        except KafkaException:
            self._looked_s = now_s + _AFTER_FAILURE_S - _LOOK_S
            return
        offset = self._next[place]
        if offset < end != self._without_records.get(place):
            self._probe = _Probe(place, offset, end, self._begin_probe(place, offset), now_s + _PROBE_MAX_S)

    def _verdict(self, probe: _Probe, now_s: float) -> Place | None:
        if self._next[probe.place] != probe.offset:
            self._end_probe()  # it reads after all
            return None
        if self._found:
            if not self._drained:
                return None  # its records may wait behind those of others
            self._end_probe()
            return probe.place
        try:
            self._found = bool(probe.reader.read(1, _READ_MS).offsets)
        except PositionGoneError:
            now_s = probe.until_s  # that is for the consumer itself to tell
        if not self._found and now_s >= probe.until_s:
            self._end_probe()
            self._without_records[probe.place] = probe.end
        return None

    def _end_probe(self) -> None:
        if self._probe is not None:
            self._probe.reader.close()
        self._probe, self._found, self._drained = None, False, False
