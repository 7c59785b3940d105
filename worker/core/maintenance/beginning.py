"""The first labels of a model: they show what the shadow pool works on."""

import numpy as np
from msgspec import Struct

from worker.core.maintenance.targets import LossName, Subject, first_look, known_classes
from worker.core.options import MaintenanceOptions
from worker.core.performance.batch import Labelled
from worker.core.performance.ledger import Ledger
from worker.core.performance.values import Names
from worker.core.state import AnyArray, Arrays, check_like, outside, refuse_if

_STORED = "stored first labels"
_PROBABILITIES_MIN = 0.9
"""Share of the first labelled events with probabilities, from which on they are taken for given."""
_SCALE_QUANTILE, _SCALE_FACTOR, _SCALE_MIN = 0.9, 4.0, 1e-30
_GIVEN, _SQUARE = 0, 1


class StoredBeginning(Struct, frozen=True, forbid_unknown_fields=True):
    """The plain part of the state."""

    labels: int


class Beginning:
    """Gathers `begin_labels` labelled events, then tells the subject."""

    def __init__(self, options: MaintenanceOptions) -> None:
        self._options = options
        self._labels = 0
        # Whether there were probabilities (0, 1); the squared error of a number, else NaN.
        self._rows = np.zeros((options.begin_labels, 2))

    @property
    def room(self) -> int:
        """Labels up to the one with which it is over."""
        return self._options.begin_labels - self._labels

    def take(self, batch: Labelled, ledger: Ledger, columns: Names) -> Subject | None:
        """Take in labelled events (n <= room); return the subject once it is known.

        While all labels were of one class, it begins once more.
        """
        look = first_look(batch, ledger, columns)
        rows = slice(self._labels, self._labels + batch.size)
        self._rows[rows, _GIVEN], self._rows[rows, _SQUARE] = look.given, look.squares
        self._labels += batch.size
        if self.room:
            return None
        subject = self._subject(ledger)
        self._labels = 0
        return subject

    def _subject(self, ledger: Ledger) -> Subject | None:
        found = known_classes(ledger)
        if found is None:
            return None
        names, codes = found
        if not names:
            return Subject(
                "regression", names, codes, has_probabilities=False, loss="squared_error", scale=self._scale()
            )
        given = bool(self._rows[:, _GIVEN].mean() >= _PROBABILITIES_MIN)
        loss: LossName = self._options.class_loss if given else "error"
        return Subject(ledger.task.name, names, codes, has_probabilities=given, loss=loss, scale=1.0)

    def _scale(self) -> float:
        """Return what squared errors are divided by: four times their 90 % quantile, so that few are cut at 1."""
        squares = self._rows[~np.isnan(self._rows[:, _SQUARE]), _SQUARE]
        largest = float(np.quantile(squares, _SCALE_QUANTILE)) if len(squares) else 1.0
        return max(_SCALE_FACTOR * largest, _SCALE_MIN)

    # Storing and restoring.

    def plain(self) -> StoredBeginning:
        """Return the plain part of the state."""
        return StoredBeginning(self._labels)

    def arrays(self) -> dict[str, AnyArray]:
        """Return the rows so far."""
        return {"rows": self._rows[: self._labels]}

    def restore(self, plain: StoredBeginning, arrays: Arrays) -> None:
        """Take over copies; ValueError for what cannot be."""
        refuse_if(_STORED, {"there are too many labels": not 0 <= plain.labels < self._options.begin_labels})
        self._labels = plain.labels
        check_like(_STORED, arrays, self.arrays())
        rows = arrays["rows"]
        refuse_if(
            _STORED,
            {
                "a probability is neither there nor not": outside(rows[:, _GIVEN], 0, 1),
                "a square is infinite or negative": bool(
                    np.isinf(rows[:, _SQUARE]).any() or (rows[:, _SQUARE] < 0).any()
                ),
            },
        )
        self._rows[: self._labels] = rows
