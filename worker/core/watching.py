"""All that watches the events of one monitor as a whole: drift, data quality, rate of anomalies.

stopped --columns are frozen--> watching --columns are open again--> stopped
        begin                            stop
"""

from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from worker.core.alerts.incident import Step
from worker.core.columns import ColumnTable
from worker.core.drift.storing import StoredDrift
from worker.core.drift.watch import DriftWatch
from worker.core.kernels.arrays import F64
from worker.core.options import EngineOptions
from worker.core.quality.watch import QualityWatch, StoredQuality
from worker.core.rate.watch import RateWatch, StoredRate
from worker.core.seen import Seen
from worker.core.standing import Moment
from worker.core.state import Arrays, by_part, prefixed
from worker.core.telling import Owner, Told

_STORED = "stored watchers"


class StoredWatching(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    drift: StoredDrift
    quality: StoredQuality
    rate: StoredRate


class Watching:
    """The watchers of one monitor. They watch while the columns are frozen, that is: after each warm-up."""

    def __init__(self, owner: Owner, columns: ColumnTable, options: EngineOptions) -> None:
        self._owner = owner
        self._columns = columns
        self._options = options
        self.drift = DriftWatch(owner, columns, options)
        self._quality = QualityWatch(owner, columns, options)
        self._rate = RateWatch(owner, columns, options)

    def begin(self) -> None:
        """Forget what is normal: the columns are frozen, and what comes is the reference."""
        self.drift.begin()
        if self._options.quality.enabled:
            self._quality.begin()
        self._rate.begin()

    def begin_rate(self) -> None:
        """Forget the usual rate of anomalies: other detectors judge from now on."""
        self._rate.begin()

    def stop(self, step: Step) -> list[Told]:
        """Forget all that is known of the columns, after the event of a step: from now on they may change.

        Alerts of drift are over, for there is nothing any more to compare with before another reference is taken. Those
        of data quality and of the rate of anomalies are over at a look, soon after the watchers begin again.
        """
        drift, moment = self.drift, Moment(step.watermark_ms, step.offset, 0, len(self._columns))
        told = [
            each
            for standing in (drift.inputs, drift.predictions, drift.multivariate)
            for each in standing.close(moment)
        ]
        drift.allocate(0)
        self._quality.end()
        self._rate.begin()
        return told

    def process(self, seen: Seen, verdicts: F64, anew: Sequence[int]) -> list[Told]:
        """Watch events (n) and their verdicts (n, NaN = not enough data) as calibration alone gives them.

        From rows `anew` on other detectors judge; n: from the next event on.
        """
        quality = self._quality.process(seen) if self._options.quality.enabled else []
        return quality + self.drift.process(seen) + self._watch_rate(seen, verdicts, anew)

    def _watch_rate(self, seen: Seen, verdicts: F64, anew: Sequence[int]) -> list[Told]:
        if not anew:
            return self._rate.process(seen, verdicts)
        told: list[Told] = []
        for begin, end in pairwise((0, *anew, len(verdicts))):
            if begin:
                self._rate.begin()
            told += self._rate.process(_part(seen, begin, end), verdicts[begin:end])
        return told

    # Storing and restoring.

    def plain(self) -> StoredWatching:
        """Return the plain part of the state."""
        return StoredWatching(self.drift.plain(), self._quality.plain(), self._rate.plain())

    def arrays(self) -> Arrays:
        """Return the arrays of the state."""
        return {
            **prefixed("drift", self.drift.arrays()),
            **prefixed("quality", self._quality.arrays()),
            **prefixed("rate", self._rate.arrays()),
        }

    def restore(self, plain: StoredWatching, arrays: Arrays) -> None:
        """Take over what `plain` and `arrays` gave, with the columns restored; ValueError for what cannot be."""
        parts = by_part(_STORED, arrays, ("drift", "quality", "rate"))
        self.drift.restore(plain.drift, parts["drift"])
        self._quality.restore(plain.quality, parts["quality"])
        self._rate.restore(plain.rate, parts["rate"])


def _part(seen: Seen, begin: int, end: int) -> Seen:
    """Return rows [begin, end) as the rate of anomalies sees them: when and where they were, not what they are."""
    return seen._replace(
        first_sequence=seen.first_sequence + begin,
        events=seen.events[begin:end],
        offsets=seen.offsets[begin:end],
        times_ms=seen.times_ms[begin:end],
        watermarks_ms=seen.watermarks_ms[begin:end],
        cells=seen.cells[begin:end],
        invalid=seen.invalid[:0],
        unknown=None,
    )
