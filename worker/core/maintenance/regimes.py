"""Regimes of a model's inputs: clusters of its events, their shares over time, one that is new, one that has vanished.

    events --every s-th--> start (a sample, its scale, as many clusters as there are gaps between: clusters.py)
                             '--> panes of `pane_rows` rows (kernels/kmeans.py: mini-batch k-means)
                                    |-- share of each regime; nearly none for long: it has vanished (presence.py)
                                    |-- rows far from all regimes: gathered in one place for `new_panes` panes,
                                    |   where there was nearly nothing at the start: a new regime
                                    '-- centres move towards the mean of their rows

Rule 1: a regime keeps its number for good; centres move, and one that has vanished stays where it was.
Rule 2: rows are judged by the centres that the panes before them made. Far rows move no centre.
Rule 3: what is due at the end of a pane is due at an event, never at the end of a batch.

A row is what detectors see: numbers, and for a category its surprisal; NaN = missing. Rows without any value are
counted. Regimes that differ in equally frequent categories only are not told apart.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from worker.core.detectors.scaling import RobustScale
from worker.core.events.regimes import RegimeChange, RegimeChangeKind, RegimeFeature
from worker.core.kernels import kmeans
from worker.core.kernels.arrays import F32, F64, I64, U64, Bool
from worker.core.kernels.reservoir import LARGEST, add_rows
from worker.core.kernels.scale import REACH
from worker.core.maintenance.presence import Presence
from worker.core.maintenance.regime_records import RegimePane, RegimeShare
from worker.core.options.maintenance import RegimeOptions
from worker.core.state import COUNT_MAX, Arrays, by_part, check_like, fill, outside, prefixed, refuse_if
from worker.core.statistics.clusters import separated_clusters

SAMPLE_ROWS = (256, 2_000)
SAMPLE_CELLS = 130_000
"""The start costs a tenth of a second at most: wide rows are fewer."""
LIMIT_QUANTILE = 0.99
LIMIT_FACTOR = 1.3
"""Rows within this quantile of the squared distances of a regime's rows, times this, belong to it."""
LIMIT_MIN = 1e-4
FAR_ROWS = 64
"""Far rows kept of a pane."""
WAIT_PANES = 8
"""Panes until a new place is looked for again, after none was found: it costs more than a pane."""
KNOWN_PART = 1.0 / 3.0
"""A place that had so much of its share at the start already is not new."""
_STORED = "stored regimes"


