"""What a labelled event is to the shadow pool: the model's output as numbers, and what came true.

The task is that of performance monitoring. Of two classes the output is the probability of the positive one; of more,
those of the classes that were known when the pool began. Without probabilities there is only the decision.
"""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from msgspec import Struct

from worker.core.kernels import shadow
from worker.core.kernels.arrays import F64, Bool
from worker.core.performance.batch import Labelled
from worker.core.performance.ledger import Ledger
from worker.core.performance.task import ANOTHER
from worker.core.performance.values import Names
from worker.core.scanning import NUMBER
from worker.core.state import refuse_if

TaskName: TypeAlias = Literal["binary", "multiclass", "regression"]
LossName: TypeAlias = Literal["brier", "error", "squared_error"]
LOSS_CODES: dict[LossName, int] = {"brier": shadow.BRIER, "error": shadow.ERROR, "squared_error": shadow.SQUARED}
NUMBER_MAX = 1e30
"""Numbers count as no larger: their squares are finite."""
_TWO = 2
_STORED = "stored subject of a pool"


class Sides(NamedTuple):
    """Labelled events (n) as both sides of a loss.

    `outputs` f64[n, K] what the model said, NaN where it gave no probabilities; `targets` f64[n] the class (0 .. K - 1)
    or the number, NaN for a class that is not known; `wrong` f64[n] 0 or 1, whether its decision was wrong (of numbers
    NaN); `usable` bool[n] whether label and prediction fit the task at all.
    """

    outputs: F64
    targets: F64
    wrong: F64
    usable: Bool


class Subject(Struct, frozen=True, forbid_unknown_fields=True):
    """What the pool works on; fixed when it begins."""

    task: TaskName
    classes: tuple[str, ...]
    """In the order of codes 0, 1, ...; of two classes the second one is the positive one. Empty for numbers."""
    codes: tuple[int, ...]
    """Their codes in performance monitoring."""
    has_probabilities: bool
    loss: LossName
    scale: float
    """Of squared errors: a loss is the error's square divided by it, at most 1."""

    @property
    def outputs(self) -> int:
        """How many numbers an output has."""
        return len(self.classes) if self.task == "multiclass" else 1

    @property
    def n_classes(self) -> int:
        """How many classes a challenger tells apart; 0 for numbers."""
        return len(self.classes)


def known_classes(ledger: Ledger) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """Return the names and codes of the classes known now; None while there are less than two."""
    classes = ledger.classes
    if classes is None:
        return (), ()
    # What stands for all other classes is none that a model could answer with.
    names = {code: name for code, name in enumerate(classes.table.names, start=1) if name != ANOTHER}
    codes = tuple(names)
    if ledger.task.name == "binary":
        positive = classes.positive
        if positive is None:
            return None
        codes = (*(code for code in codes if code != positive), positive)
    return None if len(codes) < _TWO else (tuple(names[code] for code in codes), codes)


def check_subject(subject: Subject, ledger: Ledger | None) -> None:
    """Refuse a stored subject that the books do not go with; ValueError, with the reason."""
    refuse_if(_STORED, {"there are no books": ledger is None})
    if ledger is None:
        return
    names, codes = known_classes(ledger) or ((), ())
    count, is_number = len(subject.classes), subject.task == "regression"
    refuse_if(
        _STORED,
        {
            "it is another task": subject.task != ledger.task.name,
            # Classes may have come since.
            "its classes are others": (subject.classes, subject.codes) != (names[:count], codes[:count]),
            "there are too few classes": not is_number and count < _TWO,
            "its loss is another task's": is_number != (subject.loss == "squared_error"),
            "its loss needs probabilities": subject.loss == "brier" and not subject.has_probabilities,
            "numbers have no probabilities": is_number and subject.has_probabilities,
            "its scale is out of range": not 0.0 < subject.scale < np.inf,
        },
    )


def sides(batch: Labelled, ledger: Ledger, columns: Names, subject: Subject) -> Sides:
    """Return both sides of labelled events."""
    if ledger.classes is None:
        return _numbers(batch)
    classes = ledger.classes
    labels, label_ok = classes.codes(batch.labels, batch.label_kinds)
    predictions, prediction_ok = classes.prediction_codes(batch.predictions, batch.prediction_kinds)
    wide, _ = classes.probabilities(
        max(len(classes.table), _TWO), batch.probabilities, columns, batch.predictions, batch.prediction_kinds
    )
    targets = np.full(batch.size, np.nan)
    for place, code in enumerate(subject.codes):
        targets[labels == code] = place
    absent = np.isnan(wide[:, :1])
    columns_used = [code - 1 for code in (subject.codes if subject.task == "multiclass" else subject.codes[1:])]
    outputs = np.where(absent, np.nan, wide[:, columns_used])
    wrong = (labels != predictions).astype(np.float64)
    return Sides(outputs, targets, wrong, label_ok & prediction_ok)


def _numbers(batch: Labelled) -> Sides:
    usable = (batch.label_kinds == NUMBER) & (batch.prediction_kinds == NUMBER)
    outputs = np.clip(batch.predictions, -NUMBER_MAX, NUMBER_MAX)[:, np.newaxis]
    targets = np.clip(batch.labels, -NUMBER_MAX, NUMBER_MAX)
    return Sides(outputs, targets, np.full(batch.size, np.nan), usable)


class FirstLook(NamedTuple):
    """What the first labelled events (n) show: whether there were probabilities; squared errors of numbers, or NaN."""

    given: Bool
    squares: F64


def first_look(batch: Labelled, ledger: Ledger, columns: Names) -> FirstLook:
    """Look at labelled events before it is known what the pool will work on."""
    if ledger.classes is None:
        numbers = _numbers(batch)
        squares = np.where(numbers.usable, (numbers.outputs[:, 0] - numbers.targets) ** 2, np.nan)
        return FirstLook(np.zeros(batch.size, dtype=np.bool), squares)
    wide, _ = ledger.classes.probabilities(
        max(len(ledger.classes.table), _TWO), batch.probabilities, columns, batch.predictions, batch.prediction_kinds
    )
    return FirstLook(~np.isnan(wide[:, 0]), np.full(batch.size, np.nan))
