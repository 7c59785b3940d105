"""Consecutive events of one monitor as all its watchers see them."""

from collections.abc import Sequence
from typing import NamedTuple

from worker.core.events import PredictionEvent
from worker.core.kernels.arrays import F64, I64


class Seen(NamedTuple):
    """Events (n) in stream order between which nothing of the monitor itself is due.

    `cells` (n x (1 + d)): column 0 is the prediction, then the features; a number, 0/1 for a boolean, the code of a
    category (0 = beyond `categories_max`), NaN = no usable value. `invalid` (k x 2) lists row and column of values of
    a wrong type; `unknown` (n) counts values of features without a column, None when there are none.
    """

    first_sequence: int
    """Place of row 0 in the monitor's count of events."""
    events: Sequence[PredictionEvent]
    offsets: I64
    times_ms: I64
    watermarks_ms: I64
    cells: F64
    invalid: I64
    unknown: I64 | None
