"""What is remembered of a prediction until its label comes: its features, and what each challenger said of it then.

Rows are numbered as they come. The join of labels keeps the number beside the prediction, so nothing is looked up. The
newest rows are kept; a label for an older one shows that labels come late here, and the memory grows, up to its bound.
"""

import numpy as np

from worker.core.kernels.arrays import F32, I32, I64
from worker.core.kernels.reservoir import LARGEST
from worker.core.kernels.shadow import MISSED, NEWEST, OLDEST, WINDOW, find_waiting
from worker.core.state import COUNT_MAX, AnyArray, Arrays, check_like, outside, refuse_if

_STORED = "stored waiting rows"
_WINDOW_MIN = 1_024
PART_ROWS_MAX = 512
"""Rows that one call of `add` may bring: a label within the same batch must still find what these push out."""
NOT_KEPT = -1


class WaitingRows:
    """A ring of the latest rows."""

    def __init__(self, features: int, outputs: int, rows_max: int) -> None:
        """`outputs`: numbers that all challengers together say of a row."""
        self._rows_max = rows_max
        self._clock: I64 = np.array([0, 0, min(_WINDOW_MIN, rows_max), 0], dtype=np.int64)
        self._allocate(features, outputs)

    def _allocate(self, features: int, outputs: int) -> None:
        rows = int(self._clock[WINDOW]) + PART_ROWS_MAX
        self.cells: F32 = np.zeros((rows, features), dtype=np.float32)
        self.outputs: F32 = np.full((rows, outputs), np.nan, dtype=np.float32)
        self.generations: I64 = np.zeros(rows, dtype=np.int64)
        self.epochs: I32 = np.zeros(rows, dtype=np.int32)

    @property
    def newest(self) -> int:
        """Rows so far."""
        return int(self._clock[NEWEST])

    @property
    def missed(self) -> int:
        """Labels that came too late for this memory."""
        return int(self._clock[MISSED])

    def add(self, cells: F32, outputs: F32, epochs: I32, generation: int) -> I64:
        """Keep rows (n <= PART_ROWS_MAX, in order): cells n x d, outputs n x C; return their numbers."""
        numbers: I64 = np.arange(len(cells), dtype=np.int64) + self._clock[NEWEST]
        self._clock[NEWEST] += len(cells)
        places = numbers % len(self.cells)
        self.cells[places], self.outputs[places] = cells, outputs
        self.epochs[places], self.generations[places] = epochs, generation
        return numbers

    def places(self, numbers: I64, newest_at: I64) -> I64:
        """Return where rows (n) are kept, -1 for those that are not; `newest_at`: `newest` as of each label."""
        found = np.empty(len(numbers), dtype=np.int64)
        find_waiting(numbers, newest_at, self._rows_max, len(self.cells), self._clock, found)
        return found

    def grow(self) -> None:
        """Take more memory if labels have shown that it is needed. Places that were told before are void then."""
        if self._clock[WINDOW] + PART_ROWS_MAX > len(self.cells):
            self._move(*self._widths)

    @property
    def _widths(self) -> tuple[int, int]:
        return self.cells.shape[1], self.outputs.shape[1]

    def reshape(self, features: int, outputs: int) -> None:
        """Make room for more features, or for other outputs; rows that are kept have none of them."""
        if (features, outputs) != self._widths:
            self._move(features, outputs)

    def void(self) -> None:
        """Forget what was said of the rows that are kept, and the generations of a recalibration that is gone."""
        self.outputs[:], self.generations[:] = np.nan, -1

    def _move(self, features: int, outputs: int) -> None:
        width, old = self._widths[0], (self.cells, self.outputs, self.generations, self.epochs)
        newest = self.newest
        numbers = np.arange(max(int(self._clock[OLDEST]), newest - len(self.cells), 0), newest)
        before = numbers % len(self.cells)
        self._allocate(features, outputs)
        after = numbers % len(self.cells)
        self.cells[after, width:] = np.nan
        self.cells[after, :width] = old[0][before]
        if outputs == old[1].shape[1]:
            self.outputs[after] = old[1][before]
        self.generations[after], self.epochs[after] = old[2][before], old[3][before]

    # Storing and restoring.

    def _kept(self) -> I64:
        """Return the numbers of the rows that can still be asked for."""
        oldest = max(int(self._clock[OLDEST]), self.newest - int(self._clock[WINDOW]))
        return np.arange(oldest, self.newest)

    def arrays(self) -> dict[str, AnyArray]:
        """Return the rows that can still be asked for, oldest first: how large the ring is, is no state."""
        kept = self._kept()
        places, clock = kept % len(self.cells), self._clock.copy()
        clock[OLDEST] = self.newest - len(kept)
        return {
            "cells": self.cells[places],
            "outputs": self.outputs[places],
            "generations": self.generations[places],
            "epochs": self.epochs[places],
            "clock": clock,
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        clock = arrays.get("clock", np.zeros(0))
        check_like(_STORED, {"clock": clock}, {"clock": self._clock})
        newest, oldest, window, missed = clock.tolist()
        refuse_if(
            _STORED,
            {
                "its window is out of range": not int(self._clock[WINDOW]) <= window <= self._rows_max,
                "its count is out of range": not 0 <= missed <= COUNT_MAX
                or not 0 <= newest <= COUNT_MAX
                or not max(newest - window, 0) <= oldest <= newest,
            },
        )
        self._clock[:] = clock
        self._allocate(*self._widths)
        check_like(_STORED, arrays, self.arrays())
        refuse_if(
            _STORED,
            {
                "a generation is out of range": outside(arrays["generations"], -1, COUNT_MAX),
                "an epoch is out of range": outside(arrays["epochs"], -1, 2**31 - 1),
                "a feature is out of range": bool((np.abs(arrays["cells"]) > LARGEST).any()),
                "an output is infinite": bool(np.isinf(arrays["outputs"]).any()),
            },
        )
        places = self._kept() % len(self.cells)
        self.cells[places], self.outputs[places] = arrays["cells"], arrays["outputs"]
        self.generations[places], self.epochs[places] = arrays["generations"], arrays["epochs"]
