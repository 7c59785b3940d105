"""Which pane each event belongs to, and where a pane has to be closed first."""

import numba

from worker.core.kernels.arrays import I64, Bool

NO_PANE = 2**62
WATERMARK, OLDEST, BEHIND = 0, 1, 2
BEHIND_EVENTS = 3
"""So many events in a row far behind the watermark mean that the watermark is wrong, not they."""


@numba.njit(cache=True, nogil=True)
def assign_panes(
    times_ms: I64,
    start: int,
    stop: int,
    clock: I64,
    pane_ms: int,
    grace_ms: int,
    behind_ms: int,
    panes: I64,
    watermarks_ms: I64,
    late: Bool,
) -> int:
    """Assign rows [start, stop) to panes, in order, up to the first row before which a pane is over. O(n).

    `clock` (3) holds the watermark, the index of the oldest open pane, and how many events in a row were more than
    `behind_ms` behind the watermark; it is moved on. After BEHIND_EVENTS of these the watermark is set back to the
    event, once all open panes are closed: one wrong clock must not make a model late for ever.

    An event whose own pane is
    over (end + grace <= watermark) is late and goes to the watermark's pane. Returns the first row not assigned;
    for that row the oldest open pane must be closed, and the call repeated.

    With grace <= pane at most two panes are ever open, and they are neighbours.
    """
    for row in range(start, stop):
        watermark = max(clock[WATERMARK], times_ms[row])
        if clock[OLDEST] != NO_PANE and watermark >= (clock[OLDEST] + 1) * pane_ms + grace_ms:
            return row
        if times_ms[row] + behind_ms >= watermark:
            clock[BEHIND] = 0
        elif clock[BEHIND] + 1 < BEHIND_EVENTS:
            clock[BEHIND] += 1
        elif clock[OLDEST] != NO_PANE:
            return row
        else:
            clock[BEHIND] = 0
            watermark = times_ms[row]
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
