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
from worker.core.kernels.binning import LAGS
from worker.core.kernels.two_sample import FREEDOM, G, Z

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
    freedom, z = found[:, FREEDOM], np.where(is_ordered & (found[:, FREEDOM] > 1.0), np.abs(found[:, Z]), 0.0)
    statistic = found[:, G] / design
    odd = (freedom > 0.0) & ((statistic > freedom + _ODD * np.sqrt(2.0 * freedom)) | (z > _ODD))
    if odd.any():
        # Imported here: only a worker that has come to its first look pays for it.
        from scipy.special import gammaincc, ndtr  # type: ignore[import-untyped] # noqa: PLC0415 - no stubs; see above

        shape = gammaincc(freedom[odd] / 2.0, statistic[odd] / 2.0)
        both = np.minimum(2.0 * np.minimum(shape, 2.0 * ndtr(-z[odd])), 1.0)
        p[odd] = np.where(is_ordered[odd] & (freedom[odd] > 1.0), both, shape)
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

    1 + 2 S r_k over all lags k (Kish 1965; Bayley and Hammersley 1946), from the sums of `kernels.binning.add_lags`.
    The correlogram is taken for r_k = r_1 rho^(k - 1), rho from lags 1 and 8: an autoregressive process that may be
    seen through noise; lag 8 is taken one standard error larger than it is. Never below 1, and 1 where neither lag is
    significant. The second factor is the larger of those of the scores and of their squares: all directions of a
    chi-square are divided by the slowest one, since far out it alone decides.
    """
    events = np.maximum(sums[:, 0].astype(np.float64), 1.0)
    # Of a product of two scores: E[s^2 s8^2], for which t t8 stands (t = s^2 / 512). 1 where events are independent.
    square = np.maximum(sums[:, 2], 1) / events
    spread = np.maximum(sums[:, 8] / events * float(2**18) / square**2, 1.0)
    error = np.sqrt(spread / events)
    location = _design(events, sums[:, 1:5], error)
    return location, np.maximum(location, _design(events, sums[:, 5:9], error))


def _design(events: F64, sums: I64, error: F64) -> F64:
    mean = sums[:, 0] / events
    variance = sums[:, 1] / events - mean * mean
    spread = variance > 0.0
    safe = np.where(spread, variance, 1.0)
    near = (sums[:, 2] / events - mean * mean) / safe
    far = (sums[:, 3] / events - mean * mean) / safe
    noise = _SIGNIFICANT / np.sqrt(events)
    first = np.maximum(near, noise)
    last = np.maximum(far + error, noise / 2.0)
    rho = np.minimum((last / first) ** (1.0 / (LAGS[1] - LAGS[0])), _CORRELATION_MAX)
    factor = np.minimum(1.0 + 2.0 * first / (1.0 - rho), np.maximum(events * _DESIGN_SHARE, 1.0))
    correlated: Bool = spread & ((near > noise) | (far > noise))
    return np.where(correlated, factor, 1.0)
