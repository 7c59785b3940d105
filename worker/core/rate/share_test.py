"""The state of the test whether the share of unusual events has risen, and later whether it is back."""

from typing import NamedTuple

import numpy as np

from worker.core.kernels.arrays import F64, I64
from worker.core.kernels.betting import (
    ALTERNATIVES,
    BLOCK_EVENTS,
    BLOCKS,
    BOUND,
    COUNTS,
    EVENTS,
    FILL,
    HELD,
    HELD_BLOCKS,
    HITS,
    LEARNED,
    OFFSET,
    PLACE,
    SETTLE_BLOCKS,
    SETTLED,
    SHARE_EVENTS,
    SHARE_HITS,
    STANDING,
    TEMPER,
    TIME_MS,
    UNUSUAL,
    WINDOW,
    WINDOW_BEFORE,
    WINDOW_BLOCKS,
    WINDOW_HITS,
    dispersion,
    expected_share,
    largest_expected,
    times_odds,
    watch_share,
)
from worker.core.options import RateOptions
from worker.core.state import COUNT_MAX, Arrays, check_like, fill, outside, refuse_if

_STORED = "stored rate of anomalies"
BACK_PROBABILITY = 0.01
"""That an alarm ends though the share is not back."""
BOUND_FACTOR_MAX = 2.0
"""A share is back when it lies under the middle (in odds) of the expected and the risen one; at most so many times the
bound of the alarm, so that a burst that becomes less does not pass for one that is over."""


class Risen(NamedTuple):
    """The share of unusual events since the most likely beginning of its rise, against the expected one."""

    events: int
    unusual: int
    expected: float
    bound: float
    """The largest share that is no alarm."""
    spread: float
    """Variance of counts against that of independent events, at least 1."""
    since_offset: int
    since_ms: int

    @property
    def share(self) -> float:
        """Return the observed share."""
        return self.unusual / self.events


class ShareTest:
    """Bets on the share of unusual events of one stream (kernels/betting.py). Memory is fixed."""

    def __init__(self, options: RateOptions) -> None:
        self._options = options
        self._limits = (1.0 / options.false_alarm_probability, 1.0 / BACK_PROBABILITY)
        self._ratios = np.empty((2, ALTERNATIVES))
        self._wealth = np.zeros(ALTERNATIVES)
        self._peaks = np.ones(ALTERNATIVES)
        self._starts: I64 = np.zeros((ALTERNATIVES, 2), dtype=np.int64)
        self._runs: I64 = np.zeros((ALTERNATIVES, 2), dtype=np.int64)
        self._held: I64 = np.zeros(HELD_BLOCKS, dtype=np.int64)
        self._counts: I64 = np.zeros(COUNTS, dtype=np.int64)
        self._incident: I64 = np.zeros(4, dtype=np.int64)
        self._counts[WINDOW_BEFORE] = -1
        self._learned = np.zeros(LEARNED)
        self._learned[BOUND], self._learned[TEMPER] = options.share, 1.0

    @property
    def is_standing(self) -> bool:
        """Whether the share has risen and is not back."""
        return bool(self._counts[STANDING])

    def process(self, verdicts: F64, begin: int, offsets: I64, times_ms: I64) -> tuple[int, int]:
        """Take p-values[begin:] (n, NaN = none) up to a row at which something is to be told; see `watch_share`."""
        return watch_share(
            verdicts,
            begin,
            offsets,
            times_ms,
            self._options.share,
            self._options.rise_min,
            self._limits[0],
            self._limits[1],
            self._wealth,
            self._peaks,
            self._starts,
            self._runs,
            self._held,
            self._counts,
            self._incident,
            self._learned,
            self._ratios,
        )

    def p_value(self) -> float:
        """Return a p-value that holds however often it is looked at: 1 / money (Ville's inequality)."""
        return min(1.0, 1.0 / max(float(self._wealth.sum()), 1.0))

    def risen(self) -> Risen:
        """Return what the share has been since the beginning of the rise."""
        options, learned = self._options, self._learned
        incident = self._incident if self.is_standing else self._best()
        return Risen(
            events=int(incident[EVENTS]),
            unusual=int(incident[UNUSUAL]),
            expected=expected_share(learned, options.share),
            bound=largest_expected(learned, options.share, options.rise_min),
            spread=dispersion(learned, options.share),
            since_offset=int(incident[OFFSET]),
            since_ms=int(incident[TIME_MS]),
        )

    def _best(self) -> I64:
        """Return events, unusual ones, offset and time of the bet that has won most from its best beginning."""
        best = int(np.argmax(self._peaks))
        return np.concatenate([self._runs[best], self._starts[best]])

    def begin_incident(self) -> None:
        """The share has risen: from now on bet that it is back."""
        risen = self.risen()
        self._incident[:] = self._best()
        self._counts[STANDING] = 1
        self._learned[BOUND] = _bound_back(risen)
        self._start_anew()

    def end_incident(self) -> None:
        """The share is back: from now on bet that it rises."""
        self._incident[:] = 0
        self._counts[STANDING] = 0
        self._start_anew()

    def _start_anew(self) -> None:
        """Begin with fresh money and another block. Blocks that were held back are of the rise: they are dropped."""
        self._wealth[:], self._peaks[:], self._starts[:], self._runs[:], self._held[:] = 0.0, 1.0, 0, 0, 0
        self._counts[[FILL, HITS, HELD, PLACE, BLOCKS, WINDOW, WINDOW_HITS]] = 0
        self._counts[WINDOW_BEFORE] = -1

    # Storing and restoring.

    def arrays(self) -> Arrays:
        """Return the live arrays."""
        return {
            "wealth": self._wealth,
            "peaks": self._peaks,
            "starts": self._starts,
            "runs": self._runs,
            "held": self._held,
            "counts": self._counts,
            "incident": self._incident,
            "learned": self._learned,
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.arrays())
        _check(arrays)
        fill(self.arrays(), arrays)


