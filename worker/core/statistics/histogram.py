"""Exponential histograms as values: the layout of OpenTelemetry, an exact merge, quantiles with a known error.

With base 2^(2^-scale), bucket i counts the values with base^i < |value| <= base^(i + 1), each sign by itself; zero
and subnormal values are in `zero_count`. `kernels.accumulate` fills them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypedDict

import numpy as np

from worker.core.kernels.accumulate import MANTISSA_BOUNDS, NEGATIVE, POSITIVE, START_SCALE
from worker.core.kernels.arrays import I64, U32

_AnyArray = np.ndarray[Any, np.dtype[Any]]
_MANTISSA_BITS = 52


class HistogramFields(TypedDict):
    """The fields of a published histogram (`events.HistogramRecord`)."""

    scale: int
    zero_count: int
    positive_start: int
    positive_counts: list[int]
    negative_start: int
    negative_counts: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """Counts i64[k] of the buckets start, start + 1, ...; the first and the last are not 0; empty starts at 0."""

    start: int
    counts: I64

    @classmethod
    def trimmed(cls, start: int, counts: _AnyArray) -> Self:
        """Return the buckets without the zeros at both ends."""
        used = np.flatnonzero(counts)
        if len(used) == 0:
            return cls(0, np.empty(0, dtype=np.int64))
        first, last = int(used[0]), int(used[-1])
        return cls(start + first, counts[first : last + 1].astype(np.int64))

    def coarser(self, by: int) -> Self:
        """Return the buckets at a scale lower by `by`: 2^by neighbours become one."""
        if by == 0 or len(self.counts) == 0:
            return self
        first = self.start >> by
        places = ((self.start + np.arange(len(self.counts))) >> by) - first
        counts = np.zeros(int(places[-1]) + 1, dtype=np.int64)
        np.add.at(counts, places, self.counts)
        return type(self)(first, counts)

    def plus(self, other: Self) -> Self:
        """Return the sum with buckets of the same scale."""
        if len(self.counts) == 0 or len(other.counts) == 0:
            return self if len(self.counts) else other
        start = min(self.start, other.start)
        counts = np.zeros(max(self.end, other.end) - start, dtype=np.int64)
        counts[self.start - start : self.end - start] += self.counts
        counts[other.start - start : other.end - start] += other.counts
        return type(self)(start, counts)

    @property
    def end(self) -> int:
        """Index after the last bucket."""
        return self.start + len(self.counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Buckets):
            return NotImplemented
        return self.start == other.start and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.start, self.counts.tobytes()))


_EMPTY = Buckets(0, np.empty(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Histogram:
    """One histogram. Equal sets of values, accumulated and merged in any way, give equal histograms."""

    scale: int = START_SCALE
    zero_count: int = 0
    positive: Buckets = _EMPTY
    negative: Buckets = _EMPTY

    @classmethod
    def from_window(cls, buckets: U32, bucket_start: I64, zero_count: int, scale: int) -> Self:
        """Read the state of one column of `kernels.accumulate`: buckets u32[2, B], bucket_start i64[2]."""
        positive, negative = (Buckets.trimmed(int(bucket_start[s]), buckets[s]) for s in (POSITIVE, NEGATIVE))
        return cls(int(scale), int(zero_count), positive, negative)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, _AnyArray], slot: int, column: int) -> Self:
        """Read one column of one slot from arrays named as the parameters of `kernels.accumulate`."""
        at = slot, column
        return cls.from_window(
            arrays["buckets"][at], arrays["bucket_start"][at], arrays["zero_count"][at], arrays["scale"][at]
        )

    @property
    def count(self) -> int:
        """Number of values."""
        return self.zero_count + int(self.positive.counts.sum()) + int(self.negative.counts.sum())

    def coarser(self, scale: int) -> Self:
        """Return the histogram at a scale that is not above its own."""
        by = self.scale - scale
        return type(self)(scale, self.zero_count, self.positive.coarser(by), self.negative.coarser(by))

    def merge(self, other: Self, buckets_max: int) -> Self:
        """Return the histogram of both sets together: exactly what one pass with B = buckets_max would have given.

        The common scale is the lower of the two, lowered further while one sign spans more than `buckets_max`
        buckets. One pass cannot stop higher, since each part needed its scale, nor lower, since it falls only as
        far as it must.
        """
        scale = min(self.scale, other.scale)
        mine, theirs = self.coarser(scale), other.coarser(scale)
        merged = type(self)(
            scale,
            mine.zero_count + theirs.zero_count,
            mine.positive.plus(theirs.positive),
            mine.negative.plus(theirs.negative),
        )
        while max(len(merged.positive.counts), len(merged.negative.counts)) > buckets_max:
            merged = merged.coarser(merged.scale - 1)
        return merged

    def quantile(self, q: float, minimum: float, maximum: float) -> float | None:
        """Return about the smallest value that at least q (in [0, 1]) of all values do not exceed; None when empty.

        That is numpy's method "inverted_cdf". The answer is the middle 2 l h / (l + h) of the bucket (l, h] that
        holds it, so its relative error is at most `relative_error(scale)`, 1.1 % at scale 5; 0 for a value in
        `zero_count`. Cut to [minimum, maximum], the range of the values, which can only bring it nearer.
        """
        counts = np.concatenate([self.negative.counts[::-1], [self.zero_count], self.positive.counts])
        cumulated = np.cumsum(counts)
        if cumulated[-1] == 0:
            return None
        rank = min(max(math.ceil(q * int(cumulated[-1])), 1), int(cumulated[-1]))
        place = int(np.searchsorted(cumulated, rank)) - len(self.negative.counts)
        return quantile_at(place, (self.positive.start, self.negative.start), self.scale, minimum, maximum)

    def as_fields(self) -> HistogramFields:
        """Return the fields of a published histogram."""
        return {
            "scale": self.scale,
            "zero_count": self.zero_count,
            "positive_start": self.positive.start,
            "positive_counts": self.positive.counts.tolist(),
            "negative_start": self.negative.start,
            "negative_counts": self.negative.counts.tolist(),
        }


def quantile_at(place: int, starts: Sequence[int], scale: int, minimum: float, maximum: float) -> float:
    """Return what `Histogram.quantile` says of a place: 0 is the zero bucket, k > 0 a positive one, -k a negative one.

    `starts` are the indices of those of k = 1, by sign (`POSITIVE`, `NEGATIVE`).
    """
    value = 0.0
    if place > 0:
        value = bucket_middle(starts[POSITIVE] + place - 1, scale)
    elif place < 0:
        value = -bucket_middle(starts[NEGATIVE] - place - 1, scale)
    return min(max(value, minimum), maximum)


def bucket_bound(index: int, scale: int) -> float:
    """Return base^index, the lower bound of a bucket, from the exact table of the kernel, rounded down."""
    octave, step = divmod(index << (START_SCALE - scale), len(MANTISSA_BOUNDS) - 1)
    return math.ldexp(float((1 << _MANTISSA_BITS) + int(MANTISSA_BOUNDS[step])), octave - _MANTISSA_BITS)


def bucket_middle(index: int, scale: int) -> float:
    """Return 2 l h / (l + h) of the bucket (l, h]: equally far, relatively, from both of its bounds."""
    # h = l base; written without h, which overflows in the last bucket of a low scale.
    return bucket_bound(index, scale) * (2.0 / (1.0 + math.exp2(-math.ldexp(1.0, -scale))))


def relative_error(scale: int) -> float:
    """Return the largest relative error of a quantile: (base - 1) / (base + 1)."""
    return math.tanh(math.ldexp(0.5 * math.log(2.0), -scale))
