"""One series of labelled events, of a whole model or of one of its segments, in two orders.

By prediction time: panes, corrected whenever a label comes, published again with a higher revision; what leaves them
is in the archive, so the lifetime is all of it. By arrival: one open pane of labels as they came, and blocks of equally
many labels, from which windows for limits and the decayed window are made.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from worker.core.kernels.arrays import I32, I64, Bool
from worker.core.options import PerformanceOptions
from worker.core.performance.label_join import NO_BLOCK
from worker.core.performance.layout import Layout, Tally
from worker.core.performance.tallies import Rows, Tallies, add, distinct, nothing, plus
from worker.core.performance.task import Task
from worker.core.performance.window_sizes import window_sizes
from worker.core.state import COUNT_MAX, AnyArray, Arrays, blank, by_part, check_like, outside, prefixed, refuse_if

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_STORED = "stored series"


class StoredPane(Struct, array_like=True, forbid_unknown_fields=True):
    """What is known of a pane beside its tally: its predictions, how often it was told, whether it changed since."""

    predictions: _Count = 0
    revision: _Count = 0
    changed: bool = False


class StoredSeries(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of a series."""

    panes: dict[int, StoredPane]
    archived_predictions: _Count
    block: _Count
    fill: _Count
    arrival: int
    arrival_revision: _Count
    arrival_changed: bool
    labels: _Count


class Addition(NamedTuple):
    """Contributions (n) to a series, in order: what is added or taken away, in which pane and block."""

    rows: Rows
    panes: I64
    blocks: I32
    """NO_BLOCK for an event that had no label before; these get their block here."""
    arrived_ms: I64


