"""The reference: what the first stable events look like.

    events   0 ........ N/5 ................... N/2 ................. N = reference_events
             histograms ─┴► bins; counts of the older half │ of the newer half, and its histograms
                                                           └► alike? the reference. If not, the newer half is the older

Histograms of the older part have become bins before those of the newer half begin, which take their place.

Bins come from exponential histograms: of the values, and of their distances from the first value, because a histogram
whose buckets are 2 % wide cannot tell 1,000 from 1,005. The one that spreads the values better is taken.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from worker.core.columns import Column, Kind
from worker.core.drift.bins import SCORE_MAX, Bins, concentration
from worker.core.drift.decisions import design_effects
from worker.core.kernels.accumulate import LARGEST
from worker.core.kernels.arrays import F64, I64, U8, Bool
from worker.core.kernels.binning import (
    LAG_SUMS,
    LAGS,
    add_lags,
    add_transitions,
    count_bins,
    score_bins,
    slowest_scores,
)
from worker.core.options.change import DriftColumnOptions
from worker.core.state import COUNT_MAX, AnyArray, Arrays, by_part, check_like, fill, outside, prefixed, refuse_if
from worker.core.statistics.histogram import Buckets, Histogram
from worker.core.statistics.panes import PaneSlots

ATTEMPTS_MAX = 8
"""Halves in a row that are not alike, after which the newest events are the reference as they are."""

_STORED = "stored drift reference"
_BUCKETS_MAX = 160
_OLDER, _NEWER = 0, 1


class StoredReference(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    seen: Annotated[int, Meta(ge=0, le=COUNT_MAX)]
    lagged: Annotated[int, Meta(ge=0, le=COUNT_MAX)]
    attempts: Annotated[int, Meta(ge=0, le=ATTEMPTS_MAX)]
    has_bins: bool


class Learned(NamedTuple):
    """Counts (2 halves x c x bins), and what autocorrelation does to the variance of a location, and of a shape.

    `design` (2 x c) is of both halves; `least_design` of the half in which it is less, because a change within the
    other one looks like slowness.
    """

    halves: I64
    design: tuple[F64, F64]
    least_design: tuple[F64, F64]


class ReferencePhase:
    """Learns the bins and the reference of c columns."""

    def __init__(
        self, columns: list[Column], given: Mapping[str, DriftColumnOptions], bins: Bins, events: int, codes: int
    ) -> None:
        self._columns = columns
        self._given = given
        self.bins = bins
        self._events = events
        self._half = events - events // 2
        count = len(columns)
        numeric = np.array([each.kind is not Kind.CATEGORICAL for each in columns], dtype=np.bool)
        self._is_categorical: Bool = ~numeric
        self._categorical: I64 = np.flatnonzero(~numeric)
        # Each column twice: its values, and their distances from its center.
        self._is_numeric: Bool = np.concatenate([numeric, numeric])
        self._histograms = PaneSlots(_BUCKETS_MAX, codes, slots=1)
        self._histograms.grow(2 * count)
        self._seen = self._lagged = self._attempts = 0
        self._has_bins = False
        self._center: F64 = np.full(count, np.nan)
        self._halves = np.zeros((2, count, bins.count), dtype=np.uint32)
        self._missing: I64 = np.zeros((2, count), dtype=np.int64)
        self._recent = np.zeros((LAGS[1], count), dtype=np.int16)
        self._sums: I64 = np.zeros((2, count, LAG_SUMS), dtype=np.int64)
        self._batch: I64 = np.zeros((2, count), dtype=np.int64)
        size = len(self._categorical), bins.count
        self._recent_bins: U8 = np.zeros((LAGS[1], size[0]), dtype=np.uint8)
        self._transitions = np.zeros((len(LAGS), *size, size[1]), dtype=np.uint32)

    @property
    def room(self) -> int:
        """Events until something is due."""
        return (
            min(at for at in (self._bins_at, self._half, self._scores_at, self._events) if at > self._seen) - self._seen
        )

    @property
    def _bins_at(self) -> int:
        return self._events // 5

    @property
    def _scores_at(self) -> int:
        """Half way between the bins and the end: scores of categories are chosen by one half, measured by the other."""
        first = self._bins_at if self._attempts == 0 else self._half
        return (first + self._events) // 2

    @property
    def is_full(self) -> bool:
        """Whether all events are there, so that `learned` may be asked."""
        return self._seen == self._events

    def add(self, cells: F64) -> None:
        """Take in at most `room` rows (n x c)."""
        if not self._has_bins:
            self._add_histograms(cells, _OLDER)
        else:
            self._count(cells)
        if self._seen >= self._half:
            self._add_histograms(cells, _NEWER)
        self._seen += len(cells)
        if not self._has_bins and self._seen == self._bins_at:
            self._make_bins()
        if self._seen == self._scores_at:
            self._score_categories()

    def _add_histograms(self, cells: F64, half: int) -> None:
        for column in np.flatnonzero(np.isnan(self._center)):
            known = np.flatnonzero(~np.isnan(cells[:, column]))
            if len(known):
                self._center[column] = min(max(cells[known[0], column], -LARGEST), LARGEST)
        cut = np.clip(cells, -LARGEST, LARGEST)
        apart = np.where(self._is_categorical, np.nan, np.clip(cut - self._center, -LARGEST, LARGEST))
        both = np.concatenate([cut, apart], axis=1)
        self._histograms.add(both, np.zeros(len(cells), dtype=np.int8), self._is_numeric)
        self._missing[half] += np.isnan(cells).sum(axis=0)

    def _count(self, cells: F64) -> None:
        half = _OLDER if self._seen < self._half else _NEWER
        counts = self._halves[half]
        found: U8 = np.empty(cells.shape, dtype=np.uint8)
        bins = self.bins
        count_bins(cells, self._is_categorical, bins.center, bins.edges, bins.table, bins.count - 2, found, counts)
        add_transitions(found, self._categorical, self._lagged, self._recent_bins, self._transitions)
        scores = np.empty(cells.shape, dtype=np.int16)
        score_bins(found, bins.score, scores)
        add_lags(scores, self._lagged, self._recent, self._batch, self._sums[half])
        self._lagged += len(cells)

    def _score_categories(self) -> None:
        """Measure the autocorrelation of categories by the scores for which it is largest, from now on."""
        for k, column in enumerate(self._categorical.tolist()):
            self.bins.put_scores(column, slowest_scores(self._transitions[:, k]))
            self._sums[:, column] = 0

    def _make_bins(self) -> None:
        """Make bins of the histograms, count these in them, and let go of these."""
        counts = np.zeros((len(self._columns), self.bins.count), dtype=np.int64)
        for place, column in enumerate(self._columns):
            if column.kind is Kind.CATEGORICAL:
                counts[place] = self.bins.put_categories(place, self._histograms.arrays["codes"][0, place])
            else:
                counts[place] = self._put_numbers(place)
        counts[:, -1] = self._missing[_OLDER]
        self._halves[_OLDER], self._halves[_NEWER] = counts, 0
        scored = counts.copy()
        for place, reference in self.given_counts().items():
            scored[place] = reference
            # What was counted before its bins were known says nothing in them.
            self._halves[_OLDER, place] = 0
        self.bins.rank(scored, ~self._is_categorical)
        self._sums[:], self._recent[:], self._lagged = 0, 0, 0
        self._recent_bins[:], self._transitions[:], self._batch[:] = 0, 0, 0
        self._histograms.clear(0)
        self._has_bins = True

    def _put_numbers(self, place: int) -> I64:
        arrays, columns = self._histograms.arrays, len(self._columns)
        center = self._center[place]
        around = Histogram.from_arrays(arrays, 0, columns + place)
        found = self.bins.put_numbers(place, around, 0.0 if np.isnan(center) else float(center))
        of_values = self.bins.put_numbers(place, Histogram.from_arrays(arrays, 0, place), 0.0)
        if concentration(found) >= concentration(of_values):
            return of_values
        return self.bins.put_numbers(place, around, float(center))

    def given_counts(self) -> dict[int, I64]:
        """Make the bins of columns with a given reference, and return its counts."""
        found: dict[int, I64] = {}
        for place, column in enumerate(self._columns):
            given = self._given.get(column.name)
            if given is None:
                continue
            if column.kind is Kind.CATEGORICAL:
                codes = np.zeros(self.bins.table.shape[1], dtype=np.int64)
                for name, count in given.categories.items():
                    codes[column.codes.get(name, 0)] += count
                counts = self.bins.put_categories(place, codes)
            else:
                counts = self.bins.put_numbers(place, _histogram(given), 0.0)
            counts[-1] = given.missing
            found[place] = counts
        return found

    def learned(self) -> Learned:
        """Return what all events give."""
        of_older, of_newer = design_effects(self._sums[:1]), design_effects(self._sums[1:])
        # The older half has no such sums where it was counted by its histograms alone.
        location, shape = (
            np.where(self._sums[_OLDER, :, 0] > 0, np.minimum(old, new), new)
            for old, new in zip(of_older, of_newer, strict=True)
        )
        return Learned(self._halves.astype(np.int64), design_effects(self._sums), (location, shape))

    @property
    def may_start_anew(self) -> bool:
        """Whether events that are not alike are worth another attempt."""
        return self._attempts < ATTEMPTS_MAX

    def start_anew(self) -> None:
        """Take the newer half of the events for the older one."""
        self._attempts += 1
        self._missing[_OLDER], self._missing[_NEWER] = self._missing[_NEWER], 0
        self._seen = self._half
        self._make_bins()

    # Storing and restoring.

    def plain(self) -> StoredReference:
        """Return the plain part of the state."""
        return StoredReference(self._seen, self._lagged, self._attempts, self._has_bins)

    def _own(self) -> dict[str, AnyArray]:
        return {
            "center": self._center,
            "halves": self._halves,
            "missing": self._missing,
            "recent": self._recent,
            "batch": self._batch,
            "sums": self._sums,
            "recent_bins": self._recent_bins,
            "transitions": self._transitions,
        }

    def arrays(self) -> dict[str, AnyArray]:
        """Return the live arrays, without those of the bins."""
        return prefixed("own", self._own()) | prefixed("histograms", self._histograms.arrays)

    def restore(self, plain: StoredReference, arrays: Arrays) -> None:
        """Take over copies of what `plain` and `arrays` gave; ValueError for what cannot be."""
        parts = by_part(_STORED, arrays, ("own", "histograms"))
        own = parts["own"]
        check_like(_STORED, own, self._own())
        refuse_if(
            _STORED,
            {
                "it has seen too many events": plain.seen >= self._events,
                "it has bins too early, or none": plain.has_bins != (plain.seen >= self._bins_at),
                "a center is out of range": np.isinf(own["center"]).any(),
                "a count of missing values is out of range": outside(own["missing"], 0, COUNT_MAX),
                "a score is out of range": outside(own["recent"], -SCORE_MAX, SCORE_MAX),
                "a bin is out of range": outside(own["recent_bins"], 0, self.bins.count - 1),
                "a sum is out of range": outside(own["sums"], -COUNT_MAX, COUNT_MAX)
                or outside(own["batch"], -(2**16), 2**16),
            },
        )
        self._histograms.restore(2 * len(self._columns), parts["histograms"])
        fill(self._own(), own)
        self._seen, self._lagged = plain.seen, plain.lagged
        self._attempts, self._has_bins = plain.attempts, plain.has_bins


def _histogram(given: DriftColumnOptions) -> Histogram:
    positive = Buckets.trimmed(given.positive_start, np.array(given.positive_counts, dtype=np.int64))
    negative = Buckets.trimmed(given.negative_start, np.array(given.negative_counts, dtype=np.int64))
    return Histogram(given.scale, given.zero_count, positive, negative)
