"""Whether a regime is still there: a test on its rows in each pane, valid at any pane.

A regime that keeps its usual share p is compared with one that has a twentieth of it. Each pane of n rows, h of them
in the regime, adds the log likelihood ratio

    (h ln 0.05 + (n - h) ln((1 - 0.05 p) / (1 - p))) / dispersion

to the evidence, which never falls below zero: the cumulative sum of Page (1954, "Continuous inspection schemes"), never
more than the e-detector of Shin, Ramdas, Rinaldo (2023, "E-detectors", section 2), whose mean time between false alarms
is at least its limit: so many panes pass on average until exp(evidence) gets to `limit` while the share is p or more.
Dispersion is how much more the counts vary than those of independent rows, from successive differences (von Neumann,
Kent, Bellinson, Hart 1941), at least 1; it is learned from all panes before.

Panes nearly without the regime are learned only when it is back and its end was not told: so an end is not learned as
usual, and clumps are. A regime that has been away before (nights, weekends) is told again only when it has been away
for longer than ever.

State, for K regimes:
usual (K)       mean share of the panes before, faded; NaN = no pane yet
evidence (K)    as above, as logarithm
spread (K, 2)   faded sums of half the squared differences of successive counts, and of their variance if independent
panes (K, 7)    as named below
"""

import numpy as np

from worker.core.kernels.arrays import F64, I64, Bool
from worker.core.state import COUNT_MAX, Arrays, check_like, fill, outside, refuse_if

LEARNED, BEFORE, RUN, AWAY, AWAY_HITS, LONGEST, GONE = range(7)
"""Panes learned; rows in the last of them; panes since the evidence began; panes in a row nearly without it, their rows
in it, and the longest such time that has ended; 1 = it has vanished."""
FIELDS = 7

FALLEN = 0.05
"""Share of a regime that has vanished, against its usual one."""
BACK = 0.1
"""From this share of the usual one on it is there."""
MEMORY = 200
"""Panes from which on the past fades."""
SETTLE = 8
"""Panes before the test begins: until then share and dispersion are not known."""
LONGER = 1.5
"""An absence is told when it is so many times as long as the longest one before."""
_SHARES = (1e-4, 0.999)
"""Rarer ones are never tested: their end would be seen after days."""
_STORED = "stored presence of regimes"


class Presence:
    """Follows the shares of at most `regimes_max` regimes. Memory is fixed."""

    def __init__(self, regimes_max: int, limit: float, panes_min: int) -> None:
        self._limit = float(np.log(limit * regimes_max))
        self._panes_min = panes_min
        self.usual: F64 = np.full(regimes_max, np.nan)
        self._evidence: F64 = np.zeros(regimes_max)
        self._spread: F64 = np.zeros((regimes_max, 2))
        self.panes: I64 = np.zeros((regimes_max, FIELDS), dtype=np.int64)

    @property
    def gone(self) -> Bool:
        """Which have vanished."""
        gone: Bool = self.panes[:, GONE] == 1
        return gone

    @property
    def absences(self) -> I64:
        """Panes in a row nearly without each regime, up to now."""
        return self.panes[:, AWAY]

    def start(self, place: int) -> None:
        """Begin with a regime at this place; what was there is forgotten."""
        self.usual[place] = np.nan
        self._evidence[place] = 0.0
        self._spread[place] = 0.0
        self.panes[place] = 0

    def look(self, hits: I64, rows: int) -> tuple[list[int], list[int]]:
        """Take the rows of each regime (k) in a pane of `rows`; return which have vanished and which are back."""
        places = range(len(hits))
        vanished = [place for place in places if self._look(place, int(hits[place]), rows)]
        back = [place for place in places if self.panes[place, GONE] and self._is_there(place, int(hits[place]), rows)]
        for place in back:
            self.panes[place, GONE] = 0
            self._evidence[place] = 0.0
        return vanished, back

    def _look(self, place: int, hits: int, rows: int) -> bool:
        """Test, then learn, one regime; return whether it has vanished with this pane."""
        panes = self.panes[place]
        share = float(self.usual[place])
        tested = panes[LEARNED] >= SETTLE and _SHARES[0] <= share <= _SHARES[1]
        if tested and not panes[GONE]:
            ratio = hits * np.log(FALLEN) + (rows - hits) * np.log((1.0 - FALLEN * share) / (1.0 - share))
            self._evidence[place] = max(0.0, self._evidence[place] + ratio / self._dispersion(place))
            panes[RUN] = panes[RUN] + 1 if self._evidence[place] > 0.0 else 0
        self._follow(place, hits, rows, is_there=not tested or self._is_there(place, hits, rows))
        away_min = max(self._panes_min, LONGER * panes[LONGEST])
        found = not panes[GONE] and self._evidence[place] >= self._limit and panes[AWAY] >= away_min
        if found:
            panes[GONE] = 1
        return bool(found)

    def _is_there(self, place: int, hits: int, rows: int) -> bool:
        return hits > 0 and hits >= BACK * self.usual[place] * rows

    def _follow(self, place: int, hits: int, rows: int, *, is_there: bool) -> None:
        """Count the panes of an absence; learn it when it is over and was not told, and keep the longest one."""
        panes = self.panes[place]
        if not is_there:
            panes[AWAY] += 1
            panes[AWAY_HITS] += hits
            return
        away = int(panes[AWAY])
        if not panes[GONE]:
            for _ in range(min(away, MEMORY)):
                self._learn(place, int(panes[AWAY_HITS]) // away, rows)
            self._learn(place, hits, rows)
        panes[LONGEST] = max(panes[LONGEST], away)
        panes[[AWAY, AWAY_HITS]] = 0

    def _dispersion(self, place: int) -> float:
        found, expected = self._spread[place]
        return max(1.0, found / expected) if expected > 0.0 else 1.0

    def _learn(self, place: int, hits: int, rows: int) -> None:
        panes = self.panes[place]
        learned = int(panes[LEARNED])
        rate = 1.0 / min(learned + 1, MEMORY)
        before = float(self.usual[place]) if learned else 0.0
        usual = before + (hits / rows - before) * rate
        self.usual[place] = usual
        if learned:
            now = np.array([0.5 * (hits - panes[BEFORE]) ** 2, rows * usual * (1.0 - usual)])
            self._spread[place] += (now - self._spread[place]) / min(learned, MEMORY)
        panes[LEARNED], panes[BEFORE] = learned + 1, hits

    # Storing and restoring.

    def arrays(self) -> Arrays:
        """Return the live arrays."""
        return {"usual": self.usual, "evidence": self._evidence, "spread": self._spread, "panes": self.panes}

    def restore(self, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        check_like(_STORED, arrays, self.arrays())
        panes, usual = arrays["panes"], arrays["usual"]
        is_learned = panes[:, LEARNED] > 0
        refuse_if(
            _STORED,
            {
                "a count is out of range": outside(panes[:, :GONE], 0, COUNT_MAX) or outside(panes[:, GONE], 0, 1),
                "a share is out of range": outside(usual[is_learned], 0.0, 1.0),
                "a share is of no pane": not np.isnan(usual[~is_learned]).all(),
                "the evidence is out of range": outside(arrays["evidence"], 0.0, float(COUNT_MAX)),
                "the spread is out of range": outside(arrays["spread"], 0.0, float(COUNT_MAX)),
            },
        )
        fill(self.arrays(), arrays)
