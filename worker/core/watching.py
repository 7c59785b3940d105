"""All that watches the events of one monitor as a whole: drift, data quality, rate of anomalies."""

from msgspec import Struct

from worker.core.columns import ColumnTable
from worker.core.drift.storing import StoredDrift
from worker.core.drift.watch import DriftWatch
from worker.core.kernels.arrays import F64
from worker.core.options import EngineOptions
from worker.core.quality.watch import QualityWatch, StoredQuality
from worker.core.rate.watch import RateWatch, StoredRate
from worker.core.seen import Seen
from worker.core.state import Arrays, by_part, prefixed
from worker.core.telling import Owner, Told

_STORED = "stored watchers"


class StoredWatching(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    drift: StoredDrift
    quality: StoredQuality
    rate: StoredRate


class Watching:
    """The watchers of one monitor. They begin when the columns are frozen, after each warm-up."""

    def __init__(self, owner: Owner, columns: ColumnTable, options: EngineOptions) -> None:
        self.drift = DriftWatch(owner, columns, options)
        self._quality = QualityWatch(owner, columns, options)
        self._rate = RateWatch(owner, columns, options)

    def begin(self) -> None:
        """Forget what is normal: the columns are frozen, and what comes is the reference."""
        self.drift.begin()
        self._quality.begin()
        self._rate.begin()

    def begin_rate(self) -> None:
        """Forget the usual rate of anomalies: other detectors judge from now on."""
        self._rate.begin()

    def process(self, seen: Seen, verdicts: F64) -> list[Told]:
        """Watch events (n) and their verdicts (n, NaN = not enough data) as calibration alone gives them."""
        return self._quality.process(seen) + self.drift.process(seen) + self._rate.process(seen, verdicts)

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
