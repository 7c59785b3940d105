"""The records of a batch that hold events, and what has been found out of all of them: columns and objects.

Rule 1: a column says what the objects say. What the scanner could not read (`clean` is False) is decoded, and put in.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from worker.core.arrivals.texts import Texts
from worker.core.arrivals.value_column import ValueColumn
from worker.core.events import LabelEvent, PredictionEvent, PredictionValue
from worker.core.kernels.arrays import I64, U8, U64
from worker.core.scanning import ScannedLabels, ScannedPredictions

_Event = TypeVar("_Event", bound=PredictionEvent | LabelEvent)
_Scanned = TypeVar("_Scanned", bound=ScannedPredictions | ScannedLabels)


class Records(Generic[_Event, _Scanned]):
    """Events (n) of a batch in some order.

    `rows` are their places among the records of the batch. `objects` (by row) has those of all rows that are not clean,
    and grows as others are asked for. `scanned` is None where all are known as objects.
    """

    decode: Callable[[bytes], _Event]
    """Returns the event of a record; msgspec's errors for one that holds none."""

    def __init__(
        self, values: Sequence[bytes | None], objects: dict[int, _Event], rows: I64, scanned: _Scanned | None
    ) -> None:
        self.values = values
        self.objects = objects
        self.rows = rows
        self.scanned = scanned
        self._keys: dict[int, U64] = {}

    def event(self, place: int) -> _Event:
        """Return an event as an object."""
        row = int(self.rows[place])
        event = self.objects.get(row)
        if event is None:
            event = self.objects[row] = self.decode(self.values[row] or b"")
        return event

    @cached_property
    def unclean(self) -> I64:
        """Places of events that are known as objects only."""
        return np.arange(len(self.rows)) if self.scanned is None else np.flatnonzero(~self.scanned.clean[self.rows])

    @cached_property
    def event_ids(self) -> Texts:
        """Ids (n)."""
        return self._texts("event_ids", lambda event: event.event_id)

    @cached_property
    def model_ids(self) -> Texts:
        """Models (n)."""
        return self._texts("model_ids", lambda event: event.model_id)

    @cached_property
    def labels(self) -> ValueColumn:
        """Labels (n)."""
        return self._values("label", lambda event: event.label)

    @cached_property
    def has_labels(self) -> bool:
        """Whether any event has a label."""
        return self.labels.is_any

    def keys(self, seed: int) -> U64:
        """Return the ids of events as keys u64[n, 2]."""
        keys = self._keys.get(seed)
        if keys is None:
            keys = self._keys[seed] = self.event_ids.keys(seed)
        return keys

    @cached_property
    def _raw(self) -> U8:
        return np.frombuffer(b"" if self.scanned is None else self.scanned.text, dtype=np.uint8)

    def _texts(self, name: str, of_event: Callable[[_Event], str | None]) -> Texts:
        """Return the column of texts that has a name in the scan."""
        others = [of_event(self.event(place)) for place in self.unclean.tolist()]
        if self.scanned is None:
            return Texts.of(others)
        texts = Texts(self._raw, getattr(self.scanned, name)[self.rows])
        return texts.replaced(self.unclean, Texts.of(others)) if others else texts

    def _values(self, name: str, of_event: Callable[[_Event], PredictionValue | None]) -> ValueColumn:
        """Return the column of values that has a name in the scan."""
        others = [of_event(self.event(place)) for place in self.unclean.tolist()]
        scanned, rows = self.scanned, self.rows
        if scanned is None:
            return ValueColumn.of(others)
        numbers, kinds, spans = (getattr(scanned, each) for each in (f"{name}s", f"{name}_kinds", f"{name}_texts"))
        column = ValueColumn.of_scanned(numbers[rows], kinds[rows], Texts(self._raw, spans[rows]))
        return column.replaced(self.unclean, ValueColumn.of(others)) if others else column


class Versions(NamedTuple):
    """Versions of events (n): a code of each, names by code, and for each row where the run of its version ends."""

    codes: I64
    names: list[str | None]
    run_ends: I64


class PredictionRecords(Records[PredictionEvent, ScannedPredictions]):
    """Records of `predictions`."""

    decode = msgspec.json.Decoder(PredictionEvent).decode

    @cached_property
    def predictions(self) -> ValueColumn:
        """Predictions (n)."""
        return self._values("prediction", lambda event: event.prediction)

    @cached_property
    def model_versions(self) -> Texts:
        """Versions of the models (n)."""
        return self._texts("versions", lambda event: event.model_version)

    @cached_property
    def versions(self) -> Versions:
        """The same, compared."""
        codes, names = self.model_versions.grouped()
        ends = np.append(np.flatnonzero(codes[1:] != codes[:-1]) + 1, len(codes))
        return Versions(codes, names, np.repeat(ends, np.diff(ends, prepend=0)))


class LabelRecords(Records[LabelEvent, ScannedLabels]):
    """Records of `labels`."""

    decode = msgspec.json.Decoder(LabelEvent).decode
