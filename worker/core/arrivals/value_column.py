"""Predictions or labels of a batch: numbers, booleans and texts, in arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from worker.core.arrivals.texts import Texts
from worker.core.events import PredictionValue
from worker.core.kernels.arrays import F64, I8, I64
from worker.core.scanning import BOOLEAN, NO_LABEL, NUMBER, TEXT

_KINDS = {bool: BOOLEAN, str: TEXT, type(None): NO_LABEL}


class ValueColumn(NamedTuple):
    """Values (n) and their kinds (NUMBER, BOOLEAN, TEXT; NO_LABEL: none). The number of a boolean is 0 or 1.

    `texts` (n) tells those of kind TEXT; None if there are none.
    """

    numbers: F64
    kinds: I8
    texts: Texts | None

    @classmethod
    def of(cls, values: Sequence[PredictionValue | None]) -> "ValueColumn":
        """Return values as decoders give them, as a column."""
        types = list(map(type, values))
        kinds = np.array([_KINDS.get(each, NUMBER) for each in types], dtype=np.int8)
        if str in types:
            texts = Texts.of([value if isinstance(value, str) else None for value in values])
            return cls(_numbers([0.0 if isinstance(value, str) else value for value in values]), kinds, texts)
        return cls(_numbers(values), kinds, None)

    @classmethod
    def of_scanned(cls, numbers: F64, kinds: I8, texts: Texts) -> "ValueColumn":
        """Return values as the scanner gives them."""
        is_text = kinds == TEXT
        # The scanner leaves NaN where there is no number; here it would be stored.
        usable = np.where(is_text | (kinds == NO_LABEL), 0.0, numbers)
        return cls(usable, kinds, texts if is_text.any() else None)

    def part(self, rows: slice) -> "ValueColumn":
        """Return some of the values."""
        kinds = self.kinds[rows]
        texts = None if self.texts is None or not (kinds == TEXT).any() else self.texts.part(rows)
        return ValueColumn(self.numbers[rows], kinds, texts)

    @property
    def is_any(self) -> bool:
        """Whether any of them is a value."""
        return bool((self.kinds != NO_LABEL).any())

    def replaced(self, rows: I64, others: "ValueColumn") -> "ValueColumn":
        """Return the same values but for some rows (k), which have other ones (k)."""
        numbers, kinds = self.numbers.copy(), self.kinds.copy()
        numbers[rows], kinds[rows] = others.numbers, others.kinds
        texts = self.texts
        if others.texts is not None:
            before = Texts(np.zeros(0, dtype=np.uint8), np.zeros((len(numbers), 2), dtype=np.int32))
            texts = (before if texts is None else texts).replaced(rows, others.texts)
        return ValueColumn(numbers, kinds, texts)

    def names(self) -> tuple[I64, list[str]]:
        """Return a code for each value, -1 for what is no text, and the texts by code as they first appeared."""
        codes = np.full(len(self.kinds), -1, dtype=np.int64)
        if self.texts is None:
            return codes, []
        rows = np.flatnonzero(self.kinds == TEXT)
        codes[rows], names = self.texts.part(rows).grouped()
        return codes, [name or "" for name in names]


def _numbers(values: Sequence[PredictionValue | None]) -> F64:
    """Return numbers; 0 for None."""
    numbers = np.array(values, dtype=np.float64)
    if None in values:
        numbers[[value is None for value in values]] = 0.0
    return numbers
