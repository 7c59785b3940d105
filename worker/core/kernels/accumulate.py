"""One pass over a batch for the pane statistics of numeric columns: moments, range, exponential histogram.

Mean and sum of squared deviations: Welford, one value after the other (Knuth, TAOCP 2, 4.2.2, equations 15 and 16).

Histogram: OpenTelemetry's exponential histogram (metrics data model, "ExponentialHistogram"). With base
2^(2^-scale), bucket i holds the values with base^i < |value| <= base^(i + 1); each sign has its own buckets. Zero
and subnormal values (under 2.3e-308) are in `zero_count`. Scales start at 5 (bounds 2.2 % apart) and only fall: when
the buckets of one sign span more than B, pairs of buckets are merged in both signs until they fit. The final scale
and counts depend on the set of values, not on their order: a span never shrinks when a value is added.

The bucket of a value is found by integer work on its bits alone: exponent, and mantissa against the exact bounds
2^(j/32). No logarithm, so no difference between CPUs or C libraries.

State of c columns in two slots (two panes open at once):

* `count` i64[2, c], `mean`, `m2`, `minimum`, `maximum` f64[2, c]: empty is 0, 0, 0, +inf, -inf;
* `zero_count` i64[2, c]; `scale` i32[2, c]: empty is 0 and START_SCALE;
* `buckets` u32[2, c, 2, B], all 0 when empty: positive values are in [..., 0, :], negative in [..., 1, :];
* `bucket_start` i64[2, c, 2], anything when empty: entry k of `buckets` counts bucket `bucket_start` + k.

The entries are a window of B neighbouring buckets, which is moved only when a value falls outside.
"""

import math

import numba
import numpy as np

from worker.core.kernels.arrays import F64, I8, I32, I64, U8, U32, Bool

START_SCALE = 5
BUCKETS_MIN = 2
# Larger values are cut to this: a difference of two of them is still finite, so the mean is.
LARGEST = 2.0**1022

_PER_OCTAVE = 1 << START_SCALE
_MANTISSA_BITS = 52
_MANTISSA = (1 << _MANTISSA_BITS) - 1
_EXPONENT_BIAS = 1023
_CELL_SHIFT = _MANTISSA_BITS - 6
POSITIVE, NEGATIVE = 0, 1


def _exact_bounds() -> I64:
    """Return floor(2^52 (2^(j/32) - 1)) for j = 0..32: the last mantissa that is not above each bound.

    2^(52 + j/32) is the 32nd root of 2^(52 x 32 + j), and a 32nd root is five square roots; floors may be taken after
    each, since floor(sqrt(floor(y))) = floor(sqrt(y)).
    """
    bounds = []
    for j in range(_PER_OCTAVE + 1):
        root = 1 << (_MANTISSA_BITS * _PER_OCTAVE + j)
        for _ in range(START_SCALE):
            root = math.isqrt(root)
        bounds.append(root - (1 << _MANTISSA_BITS))
    return np.array(bounds, dtype=np.int64)


MANTISSA_BOUNDS = _exact_bounds()
# For each 64th of the mantissas, the bounds at or below its start, less one: no cell holds more than one bound.
_CELLS: U8 = (
    np.searchsorted(MANTISSA_BOUNDS, np.arange(64, dtype=np.int64) << _CELL_SHIFT, side="right").astype(np.uint8) - 1
)


@numba.njit(cache=True, nogil=True)
def bucket_index(bits: np.int64) -> np.int64:
    """Return the bucket, at START_SCALE, of the normal double with these bits (its sign is ignored). O(1)."""
    mantissa = bits & _MANTISSA
    octave = ((bits >> _MANTISSA_BITS) & 0x7FF) - _EXPONENT_BIAS
    cell = np.int64(_CELLS[mantissa >> _CELL_SHIFT])
    # Upper bounds belong to their bucket, so a power of two is in the last bucket of the octave below it.
    step = cell + np.int64(mantissa > MANTISSA_BOUNDS[cell + 1]) - np.int64(mantissa == 0)
    return octave * _PER_OCTAVE + step


