"""The values of the declared segments, bounded: one that had no event for long gives way to a new one."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from worker.core.state import COUNT_MAX, refuse_if

OTHER = 0
OTHER_NAME = "(other)"
VALUE_CHARS_MAX = 128
_ID_MAX = 2**31 - 1

_Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]


class StoredValue(Struct, array_like=True, forbid_unknown_fields=True):
    """One value of a segment: its name, its id for good, and the model's count of events when it last had one."""

    name: str
    id: _Count
    last: _Count


class Segment(Struct, forbid_unknown_fields=True):
    """The values of one segment, as they are stored; id 0 is `(other)`. Ids are never used again."""

    name: str
    values: dict[str, StoredValue] = {}
    next_id: _Count = 1


class Evicted(NamedTuple):
    """A value that gave way to a new one, and its segment's place among the declared ones."""

    place: int
    value: StoredValue


class Segments:
    """All declared segments of one model."""

    def __init__(self, names: Sequence[str], values_max: int, idle_events: int) -> None:
        self._values_max = values_max
        self._idle_events = idle_events
        self.all = [Segment(name) for name in names]

    def leaving(self, values: Sequence[str | None], sequence: int) -> list[Evicted]:
        """Return the values that will give way at an event."""
        names = [None if value is None else value[:VALUE_CHARS_MAX] for value in values]
        gone = [self._gives_way(segment, name, sequence) for segment, name in zip(self.all, names, strict=True)]
        return [Evicted(place, each) for place, each in enumerate(gone) if each is not None]

    def ids(self, values: Sequence[Sequence[str | None]], sequence: int) -> tuple[list[list[int]], list[Evicted]]:
        """Return the ids of the first events of a batch, and the values that gave way at the very first one.

        It stops before any other event at which a value gives way, so that the caller can first finish what was before.

        Args:
            values: for each event, one for each declared segment; None counts as `(other)`.
            sequence: of the first event, in the model's count of events.
        """
        ids: list[list[int]] = []
        evicted: list[Evicted] = []
        for number, row in enumerate(values):
            names = [None if value is None else value[:VALUE_CHARS_MAX] for value in row]
            gone = [
                self._gives_way(segment, name, sequence + number) for segment, name in zip(self.all, names, strict=True)
            ]
            if number and any(gone):
                break
            for place, each in enumerate(gone):
                if each is not None:
                    del self.all[place].values[each.name]
                    evicted.append(Evicted(place, each))
            ids.append(
                [self._id(segment, name, sequence + number) for segment, name in zip(self.all, names, strict=True)]
            )
        return ids, evicted

    def _gives_way(self, segment: Segment, name: str | None, sequence: int) -> StoredValue | None:
        """Return the value that has to go for a new one, if one can."""
        if name is None or name in segment.values or len(segment.values) < self._values_max:
            return None
        oldest = min(segment.values.values(), key=lambda each: (each.last, each.id))
        return oldest if sequence - oldest.last > self._idle_events and segment.next_id < _ID_MAX else None

    def _id(self, segment: Segment, name: str | None, sequence: int) -> int:
        known = None if name is None else segment.values.get(name)
        if known is None:
            if name is None or len(segment.values) >= self._values_max or segment.next_id >= _ID_MAX:
                return OTHER
            known = segment.values[name] = StoredValue(name, segment.next_id, sequence)
            segment.next_id += 1
        known.last = sequence
        return known.id

    def name(self, place: int, value_id: int) -> str:
        """Return the value with an id."""
        return next((each.name for each in self.all[place].values.values() if each.id == value_id), OTHER_NAME)

    def is_live(self, place: int, value_id: int) -> bool:
        """Tell whether a value has not given way."""
        return any(each.id == value_id for each in self.all[place].values.values())

    def restore(self, stored: Sequence[Segment]) -> None:
        """Take over the values that were stored; ValueError for what cannot be."""
        refuse_if(
            "stored segments",
            {
                "they are others": [each.name for each in stored] != [each.name for each in self.all],
                "there are too many values": any(len(each.values) > self._values_max for each in stored),
                "a value has another's name": any(
                    name != value.name for each in stored for name, value in each.values.items()
                ),
                "ids are out of range": any(
                    not 0 < value.id < each.next_id <= _ID_MAX for each in stored for value in each.values.values()
                ),
                "an id is there twice": any(
                    len({value.id for value in each.values.values()}) < len(each.values) for each in stored
                ),
            },
        )
        self.all = list(stored)
