"""Whether labels still come: the labelled share of the predictions that are old enough to have one.

Old enough is `due_ms`: twice the 95 % quantile of the lag of the reference labels, so that a label topic that stops is
noticed after that long, not after the whole horizon.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from worker.core.kernels.arrays import I32, I64
from worker.core.metric_names import COVERAGE
from worker.core.options import PerformanceOptions
from worker.core.performance.intervals import Estimate, wilson
from worker.core.performance.limits import Breach, Condition, Moment, Step, Watch
from worker.core.state import COUNT_MAX, refuse_if
from worker.core.telling import Place

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
_REFERENCE_BLOCKS = 10
_DUE_FACTOR = 2.0
_DUE_MS_MIN = 5_000
"""The two topics are read one after the other: what is younger may not have been seen yet."""


class DueBlock(Struct, array_like=True, forbid_unknown_fields=True):
    """Predictions that became due one after the other, those with a label, and the prediction at which it began."""

    due: _Count = 0
    labelled: _Count = 0
    begin_ms: _Count = 0
    begin_offset: Annotated[int, Meta(ge=-1, le=COUNT_MAX)] = 0


class StoredCoverage(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about coverage, as it is stored."""

    due_ms: _Count
    is_learned: bool
    learned_ms: _Count | None
    done: _Count
    open: DueBlock
    blocks: list[DueBlock]
    reference: DueBlock | None
    breaches: list[Breach]
    cleared: dict[str, _Count]


class Coverage:
    """Blocks of predictions that became due, their reference, and the limits of `label_coverage`."""

    def __init__(self, options: PerformanceOptions, conditions: Sequence[Condition], z: float) -> None:
        self._options = options
        self._z = z
        self.watch = Watch(conditions, options.support_min)
        self.due_ms = options.label_wait_max_ms
        self.is_learned = False
        self._learned_ms: int | None = None
        self._done = 0
        self._open = DueBlock()
        self._blocks: list[DueBlock] = []
        self._reference: DueBlock | None = None

    def learn(self, lag_p95_ms: float) -> None:
        """The reference of the model is taken: so long its labels took. It counts from the next closed pane on."""
        expected = max(int(_DUE_FACTOR * lag_p95_ms), _DUE_MS_MIN)
        self._learned_ms = min(expected, self._options.label_wait_max_ms)

    def pane_closed(self) -> None:
        """Between two events: what was learned counts from here on."""
        if not self.is_learned and self._learned_ms is not None:
            self.due_ms, self.is_learned = self._learned_ms, True

    def process(self, due: I32, times_ms: I64, offsets: I64) -> Iterator[tuple[int, list[Step]]]:
        """Take in what became due at each row (n x 2: all, labelled); yield rows and the steps to tell there."""
        if not self.is_learned:
            return
        for row in np.flatnonzero(due[:, 0]).tolist():
            if self._open.due == 0:
                self._open.begin_ms, self._open.begin_offset = int(times_ms[row]), int(offsets[row])
            self._open.due += int(due[row, 0])
            self._open.labelled += int(due[row, 1])
            if self._open.due >= self._options.block_labels:
                steps = self._complete(int(times_ms[row]), int(offsets[row]))
                if steps:
                    yield row, steps

    def _complete(self, now_ms: int, offset: int) -> list[Step]:
        self._blocks = [*self._blocks, self._open][-self._options.blocks_max :]
        self._open = DueBlock()
        self._done += 1
        if self._reference is None and self._done == _REFERENCE_BLOCKS:
            self._reference = _sum(self._blocks)
            return []
        reference = {} if self._reference is None else {COVERAGE: self._estimate(self._reference)}
        sizes = [1 << power for power in range(len(self._blocks).bit_length())]
        begins = {size: self._blocks[-size].begin_ms for size in sizes if size <= len(self._blocks)}
        moment = Moment(now_ms, offset, begins)
        return self.watch.look(self._done, self._done - _REFERENCE_BLOCKS, self._figures, reference, moment)

    def begin(self, size: int) -> Place:
        """Return the prediction at which the window of so many blocks began."""
        first = self._blocks[-min(size, len(self._blocks))]
        return Place(first.begin_offset, first.begin_ms)

    def _figures(self, size: int, _: Collection[str]) -> Mapping[str, Estimate]:
        return {COVERAGE: self._estimate(_sum(self._blocks[-size:]))}

    def _estimate(self, block: DueBlock) -> Estimate:
        return wilson(float(block.labelled), float(block.due), self._z)

    # Storing and restoring.

    def state(self) -> StoredCoverage:
        """Return all there is."""
        return StoredCoverage(
            self.due_ms,
            self.is_learned,
            self._learned_ms,
            self._done,
            self._open,
            self._blocks,
            self._reference,
            list(self.watch.open.values()),
            self.watch.cleared,
        )

    def restore(self, stored: StoredCoverage) -> None:
        """Take over what `state` gave; ValueError for what cannot be."""
        refuse_if(
            "stored coverage",
            {
                "there are too many blocks": len(stored.blocks) > self._options.blocks_max,
                "its age is out of range": any(
                    not 0 <= age <= self._options.label_wait_max_ms for age in (stored.due_ms, stored.learned_ms or 0)
                ),
            },
        )
        for block in (stored.open, *stored.blocks, *([stored.reference] if stored.reference else [])):
            refuse_if("stored coverage", {"a count is out of range": not 0 <= block.labelled <= block.due})
        self.due_ms, self.is_learned, self._done = stored.due_ms, stored.is_learned, stored.done
        self._learned_ms = stored.learned_ms
        self._open, self._blocks, self._reference = stored.open, list(stored.blocks), stored.reference
        self.watch.restore(stored.breaches, stored.cleared)


def _sum(blocks: Sequence[DueBlock]) -> DueBlock:
    due, labelled = sum(block.due for block in blocks), sum(block.labelled for block in blocks)
    return DueBlock(due, labelled, blocks[0].begin_ms, blocks[0].begin_offset)
