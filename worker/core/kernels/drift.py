"""Concept drift on a stream of a model's errors, each in [0, 1]: five detectors of a rise.

Each kernel takes `values` f64[n] from `begin` on, one after the other, up to and including the first that alarms, and
returns its index, or n when none does. The caller acts at exactly that row and calls again with the next one. All
state is in the arrays; nothing depends on how the stream is cut. An alarm empties the state, as River's detectors
empty theirs before the next value, so decisions are those of River 0.26.1 row by row (see `eddm` for its one
rounding). ADWIN keeps a window instead of a few numbers: `drift_adwin`.

State that all five share; all 0 when empty:

* `counts` i64[k]: [0] is the number of values since the last alarm, the rest belongs to the detector;
* `means` f64[3]: [0] mean since the last alarm, [1] and [2] the fading mean of the newest values and its weight;
* `own` f64[m]: the detector's;
* `change` f64[2]: [0] and [1] of `means` as the last alarm found them; stays until the next.

Reading and writing the state for each value costs a few nanoseconds and makes a cut of the stream invisible.
"""

import math

import numba

from worker.core.kernels.arrays import F64, I64

RECENT_FADING = 1.0 - 1.0 / 50.0
"""What the newest values' mean keeps at each value: it looks about 50 values back."""


@numba.njit(cache=True, nogil=True)
def _learn(value: float, counts: I64, means: F64) -> None:
    """Move both means on. O(1).

    The first adds up as River's `stats.Mean`, (1 / n) (x - mean) (West 1979, CACM 22-9). The second is the
    exponentially weighted mean with its weights divided by their sum (the bias correction of Kingma and Ba 2015,
    "Adam", section 3), in the form that never leaves the range of its values.
    """
    counts[0] += 1
    means[0] += 1.0 / counts[0] * (value - means[0])
    means[2] = RECENT_FADING * means[2] + (1.0 - RECENT_FADING)
    means[1] += (1.0 - RECENT_FADING) / means[2] * (value - means[1])


@numba.njit(cache=True, nogil=True)
def _alarm(counts: I64, means: F64, own: F64, change: F64) -> None:
    """Keep what the alarm saw and empty the rest. O(1)."""
    change[0] = means[0]
    change[1] = means[1]
    counts[:] = 0
    means[:] = 0.0
    own[:] = 0.0


@numba.njit(cache=True, nogil=True)
def page_hinkley(
    values: F64,
    begin: int,
    counts: I64,
    means: F64,
    own: F64,
    change: F64,
    min_instances: int,
    delta: float,
    threshold: float,
    alpha: float,
) -> int:
    """Alarm when the mean has risen: Page-Hinkley test. O(n).

    Page 1954, "Continuous inspection schemes", Biometrika 41; Mouss et al. 2004, "Test of Page-Hinckley, an approach
    for fault detection in an agro-alimentary production system", Asian Control Conference. Deviations from the mean,
    less `delta` each, are added up, and the sum fades by `alpha` at each value, as in MOA and River; alarm when it is
    more than `threshold` above its minimum.

    `counts` i64[1]; `own` f64[2]: the sum and its minimum.
    """
    for i in range(begin, len(values)):
        _learn(values[i], counts, means)
        own[0] = alpha * own[0] + (values[i] - means[0]) - delta
        if counts[0] == 1 or own[0] < own[1]:
            own[1] = own[0]
        if counts[0] >= min_instances and own[0] - own[1] > threshold:
            _alarm(counts, means, own, change)
            return i
    return len(values)


@numba.njit(cache=True, nogil=True)
def ddm(
    values: F64,
    begin: int,
    counts: I64,
    means: F64,
    own: F64,
    change: F64,
    warm_start: int,
    drift_threshold: float,
) -> int:
    """Alarm when the error rate is `drift_threshold` deviations above its best: drift detection method. O(n).

    Gama, Medas, Castillo, Rodrigues 2004, "Learning with drift detection", SBIA: rate p, deviation
    s = sqrt(p (1 - p) / n), both remembered where p + s was least; alarm when p + s > p_min + `drift_threshold` s_min.
    The deviation is that of 0 and 1; for values between it is too large, never too small.

    `counts` i64[1]; `own` f64[2]: p_min and s_min, valid after `warm_start` values.
    """
    for i in range(begin, len(values)):
        _learn(values[i], counts, means)
        if counts[0] <= warm_start:
            continue
        rate = means[0]
        deviation = math.sqrt(rate * (1.0 - rate) / counts[0])
        if counts[0] == warm_start + 1 or rate + deviation <= own[0] + own[1]:
            own[0] = rate
            own[1] = deviation
        if rate + deviation > own[0] + drift_threshold * own[1]:
            _alarm(counts, means, own, change)
            return i
    return len(values)


