"""The records of a batch that hold events, and what has been found out of all of them: columns and objects.

Rule 1: a column says what the objects say. What the scanner could not read (`clean` is False) is decoded, and put in.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from worker.core.arrivals.texts import Texts
from worker.core.arrivals.value_column import ValueColumn
from worker.core.events import LabelEvent, PredictionEvent, PredictionValue
from worker.core.kernels.arrays import F64, I8, I32, I64, U64
from worker.core.scanning import FeatureNames, ScannedLabels, ScannedPredictions, feature_cells

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
    def _others(self) -> list[_Event]:
        """The events that are known as objects only."""
        if self.scanned is None:
            return list(map(self.objects.__getitem__, self.rows.tolist()))
        return [self.event(place) for place in self.unclean.tolist()]

    @cached_property
    def event_ids(self) -> Texts:
        """Ids (n)."""
        return self._texts("event_ids", attrgetter("event_id"))

    @cached_property
    def model_ids(self) -> Texts:
        """Models (n)."""
        return self._texts("model_ids", attrgetter("model_id"))

    @cached_property
    def labels(self) -> ValueColumn:
        """Labels (n)."""
        return self._values("label", attrgetter("label"))

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

    def _texts(self, name: str, of_event: Callable[[_Event], str | None]) -> Texts:
        """Return the column of texts that has a name in the scan."""
        others = list(map(of_event, self._others))
        if self.scanned is None:
            return Texts.of(others)
        texts = Texts(self.scanned.text, getattr(self.scanned, name)[self.rows])
        return texts.replaced(self.unclean, Texts.of(others)) if others else texts

    def _values(self, name: str, of_event: Callable[[_Event], PredictionValue | None]) -> ValueColumn:
        """Return the column of values that has a name in the scan."""
        others = list(map(of_event, self._others))
        scanned, rows = self.scanned, self.rows
        if scanned is None:
            return ValueColumn.of(others)
        numbers, kinds, spans = (getattr(scanned, each) for each in (f"{name}s", f"{name}_kinds", f"{name}_texts"))
        column = ValueColumn.of_scanned(numbers[rows], kinds[rows], Texts(scanned.text, spans[rows]))
        return column.replaced(self.unclean, ValueColumn.of(others)) if others else column


class Pairs(NamedTuple):
    """Pairs of names and values that belong to events: place of the event, name as a code, and place in the scan."""

    owners: list[int]
    codes: list[int]
    names: list[str]
    rows: I64


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
        return self._values("prediction", attrgetter("prediction"))

    @cached_property
    def model_versions(self) -> Texts:
        """Versions of the models (n)."""
        return self._texts("versions", attrgetter("model_version"))

    @cached_property
    def versions(self) -> Versions:
        """The same, compared."""
        codes, names = self.model_versions.grouped()
        ends = np.append(np.flatnonzero(codes[1:] != codes[:-1]) + 1, len(codes))
        return Versions(codes, names, np.repeat(ends, np.diff(ends, prepend=0)))

    @property
    def may_have_probabilities(self) -> bool:
        """Whether it is worth looking for probabilities."""
        return self.scanned is None or len(self.scanned.probabilities) > 0 or len(self.unclean) > 0

    def probabilities(self, begin: int, end: int) -> list[dict[str, float] | None]:
        """Return probabilities by class of the events [begin, end), None or nothing for one without."""
        found: list[dict[str, float] | None] = [None] * (end - begin)
        scanned = self.scanned
        if scanned is not None and len(scanned.probabilities):
            pairs = self._pairs(scanned.first_probability, scanned.probability_names, begin, end)
            values = scanned.probabilities[pairs.rows].tolist()
            for owner, code, value in zip(pairs.owners, pairs.codes, values, strict=True):
                row = found[owner]
                if row is None:
                    row = found[owner] = {}
                row[pairs.names[code]] = value
        for place in self._unclean_in(begin, end):
            found[place - begin] = self.event(place).probabilities
        return found

    def segments(self, names: Sequence[str], begin: int, end: int) -> list[list[str | None]]:
        """Return the values of declared segments of the events [begin, end), None for none."""
        found: list[list[str | None]] = [[None] * len(names) for _ in range(end - begin)]
        scanned = self.scanned
        if scanned is not None and len(scanned.segment_texts):
            pairs = self._pairs(scanned.first_segment, scanned.segment_names, begin, end)
            codes, values = Texts(scanned.text, scanned.segment_texts[pairs.rows]).grouped()
            places = {name: place for place, name in enumerate(names)}
            place_of = [places.get(name, -1) for name in pairs.names]
            for owner, name, value in zip(pairs.owners, pairs.codes, codes.tolist(), strict=True):
                if place_of[name] >= 0:
                    found[owner][place_of[name]] = values[value]
        for place in self._unclean_in(begin, end):
            segment = self.event(place).segment or {}
            found[place - begin] = [segment.get(name) for name in names]
        return found

    def cells(self, names: FeatureNames, kinds: I8, begin: int, end: int) -> tuple[F64, Texts | None] | None:
        """Return features of events [begin, end); None if they do not fit, or some are not clean (`feature_cells`)."""
        scanned = self.scanned
        if scanned is None or len(self._unclean_in(begin, end)):
            return None
        cells, texts, fits = feature_cells(scanned, self.rows[begin:end], names, kinds)
        return (cells, None if texts is None else Texts(scanned.text, texts)) if fits else None

    def _unclean_in(self, begin: int, end: int) -> list[int]:
        """Return the places in [begin, end) of events that are known as objects only."""
        if not len(self.unclean):
            return []
        first, last = np.searchsorted(self.unclean, (begin, end)).tolist()
        places: list[int] = self.unclean[first:last].tolist()
        return places

    def _pairs(self, firsts: I64, names: I32, begin: int, end: int) -> Pairs:
        """Return the scanned pairs of the clean ones among the events [begin, end)."""
        assert self.scanned is not None
        rows = self.rows[begin:end]
        counts = np.where(self.scanned.clean[rows], firsts[rows + 1] - firsts[rows], 0)
        places = np.arange(counts.sum()) + np.repeat(firsts[rows] - np.cumsum(counts) + counts, counts)
        codes, found = Texts(self.scanned.text, names[places]).grouped()
        owners = np.repeat(np.arange(len(rows)), counts)
        return Pairs(owners.tolist(), codes.tolist(), [name or "" for name in found], places)


class LabelRecords(Records[LabelEvent, ScannedLabels]):
    """Records of `labels`."""

    decode = msgspec.json.Decoder(LabelEvent).decode
