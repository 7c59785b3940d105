"""The column table of one monitor: which feature is which column, of which kind, and events as a matrix.

Column 0 is the prediction; the features follow in the order in which they first had a value. While the monitor warms
up, a new feature adds a column; then the table is frozen, and what does not fit it is counted and left out.

A cell is a float64: a number, 0/1 for a boolean, a category's code, a text's length; NaN where there is no usable
value.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from worker.core.arrivals import PredictionEvents, Texts
from worker.core.events import FeatureValue, PredictionEvent
from worker.core.identity import derived_id
from worker.core.kernels.arrays import F64, I8, I64, Bool
from worker.core.scanning import BOOLEAN, NO_TEXT, NUMBER, TEXT, FeatureNames
from worker.core.state import refuse_if

OTHER_CODE = 0
"""Code of every category beyond `categories_max`."""

CATEGORY_CHARS_MAX = 128
"""A longer category is known by its beginning and a hash: names are kept, and published with every pane."""

TEXT_CHARS_MIN = 64
"""A column whose first value is at least so long is free text, not a category."""

_NUMERIC_TYPES = frozenset({float, type(None)})
_BOOLEAN_TYPES = frozenset({bool, type(None)})


class Kind(StrEnum):
    """What the values of a column are."""

    NUMERIC = "numeric"
    BOOLEAN = "boolean"
    CATEGORICAL = "categorical"
    TEXT = "text"
    """Free text, of which the length (characters) is the value."""


_VALUE_KINDS = {Kind.NUMERIC: NUMBER, Kind.BOOLEAN: BOOLEAN, Kind.CATEGORICAL: TEXT, Kind.TEXT: TEXT}
"""What the values of a column are in a record."""


class Column(NamedTuple):
    """Name and kind of a column, and for a categorical one the code of each category (1, 2, ... as first seen)."""

    name: str
    kind: Kind
    codes: dict[str, int]


class StoredColumn(Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A column as it is stored; the categories are in the order of their codes."""

    name: str
    kind: Kind
    categories: list[str]


class Matrix(NamedTuple):
    """Events of one monitor: `cells` (n x columns), and what could not be put into them.

    `invalid` (k x 2) lists row and column of values of a wrong type; `unknown` (n) counts the values of features
    that are not in the table, or is None when there is none.
    """

    cells: F64
    invalid: I64
    unknown: I64 | None


