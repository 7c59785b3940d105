"""From statistics to decisions: p-values, corrections for many tests, and what autocorrelation does to both.

A stationary stream is to alarm in at most a share `false_alarms_per_day` of days, whatever is looked at. That share is
spent (Lan and DeMets 1983, "Discrete sequential boundaries": a budget over looks) by the event time that passes:

* margins get 80 % of it, dependence 20 %;
* each length of window gets an equal part, and each of its looks what belongs to the time since its last one;
* over the columns of a look Holm (1979) keeps the family-wise error at that level;
* the two tests of a column share its level (Bonferroni).

All of these are valid whatever the dependence between tests. Which columns are listed once an alarm is given is decided
by the false discovery rate instead, also under any dependence (Benjamini and Yekutieli 2001, theorem 1.3).
"""

import numpy as np

from worker.core.kernels.arrays import F64, I64, Bool
from worker.core.kernels.binning import BATCH, LAGS
from worker.core.kernels.two_sample import FREEDOM, ODD, G, Z

DAY_MS = 86_400_000
DAY_EVENTS_MIN, DAY_EVENTS_MAX = 100_000, 10_000_000_000
"""A day has at least, and at most, so many events for what is spent: a slow stream is a day per 100,000 events, and
timestamps that stand still do not stop the spending."""
MARGINS_SHARE = 0.8
LEVEL_MAX = 0.05
LISTED_MAX = 0.01
"""False discovery rate of the columns that are told beside those that gave the alarm."""

_DESIGN_SHARE = 0.25
_ODD = 2.0
_ERRORS = 2.0
_T_SQUARE = float(2**18)
_SIGNIFICANT = 3.5
_CORRELATION_MAX = 0.999


def spent_share(elapsed_ms: int, events: int) -> float:
    """Return the share of a day that `events` stand for, in which the watermark went on by `elapsed_ms`."""
    return min(max(elapsed_ms / DAY_MS, events / DAY_EVENTS_MAX), events / DAY_EVENTS_MIN)


def p_values(found: F64, is_ordered: Bool, design: F64) -> F64:
    """Return p (c) of the statistics that `kernels.two_sample.compare` found; 1 where there is nothing to compare.

    G over `design` (c) is compared with chi-square (Rao and Scott 1981, first order). With two groups, or without
    order, that is all; else the smaller one of it and the rank test counts twice. What is within two deviations of its
    mean is not looked up, and has a p-value of 1.
    """
    p = np.ones(len(found))
    odd = found[:, ODD] > _ODD
    if odd.any():
        # Imported here: only a worker that has come to its first look pays for it.
        from scipy.special import gammaincc, ndtr  # type: ignore[import-untyped] # noqa: PLC0415 - no stubs; see above

        freedom, z = found[odd, FREEDOM], found[odd, Z]
        shape = gammaincc(freedom / 2.0, found[odd, G] / design[odd] / 2.0)
        both = np.minimum(2.0 * np.minimum(shape, 2.0 * ndtr(-np.abs(z))), 1.0)
        p[odd] = np.where(is_ordered[odd] & (freedom > 1.0), both, shape)
    return p


def holm(p: F64) -> F64:
    """Return p-values (c) corrected for the family-wise error (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    back = np.empty(len(p))
    back[order] = np.minimum(corrected, 1.0)
    return back


def benjamini_yekutieli(p: F64) -> F64:
    """Return p-values (c) corrected for the false discovery rate under any dependence."""
    if len(p) == 0:
        return p
    order = np.argsort(p, kind="stable")
    ranks = np.arange(1, len(p) + 1)
    harmonic = float(np.cumsum(1.0 / ranks)[-1])
    corrected = np.minimum.accumulate((p[order] * harmonic * len(p) / ranks)[::-1])[::-1]
    back = np.empty(len(p))
    back[order] = np.minimum(corrected, 1.0)
    return back


def design_effects(sums: I64) -> tuple[F64, F64]:
    """Return by how much autocorrelation multiplies the variance of a mean: of the scores (c), and of any shape (c).

    `sums` (k x c x LAG_SUMS) are of k times, each of which has a mean of its own: a change between them is no slowness.

    1 + 2 S r_k over all lags k (Kish 1965; Bayley and Hammersley 1946), from `kernels.binning.add_lags`. The
    correlogram is taken for r_k = r_1 rho^(k - 1), rho from lags 1 and 8: an autoregressive process that may be
    seen through noise; lag 8 is taken one standard error larger than it is. Not below the factor by which the spread
    of sums of 64 events is wider than of independent ones (batch means, Conway 1963). Two standard errors are added.
    It is 1 where neither that nor a lag is significant. The second factor is the larger of those of the scores and of
    their squares: all directions of a chi-square are divided by the slowest one, since far out it alone decides.
    """
    count = sums[:, :, 0].astype(np.float64)
    total = np.maximum(_added(count), 1.0)
    # Of a product of two scores: E[s^2 s8^2], for which t t8 stands (t = s^2 / 512). 1 where events are independent.
    square = np.maximum(_added(sums[:, :, 2]), 1.0) / total
    spread = np.maximum(_added(sums[:, :, 8]) / total * _T_SQUARE / square**2, 1.0)
    kurtosis = np.maximum(_added(sums[:, :, 6]) / total * _T_SQUARE / square**2, 1.0)
    error = np.sqrt(spread / total)
    batches = np.maximum(_added(sums[:, :, 11]), 1.0)
    batch_error = np.sqrt((2.0 + kurtosis / BATCH) / batches)
    location = _design(sums[:, :, [0, 1, 2, 3, 4, 9, 11]], error, batch_error)
    return location, np.maximum(location, _design(sums[:, :, [0, 5, 6, 7, 8, 10, 11]], error, batch_error))


def _design(sums: I64, error: F64, batch_error: F64) -> F64:
    """Return one factor (c) of sums (k x c x 7): n, S s, S s s, at both lags, of batches, batches."""
    count, batches = (np.maximum(sums[:, :, k].astype(np.float64), 1.0) for k in (0, 6))
    mean, total = sums[:, :, 1] / count, _added(count)
    variance, near, far = (_added(sums[:, :, k] - count * mean * mean) for k in (2, 3, 4))
    spread = variance > 0.0
    safe = np.where(spread, variance, 1.0)
    near, far = near / safe, far / safe
    apart = np.where(sums[:, :, 6] > 0, sums[:, :, 5] - batches * (BATCH * mean) ** 2, 0.0)
    of_batches = _added(apart) / (_added(batches) * BATCH) / (safe / total)
    noise = _SIGNIFICANT / np.sqrt(total)
    first = np.maximum(near, noise)
    last = np.maximum(far + error, noise / 2.0)
    rho = np.minimum((last / first) ** (1.0 / (LAGS[1] - LAGS[0])), _CORRELATION_MAX)
    factor = np.minimum(1.0 + 2.0 * first / (1.0 - rho), np.maximum(total * _DESIGN_SHARE, 1.0))
    correlated: Bool = (near > noise) | (far > noise) | (of_batches > 1.0 + _SIGNIFICANT * batch_error)
    factor = np.maximum(factor, of_batches)
    # What is known of it: as much as total / factor independent events tell of a variance. Two standard errors more.
    factor *= 1.0 + _ERRORS * np.sqrt(2.0 * factor / total)
    return np.where(spread & correlated, factor, 1.0)


def _added(parts: F64 | I64) -> F64:
    """Return the sum over the first axis, one after the other."""
    total: F64 = np.cumsum(parts.astype(np.float64), axis=0)[-1]
    return total
