"""The longest pauses of a stream, week by week."""

import numba

from worker.core.kernels.arrays import I64


@numba.njit(cache=True, nogil=True)
def note_pauses(last_ms: int, times_ms: I64, week_ms: int, longest: I64) -> None:
    """Note the pauses before records (n) in stream order, the first of which comes after `last_ms`. O(n).

    `longest` (w x 2) holds the two longest pauses of each of the last weeks with a record, longest first, the latest
    week first; it is moved on where a record is of a later week than the one before. A time that was set back makes a
    pause of 0.
    """
    for row in range(times_ms.shape[0]):
        time_ms = times_ms[row]
        if time_ms // week_ms > last_ms // week_ms:
            for week in range(longest.shape[0] - 1, 0, -1):
                longest[week, 0], longest[week, 1] = longest[week - 1, 0], longest[week - 1, 1]
            longest[0, 0] = longest[0, 1] = 0
        pause = time_ms - last_ms
        if pause > longest[0, 0]:
            longest[0, 1] = longest[0, 0]
            longest[0, 0] = pause
        elif pause > longest[0, 1]:
            longest[0, 1] = pause
        last_ms = time_ms
