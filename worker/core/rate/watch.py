"""The rate of anomalies of one monitor: a burst of mild ones is an alert though none of them alone would be one.

An event is unusual if its verdict's p-value is at most `share`; so is that share of ordinary events. The alert opens at
the very event at which the test has made sure that the share has risen, and is resolved at the event at which it has
made sure that it is back.
"""

import math

from msgspec import Struct

from worker.core.columns import ColumnTable
from worker.core.events import Changed
from worker.core.kernels.arrays import F64
from worker.core.kernels.betting import CROSSED, NOTHING
from worker.core.options import EngineOptions
from worker.core.rate.share_test import Risen, ShareTest
from worker.core.seen import Seen
from worker.core.standing import Finding, Moment, Standing, StandingOptions, StoredStanding
from worker.core.state import Arrays, refuse_if
from worker.core.telling import Owner, Told

CRITICAL_RATIO = 10.0
"""A share of so many times the expected one is critical."""
_BAND_DEVIATIONS = 2.576
"""Half the width of a 99 % interval of a normal distribution."""


class StoredRate(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    standing: StoredStanding


class RateWatch:
    """Watches the share of unusual events. Events without a verdict do not count."""

    def __init__(self, owner: Owner, columns: ColumnTable, options: EngineOptions) -> None:
        """Take the columns as all watchers do; a verdict is about all of them."""
        del columns
        self._options = options.rate
        self._test = ShareTest(options.rate)
        self._standing = Standing("anomaly.rate", owner, StandingOptions.of(options), self._describe)

    def begin(self) -> None:
        """Forget the past. An alert that is open is over at the next event: what is now is taken for normal."""
        self._test = ShareTest(self._options)

    def process(self, seen: Seen, verdicts: F64) -> list[Told]:
        """Take in the p-values of the verdicts (n, NaN = none) of a segment; return the steps of the alert."""
        if not self._options.enabled or not len(verdicts):
            return []
        told: list[Told] = []
        if self._standing.open is not None and not self._test.is_standing:
            told += self._standing.close(Moment.at(seen, 0, 0, 1))
        row, what = self._test.process(verdicts, 0, seen.offsets, seen.times_ms)
        while what != NOTHING:
            told += self._step(seen, row, what)
            row, what = self._test.process(verdicts, row + 1, seen.offsets, seen.times_ms)
        return told

    def _step(self, seen: Seen, row: int, what: int) -> list[Told]:
        """Tell of a share that has risen, is still high, or is back, as known at a row."""
        test = self._test
        risen = test.risen()
        moment = Moment.at(seen, row, risen.events, 1)
        if what == CROSSED and test.is_standing:
            test.end_incident()
            return self._standing.close(moment)
        opened = self._standing.open
        finding = _finding(risen, test.p_value() if opened is None else opened.worst.p_value)
        if what == CROSSED:
            test.begin_incident()
        return self._standing.look([finding], moment)

    def _describe(self, changed: Changed) -> str:
        observed, expected = (f"{100.0 * (value or 0.0):.3g} %" for value in (changed.observed, changed.expected))
        return (
            f"{observed} of the events since {changed.since_offset} are unusual (p <= {self._options.share:g}), "
            f"{expected} are expected"
        )

    # Storing and restoring.

    def plain(self) -> StoredRate:
        """Return the plain part of the state."""
        return StoredRate(self._standing.state())

    def arrays(self) -> Arrays:
        """Return the arrays of the test, live ones."""
        return self._test.arrays()

    def restore(self, plain: StoredRate, arrays: Arrays) -> None:
        """Take over what `plain` and `arrays` gave; ValueError for what cannot be."""
        self._test.restore(arrays)
        is_open = plain.standing.open is not None
        refuse_if("stored rate of anomalies", {"its alert is not open": self._test.is_standing and not is_open})
        self._standing.restore(plain.standing)


def _finding(risen: Risen, p_value: float | None) -> Finding:
    """Return the observed share against the expected one, and between what it would lie among as many events."""
    expected = risen.expected
    error = _BAND_DEVIATIONS * math.sqrt(expected * (1.0 - expected) * risen.spread / risen.events)
    ratio = risen.share / expected
    changed = Changed(
        name="",
        measure="unusual_share",
        observed=risen.share,
        expected=expected,
        low=max(0.0, expected - error),
        high=min(1.0, max(risen.bound, expected + error)),
        effect=ratio,
        p_value=p_value,
        since_offset=risen.since_offset,
        since_ms=risen.since_ms,
    )
    return Finding(changed, "critical" if ratio >= CRITICAL_RATIO else "warning")
