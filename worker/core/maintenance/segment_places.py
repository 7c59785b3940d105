"""Places for the values of declared segments: small numbers that are used again when a value has given way."""

from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from worker.core.events import SegmentName
from worker.core.kernels.arrays import I32, I64
from worker.core.performance.segments import OTHER, Segments
from worker.core.state import refuse_if

_ID_MAX = 2**31 - 1


class StoredPlaces(Struct, frozen=True, forbid_unknown_fields=True):
    """Of each declared segment: the place of each value by its id."""

    places: list[dict[Annotated[int, Meta(ge=0, le=_ID_MAX)], Annotated[int, Meta(ge=0)]]]


class SegmentPlaces:
    """Each segment has `values_max` + 1 places; the first is that of `(other)`."""

    def __init__(self, segments: Segments, names: int, values_max: int) -> None:
        self._segments = segments
        self.size = values_max + 1
        """Places of each segment."""
        self._places: list[dict[int, int]] = [{OTHER: 0} for _ in range(names)]

    @property
    def count(self) -> int:
        """All places of all segments."""
        return self.size * len(self._places)

    def of(self, ids: I32) -> I32:
        """Return the places (n x segments) of value ids; -1 for a value that has given way."""
        found = np.full(ids.shape, -1, dtype=np.int32)
        for segment, known in enumerate(self._places):
            values, first = np.unique(ids[:, segment], return_index=True)
            # In the order of their first rows: a value gets the same place however a batch is cut.
            for value_id in values[np.argsort(first)].tolist():
                place = known.get(value_id)
                if place is None and self._segments.is_live(segment, value_id):
                    place = known[value_id] = self._free(known)
                if place is not None:
                    found[ids[:, segment] == value_id, segment] = segment * self.size + place
        return found

    def _free(self, known: dict[int, int]) -> int:
        taken = set(known.values())
        return next(place for place in range(self.size) if place not in taken)

    def forget(self, segment: int, value_id: int) -> int | None:
        """Free the place of a value that gives way; return it, if it had one."""
        place = self._places[segment].pop(value_id, None)
        return None if place is None else segment * self.size + place

    def first_segment(self, places: I32) -> I64:
        """Return the places (n) of the first declared segment, counted from 0; -1 for none."""
        if not self._places:
            return np.full(len(places), -1, dtype=np.int64)
        return places[:, 0].astype(np.int64)

    def name(self, place: int) -> SegmentName:
        """Return what a place stands for."""
        segment, within = divmod(place, self.size)
        value_id = next((each for each, own in self._places[segment].items() if own == within), OTHER)
        return SegmentName(self._segments.all[segment].name, self._segments.name(segment, value_id))

    def first_values(self, places_max: int) -> dict[str, int]:
        """Return the place of each live value of the first declared segment, by name, if it is below `places_max`."""
        if not self._places:
            return {}
        return {self._segments.name(0, value): place for value, place in self._places[0].items() if place < places_max}

    # Storing and restoring.

    def plain(self) -> StoredPlaces:
        """Return the state."""
        return StoredPlaces([dict(each) for each in self._places])

    def restore(self, stored: StoredPlaces) -> None:
        """Take over what `plain` gave; ValueError for what cannot be."""
        refuse_if(
            "stored places of segments",
            {
                "there are other segments": len(stored.places) != len(self._places),
                "`(other)` has another place": any(each.get(OTHER) != 0 for each in stored.places),
                "a place is not there": any(place >= self.size for each in stored.places for place in each.values()),
                "two values have one place": any(len(set(each.values())) < len(each) for each in stored.places),
            },
        )
        self._places = [dict(each) for each in stored.places]
