"""Places for the values of declared segments."""

import numpy as np

from worker.core.maintenance.segment_places import SegmentPlaces
from worker.core.performance.segments import Segments

VALUES_MAX = 4


def taken(names: list[str]) -> SegmentPlaces:
    """Return the places after events with these values of one segment."""
    segments = Segments(["region"], VALUES_MAX, 10_000)
    places = SegmentPlaces(segments, 1, VALUES_MAX)
    ids, _ = segments.ids([[name] for name in names], 0)
    places.of(np.array(ids, dtype=np.int32))
    return places


def test_each_value_has_a_place_of_its_own() -> None:
    """Counted from that of all others."""
    places = taken(["north", "south", "north", "east"])
    assert places.first_values(VALUES_MAX + 1) == {"(other)": 0, "north": 1, "south": 2, "east": 3}


def test_a_value_without_a_bias_of_its_own_is_not_told() -> None:
    """A server looks its bias up by place: it must not look beyond the last one."""
    places = taken(["north", "south", "east", "west"])
    assert sorted(places.first_values(VALUES_MAX + 1).values()) == [0, 1, 2, 3, 4]
    assert sorted(places.first_values(VALUES_MAX).values()) == [0, 1, 2, 3]
