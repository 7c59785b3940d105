"""Counts of events in open panes: a naive twin, and cuts that change nothing."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.statistics.panes import PaneCounts

_ROW = st.tuples(st.integers(6, 7), st.booleans(), st.integers(0, 2), st.sampled_from([np.nan, 0.5]), st.booleans())


@given(rows=st.lists(_ROW, max_size=12), cuts=st.lists(st.integers(0, 12), max_size=3), has_unknown=st.booleans())
@settings(max_examples=60, deadline=None)
def test_events_are_counted_in_their_pane_however_they_are_cut(
    *, rows: list[tuple[int, bool, int, float, bool]], cuts: list[int], has_unknown: bool
) -> None:
    """Panes 6 and 7 are open; pane 5, part 3, was in the slot of pane 7 before."""
    counts = PaneCounts()
    counts.index[1], counts.part[1] = 5, 3
    ends = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    panes, unknown, verdicts = table[:, 0].astype(np.int64), table[:, 2].astype(np.int64), table[:, 3].copy()
    late, flagged = table[:, 1] > 0.0, table[:, 4] > 0.0
    for begin, end in itertools.pairwise(ends):
        part = slice(begin, end)
        counts.add(panes[part], np.arange(begin, end), late[part], unknown[part] if has_unknown else None)
        counts.add_verdicts((panes[part] & 1).astype(np.int8), verdicts[part], flagged[part])
    for slot, pane in enumerate((6, 7)):
        own = [offset for offset, row in enumerate(rows) if row[0] == pane]
        assert counts.events[slot] == len(own)
        assert counts.late[slot] == sum(rows[offset][1] for offset in own)
        assert counts.unknown[slot] == (sum(rows[offset][2] for offset in own) if has_unknown else 0)
        assert counts.scored[slot] == sum(rows[offset][3] == 0.5 for offset in own)
        assert counts.flagged[slot] == sum(rows[offset][4] for offset in own)
        assert (counts.first_offset[slot], counts.last_offset[slot]) == ((own[0], own[-1]) if own else (-1, -1))
        if own:
            assert (counts.index[slot], counts.part[slot]) == (pane, 0)
