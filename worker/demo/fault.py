"""The fault that the demo injects, and when: a driver update of the camera behind one model.

Before, the camera delivers its raw colour channels as 8-bit numbers (0 to 255); during the fault it delivers 16-bit
numbers (0 to 65,535), so eight of the model's ten features are 257 times too large. The other two, hue and saturation,
are ratios of the channels and stay right, as they would. Nothing in the pipeline fails: every event is well formed, and
the model goes on answering, mostly wrong.

The fault is gross on purpose: it must show within seconds. What the detectors do not see at the default `alert_rate`
of one event in a thousand is a wrong unit of a single one of these features: the data itself holds rows that are odder.
"""

from typing import NamedTuple

from worker.demo.model import COLOUR, Deployed, Rows

MODEL_ID = "segments-colour"
FEATURES = tuple(feature for feature in COLOUR if feature not in {"hue-mean", "saturation-mean"})
FACTOR = 257.0
DESCRIPTION = (
    f"the camera of {MODEL_ID} sends 16-bit instead of 8-bit colours "
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


def planned(seconds: float | None) -> Fault:
    """Return when the fault happens in a demo of this length; None is one without an end."""
    if seconds is None:
        return Fault(_BEGIN_S, _BEGIN_S + _LENGTH_S)
    return Fault(_BEGIN_SHARE * seconds, (_BEGIN_SHARE + _LENGTH_SHARE) * seconds)


def broken(model: Deployed, rows: Rows) -> Rows:
    """Return rows (n x d) of the model as the broken camera delivers them."""
    damaged = rows.copy()
    damaged[:, [model.column(feature) for feature in FEATURES]] *= FACTOR
    return damaged
