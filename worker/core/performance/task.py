"""What a model does, told by the configuration or by its first labelled events: binary, multiclass, regression.

Labels and predictions become class codes here. What does not fit the task is a fact about the data, never an error.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal

import numpy as np
from msgspec import Struct

from worker.core.kernels.arrays import F64, I8, I16, Bool
from worker.core.options import ModelPerformanceOptions
from worker.core.performance.values import OTHER, Names
from worker.core.scanning import BOOLEAN, NUMBER, TEXT

TaskName = Literal["binary", "multiclass", "regression"]
Mode = Literal["text", "boolean", "number", "score", "text_score", "value"]

ANOTHER = "(another)"
_BOOLEANS = ("false", "true")
_DIGITS = ("0", "1")
_POSITIVE_SCORE = 2
_BOTH_CODES = 1 + 2
_EXPONENT_MAX = 900
_WHOLE_MAX = 2.0**53
_SUM_ERROR_MAX = 0.02
"""Of probabilities that should add up to 1."""


class Quality(IntEnum):
    """Facts about labels that do not fit, counted for each model."""

    UNKNOWN_CLASS = 0
    """A label that is none of the classes: it counts as `(other)`."""
    LABEL_KIND = 1
    """A label of a kind that the task cannot have (a text for a number, a number for a class): not used."""
    PREDICTION_KIND = 2
    """The same of a prediction, noticed when its label came: not used."""
    PROBABILITIES = 3
    """Probabilities that do not add up to 1 within 2 %, or are of no known class: the event has no score."""
    CLIPPED = 4
    """A value further than 2^60 units from the usual ones: cut to that."""


class Task(Struct, frozen=True, forbid_unknown_fields=True):
    """A task, and how values become classes; numbers are scaled for exact sums.

    Modes: `text`, `boolean` and `number` are classes as they are; `score` and `text_score` are probabilities of the
    positive class of labels that are booleans or 0 and 1, or texts; `value` is no class.
    """

    name: TaskName
    mode: Mode
    center: float = 0.0
    unit: float = 1.0

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers to be met."""
        return self.name == "regression"


class Pairs(Struct, frozen=True):
    """Labelled events (n) from which a task is inferred."""

    labels: F64
    label_kinds: I8
    predictions: F64
    prediction_kinds: I8


def infer_task(pairs: Pairs, texts: Names, columns: Names, options: ModelPerformanceOptions) -> Task:
    """Return the task of a model.

    Labels: texts are classes, booleans are two classes. Numbers are classes if predictions are texts or booleans, or
    come with probabilities; two classes if all are 0 or 1 and predictions are within [0, 1]; else they are values.
    A number as the prediction of two classes is the probability of the positive one, unless all are 0 or 1, or any
    is outside of [0, 1].
    """
    told = options.task
    label, prediction = _most(pairs.label_kinds), _most(pairs.prediction_kinds)
    if told == "regression" or (told == "auto" and _are_values(pairs, label, prediction, columns)):
        return Task("regression", "value", *_scale(pairs))
    if told == "multiclass":
        return Task("multiclass", "text" if TEXT in (label, prediction) else "number")
    if BOOLEAN in (label, prediction):
        return Task("binary", "boolean" if prediction != NUMBER else "score")
    if label == NUMBER and prediction == NUMBER:
        return _task_of_numbers(pairs, columns, told)
    known = max(len(texts), len(options.classes))
    if label == TEXT and prediction == NUMBER and (told == "binary" or known <= len(_DIGITS)):
        return Task("binary", "text_score")
    return Task("binary" if told == "binary" or known <= len(_DIGITS) else "multiclass", "text")


def _task_of_numbers(pairs: Pairs, columns: Names, told: str) -> Task:
    """Return the task where labels and predictions are numbers, but no values."""
    if told != "binary" and not _are_of_two(pairs) and not set(columns.names) <= set(_DIGITS):
        return Task("multiclass", "number")
    predictions = pairs.predictions[pairs.prediction_kinds == NUMBER]
    whole = np.isin(predictions, (0.0, 1.0)).all()
    return Task("binary", "number" if whole or not _are_shares(predictions) else "score")


def _most(kinds: I8) -> int:
    return int(np.bincount(kinds).argmax())


def _are_values(pairs: Pairs, label: int, prediction: int, columns: Names) -> bool:
    return label == NUMBER and prediction == NUMBER and not len(columns) and not _are_of_two(pairs)


def _are_of_two(pairs: Pairs) -> bool:
    """Tell whether labels are 0 or 1, and predictions that as well, or between. A stray text is none of them."""
    labels = pairs.labels[pairs.label_kinds != TEXT]
    return bool(np.isin(labels, (0.0, 1.0)).all()) and _are_shares(pairs.predictions[pairs.prediction_kinds != TEXT])


def _are_shares(values: F64) -> bool:
    return bool((values >= 0.0).all() and (values <= 1.0).all())