class StoredRegimes(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    started: bool
    ids: list[Annotated[int, Meta(ge=0, le=COUNT_MAX)]]


class RegimeWatch:
    """Follows the regimes of rows with d features. Memory is fixed by the options and d."""

    def __init__(self, names: Sequence[str], options: RegimeOptions, seed: int) -> None:
        features, regimes = len(names), options.regimes_max
        self._names, self._options = list(names), options
        self._seed = seed
        self._stride = max(1, -(-features * options.start_regimes_max // options.cells_per_event_max))
        sample = min(max(SAMPLE_CELLS // max(features, 1), SAMPLE_ROWS[0]), SAMPLE_ROWS[1], options.start_rows)
        self._sample: F32 = np.zeros((sample, features), dtype=np.float32)
        self._offered: I64 = np.zeros(1, dtype=np.int64)
        self._random: U64 = np.full(1, seed, dtype=np.uint64)
        self._started = False
        self._ids: list[int] = []
        self._scale = RobustScale.unknown(features)
        self._centres: F64 = np.zeros((features, regimes))
        self._limits: F64 = np.zeros(regimes)
        self._sums: F64 = np.zeros((features, regimes))
        self._known: I64 = np.zeros((features, regimes), dtype=np.int64)
        self._hits: I64 = np.zeros(regimes, dtype=np.int64)
        self._totals: I64 = np.zeros(regimes, dtype=np.int64)
        self._examples: I64 = np.zeros((regimes, options.examples_max), dtype=np.int64)
        self._far: F64 = np.zeros((options.new_panes, FAR_ROWS, features))
        self._far_offsets: I64 = np.zeros((options.new_panes, FAR_ROWS), dtype=np.int64)
        self._far_counts: I64 = np.zeros(options.new_panes, dtype=np.int64)
        self._firsts: I64 = np.zeros(options.new_panes, dtype=np.int64)
        self._weights: I64 = np.zeros(regimes, dtype=np.int64)
        self._away: I64 = np.zeros((regimes, 2), dtype=np.int64)
        self._counters: I64 = np.zeros(kmeans.COUNTERS, dtype=np.int64)
        self._presence = Presence(regimes, options.false_panes, options.vanished_panes)
        self._row, self._distances = np.empty(features), np.empty(regimes)

    @property
    def stride(self) -> int:
        """Every so many-th event is used."""
        return self._stride

    @property
    def regimes(self) -> list[int]:
        """Numbers of the regimes that are known; none before the start."""
        return list(self._ids)

    @property
    def refused(self) -> int:
        """New regimes for which there was no room."""
        return int(self._counters[kmeans.REFUSED])

    def process(self, rows: F64, offsets: I64) -> list[RegimePane]:
        """Take rows f64[n, d] (NaN = missing) at these offsets (n), in order; return the panes that ended with them."""
        rows = np.ascontiguousarray(rows)
        begin = 0 if self._started else self._gather(rows)
        told: list[RegimePane] = []
        while begin < len(rows):
            begin = self._watch(rows, offsets, begin)
            if self._counters[kmeans.FILL] == self._options.pane_rows:
                told.append(self._end_pane())
        return told

    def assign(self, rows: F64) -> I64:
        """Return the number of the regime in which rows f64[n, d] lie; -1: in none. Nothing is learned."""
        places, squares = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
        count = len(self._ids)
        kmeans.assign(self._scale.to_float64(rows), self._centres, count, self._distances, places, squares)
        # NaN, the distance of a row without values, is within no limit.
        within = squares <= np.append(self._limits[:count], 0.0)[places]
        return np.where(within, np.append(np.array(self._ids, dtype=np.int64), -1)[places], -1)

    # The start.

    def _gather(self, rows: F64) -> int:
        """Sample rows until there are enough; return the first row after that."""
        options, seen = self._options, int(self._counters[kmeans.SEEN])
        left = (options.start_rows - int(self._offered[0]) - 1) * self._stride + 1 + (-seen) % self._stride
        taken = min(left, len(rows))
        used = np.ascontiguousarray(rows[(-seen) % self._stride : taken : self._stride])
        add_rows(used, self._sample, self._offered, self._random, 0)
        self._counters[kmeans.SEEN] += taken
        if self._offered[0] == options.start_rows:
            self._start()
        return taken

    def _start(self) -> None:
        """Find the scale and the regimes."""
        self._scale = RobustScale.from_rows(self._sample.astype(np.float64))
        count_max = min(self._options.start_regimes_max, self._options.regimes_max)
        clusters = separated_clusters(self._scaled_sample(), count_max, self._seed)
        self._started = True
        for place in range(clusters.number):
            own = clusters.squares[clusters.places == place]
            self._add(clusters.centres[:, place], _limit(own), len(own))

    def _scaled_sample(self) -> F64:
        return self._scale.to_float64(self._sample.astype(np.float64))

    def _add(self, centre: F64, limit: float, rows: int) -> int | None:
        """Give a place to a regime; None: there is no room."""
        place = self._free_place()
        if place is None:
            self._counters[kmeans.REFUSED] += 1
            return None
        number = int(self._counters[kmeans.NEXT_ID])
        self._ids[place : place + 1] = [number]
        self._counters[kmeans.NEXT_ID] = number + 1
        self._counters[kmeans.COUNT] = len(self._ids)
        self._centres[:, place], self._limits[place] = centre, limit
        self._sums[:, place], self._known[:, place], self._hits[place] = 0.0, 0, 0
        self._totals[place], self._examples[place], self._away[place] = 0, 0, 0
        self._weights[place] = rows
        self._presence.start(place)
        return place

    def _free_place(self) -> int | None:
        if len(self._ids) < self._options.regimes_max:
            return len(self._ids)
        gone = np.flatnonzero(self._presence.gone)
        return int(gone[np.argmax(self._presence.absences[gone])]) if len(gone) else None

    # A pane.

    def _watch(self, rows: F64, offsets: I64, begin: int) -> int:
        scale = self._scale
        return int(
            kmeans.watch_rows(
                rows,
                offsets,
                begin,
                self._stride,
                self._options.pane_rows,
                scale.low,
                scale.high - scale.low,
                self._centres,
                self._limits,
                self._sums,
                self._known,
                self._hits,
                self._totals,
                self._examples,
                self._far,
                self._far_offsets,
                self._far_counts,
                self._random,
                self._counters,
                self._row,
                self._distances,
            )
        )

    def _end_pane(self) -> RegimePane:
        """Tell of a pane that is full, learn from it, and begin the next one."""
        counters, rows = self._counters, self._options.pane_rows
        count, slot = len(self._ids), int(counters[kmeans.PANES]) % len(self._far_counts)
        self._firsts[slot] = counters[kmeans.FIRST]
        hits, usual = self._hits[:count].copy(), self._presence.usual.copy()
        changes = self._presence_changes(hits, usual)
        shares = [
            RegimeShare(
                number, int(hits[place]), hits[place] / rows, _known(usual[place]), not self._presence.gone[place]
            )
            for place, number in enumerate(self._ids)
        ]
        self._move(hits)
        pane = RegimePane(
            pane=int(counters[kmeans.PANES]),
            first_offset=int(counters[kmeans.FIRST]),
            last_offset=int(counters[kmeans.LAST]),
            rows=rows,
            far=int(self._far_counts[slot]),
            missing=int(counters[kmeans.MISSING]),
            shares=shares,
            changes=changes + self._new_changes(slot),
        )
        counters[kmeans.PANES] += 1
        self._far_counts[(slot + 1) % len(self._far_counts)] = 0
        self._hits[:], self._sums[:], self._known[:] = 0, 0.0, 0
        counters[[kmeans.FILL, kmeans.MISSING]] = 0
        return pane

    def _move(self, hits: I64) -> None:
        """Move each centre towards the mean of its rows in this pane; one that has vanished stays."""
        options = self._options
        weights = np.minimum(self._weights[: len(hits)] + hits, options.memory_rows)
        rates = np.minimum(hits / np.maximum(weights, 1), 1.0)
        rates[self._presence.gone[: len(hits)]] = 0.0
        self._weights[: len(hits)] = weights
        centres, known = self._centres[:, : len(hits)], self._known[:, : len(hits)]
        means = np.where(known > 0, self._sums[:, : len(hits)] / np.maximum(known, 1), centres)
        centres += (means - centres) * rates

    def _presence_changes(self, hits: I64, usual: F64) -> list[RegimeChange]:
        """Return what has vanished with this pane, and what is back."""
        rows, away = self._options.pane_rows, self._presence.absences.copy()
        vanished, back = self._presence.look(hits, rows)
        for place in range(len(hits)):
            absence = self._presence.absences[place]
            if absence == 1:
                self._away[place] = self._counters[kmeans.FIRST], 0
            if absence:
                self._away[place, 1] += hits[place]
        told = []
        for place in vanished:
            panes = int(self._presence.absences[place])
            after = int(self._away[place, 1]) / (panes * rows)
            told.append(self._change("vanished", place, int(self._away[place, 0]), panes, usual[place], after))
        for place in back:
            before = int(self._away[place, 1]) / (max(int(away[place]), 1) * rows)
            first = int(self._counters[kmeans.FIRST])
            told.append(self._change("returned", place, first, 1, before, hits[place] / rows))
        return told

    # A new regime.

    def _new_changes(self, slot: int) -> list[RegimeChange]:
        """Look for a place where far rows gather; return the new regime, if there is one and room for it."""
        counters, options = self._counters, self._options
        if counters[kmeans.WAIT]:
            counters[kmeans.WAIT] -= 1
            return []
        least = options.new_share_min * options.pane_rows
        if counters[kmeans.PANES] + 1 < options.new_panes or (self._far_counts < least).any():
            return []
        centre, members, share, own = self._gathered()
        before = self._share_at_start(centre, own)
        is_new = (share >= options.new_share_min).all() and before <= KNOWN_PART * share.min()
        place = self._add(centre, own, int(share.sum() * options.pane_rows)) if is_new else None
        if place is None:
            counters[kmeans.WAIT] = WAIT_PANES
            return []
        offsets = np.sort(self._far_offsets[members])[: options.examples_max]
        self._examples[place, : len(offsets)] = offsets
        self._totals[place] = len(offsets)
        self._far_counts[:] = 0
        first = int(self._firsts[(slot + 1) % options.new_panes])
        return [self._change("new", place, first, options.new_panes, before, float(share.mean()))]

    def _gathered(self) -> tuple[F64, Bool, F64, float]:
        """Return the centre (d) of the densest place among far rows, its rows (panes x FAR_ROWS), shares and limit."""
        count = len(self._ids)
        reach = float(np.median(self._limits[:count])) if count else 1.0
        kept = np.arange(FAR_ROWS) < self._far_counts[:, np.newaxis]
        rows = np.ascontiguousarray(self._far[kept])
        # What none of these rows has is taken to be as usual.
        centre, within = np.nan_to_num(self._scale.centre, nan=0.5), np.zeros(len(rows), dtype=np.bool)
        kmeans.densest(rows, reach, centre, within)
        members = np.zeros(kept.shape, dtype=np.bool)
        members[kept] = within
        parts = members.sum(axis=1) / np.maximum(kept.sum(axis=1), 1)
        return (
            centre,
            members,
            parts * self._far_counts / self._options.pane_rows,
            _limit(_squares(rows[within], centre)),
        )

    def _share_at_start(self, centre: F64, limit: float) -> float:
        """Return the share of the sample that would belong to a place: within its limit, and nearest to it."""
        rows, count = self._scaled_sample(), len(self._ids)
        places, squares = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
        kmeans.assign(rows, self._centres, count, self._distances, places, squares)
        own = _squares(rows, centre)
        return float(np.mean((own <= limit) & ~(squares < own)))

    # What is told.

    def _change(
        self, kind: RegimeChangeKind, place: int, since: int, panes: int, before: float, after: float
    ) -> RegimeChange:
        centre = self._own_units(self._centres[:, place])
        return RegimeChange(
            kind=kind,
            regime=self._ids[place],
            since_offset=since,
            panes=panes,
            share_before=float(before),
            share_after=float(after),
            centre=dict(zip(self._names, centre, strict=True)),
            features=self._features(place),
            example_offsets=self._latest(place),
        )

    def _features(self, place: int) -> list[RegimeFeature]:
        """Return what sets a regime apart from the others that are there, weighted by their usual shares."""
        others = [each for each in range(len(self._ids)) if each != place and not self._presence.gone[each]]
        weights = np.nan_to_num(self._presence.usual[others], nan=0.0)
        own = self._centres[:, place]
        is_alone = not weights.sum() > 0.0
        elsewhere = self._scale.centre if is_alone else self._centres[:, others] @ weights / weights.sum()
        steps = np.nan_to_num(own - elsewhere)
        values, usual = self._own_units(own), self._own_units(elsewhere)
        ranked = np.argsort(-np.abs(steps), kind="stable")[: self._options.told_features_max]
        return [
            RegimeFeature(self._names[each], values[each], None if is_alone else usual[each], float(steps[each]))
            for each in ranked.tolist()
            if steps[each] != 0.0
        ]

    def _own_units(self, scaled: F64) -> list[float | None]:
        """Undo the scale; None for a feature without one. A feature that was constant has no width: its constant."""
        scale = self._scale
        values = scale.low + np.where(scale.high > scale.low, scaled, 0.0) * (scale.high - scale.low)
        return [_known(value) for value in values]

    def _latest(self, place: int) -> list[int]:
        """Return the kept offsets of a regime, oldest first."""
        ring, total = self._examples[place], int(self._totals[place])
        if total <= len(ring):
            ring, total = ring[:total], 0
        return [int(offset) for offset in np.roll(ring, -(total % self._options.examples_max))]

    # Storing and restoring.

    def plain(self) -> StoredRegimes:
        """Return the plain part of the state."""
        return StoredRegimes(self._started, list(self._ids))

    def arrays(self) -> Arrays:
        """Return the arrays of the state, live ones."""
        return {
            **prefixed("scale", self._scale.arrays()),
            **prefixed("presence", self._presence.arrays()),
            **prefixed("watch", self._own_arrays()),
        }

    def _own_arrays(self) -> Arrays:
        return {
            "sample": self._sample,
            "offered": self._offered,
            "random": self._random,
            "centres": self._centres,
            "limits": self._limits,
            "sums": self._sums,
            "known": self._known,
            "hits": self._hits,
            "totals": self._totals,
            "examples": self._examples,
            "far": self._far,
            "far_offsets": self._far_offsets,
            "far_counts": self._far_counts,
            "firsts": self._firsts,
            "weights": self._weights,
            "away": self._away,
            "counters": self._counters,
        }

    def restore(self, plain: StoredRegimes, arrays: Arrays) -> None:
        """Take over what `plain` and `arrays` gave; ValueError for what cannot be."""
        parts = by_part(_STORED, arrays, ["scale", "presence", "watch"])
        own = parts["watch"]
        check_like(_STORED, own, self._own_arrays())
        self._check(plain, own)
        scale = self._scale.restored(parts["scale"])
        self._presence.restore(parts["presence"])
        fill(self._own_arrays(), own)
        self._scale, self._started, self._ids = scale, plain.started, list(plain.ids)

    def _check(self, plain: StoredRegimes, own: Arrays) -> None:
        """Refuse what kernels would read out of bounds with, or what no stream can have made."""
        counters, options = own["counters"], self._options
        counts = (own[name] for name in ("known", "hits", "totals", "far_counts", "weights"))
        refuse_if(
            _STORED,
            {
                "there are too many": len(plain.ids) > options.regimes_max,
                "a number is there twice": len(set(plain.ids)) < len(plain.ids),
                "a number is not given yet": any(each >= counters[kmeans.NEXT_ID] for each in plain.ids),
                "a counter is out of range": outside(counters[_COUNTED], 0, COUNT_MAX),
                "their number is wrong": counters[kmeans.COUNT] != len(plain.ids),
                "the pane is out of range": outside(counters[kmeans.FILL], 0, options.pane_rows - 1),
                "the start is out of range": outside(own["offered"], 0, options.start_rows),
                "it has started without rows": plain.started != (own["offered"][0] == options.start_rows),
                "a count is out of range": any(outside(each, 0, COUNT_MAX) for each in counts),
                "a sampled value is out of range": (np.abs(own["sample"]) > LARGEST).any(),
                "a centre is out of range": outside(own["centres"], -REACH, 1.0 + REACH),
                "a limit is out of range": outside(own["limits"], 0.0, np.inf),
                "a sum is out of range": outside(own["sums"], -float(COUNT_MAX), float(COUNT_MAX)),
                "a far row is out of range": (np.abs(own["far"] - 0.5) > REACH + 0.5).any(),
            },
        )


_COUNTED = [
    kmeans.SEEN,
    kmeans.FILL,
    kmeans.MISSING,
    kmeans.COUNT,
    kmeans.PANES,
    kmeans.WAIT,
    kmeans.NEXT_ID,
    kmeans.REFUSED,
]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _squares(rows: F64, centre: F64) -> F64:
    """Return the squared partial distances of rows f64[n, d] to a place; NaN for a row without values."""
    column, places, squares = centre.reshape(-1, 1).copy(), np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    kmeans.assign(rows, column, 1, np.empty(1), places, squares)
    return squares


def _limit(squares: F64) -> float:
    """Return how far (squared) rows of a regime may be, from the squared distances of its own."""
    return max(LIMIT_FACTOR * float(np.quantile(squares, LIMIT_QUANTILE)), LIMIT_MIN) if len(squares) else LIMIT_MIN
