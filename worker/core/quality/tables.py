"""The arrays of a quality watch: current block, what goes on, what is learned, recent blocks; and their restoring."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from worker.core.columns import Column, Kind
from worker.core.kernels import quality as q
from worker.core.kernels import quality_learning as learning
from worker.core.kernels.arrays import F64, I8, I64
from worker.core.options import QualityOptions
from worker.core.state import COUNT_MAX, AnyArray, Arrays, by_part, check_like, fill, outside, prefixed, refuse_if

RECENT_BLOCKS = 8
"""Blocks of the long window; they are learned when they leave it."""
_SAMPLE_ROWS = 29
"""Rows of a block about as many as which give the quantiles of its range."""
_STORED = "stored data quality"
_PARTS = ("block", "running", "bounds", "learned", "recent", "watch")
_NUMBERS = ("low", "high", "minimum", "maximum", "usual", "median", "step", "spread")
_Kinds: TypeAlias = Mapping[Kind, int]
_KINDS: _Kinds = {
    Kind.NUMERIC: q.NUMERIC,
    Kind.BOOLEAN: q.BOOLEAN,
    Kind.CATEGORICAL: q.CATEGORICAL,
    Kind.TEXT: q.NUMERIC,
}


def chosen_rows(block_events: int) -> I64:
    """Return, for each row of a block, whether it is in the sample (>= 0): one of each stretch, spread unevenly.

    Evenly spaced rows would always meet the same source of several that take turns.
    """
    chosen = np.full(block_events, -1, dtype=np.int64)
    stretch = max(1, block_events // _SAMPLE_ROWS)
    for number, begin in enumerate(range(0, block_events - stretch + 1, stretch)):
        # Weyl's sequence with the golden ratio: as even as it gets over the places in a stretch, and never periodic.
        chosen[begin + number * 40_503 % 65_536 * stretch // 65_536] = number
    return chosen


class Tables:
    """All arrays, for a number of columns. EVENT is the last one."""

    def __init__(self, columns: Sequence[Column], options: QualityOptions) -> None:
        width = len(columns) + 1
        shape = (q.MEASURES, width)
        self.chosen = chosen_rows(options.block_events)
        self.kinds: I8 = np.array([*(_KINDS[column.kind] for column in columns), q.EVENT], dtype=np.int8)
        self.declared = _declared(columns, options)
        self.block = q.Block(
            _counts(*shape),
            _counts(*shape),
            _counts(width),
            _counts(width),
            _counts(width),
            np.zeros(width),
            np.zeros(width),
            _counts(width),
            _counts(width, q.OCTAVES),
            _counts(width),
            np.zeros((width, int((self.chosen >= 0).sum()))),
            _counts(width),
        )
        learning.clear(self.block)
        self.running = q.Running(np.full(width, np.nan), _counts(width), _counts(width), _counts(1))
        self.bounds = q.Bounds(np.full(width, -np.inf), np.full(width, np.inf), _counts(width), _counts(width))
        self.learned = learning.Learned(
            k=_counts(*shape),
            n=_counts(*shape),
            square=np.zeros(shape),
            blocks=_counts(*shape),
            most=np.zeros(shape),
            low=np.full(width, np.inf),
            high=np.full(width, -np.inf),
            minimum=np.full(width, np.inf),
            maximum=np.full(width, -np.inf),
            usual=np.zeros(width),
            median=np.zeros(width),
            step=np.zeros(width),
            spread=np.zeros(width),
            wanders=_counts(width),
            rising=_counts(width),
            falling=_counts(width),
            medians=_counts(width),
            episodes=_counts(q.MEASURES + 2, width),
            longest_run=_counts(width),
            runs=_counts(width, q.OCTAVES),
            longest_gap=_counts(width),
            values=_counts(width),
        )
        recent = (RECENT_BLOCKS, *shape)
        self.recent = learning.Recent(
            np.zeros(recent, dtype=np.int32),
            np.zeros(recent, dtype=np.int32),
            np.zeros(recent, dtype=np.uint8),
            _counts(RECENT_BLOCKS, width),
        )
        self.stood: I64 = _counts(q.MEASURES + 2, width)
        self.starts: I64 = _counts(RECENT_BLOCKS, 2)
        """Offset and watermark of the first event of each recent block."""
        self.verdict = learning.Verdict(np.full((q.MEASURES + 2, width), np.nan), _counts(q.MEASURES + 2, width))
        self.set_bounds(options)

    def set_bounds(self, options: QualityOptions) -> None:
        """Renew what values are compared with."""
        learning.set_bounds(self.learned, self.declared, self.kinds, options.range_widths, LATE_MIN_MS, self.bounds)

    @property
    def arrays(self) -> dict[str, AnyArray]:
        """All that later events depend on; live."""
        parts = {
            "block": self.block._asdict(),
            "running": self.running._asdict(),
            "bounds": self.bounds._asdict(),
            "learned": self.learned._asdict(),
            "recent": self.recent._asdict(),
            "watch": {"stood": self.stood, "starts": self.starts},
        }
        return {key: array for part, arrays in parts.items() for key, array in prefixed(part, arrays).items()}

    def restore(self, arrays: Arrays, place: int, columns: Sequence[Column]) -> None:
        """Take over arrays of a watch that is at row `place` of its block; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.arrays)
        parts = by_part(_STORED, arrays, _PARTS)
        block, learned, recent = parts["block"], parts["learned"], parts["recent"]
        codes = np.array([*(len(column.codes) for column in columns), 0])
        refuse_if(
            _STORED,
            {
                f"`{name}` is not a count": outside(array, 0, COUNT_MAX)
                for name, array in arrays.items()
                if array.dtype.kind in "iu" and name not in {"watch.starts", "running.clock"}
            }
            | {
                "its sample is larger than the block so far": outside(
                    block["sampled"], 0, int((self.chosen[:place] >= 0).sum())
                ),
                "it counts more than there was": outside(block["counts"], 0, place)
                or outside(block["valid"], 0, place),
                "it has a category that is not there": outside(block["code"], 0, codes)
                or outside(parts["bounds"]["known"], 0, codes)
                or outside(recent["code"], 0, codes),
                "it has learned more cases than events": outside(learned["k"], 0, learned["n"]),
                "a recent block has more cases than events": outside(recent["k"], 0, recent["n"]),
                "a share is none": outside(learned["most"], 0.0, 1.0),
                "a range is none": any(np.isnan(learned[name]).any() for name in _NUMBERS)
                or any(np.isnan(parts["bounds"][name]).any() for name in ("low", "high")),
                "a spread is none": outside(learned["square"], 0.0, float(COUNT_MAX)),
            },
        )
        fill(self.arrays, arrays)


LATE_MIN_MS = 60_000.0
"""An event that is less behind the latest one is never late."""


def _counts(*shape: int) -> I64:
    return np.zeros(shape, dtype=np.int64)


def _declared(columns: Sequence[Column], options: QualityOptions) -> F64:
    """Return the declared bounds f64[2, C]: NaN for none, infinite for a side that is left open."""
    declared = np.full((2, len(columns) + 1), np.nan)
    for place, column in enumerate(columns):
        if column.kind is Kind.NUMERIC and column.name in options.ranges:
            given = options.ranges[column.name]
            low = -np.inf if given.minimum is None else given.minimum
            declared[:, place] = low, np.inf if given.maximum is None else given.maximum
    return declared
