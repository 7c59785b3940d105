"""Predictions, labels and probabilities as numbers in arrays: what waits for a label takes no Python object.

A value is a float64 and a kind: a number itself, 0 or 1 for a boolean, the code of a text (beyond the bound: a hash,
negative).
"""

from collections.abc import Iterable, Sequence
from operator import itemgetter

import numpy as np

from worker.core.arrivals import ValueColumn
from worker.core.identity import derived_seed
from worker.core.kernels.arrays import F64, I8

OTHER = 0
"""Code of every name beyond the bound."""

NAME_CHARS_MAX = 128
"""Names that are longer are the same if they begin alike: they are published with every record."""


class Names:
    """A bounded table of names: codes 1, 2, ... in the order of their first appearance, then OTHER."""

    def __init__(self, names_max: int, names: Iterable[str] = ()) -> None:
        self._names_max = names_max
        self.names: list[str] = []
        self._codes: dict[str, int] = {}
        for name in names:
            self.add(name)

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str) -> int:
        """Return the code of a name, OTHER if it has none."""
        return self._codes.get(name[:NAME_CHARS_MAX], OTHER)

    def add(self, name: str) -> int:
        """Return the code of a name, which is new if there is room."""
        name = name[:NAME_CHARS_MAX]
        code = self._codes.get(name)
        if code is None:
            if len(self.names) >= self._names_max:
                return OTHER
            self.names.append(name)
            code = self._codes[name] = len(self.names)
        return code

    def reserve(self, name: str) -> int:
        """Return the code of a name that is there whatever the bound."""
        if name not in self._codes:
            self.names.append(name)
            self._codes[name] = len(self.names)
            self._names_max += 1
        return self._codes[name]

    def first_new(self, names: Iterable[str | None]) -> int | None:
        """Return the place of the first name that would get a new code; None if there is none."""
        if len(self.names) >= self._names_max:
            return None
        known = self._codes.keys()
        return next(
            (n for n, name in enumerate(names) if name is not None and name[:NAME_CHARS_MAX] not in known), None
        )


def encode_values(values: ValueColumn, texts: Names) -> tuple[F64, I8]:
    """Return numbers (n) and kinds (n), texts as their codes. New texts get codes in the order of the rows."""
    if values.texts is None:
        return values.numbers, values.kinds
    codes, names = values.names()
    return np.where(codes < 0, values.numbers, _codes(names, texts)[codes]), values.kinds


def first_new(values: ValueColumn, texts: Names) -> int:
    """Return the place of the first value (n) that is a text without a code, but would get one; n if there is none."""
    if values.texts is None:
        return len(values.kinds)
    codes, names = values.names()
    new = texts.first_new(names)
    return len(codes) if new is None else int(np.argmax(codes == new))


def _codes(names: Sequence[str], texts: Names) -> F64:
    """Return the codes of names. Beyond the bound texts can still be told apart, though they have no name any more."""
    codes = np.array([texts.add(name) for name in names], dtype=np.float64)
    for place in np.flatnonzero(codes == OTHER).tolist():
        codes[place] = -1 - derived_seed("text", names[place])
    return codes


def encode_probabilities(rows: Sequence[dict[str, float] | None], columns: Names) -> F64:
    """Return probabilities (n x columns); NaN in a row without any, 0 for a class that a row leaves out."""
    if any(len(name) > NAME_CHARS_MAX for row in rows for name in row or ()):
        rows = [row and _with_short_names(row) for row in rows]
    for row in rows:
        if row is not None and not row.keys() <= columns._codes.keys():  # noqa: SLF001 - its own module's class
            for name in row:
                columns.add(name)
    names = columns.names
    try:
        # The usual case: every row has every class.
        cells = np.array(list(map(itemgetter(*names), rows)), dtype=np.float64)  # type: ignore[arg-type]  # None raises
        return cells.reshape(len(rows), len(names))
    except (KeyError, TypeError):
        missing = [np.nan] * len(names)
        cells = [missing if not row else [row.get(name, 0.0) for name in names] for row in rows]  # type: ignore[assignment]  # a list, made an array below
        return np.array(cells, dtype=np.float64).reshape(len(rows), len(names))


def _with_short_names(row: dict[str, float]) -> dict[str, float]:
    """Return a row in which names that begin alike, and so are the same, have their probabilities added."""
    short: dict[str, float] = {}
    for name, probability in row.items():
        cut = name[:NAME_CHARS_MAX]
        short[cut] = min(short.get(cut, 0.0) + probability, 1.0)
    return short
