"""What a challenger predicts: a number, or the probabilities of declared classes of which its labels showed some."""

from dataclasses import dataclass

import numpy as np

from worker.core.kernels import boosting
from worker.core.kernels.arrays import F64
from worker.core.state import refuse_if

CLASSES_MAX = 1_000
_TWO = 2


@dataclass(frozen=True, slots=True)
class Target:
    """A number (no classes), or one of `n_classes` classes with the codes 0, 1, ... Raises ValueError for others."""

    n_classes: int
    """0 for regression."""
    classes: tuple[int, ...]
    """The codes, ascending, that were among the labels; empty for regression. Others have the probability 0."""

    def __post_init__(self) -> None:
        ascending = tuple(sorted(set(self.classes)))
        refuse_if(
            "target of a challenger",
            {
                f"there are 0 (regression) to {CLASSES_MAX} classes": not 0 <= self.n_classes <= CLASSES_MAX,
                "no class was seen, or regression has one": (self.n_classes > 0) != (len(self.classes) > 0),
                "the classes do not ascend": ascending != self.classes,
                "a class is not declared": any(not 0 <= code < self.n_classes for code in self.classes),
            },
        )

    @property
    def n_raw(self) -> int:
        """Number of raw outputs: one for a number and for two classes, else one for each class that was seen."""
        return 1 if len(self.classes) in {0, _TWO} else len(self.classes)

    @property
    def n_outputs(self) -> int:
        """Number of columns of what a challenger predicts."""
        return max(self.n_classes, 1)

    def outputs(self, raw: F64) -> F64:
        """Return the predictions of raw outputs [n, n_raw]: numbers [n, 1], or probabilities [n, n_classes].

        Two classes have the logistic function, more have the softmax; a single one has the probability 1.
        """
        if not self.classes:
            return raw
        seen = np.empty((len(raw), len(self.classes)))
        link = boosting.logistic if len(self.classes) == _TWO else boosting.softmax
        link(raw, seen)
        if len(self.classes) == self.n_classes:
            return seen
        outputs = np.zeros((len(raw), self.n_classes))
        outputs[:, list(self.classes)] = seen
        return outputs