class Series:
    """The statistics of one series. `add` stops wherever something is due, so that the caller acts at that row."""

    def __init__(self, options: PerformanceOptions, task: Task, layout: Layout) -> None:
        self._options = options
        self._task = task
        self.panes = Tallies(layout)
        self.blocks = Tallies(layout)
        self.by_arrival = Tallies(layout)
        self.known: dict[int, StoredPane] = {}
        self._archive = nothing(layout)
        self._archived_predictions = 0
        self.block = 0
        self._fill = 0
        self._block_begins: dict[int, int] = {}
        self._sizes = window_sizes(options.support_min, options.block_labels, options.blocks_max)
        self._windows: dict[tuple[int, bool], Tally] = {}
        """Several watchers look at the same windows at the end of a block."""
        self.arrival = -1
        self.arrival_revision = 0
        self.arrival_changed = False
        self.labels = 0

    @property
    def layout(self) -> Layout:
        """Where the parts of its tallies lie."""
        return self.panes.layout

    def change_layout(self, layout: Layout) -> None:
        """Move all tallies to another layout."""
        counts, sums = self._archive
        more = np.zeros((layout.sums, layout.lanes), dtype=np.int64)
        more[: len(sums)] = sums
        self._archive = layout.moved(counts, self.layout), more
        for each in (self.panes, self.blocks, self.by_arrival):
            each.change_layout(layout)
        self._windows.clear()

    def predicted(self, panes: I64, counts: I64) -> None:
        """Count so many predictions in each of some panes; a negative one is long gone."""
        for key, count in zip(panes.tolist(), counts.tolist(), strict=True):
            pane = self._pane(key) if key >= 0 else StoredPane()
            if key in self.known:
                pane.predictions += count
                pane.changed = True
            else:
                self._archived_predictions += count

    def add(self, addition: Addition) -> Iterator[tuple[str, int]]:
        """Add contributions; yield what is due, with its row.

        That is "arrival" before a row that begins a new arrival pane, whose former one is complete, and "block" after
        a row that completes a block.
        """
        count = len(addition.panes)
        fresh = addition.blocks == NO_BLOCK
        arrivals = np.maximum.accumulate(np.where(fresh, addition.arrived_ms // self._options.pane_ms, -1))
        counted, began = np.cumsum(fresh).tolist(), arrivals.tolist()
        # For all rows: whoever acts at a row opens no pane, and looks at blocks and at the pane of arrivals alone.
        panes = self._pane_slots(addition)
        begin = 0
        while begin < count:
            if fresh[begin] and began[begin] > self.arrival:
                if self.arrival_changed:
                    yield "arrival", begin
                self.take_arrival()
                self.arrival = began[begin]
            end = self._end(counted, began, begin)
            self._add(addition, fresh, panes, slice(begin, end))
            begin = end
            if self._fill == self._options.block_labels:
                yield "block", end - 1
                self._next_block()

    def _end(self, counted: list[int], arrivals: list[int], begin: int) -> int:
        """Return where the next thing is due, of rows of which so many are fresh up to each."""
        before = counted[begin - 1] if begin else 0
        full = bisect_left(counted, before + self._options.block_labels - self._fill)
        later = bisect_right(arrivals, max(self.arrival, arrivals[begin]))
        return min(full + 1, max(later, begin + 1), len(counted))

    def _add(self, addition: Addition, fresh: Bool, panes: I64, part: slice) -> None:
        """Add some rows, all of one block and one pane of arrivals as far as they are fresh."""
        self._windows.clear()
        new, count = fresh[part], part.stop - part.start
        addition.blocks[part][new] = self.block
        news = int(np.count_nonzero(new))
        blocks = arrivals = np.full(count, -1)
        if news:
            if self._fill == 0:
                self._block_begins[self.block] = int(addition.arrived_ms[part.start + int(new.argmax())])
            self._fill += news
            self.labels += news
            self.arrival_changed = True
            blocks = np.full(count, self.blocks.slot(self.block))
            arrivals = np.full(count, self.by_arrival.slot(self.arrival))
        if news < count:
            blocks = self.blocks.slots(addition.blocks[part].astype(np.int64))
            arrivals[~new] = -1
        targets = self.panes.target(panes[part]), self.blocks.target(blocks), self.by_arrival.target(arrivals)
        add(targets, addition.rows.part(part), self._task, self.layout)

    def _pane_slots(self, addition: Addition) -> I64:
        """Return the slots of the panes of rows, opened if they must be; what is older than all goes to the archive."""
        if not len(addition.panes):
            return addition.panes
        for key in distinct(addition.panes):
            self._pane(key).changed = True
            if key in self.known:
                self.panes.slot(key)
        slots = self.panes.slots(addition.panes)
        if (slots < 0).any():
            self._add_to_archive(slots, addition.rows)
        return slots

    def _add_to_archive(self, slots: I64, rows: Rows) -> None:
        """Panes that are gone: what is added to them is in the lifetime all the same."""
        aside = Tallies(self.layout)
        slot = aside.slot(0)
        nowhere = aside.target(np.full(len(slots), -1))
        add((aside.target(np.where(slots < 0, slot, -1)), nowhere, nowhere), rows, self._task, self.layout)
        self._archive = plus(self._archive, aside.take(0))

    def _pane(self, key: int) -> StoredPane:
        """Return what is known of a pane; the oldest one gives way to a new one, or this one is older than all."""
        pane = self.known.get(key)
        if pane is None:
            pane = StoredPane()
            if len(self.known) >= self._options.panes_max:
                oldest = min(self.known)
                if key < oldest:
                    return pane
                self._archive_pane(oldest)
            self.known[key] = pane
        return pane

    def _archive_pane(self, key: int) -> None:
        self._archived_predictions += self.known.pop(key).predictions
        if key in self.panes:
            self._archive = plus(self._archive, self.panes.take(key))

    def _next_block(self) -> None:
        self._windows.clear()
        self.block += 1
        self._fill = 0
        leaving = self.block - self._options.blocks_max
        self.blocks.drop(leaving)
        self._block_begins.pop(leaving, None)

    def take_arrival(self) -> None:
        """Forget the pane of labels as they came: it is complete, and told."""
        self.by_arrival.drop(self.arrival)
        self.arrival_revision, self.arrival_changed = 0, False

    def arrival_told(self) -> None:
        """The pane of labels as they came is told; more may come."""
        self.arrival_revision += 1
        self.arrival_changed = False

    @property
    def latest_ms(self) -> int:
        """About when its latest label came: the beginning of the latest block."""
        return max(self._block_begins.values(), default=0)

    def begins(self) -> dict[int, int]:
        """Return the sizes of the windows that end with the block just completed, and when each of them began (ms).

        Those that cannot have the support of an alert are left out.
        """
        begins, end = self._block_begins, self.block + 1
        return {size: begins[end - size] for size in self._sizes if end - size in begins}

    def begin_ms(self, block: int) -> int:
        """Return when the first label of a block came, as far as it is still known."""
        return self._block_begins.get(block, 0)

    def window(self, size: int) -> range:
        """Return the blocks of the window of so many that ends with the block just completed."""
        return range(self.block + 1 - size, self.block + 1)

    def tally(self, size: int, *, sums: bool = True) -> Tally:
        """Return the tally of the window of so many blocks that ends with the block just completed.

        Without its sums (NaN) it is made faster, for metrics that are made of counts alone.
        """
        found = self._windows.get((size, sums))
        if found is None:
            found = (self.blocks.merged if sums else self.blocks.merged_counts)(self.window(size))
            self._windows[size, sums] = found
        return found

    @property
    def weights(self) -> dict[int, float]:
        """Weights of the blocks in the decayed window: half for each `half_life_labels` that came later."""
        share = self._options.block_labels / self._options.half_life_labels
        return {key: 2.0 ** ((key - self.block) * share) for key in self.blocks.keys}

    @property
    def lifetime(self) -> tuple[tuple[I64, I64], int]:
        """The exact tally of everything, and how many predictions there were."""
        total = plus(self._archive, self.panes.exact(self.panes.keys))
        return total, self._archived_predictions + sum(pane.predictions for pane in self.known.values())

    # Storing and restoring.

    def plain(self) -> StoredSeries:
        """Return the plain part of the state."""
        return StoredSeries(
            dict(sorted(self.known.items())),
            self._archived_predictions,
            self.block,
            self._fill,
            self.arrival,
            self.arrival_revision,
            self.arrival_changed,
            self.labels,
        )

    def arrays(self) -> dict[str, AnyArray]:
        """Return the arrays of the state."""
        begins = np.array(sorted(self._block_begins.items()), dtype=np.int64).reshape(-1, 2)
        return {
            "begins": begins,
            "archive_counts": self._archive[0],
            "archive_sums": self._archive[1],
            **prefixed("panes", self.panes.state()),
            **prefixed("blocks", self.blocks.state()),
            **prefixed("arrival", self.by_arrival.state()),
        }

    def restore(self, plain: StoredSeries, arrays: Arrays) -> None:
        """Take over what `plain` and `arrays` gave; ValueError for what cannot be."""
        own = {name: array for name, array in arrays.items() if "." not in name}
        parts = by_part(
            _STORED, {name: array for name, array in arrays.items() if "." in name}, ("panes", "blocks", "arrival")
        )
        begins = own.get("begins", np.zeros((0, 2), dtype=np.int64))
        refuse_if(_STORED, {"there are too many blocks": begins.ndim == 0 or len(begins) > self._options.blocks_max})
        like = {
            "begins": blank(np.int64, len(begins), 2),
            "archive_counts": self._archive[0],
            "archive_sums": self._archive[1],
        }
        check_like(_STORED, own, like)
        options = self._options
        self.panes.restore(parts["panes"], options.panes_max)
        self.blocks.restore(parts["blocks"], options.blocks_max)
        self.by_arrival.restore(parts["arrival"], 1)
        refuse_if(
            _STORED,
            {
                "there are too many panes": len(plain.panes) > options.panes_max,
                "a pane is not known": not set(self.panes.keys) <= plain.panes.keys(),
                "a pane is out of range": any(not 0 <= key <= COUNT_MAX for key in plain.panes),
                "a block is too full": plain.fill >= options.block_labels,
                "a block is ahead": any(key > plain.block for key in self.blocks.keys),
                "a block is too old": any(key <= plain.block - options.blocks_max for key in self.blocks.keys),
                "a block begins out of range": outside(begins, 0, COUNT_MAX),
                "a beginning is of no block, or a block has none": begins[:, 0].tolist() != self.blocks.keys,
                "its arrival pane is out of range": not -1 <= plain.arrival <= COUNT_MAX,
                "a count of the archive is negative": outside(own["archive_counts"], 0, COUNT_MAX),
                "a sum of the archive is out of range": outside(own["archive_sums"], -COUNT_MAX, COUNT_MAX),
            },
        )
        self.known = dict(plain.panes)
        self._archive = own["archive_counts"].copy(), own["archive_sums"].copy()
        self._archived_predictions, self.block, self._fill = plain.archived_predictions, plain.block, plain.fill
        self._block_begins = {int(key): int(begin) for key, begin in begins}
        self.arrival, self.labels = plain.arrival, plain.labels
        self.arrival_revision, self.arrival_changed = plain.arrival_revision, plain.arrival_changed
