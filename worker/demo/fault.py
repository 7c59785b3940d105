"""The fault that the demo injects, and when: a unit change in the pipeline before one model.

A new version of the image library gives saturation in percent (0 to 100) where it gave a share (0 to 1), so one of the
model's ten features is 100 times too large. Nothing fails: every event is well formed, and the model goes on answering,
only more often wrong than before.

The fault is chosen to show within seconds. The same fault in the features of `segments-linear` would not show: among
its eighteen features are some (`vegde-sd`, `hedge-sd`) whose usual values lie far out as well, and at one alert in a
thousand events these hide it.
"""

from typing import NamedTuple

from worker.demo.model import COLOUR, Deployed, Rows

MODEL_ID = "segments-colour"
FEATURES = ("saturation-mean",)
FACTOR = 100.0
DESCRIPTION = (
    f"{MODEL_ID} gets {FEATURES[0]} in percent instead of as a share "
    f"({len(FEATURES)} of {len(COLOUR)} features x {FACTOR:.0f})"
)

_BEGIN_SHARE = 0.6
_LENGTH_SHARE = 0.15
# Without an end there is no share: late enough that every model is known well, long enough to be looked at.
_BEGIN_S = 45.0
_LENGTH_S = 15.0


class Fault(NamedTuple):
    """When the fault lasts, in seconds since the first event; the end is not part of it."""

    begin_s: float
    end_s: float

    def during(self, second: float) -> bool:
        """Whether the fault is on."""
        return self.begin_s <= second < self.end_s


class RecurringFault(NamedTuple):
    """A fault that comes back, in a stream without an end: how often, and when it lasts within each round (seconds)."""

    every_s: float
    begin_s: float
    end_s: float

    def during(self, second: float) -> bool:
        """Whether the fault is on."""
        return self.begin_s <= second % self.every_s < self.end_s


# First every model must be known well; it lasts for fewer events than it takes to be the new normal.
RECURRING = RecurringFault(every_s=300.0, begin_s=120.0, end_s=140.0)


def planned(seconds: float | None) -> Fault:
    """Return when the fault happens in a demo of this length; None is one without an end."""
    if seconds is None:
        return Fault(_BEGIN_S, _BEGIN_S + _LENGTH_S)
    return Fault(_BEGIN_SHARE * seconds, (_BEGIN_SHARE + _LENGTH_SHARE) * seconds)


def broken(model: Deployed, rows: Rows) -> Rows:
    """Return rows (n x d) of the model as the changed library delivers them."""
    damaged = rows.copy()
    damaged[:, [model.column(feature) for feature in FEATURES]] *= FACTOR
    return damaged
