"""What limits and calibration are looked at by after every few labels: the very numbers that all formulas give."""

from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.test_classification import figures_of
from worker.core.performance.classification import classification_metrics
from worker.core.performance.confusion import OF_COUNTS, Counts, estimates_of_counts
from worker.core.performance.formulas import Formulas
from worker.core.performance.layout import Layout, Tally
from worker.core.performance.task import Classes, Task

Z = 3.0902323061678132
MATRICES = st.integers(1, 6).flatmap(
    lambda k: st.lists(st.sampled_from([0, 0, 0, 1, 2, 30, 4_000]), min_size=(k + 1) ** 2, max_size=(k + 1) ** 2)
)


@given(cells=MATRICES, room=st.integers(0, 3), positive=st.booleans(), design=st.sampled_from([1.0, 1.75]))
@settings(max_examples=300, deadline=None)
def test_the_quick_estimates_are_the_usual_ones(cells: list[int], room: int, positive: bool, design: float) -> None:  # noqa: FBT001 - drawn
    """To the last bit: wherever the matrix lies in a tally, and whatever its cells say."""
    width = int(len(cells) ** 0.5)
    matrix = np.array(cells, dtype=np.float64).reshape(width, width)
    nobody = np.zeros(0, dtype=np.int64)
    figures = figures_of(nobody, nobody, n_classes=width - 1, binary=positive and width > 2)
    figures = figures._replace(confusion=matrix, design=design)
    expected = classification_metrics(figures, Z, names=OF_COUNTS)
    counts = np.full(7 + (width + room) ** 2, 9.0)
    inside = counts[7:].reshape(width + room, width + room)
    inside[:width, :width] = matrix
    found = estimates_of_counts(Counts(counts, 7, width + room, width, figures.positive, design), Z, OF_COUNTS)
    assert found == expected


class _Named:
    """Classes of a binary task whose names are known."""

    def __init__(self, positive: int) -> None:
        self.positive = positive
        self.table = type("Table", (), {"names": ["a", "b"], "__len__": lambda _: 2})()


@pytest.mark.parametrize("positive", [1, 2])
def test_calibration_of_a_window_is_that_of_all_formulas(positive: int) -> None:
    """Of the positive class, whichever the score is of."""
    task = Task("binary", "text")
    layout = Layout.of(task, 2, has_scores=True)
    rng = np.random.default_rng(positive)
    tally = Tally(rng.poisson(0.4, layout.counts).astype(np.float64), np.ones(layout.sums), 1.5)
    formulas = Formulas(task, cast("Classes", _Named(positive)))
    names = ("calibration_in_the_large", "calibration_slope")
    found = formulas.of_calibration(tally, layout, Z)
    assert found == formulas.estimates(tally, layout, Z, names)
    assert all(estimate.low is not None for estimate in found.values())
    without = Layout.of(task, 2, has_scores=False)
    assert formulas.of_calibration(Tally(tally.counts[: without.counts], np.zeros(0)), without, Z) == {}


def test_a_negative_cell_counts_as_none() -> None:
    """Stored state that was tampered with does not end the worker."""
    counts = np.array([0.0, 0.0, 0.0, 0.0, 5.0, -3.0, 0.0, 1.0, 4.0])
    found = estimates_of_counts(Counts(counts, 0, 3, 3, 2, 1.0), Z, ["accuracy", "precision"])
    assert (found["accuracy"].value, found["precision"].value) == (0.9, 1.0)