def _number_name(value: float) -> str:
    """Return the name of a class that is a number: 7, not 7.0, and no two numbers have one name."""
    return str(int(value)) if value.is_integer() and abs(value) < _WHOLE_MAX else repr(value)


def _is_number_name(name: str) -> bool:
    try:
        return _number_name(float(name)) == name
    except ValueError:
        return False


def _scale(pairs: Pairs) -> tuple[float, float]:
    """Return a label in the middle, and a power of two that is about as large as labels and errors around it.

    Four times the upper quartile: one absurd label among the first ones must not make all others look alike.
    """
    used = (pairs.label_kinds == NUMBER) & (pairs.prediction_kinds == NUMBER)
    if not used.any():
        return 0.0, 1.0
    labels = np.sort(pairs.labels[used])
    center = float(labels[len(labels) // 2])
    with np.errstate(over="ignore"):
        sizes = np.maximum(np.abs(pairs.labels[used] - center), np.abs(pairs.predictions[used] - pairs.labels[used]))
        spread = 4.0 * np.sort(sizes)[3 * len(sizes) // 4] or sizes.max()
    _, exponent = np.frexp(min(float(spread), 2.0**_EXPONENT_MAX))
    return center, 2.0 ** max(int(exponent), -_EXPONENT_MAX) if spread > 0.0 else 1.0


class Classes:
    """The classes of a classification, and the class code of every value. Codes begin at 1; 0 is `(other)`."""

    def __init__(
        self,
        task: Task,
        options: ModelPerformanceOptions,
        classes_max: int,
        texts: Names,
        names: Sequence[str] = (),
    ) -> None:
        self._task = task
        self._threshold = options.threshold
        self._positive = options.positive
        self._declared = bool(options.classes)
        bound = 2 if task.name == "binary" else classes_max
        # Booleans are false and true, whatever they are called elsewhere.
        declared = () if task.mode in ("boolean", "score") else options.classes
        first = names or declared or self._fixed(texts)
        self.table = Names(bound)
        for name in first:
            if name == ANOTHER:
                self.table.reserve(name)
            else:
                self.table.add(name)
        self._of_text = np.zeros(1, dtype=np.int16)
        self._columns_known = 0

    def _fixed(self, texts: Names) -> tuple[str, ...]:
        """Return the classes that are there from the start."""
        if self._task.mode in ("boolean", "score"):
            return _BOOLEANS
        if self._task.mode == "text_score":
            positive = self._positive or (max(texts.names) if len(texts) > 1 else None)
            negative = next((name for name in texts.names if name != positive), None)
            return tuple(name for name in (negative, positive) if name is not None)
        return _DIGITS if self._task.name == "binary" and self._task.mode == "number" else ()

    @property
    def positive(self) -> int | None:
        """The code of the positive class of a binary task, once it is known."""
        if self._task.name != "binary":
            return None
        if self._is_score:
            return self._score_code
        for name in (self._positive, "true", "1"):
            code = 0 if name is None else self.table.find(name) or self._alias(name)
            if code:
                return code
        names = [name for name in self.table.names if name != ANOTHER]
        return self.table.find(max(names)) if len(names) > 1 else None

    @property
    def _is_score(self) -> bool:
        return self._task.mode in ("score", "text_score")

    @property
    def _score_code(self) -> int:
        """The class that a score is the probability of, now and for good: the positive one, or else the second."""
        told = self._positive
        code = OTHER if told is None else self.table.find(told) or self._alias(told)
        return code or _POSITIVE_SCORE

    def learn(self, texts: Names, columns: Names) -> None:
        """Give a class to each text, and each name with a probability, that has none yet, in order of appearance.

        Names with a probability become classes at once: what an event contributes must not change with later ones.
        """
        known = len(self._of_text) - 1
        open_ended = not self._declared and self._task.mode in ("text", "number", "text_score")
        if len(texts) > known:
            new = [self._text_code(name, open_ended=open_ended) or self._alias(name) for name in texts.names[known:]]
            self._of_text = np.append(self._of_text, np.array(new, dtype=np.int16))
        if open_ended and len(columns) > self._columns_known:
            for name in columns.names[self._columns_known :]:
                self.table.add(name)
            self._columns_known = len(columns)

    def _text_code(self, name: str, *, open_ended: bool) -> int:
        if not open_ended:
            return self.table.find(name)
        # Among numbers a text is a class only if it is one: that must not depend on which classes are known by then.
        return self.table.add(name) if self._task.mode != "number" or _is_number_name(name) else OTHER

    def _alias(self, name: str) -> int:
        """Return the class that another spelling of a boolean means."""
        folded = name.casefold()
        if tuple(self.table.names[:2]) == _BOOLEANS:
            return self.table.find(_BOOLEANS[_DIGITS.index(folded)] if folded in _DIGITS else folded)
        return OTHER

    def codes(self, values: F64, kinds: I8) -> tuple[I16, Bool]:
        """Return the class code of each value (n), and whether it is of a kind that can be one."""
        if (kinds == TEXT).all():
            return self._of_text[np.maximum(values, 0.0).astype(np.int64)], np.ones(len(values), dtype=np.bool)
        codes, usable = np.zeros(len(values), dtype=np.int16), np.ones(len(values), dtype=np.bool)
        if len(values):
            # Only the first value can be a new class (`first_new`); the others are looked up once each.
            self._code(float(values[0]), int(kinds[0]))
        for kind in np.unique(kinds).tolist():
            rows = np.flatnonzero(kinds == kind)
            distinct, places = np.unique(values[rows], return_inverse=True)
            found = [self._code(value, kind) for value in distinct.tolist()]
            codes[rows] = np.array([OTHER if code is None else code for code in found], dtype=np.int16)[places]
            usable[rows] = np.array([code is not None for code in found], dtype=np.bool)[places]
        return codes, usable

    def prediction_codes(self, values: F64, kinds: I8) -> tuple[I16, Bool]:
        """Return the same of predictions: a number may be the probability of the positive class."""
        if not self._is_score:
            return self.codes(values, kinds)
        positive = self._score_code
        codes = np.where(values >= self._threshold, positive, _BOTH_CODES - positive).astype(np.int16)
        return codes, kinds == NUMBER

    @property
    def has_another(self) -> bool:
        """Whether `another` was asked for before."""
        return bool(self.table.find(ANOTHER))

    def another(self) -> int:
        """Return the code of predictions that are none of the classes, for events whose label is yet another such one.

        Without it, they would pass for right answers.
        """
        return self.table.reserve(ANOTHER)

    def first_new(self, values: F64, kinds: I8) -> int | None:
        """Return the first of some values (n) that would become a new class; None if there is none."""
        if self._task.mode != "number" or self._declared:
            return None
        return self.table.first_new(
            None if kind == TEXT else _number_name(value)
            for value, kind in zip(values.tolist(), kinds.tolist(), strict=True)
        )

    def _code(self, value: float, kind: int) -> int | None:
        if kind == TEXT:
            return int(self._of_text[max(int(value), 0)])
        if self._task.mode in ("text", "text_score"):
            # A number that is written like a class is that class; any other is a mistake.
            return self.table.find(_number_name(value) if kind == NUMBER else _BOOLEANS[int(value)]) or None
        if self._task.mode in ("boolean", "score"):
            return self.table.find(_BOOLEANS[int(value)]) if value in (0.0, 1.0) else OTHER
        add = self.table.find if self._declared else self.table.add
        return add(_number_name(value))

    def probabilities(self, width: int, rows: F64, columns: Names, values: F64, kinds: I8) -> tuple[F64, Bool]:
        """Return probabilities by class (n x width; NaN in the first: none), and which rows had unusable ones.

        Args:
            width: at least 2, and at least the number of classes.
            rows: n x columns, NaN in a row without any.
            columns: the names of the classes in the columns.
            values: predictions (n), which are themselves the probability of the positive class in mode `score`.
            kinds: of the predictions (n).
        """
        if rows.shape[1] == 0:
            return self._own_scores(width, values, kinds)
        places = [self._column(name, columns) for name in self.table.names]
        found = np.zeros((len(rows), width))
        for code, place in enumerate(places):
            if place is not None:
                found[:, code] = rows[:, place]
        given = ~np.isnan(rows[:, 0])
        # Summed from left to right, unlike `sum`: classes that come later change no bit.
        total = rows.cumsum(axis=1)[:, -1]
        with np.errstate(invalid="ignore"):
            off = given & ~(np.abs(total - 1.0) <= _SUM_ERROR_MAX)
        known = [(place, code) for code, place in enumerate(places[:2]) if place is not None]
        if self._task.name == "binary" and known:
            # Of two classes one probability is enough, and it is always that of the same class.
            place, code = min(known)
            found[:, code], found[:, 1 - code] = rows[:, place], 1.0 - rows[:, place]
            bad = off & (total > rows[:, place])
        else:
            bad = off | (given & (places.count(None) == len(places)))
        found[~given | bad, 0] = np.nan
        if self._is_score and not given.all():
            own, own_bad = self._own_scores(width, values, kinds)
            found[~given], bad = own[~given], np.where(given, bad, own_bad)
        return found, bad

    def _own_scores(self, width: int, values: F64, kinds: I8) -> tuple[F64, Bool]:
        found = np.full((len(values), width), np.nan)
        usable = (kinds == NUMBER) & (values >= 0.0) & (values <= 1.0)
        if not self._is_score:
            return found, np.zeros(len(values), dtype=np.bool)
        positive = self._score_code
        found[usable, positive - 1] = values[usable]
        found[usable, _BOTH_CODES - positive - 1] = 1.0 - values[usable]
        return found, ~usable

    def _column(self, name: str, columns: Names) -> int | None:
        code = columns.find(name)
        if not code and name in _BOOLEANS:
            others = (name.capitalize(), name.upper(), _DIGITS[_BOOLEANS.index(name)])
            code = next((columns.find(other) for other in others if columns.find(other)), OTHER)
        return code - 1 if code else None
