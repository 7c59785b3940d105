"""Watches the data quality of one model's events, in blocks of events.

    events -> counts of a block -> look: against what is learned -> one incident for each kind
                                     | not affected
                                     v
                                   learned (ranges and categories at once, shares when they leave the long window)

The first `reference_blocks` blocks are learned without a look. What was found to be wrong is not learned;
what stays wrong for `adopt_blocks` blocks is normal from then on.

Rule 1: looks are taken at the ends of blocks of `block_events` events, counted since `begin`, however events are cut.
"""

from functools import partial
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from worker.core.columns import ColumnTable
from worker.core.events import AlertKind
from worker.core.identity import derived_seed
from worker.core.kernels import quality as q
from worker.core.kernels.arrays import I64, U64
from worker.core.kernels.quality_learning import learn
from worker.core.kernels.quality_look import judge_and_learn
from worker.core.options import EngineOptions
from worker.core.quality.findings import KINDS, Ended, Teller, measured_by, sentence, wrong_type
from worker.core.quality.latest_ids import LatestIds
from worker.core.quality.tables import LATE_MIN_MS, RECENT_BLOCKS, Tables
from worker.core.quality.unknown_names import StoredNames, UnknownNames
from worker.core.seen import Seen
from worker.core.standing import Finding, Moment, Standing, StandingOptions, StoredStanding
from worker.core.state import COUNT_MAX, AnyArray, Arrays, by_part, prefixed, refuse_if
from worker.core.telling import Owner, Told