@numba.njit(cache=True, nogil=True)
def eddm(values: F64, begin: int, counts: I64, means: F64, own: F64, change: F64, warm_start: int, beta: float) -> int:
    """Alarm when errors come closer together: early drift detection method. O(n).

    Baena-Garcia et al. 2006, "Early drift detection method", IWKDDS: mean p and deviation s of the distances between
    errors; alarm when (p + 2 s) falls under `beta` times its maximum. A value of exactly 1 is an error, any other is
    none. The deviation is a square root here, which is the same on every machine; River takes the power 0.5, which
    differs in the last bit once in a thousand times: only a ratio within 1e-15 of `beta` could be judged differently.

    `counts` i64[3]: values, number of the last error, errors. `own` f64[3]: mean distance, sum of squared deviations
    from it (Welford), and the maximum of p + 2 s.
    """
    for i in range(begin, len(values)):
        _learn(values[i], counts, means)
        if values[i] != 1.0:
            continue
        counts[2] += 1
        distance = counts[0] - counts[1]
        counts[1] = counts[0]
        before = distance - own[0]
        own[0] += 1.0 / counts[2] * before
        own[1] += before * (distance - own[0])
        if counts[0] <= warm_start:
            continue
        variance = own[1] / (counts[2] - 1) if counts[2] > 1 else 0.0
        reach = own[0] + 2.0 * math.sqrt(variance)
        if reach > own[2]:
            own[2] = reach
        elif counts[2] > warm_start and reach / own[2] < beta:
            _alarm(counts, means, own, change)
            return i
    return len(values)


@numba.njit(cache=True, nogil=True)
def hddm_a(values: F64, begin: int, counts: I64, means: F64, own: F64, change: F64, drift_confidence: float) -> int:
    """Alarm when the mean has risen since its best cut: Hoeffding's bound on averages, the one-sided A-test. O(n).

    Frias-Blanco et al. 2015, "Online and non-parametric drift detection methods based on Hoeffding's bounds", IEEE
    TKDE 27-3. The cut is where the mean plus its bound was least.

    `counts` i64[2]: values, and values up to the cut. `own` f64[1]: the mean up to the cut.
    """
    log_cut = math.log(1.0 / drift_confidence)
    log_test = math.log(2.0 / drift_confidence)
    for i in range(begin, len(values)):
        _learn(values[i], counts, means)
        bound = math.sqrt(1.0 / (2 * counts[0]) * log_cut)
        if counts[1] == 0 or own[0] + math.sqrt(1.0 / (2 * counts[1]) * log_cut) >= means[0] + bound:
            counts[1] = counts[0]
            own[0] = means[0]
            continue
        if counts[1] == counts[0]:
            continue
        spread = (counts[0] - counts[1]) / counts[1] * (1.0 / counts[0])
        if means[0] - own[0] >= math.sqrt(spread / 2.0 * log_test):
            _alarm(counts, means, own, change)
            return i
    return len(values)


@numba.njit(cache=True, nogil=True)
def _weigh(value: float, number: int, own: F64, place: int, lambda_: float) -> None:
    """Add value `number` (from 1) to the fading mean at own[place] and its squared weights at own[place + 1]. O(1)."""
    own[place] = value if number == 1 else lambda_ * value + (1.0 - lambda_) * own[place]
    squares = 1.0 if number == 1 else own[place + 1]
    own[place + 1] = lambda_ * lambda_ + (1.0 - lambda_) * (1.0 - lambda_) * squares


@numba.njit(cache=True, nogil=True)
def hddm_w(
    values: F64,
    begin: int,
    counts: I64,
    means: F64,
    own: F64,
    change: F64,
    drift_confidence: float,
    lambda_: float,
) -> int:
    """Alarm when the weighted mean has risen since its best cut: McDiarmid's bound, the one-sided W-test. O(n).

    Frias-Blanco et al. 2015 as in `hddm_a`: a weighted mean of all values (weight `lambda_` to the
    newest) finds the cut, and the means up to the cut and from the cut on are compared. More sensitive to slow changes.

    `counts` i64[2]: values, and values from the cut on. `own` f64[7]: weighted mean and sum of squared weights of all,
    of those up to the cut, of those from the cut on; and the least mean plus bound.
    """
    log_test = math.log(1.0 / drift_confidence)
    for i in range(begin, len(values)):
        _learn(values[i], counts, means)
        _weigh(values[i], counts[0], own, 0, lambda_)
        reach = own[0] + math.sqrt(own[1] * log_test / 2.0)
        if counts[0] == 1 or reach < own[6]:
            own[6] = reach
            own[2] = own[0]
            own[3] = own[1]
            counts[1] = 0
            continue
        counts[1] += 1
        _weigh(values[i], counts[1], own, 4, lambda_)
        if own[4] - own[2] > math.sqrt((own[3] + own[5]) * log_test / 2.0):
            _alarm(counts, means, own, change)
            return i
    return len(values)
