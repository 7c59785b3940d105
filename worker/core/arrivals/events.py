"""Events as sequences: columns for those who work on many, an object for who asks for one.

Rule 1: a sequence is a view of the records of a batch; parts of it share what was found out of all of them.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

import numpy as np

from worker.core.arrivals.records import LabelRecords, PredictionRecords, Records
from worker.core.arrivals.texts import Texts
from worker.core.arrivals.value_column import ValueColumn
from worker.core.events import LabelEvent, PredictionEvent
from worker.core.kernels.arrays import F64, I8, I64, U64
from worker.core.scanning import FeatureNames, ScannedLabels, ScannedPredictions

_Event = TypeVar("_Event", bound=PredictionEvent | LabelEvent)
_Scanned = TypeVar("_Scanned", bound=ScannedPredictions | ScannedLabels)


class _Events(Sequence[_Event], Generic[_Event, _Scanned]):
    """Rows [begin, end) of the records of a batch."""

    __slots__ = ("_begin", "_end", "_records")
    _kind_of_records: ClassVar[Any]

    def __init__(self, records: Records[_Event, _Scanned], begin: int, end: int) -> None:
        self._records, self._begin, self._end = records, begin, end

    @classmethod
    def of(cls, events: Sequence[_Event]) -> Self:
        """Return events that are known as objects."""
        if isinstance(events, cls):
            return events
        return cls.of_records((), dict(enumerate(events)), np.arange(len(events)), None)

    @classmethod
    def of_records(
        cls, values: Sequence[bytes | None], objects: dict[int, _Event], rows: I64, scanned: _Scanned | None
    ) -> Self:
        """Return the events of the rows of a batch that can be used; `objects` has those that are not clean."""
        return cls(cls._kind_of_records(values, objects, rows, scanned), 0, len(rows))

    def __len__(self) -> int:
        return self._end - self._begin

    @overload
    def __getitem__(self, index: int) -> _Event: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> _Event | Self:
        """Return an event as an object, or a view of consecutive ones."""
        if isinstance(index, slice):
            begin, end, step = index.indices(len(self))
            if step != 1:
                raise ValueError("events are taken as they follow each other")
            if begin == 0 and end == len(self):
                return self
            return type(self)(self._records, self._begin + begin, self._begin + max(begin, end))
        return self._records.event(self._place(index))

    def _place(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return (self._end if index < 0 else self._begin) + index

    @property
    def _part(self) -> slice:
        return slice(self._begin, self._end)

    def objects(self) -> list[_Event]:
        """Return all events as objects."""
        return [self._records.event(place) for place in range(self._begin, self._end)]

    def keys(self, seed: int) -> U64:
        """Return the ids as keys u64[n, 2]."""
        return self._records.keys(seed)[self._part]

    def models(self) -> tuple[I64, list[str]]:
        """Return a code of the model of each event (n), and the models by code in the order in which they appear."""
        codes, names = self._records.model_ids.part(self._part).grouped()
        return codes, [name or "" for name in names]

    def ordered(self, places: I64) -> Self:
        """Return all events in another order."""
        records = self._records
        rows = records.rows[self._part][places]
        return type(self)(type(records)(records.values, records.objects, rows, records.scanned), 0, len(rows))


class LabelEvents(_Events[LabelEvent, ScannedLabels]):
    """Labels (n)."""

    __slots__ = ()
    _kind_of_records = LabelRecords

    @property
    def labels(self) -> ValueColumn:
        """The labels themselves."""
        return self._records.labels.part(self._part)


class PredictionEvents(_Events[PredictionEvent, ScannedPredictions]):
    """Predictions (n)."""

    __slots__ = ()
    _kind_of_records = PredictionRecords
    _records: PredictionRecords

    def event_id(self, row: int) -> str:
        """Return the id of an event."""
        return self._records.event_ids.text(self._place(row)) or ""

    def version(self, row: int) -> str | None:
        """Return the version of the model that an event has."""
        versions = self._records.versions
        return versions.names[int(versions.codes[self._place(row)])]

    def versions(self) -> list[str | None]:
        """Return the versions of the model (n)."""
        codes, names, _ = self._records.versions
        return [names[code] for code in codes[self._part].tolist()]

    def versions_are(self, current: str | None) -> bool:
        """Tell whether each event has the version `current`, or none."""
        if not len(self):
            return True
        codes, names, run_ends = self._records.versions
        if len(names) == 1 or run_ends[self._begin] >= self._end:
            return names[codes[self._begin]] in (current, None)
        return {names[code] for code in codes[self._part].tolist()} <= {current, None}

    @property
    def predictions(self) -> ValueColumn:
        """The predictions themselves."""
        return self._records.predictions.part(self._part)

    @property
    def labels(self) -> ValueColumn | None:
        """Labels that came with predictions; None if no event has one."""
        if not self._records.has_labels:
            return None
        labels = self._records.labels.part(self._part)
        return labels if labels.is_any else None

    @property
    def probabilities(self) -> list[dict[str, float] | None] | None:
        """Probabilities of each event by class, None for one without; None if no event has any."""
        found = self._records.probabilities(self._begin, self._end) if self._records.may_have_probabilities else []
        return found if any(found) else None

    def segments(self, names: Sequence[str]) -> list[list[str | None]]:
        """Return for each event its values of declared segments, None for none."""
        return self._records.segments(names, self._begin, self._end)

    def cells(self, names: FeatureNames, kinds: I8) -> tuple[F64, Texts | None] | None:
        """Return features as cells (n x d) and the texts (n x d) of columns that have them, as `feature_cells` does.

        None if they do not fit, or an event is known as an object only.
        """
        return self._records.cells(names, kinds, self._begin, self._end)