@numba.njit(cache=True, nogil=True)
def accumulate(
    rows: F64,
    slot: I8,
    is_numeric: Bool,
    count: I64,
    mean: F64,
    m2: F64,
    minimum: F64,
    maximum: F64,
    buckets: U32,
    bucket_start: I64,
    zero_count: I64,
    scale: I32,
) -> None:
    """Add rows f64[n, c], in order, each to its slot (0 or 1; negative: to none). O(n c).

    NaN is skipped, and so are columns that are not numeric. Other values are finite by contract, and cut to LARGEST
    (2^1022); `m2` is infinite from about 1e154 on. Any cut of the rows into calls
    gives the same bits. A bucket counts up to 2^32 - 1 values.
    """
    n_rows, n_columns = rows.shape
    bits = rows.view(np.int64)
    n_buckets = np.int64(buckets.shape[3])
    for i in range(n_rows):
        s = slot[i]
        if s < 0:
            continue
        for j in range(n_columns):
            x = rows[i, j]
            if not is_numeric[j] or np.isnan(x):
                continue
            x = min(max(x, -LARGEST), LARGEST)
            count[s, j] += 1
            delta = x - mean[s, j]
            mean[s, j] += delta / count[s, j]
            m2[s, j] += delta * (x - mean[s, j])
            minimum[s, j] = min(minimum[s, j], x)
            maximum[s, j] = max(maximum[s, j], x)
            pattern = bits[i, j]
            if (pattern >> _MANTISSA_BITS) & 0x7FF == 0:
                zero_count[s, j] += 1
                continue
            sign = NEGATIVE if pattern < 0 else POSITIVE
            index = bucket_index(pattern) >> (START_SCALE - scale[s, j])
            place = index - bucket_start[s, j, sign]
            if place < 0 or place >= n_buckets:
                place = _make_room(index, sign, buckets[s, j], bucket_start[s, j], scale[s, j : j + 1])
            buckets[s, j, sign, place] += np.uint32(1)


@numba.njit(cache=True, nogil=True)
def _make_room(index: np.int64, sign: int, buckets: U32, start: I64, scale: I32) -> np.int64:
    """Move the window u32[2, B] of one sign, or lower the scale of both, so that `index` is inside. O(B).

    Returns the place of the value in its window. Rare: the window is centred, and each fall of the scale halves it.
    """
    n_buckets = np.int64(buckets.shape[1])
    while True:
        first, last = _used(buckets[sign])
        if last < 0:
            start[sign] = index - n_buckets // 2
            return n_buckets // 2
        low = min(start[sign] + first, index)
        high = max(start[sign] + last, index)
        span = high - low + 1
        if span <= n_buckets:
            _shift(buckets[sign], first, last, low - (n_buckets - span) // 2, start[sign : sign + 1])
            place: np.int64 = index - start[sign]
            return place
        for each in range(2):
            _halve(buckets[each], start[each : each + 1])
        scale[0] -= 1
        index >>= 1


@numba.njit(cache=True, nogil=True)
def _used(window: U32) -> tuple[int, int]:
    """Return the first and last place with a count; (B, -1) if there is none. O(B)."""
    first = 0
    last = window.shape[0] - 1
    while last >= 0 and window[last] == 0:
        last -= 1
    if last < 0:
        return window.shape[0], -1
    while window[first] == 0:
        first += 1
    return first, last


@numba.njit(cache=True, nogil=True)
def _shift(window: U32, first: int, last: int, new_start: int, start: I64) -> None:
    """Make the window begin at bucket `new_start`; the counts at first..last stay inside by contract. O(B)."""
    by = start[0] - new_start
    if by > 0:
        for k in range(last, first - 1, -1):
            window[k + by] = window[k]
        window[first : first + min(by, last - first + 1)] = 0
    elif by < 0:
        for k in range(first, last + 1):
            window[k + by] = window[k]
        window[max(first, last + 1 + by) : last + 1] = 0
    start[0] = new_start


@numba.njit(cache=True, nogil=True)
def _halve(window: U32, start: I64) -> None:
    """Merge the buckets 2i and 2i + 1 to bucket i of the next lower scale, in place. O(B)."""
    n_buckets = window.shape[0]
    new_start = start[0] >> 1
    for k in range(n_buckets):
        n = window[k]
        window[k] = np.uint32(0)
        window[((start[0] + k) >> 1) - new_start] += n
    start[0] = new_start