_STORED = "stored data quality"
_LEARNED_MAX = 1 << 18
_RANGE_FROM = 2
_AT_ONCE = np.array([[0, 0, -1, -1, -1], [0, 0, 0, -1, -1], [0, 0, 0, 0, 0]])
"""Measures learned (0) in the first blocks of the reference: new, and out of range, is only what comes later."""
_LATER = np.zeros(0, dtype=np.int64)
_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class StoredQuality(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of a watch."""

    begun: bool
    blocks: _Count
    """Since `begin`."""
    place: _Count
    """Rows of the current block."""
    examples: dict[int, str]
    """Of values of a wrong type in the current block, by column."""
    names: StoredNames
    standings: dict[AlertKind, StoredStanding]


class QualityWatch:
    """Data quality of one monitor: kinds `quality.*`."""

    def __init__(self, owner: Owner, columns: ColumnTable, options: EngineOptions) -> None:
        self._options = options.quality
        self._columns = columns
        self._seed = derived_seed("event ids", options.seed)
        standing = StandingOptions.of(options)
        self._standings = {kind: Standing(kind, owner, standing, partial(sentence, kind)) for kind in KINDS}
        self._forget(begun=False)

    def _forget(self, *, begun: bool) -> None:
        self._begun = begun
        columns = self._columns.columns if begun else []
        self._tables = Tables(columns, self._options)
        self._teller = Teller(columns, self._tables, self._options)
        self._names = UnknownNames(self._columns.feature_names if begun else [], self._options)
        self._ids = LatestIds(self._options.ids_max)
        self._blocks = 0
        self._place = 0
        self._examples: dict[int, str] = {}

    def begin(self) -> None:
        """Start anew with the columns as they are now: everything that was known is forgotten."""
        self._forget(begun=True)
        self._ids.reserve(self._options.block_events)

    def end(self) -> None:
        """Forget everything but open alerts: the columns may change before the next `begin`."""
        self._forget(begun=False)

    def process(self, seen: Seen) -> list[Told]:
        """Take a segment of events; return what is to be told."""
        told: list[Told] = []
        keys = self._keys(seen)
        begin, count = 0, len(seen.cells)
        while begin < count:
            end = min(count, begin + self._options.block_events - self._place)
            self._take(seen, keys, begin, end)
            begin = end
            if self._place == self._options.block_events:
                told += self._end_block(seen, end - 1)
        return told

    def _keys(self, seen: Seen) -> U64 | None:
        if not self._options.duplicates or not seen.events:
            return None
        return seen.events.keys(self._seed)

    def _take(self, seen: Seen, keys: U64 | None, begin: int, end: int) -> None:
        """Take rows [begin, end), all of one block."""
        tables = self._tables
        if self._place == 0:
            tables.starts[self._blocks % RECENT_BLOCKS] = seen.offsets[begin], seen.watermarks_ms[begin]
        q.tally(
            seen.cells,
            seen.times_ms,
            seen.watermarks_ms,
            begin,
            end,
            tables.chosen,
            self._place,
            tables.kinds,
            tables.bounds,
            tables.block,
            tables.running,
        )
        if len(seen.invalid):
            self._take_invalid(seen, begin, end)
        if seen.unknown is not None and seen.events:
            for row in np.flatnonzero(seen.unknown[begin:end]).tolist():
                self._names.add(seen.events[begin + row])
        if keys is not None:
            tables.block.counts[q.DUPLICATE, -1] += self._ids.count(keys, begin, end)
        self._place += end - begin

    def _take_invalid(self, seen: Seen, begin: int, end: int) -> None:
        rows = seen.invalid[:, 0]
        for row, column in seen.invalid[(rows >= begin) & (rows < end)].tolist():
            self._tables.block.counts[q.INVALID, column] += 1
            if column not in self._examples and seen.events:
                table = self._columns.columns[column]
                self._examples[column] = wrong_type(table, seen.events[row], is_prediction=column == 0)

    def _end_block(self, seen: Seen, row: int) -> list[Told]:
        """Look at the block that ends with this row, then learn it."""
        slot, rows = self._blocks % RECENT_BLOCKS, self._place
        is_reference = self._blocks < self._options.reference_blocks
        # What is open may end at this look, and then leaves the long window before the block is learned.
        n_open = sum(standing.open is not None for standing in self._standings.values())
        affected = self._look(slot, rows, n_open, is_reference=is_reference)
        ended = Ended(self._blocks, rows, slot, self._examples)
        found = self._teller.findings(ended) if affected else {}
        if is_reference:
            self._names.learn_block()
        else:
            self._look_at_names(ended, found)
        told = self._tell(found, Moment.at(seen, row, rows, len(self._columns))) if found or n_open else []
        if affected or n_open:
            self._learn(slot, is_reference=is_reference)
        self._begin_block()
        return told

    def _look(self, slot: int, rows: int, n_open: int, *, is_reference: bool) -> int:
        """Look at a block of so many rows, and learn it when nothing is affected or open; return what is affected."""
        options, tables = self._options, self._tables
        return judge_and_learn(
            tables.recent,
            slot,
            0 if is_reference else min(self._blocks - options.reference_blocks + 1, RECENT_BLOCKS),
            tables.learned,
            tables.running,
            tables.block,
            tables.bounds,
            tables.kinds,
            tables.declared,
            tables.stood,
            rows,
            max(options.reference_blocks - _RANGE_FROM, 1),
            max(options.block_events // 2, 1),
            options.rise_min,
            options.false_alarm_probability,
            options.adopt_blocks,
            self._at_once(is_reference=is_reference),
            options.range_widths,
            LATE_MIN_MS,
            n_open,
            tables.verdict,
        )

    def _look_at_names(self, ended: Ended, found: dict[AlertKind, list[Finding]]) -> None:
        learned = min(self._blocks * self._options.block_events, _LEARNED_MAX)
        tests = self._tables.verdict.p.size + q.MEASURES * len(self._tables.kinds)
        added = self._names.end_block(ended.rows, learned, tests)
        if added:
            found.setdefault("quality.schema", []).extend(self._teller.added(each, ended) for each in added)

    def _tell(self, found: dict[AlertKind, list[Finding]], moment: Moment) -> list[Told]:
        told: list[Told] = []
        for kind, standing in self._standings.items():
            if kind in found or standing.open is not None:
                told += standing.look(found.get(kind, ()), moment)
                if standing.open is None:
                    self._let_go(kind)
        return told

    def _let_go(self, kind: AlertKind) -> None:
        """Take what is over out of the long window: with it, the next rise by chance would be told as a fault."""
        recent, columns = self._tables.recent, len(self._columns)
        for measure, column in measured_by(kind, columns):
            held = recent.held[:, measure, column] > 0
            recent.k[held, measure, column] = recent.n[held, measure, column] = 0

    def _learn(self, slot: int, *, is_reference: bool) -> None:
        """Learn the block that was looked at."""
        tables = self._tables
        learn(
            tables.recent,
            slot,
            tables.learned,
            tables.running,
            tables.block,
            tables.bounds,
            tables.kinds,
            tables.declared,
            tables.stood,
            tables.verdict,
            self._options.adopt_blocks,
            self._at_once(is_reference=is_reference),
        )
        tables.set_bounds(self._options)

    def _at_once(self, *, is_reference: bool) -> I64:
        return _AT_ONCE[min(self._blocks, _RANGE_FROM)] if is_reference else _LATER

    def _begin_block(self) -> None:
        self._blocks += 1
        if self._blocks == self._options.reference_blocks:
            # What goes on has been as long as this without being wrong.
            learned, running = self._tables.learned, self._tables.running
            runs, gaps = learned.longest_run, learned.longest_gap
            runs[...] = np.where(runs > 0, np.maximum(runs, running.run), 0)
            gaps[...] = np.maximum(gaps, running.gap)
        self._place = 0
        self._examples = {}
        self._ids.reserve(self._options.block_events)

    # Storing and restoring.

    def plain(self) -> StoredQuality:
        """Return what is stored beside the arrays."""
        return StoredQuality(
            self._begun,
            self._blocks,
            self._place,
            dict(self._examples),
            self._names.state(),
            {kind: standing.state() for kind, standing in self._standings.items()},
        )

    def arrays(self) -> Arrays:
        """Return the arrays; none before `begin`."""
        if not self._begun:
            return {}
        arrays: dict[str, AnyArray] = prefixed("tables", self._tables.arrays)
        return arrays | prefixed("ids", self._ids.arrays)

    def restore(self, plain: StoredQuality, arrays: Arrays) -> None:
        """Take over, in a new watch whose columns are restored, what `plain` and `arrays` gave; ValueError if bad."""
        self._forget(begun=plain.begun)
        width = len(self._columns)
        refuse_if(
            _STORED,
            {
                "its block is longer than a block": plain.place >= self._options.block_events,
                "it has not begun, but counts": not plain.begun
                and bool(plain.blocks or plain.place or plain.examples or arrays),
                "it is of other kinds": plain.standings.keys() != self._standings.keys(),
                "an example is of no column": any(not 0 <= column < width for column in plain.examples),
            },
        )
        self._names.restore(plain.names)
        for kind, stored in plain.standings.items():
            self._standings[kind].restore(stored)
        if plain.begun:
            parts = by_part(_STORED, arrays, ("tables", "ids"))
            refuse_if(_STORED, {"it has no event ids": parts["ids"].keys() != {"keys"}})
            self._tables.restore(parts["tables"], plain.place, self._columns.columns)
            self._ids.restore(parts["ids"]["keys"])
            self._ids.reserve(self._options.block_events)
        self._blocks, self._place, self._examples = plain.blocks, plain.place, dict(plain.examples)