class ColumnTable:
    """Learns the columns, then keeps them. Bounded by `features_max` columns and `categories_max` codes in each."""

    def __init__(self, *, features_max: int, categories_max: int) -> None:
        self._features_max = features_max
        self._categories_max = categories_max
        self._names: list[str] = []
        self._known: dict[str, int] = {}
        self.columns: list[Column] = []
        self.frozen = False
        self._wanted: tuple[FeatureNames, I8] | None = None
        self._is_numeric: Bool = np.zeros(0, dtype=np.bool)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def feature_names(self) -> list[str]:
        """Names of the feature columns, in column order (column 1 first)."""
        return self._names

    @property
    def is_numeric(self) -> Bool:
        """Columns with a mean and quantiles: numbers, booleans, lengths of texts."""
        # Columns are added, and keep their kind.
        if len(self._is_numeric) != len(self.columns):
            self._is_numeric = np.array([each.kind is not Kind.CATEGORICAL for each in self.columns], dtype=np.bool)
        return self._is_numeric

    def learn(self, events: Iterable[PredictionEvent]) -> None:
        """Add a column for each feature that has a value for the first time. Nothing happens once frozen."""
        if self.frozen:
            return
        self._wanted = None
        for event in events:
            if not self.columns:
                self.columns.append(Column("prediction", _kind(event.prediction), {}))
            for name, value in event.features.items():
                if name not in self._known and value is not None and len(self._names) < self._features_max:
                    self._known[name] = len(self._names)
                    self._names.append(name)
                    self.columns.append(Column(name, _kind(value), {}))

    def state(self) -> list[StoredColumn]:
        """Return the columns to be stored."""
        return [StoredColumn(name, kind, list(codes)) for name, kind, codes in self.columns]

    def restore(self, stored: Sequence[StoredColumn], *, frozen: bool) -> None:
        """Take over the columns that `state` gave; ValueError for what cannot be."""
        columns = [
            Column(each.name, each.kind, {name: code for code, name in enumerate(each.categories, start=1)})
            for each in stored
        ]
        names = [column.name for column in columns[1:]]
        refuse_if(
            "stored columns",
            {
                "there are too many": len(names) > self._features_max,
                "a feature is there twice": len(set(names)) < len(names),
                "a column has too many categories": any(
                    len(each.categories) > (self._categories_max if each.kind is Kind.CATEGORICAL else 0)
                    for each in stored
                ),
                "a category is there twice": any(
                    len(column.codes) < len(each.categories) for column, each in zip(columns, stored, strict=True)
                ),
            },
        )
        self._names = names
        self._known = {name: place for place, name in enumerate(names)}
        self.columns = columns
        self.frozen = frozen
        self._wanted = None
        self._is_numeric = np.zeros(0, dtype=np.bool)

    def matrix(self, events: PredictionEvents) -> Matrix:
        """Turn events into cells. `learn` must have seen at least one event."""
        found = self._scanned(events) if self.frozen else None
        return self._matrix_of(events.objects()) if found is None else found

    def _scanned(self, events: PredictionEvents) -> Matrix | None:
        """Return scanned events as cells; None if any value does not fit its column, or has none."""
        predictions = events.predictions
        if not (predictions.kinds == _VALUE_KINDS[self.columns[0].kind]).all():
            return None
        if self._wanted is None:
            kinds = np.array([_VALUE_KINDS[column.kind] for column in self.columns[1:]], dtype=np.int8)
            self._wanted = FeatureNames(self._names), kinds
        found = events.cells(*self._wanted)
        if found is None:
            return None
        features, texts = found
        cells = np.empty((len(events), len(self.columns)))
        cells[:, 0], cells[:, 1:] = predictions.numbers, features
        if predictions.texts is not None:
            cells[:, 0] = self._text_cells(0, predictions.texts)
        if texts is not None:
            for place in np.flatnonzero(self._wanted[1] == TEXT).tolist():
                column = Texts(texts.raw, np.ascontiguousarray(texts.spans[:, place]))
                cells[:, place + 1] = self._text_cells(place + 1, column)
        return Matrix(cells, np.empty((0, 2), dtype=np.int64), None)

    def _text_cells(self, place: int, texts: Texts) -> F64:
        """Cells of a column of categories or of free texts: NaN where there is no text."""
        cells = np.full(len(texts.spans), np.nan)
        rows = np.flatnonzero(texts.spans[:, 1] != NO_TEXT)
        present = texts.part(rows)
        if self.columns[place].kind is Kind.TEXT:
            cells[rows] = present.characters()
        elif len(rows):
            codes, names = present.grouped()
            cells[rows] = np.array([self._code(place, name or "") for name in names], dtype=np.float64)[codes]
        return cells

    def _matrix_of(self, events: Sequence[PredictionEvent]) -> Matrix:
        """Turn objects into cells."""
        features = [event.features for event in events]
        count, width = len(events), len(self._names)
        values = self._values(features)
        types = set(map(type, values))
        cells = np.empty((count, width + 1))
        invalid: list[tuple[int, int]] = []
        cells[:, 0] = self._cells(0, [event.prediction for event in events], invalid)
        if types <= _NUMERIC_TYPES and all(column.kind is Kind.NUMERIC for column in self.columns[1:]):
            cells[:, 1:] = np.array(values, dtype=np.float64).reshape(count, width)
        else:
            for place in range(width):
                cells[:, place + 1] = self._cells(place + 1, values[place::width], invalid)
        invalid.sort()
        # When nothing is missing and there are no more values than cells, no feature can be unknown.
        complete = type(None) not in types and sum(map(len, features)) == len(values)
        unknown = None if complete else self._unknown(features)
        return Matrix(cells, np.array(invalid, dtype=np.int64).reshape(-1, 2), unknown)

    def _values(self, features: Sequence[dict[str, FeatureValue]]) -> list[FeatureValue]:
        """Return the values of known features, event by event, None where there is none."""
        if len(self._names) > 1:
            try:
                # The usual case without a step of Python for each value.
                return list(chain.from_iterable(map(itemgetter(*self._names), features)))
            except KeyError:
                pass
        return [value for each in features for value in map(each.get, self._names)]

    def _cells(self, place: int, values: Sequence[FeatureValue], invalid: list[tuple[int, int]]) -> F64:
        """Cells of one column."""
        column = self.columns[place]
        if column.kind is Kind.CATEGORICAL:
            return self._codes(place, values, invalid)
        if column.kind is Kind.TEXT:
            return self._lengths(place, values, invalid)
        expected = _NUMERIC_TYPES if column.kind is Kind.NUMERIC else _BOOLEAN_TYPES
        if expected.issuperset(map(type, values)):
            return np.array(values, dtype=np.float64)
        wrong = [row for row, value in enumerate(values) if type(value) not in expected]
        invalid.extend((row, place) for row in wrong)
        usable = [value if type(value) in expected else None for value in values]
        return np.array(usable, dtype=np.float64)

    @staticmethod
    def _lengths(place: int, values: Sequence[FeatureValue], invalid: list[tuple[int, int]]) -> F64:
        """Lengths of texts."""
        invalid.extend((row, place) for row, value in enumerate(values) if not isinstance(value, str | None))
        return np.array([len(value) if isinstance(value, str) else np.nan for value in values], dtype=np.float64)

    def _codes(self, place: int, values: Sequence[FeatureValue], invalid: list[tuple[int, int]]) -> F64:
        """Codes of categories."""
        cells = np.full(len(values), np.nan)
        for row, value in enumerate(values):
            if isinstance(value, str):
                cells[row] = self._code(place, value)
            elif value is not None:
                invalid.append((row, place))
        return cells

    def _code(self, place: int, category: str) -> int:
        """Return the code of a category; a new one gets the next code while there is room, then `OTHER_CODE`."""
        codes = self.columns[place].codes
        name = category if len(category) <= CATEGORY_CHARS_MAX else _short_name(category)
        code = codes.get(name)
        if code is None:
            if len(codes) >= self._categories_max:
                return OTHER_CODE
            code = codes[name] = len(codes) + 1
        return code

    def _unknown(self, features: Sequence[dict[str, FeatureValue]]) -> I64 | None:
        """Count, for each event, the values of features without a column."""
        known = self._known.keys()
        if all(each.keys() <= known for each in features):
            return None
        counts = [sum(value is not None and name not in known for name, value in each.items()) for each in features]
        return np.array(counts, dtype=np.int64)


def _short_name(category: str) -> str:
    return f"{category[:96]}...{derived_id(category)[:16]}"


def _kind(value: FeatureValue) -> Kind:
    if isinstance(value, bool):
        return Kind.BOOLEAN
    if isinstance(value, str):
        return Kind.TEXT if len(value) >= TEXT_CHARS_MIN else Kind.CATEGORICAL
    return Kind.NUMERIC
