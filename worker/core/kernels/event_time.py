"""Which pane each event belongs to, and where a pane has to be closed first."""

import numba

from worker.core.kernels.arrays import I64, Bool

NO_PANE = 2**62
WATERMARK, OLDEST = 0, 1


@numba.njit(cache=True, nogil=True)
def assign_panes(
    times_ms: I64,
    start: int,
    stop: int,
    clock: I64,
    pane_ms: int,
    grace_ms: int,
    panes: I64,
    watermarks_ms: I64,
    late: Bool,
) -> int:
    """Assign rows [start, stop) to panes, in order, up to the first row before which a pane is over. O(n).

    `clock` (2) holds the watermark and the index of the oldest open pane; it is moved on. An event whose own pane is
    over (end + grace <= watermark) is late and goes to the watermark's pane. Returns the first row not assigned;
    for that row the oldest open pane must be closed, and the call repeated.

    With grace <= pane at most two panes are ever open, and they are neighbours.
    """
    for row in range(start, stop):
        watermark = max(clock[WATERMARK], times_ms[row])
        if clock[OLDEST] != NO_PANE and watermark >= (clock[OLDEST] + 1) * pane_ms + grace_ms:
            return row
        pane = times_ms[row] // pane_ms
        is_late = (pane + 1) * pane_ms + grace_ms <= watermark
        if is_late:
            pane = watermark // pane_ms
        clock[WATERMARK] = watermark
        clock[OLDEST] = min(clock[OLDEST], pane)
        panes[row] = pane
        watermarks_ms[row] = watermark
        late[row] = is_late
    return stop