def _bound_back(risen: Risen) -> float:
    """Return the share from which on it is back."""
    odds = risen.expected / (1.0 - risen.expected) * risen.unusual / max(risen.events - risen.unusual, 0.5)
    bound_odds = risen.bound / (1.0 - risen.bound)
    return times_odds(risen.bound, min(max(odds**0.5 / bound_odds, 1.0), BOUND_FACTOR_MAX))


def _check(arrays: Arrays) -> None:
    """Refuse what the kernel would read out of bounds with, or could not have made."""
    counts, learned, incident, runs = (arrays[name] for name in ("counts", "learned", "incident", "runs"))
    refuse_if(
        _STORED,
        {
            "its block is out of range": outside(counts[[FILL, HITS]], 0, np.array([BLOCK_EVENTS - 1, counts[FILL]])),
            "its ring is out of range": outside(counts[[HELD, PLACE]], 0, np.array([HELD_BLOCKS, HELD_BLOCKS - 1])),
            "a count of a block is out of range": outside(arrays["held"], 0, BLOCK_EVENTS),
            "its window is out of range": outside(
                counts[[WINDOW, WINDOW_HITS, WINDOW_BEFORE]],
                np.array([0, 0, -1]),
                np.array([WINDOW_BLOCKS - 1, counts[WINDOW] * BLOCK_EVENTS, WINDOW_BLOCKS * BLOCK_EVENTS]),
            ),
            "a count is out of range": outside(
                counts[[BLOCKS, SETTLED, STANDING]], 0, np.array([COUNT_MAX, 2 * SETTLE_BLOCKS, 1])
            ),
            "a run is out of range": outside(runs[:, 0], 0, COUNT_MAX) or outside(runs[:, 1], 0, runs[:, 0]),
            "a beginning is out of range": outside(arrays["starts"], -COUNT_MAX, COUNT_MAX),
            "its incident is out of range": outside(
                incident,
                np.array([counts[STANDING], 0, -COUNT_MAX, -COUNT_MAX]),
                np.array([COUNT_MAX, incident[EVENTS], COUNT_MAX, COUNT_MAX]),
            ),
            "money is out of range": outside(arrays["wealth"], 0.0, np.inf) or outside(arrays["peaks"], 0.0, np.inf),
            "what was learned is out of range": outside(learned[:BOUND], 0.0, float(COUNT_MAX)),
            "there are more unusual events than events": learned[SHARE_HITS] > learned[SHARE_EVENTS],
            "its bound is out of range": outside(learned[BOUND], np.nextafter(0.0, 1.0), np.nextafter(1.0, 0.0)),
            "its boldness is out of range": outside(learned[TEMPER], np.nextafter(0.0, 1.0), 1.0),
        },
    )
