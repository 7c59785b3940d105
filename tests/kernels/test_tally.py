"""Tallies: bins and buckets as declared, naive sums as the twin of the kernels, and rows that leave no trace."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.kernels import tally as k
from worker.core.kernels.arrays import F64, I16, I64
from worker.core.kernels.exact_sum import LOWEST_BIT
from worker.core.performance.layout import ERROR_BOUNDS, LAG_MIDDLES, Layout, exact_values
from worker.core.performance.tallies import Rows
from worker.core.performance.task import Task

UNIT = float(2.0**LOWEST_BIT)
BINARY, MULTICLASS = Task("binary", "text"), Task("multiclass", "text")
REGRESSION = Task("regression", "value", center=10.0, unit=4.0)
PROBABILITIES = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 2.0**-17, 1e-300]))
NUMBERS = st.one_of(st.floats(-1e3, 1e3), st.floats(-1.7e308, 1.7e308), st.sampled_from([0.0, 5e-324, 10.0, -1e200]))


@given(st.lists(PROBABILITIES, min_size=2, max_size=30))
@settings(max_examples=200, deadline=None)
def test_bins_of_scores_rise_with_them(values: list[float]) -> None:
    """A larger probability is never in a lower bin, and all bins are within bounds."""
    bins = [k.score_bin(value) for value in sorted(values)]
    assert bins == sorted(bins)
    assert 0 <= bins[0] <= bins[-1] < k.SCORE_BINS


@given(st.integers(0, 2**53).filter(lambda n: n != 2**52))
@settings(max_examples=300, deadline=None)
def test_bins_of_scores_are_symmetric(n: int) -> None:
    """P and 1 - p are in mirrored bins, wherever 1 - p is exact; only 0.5 itself has but one side."""
    p = n / 2**53
    assert k.score_bin(p) + k.score_bin(1.0 - p) == k.SCORE_BINS - 1


def test_bins_of_scores_are_four_to_an_octave() -> None:
    """Every bin below 0.5 is as wide as a quarter of its octave, and all of them are met."""
    half = k.SCORE_BINS // 2
    lows = [2.0**-octave * (1 + step / 4) for octave in range(17, 1, -1) for step in range(4)]
    assert [k.score_bin(low) for low in lows] == list(range(half))
    assert [k.score_bin(math.nextafter(low, 0.0)) for low in lows[1:]] == list(range(half - 1))
    assert (k.score_bin(0.0), k.score_bin(0.5), k.score_bin(1.0)) == (0, half - 1, k.SCORE_BINS - 1)
    bins = np.empty(3, dtype=np.int64)
    k.bin_scores(np.array([0.0, np.nan, 0.9]), bins)
    assert bins.tolist() == [0, -1, k.score_bin(0.9)]


@given(st.one_of(st.floats(0.0, 2.0**60), st.floats(0.0, 1e-6), st.sampled_from([float(x) for x in ERROR_BOUNDS])))
@settings(max_examples=500, deadline=None)
def test_an_error_is_within_the_bounds_of_its_bucket(error: float) -> None:
    """The bucket of an error begins at or below it and ends above it; the last one has no end."""
    bucket = k.octave_bucket(error, k.ERROR_LOW_OCTAVE, k.ERROR_OCTAVES, k.ERROR_STEPS)
    assert 0 <= bucket < k.ERROR_BUCKETS
    assert len(ERROR_BOUNDS) == k.ERROR_BUCKETS + 1
    assert ERROR_BOUNDS[bucket] <= error
    assert error < ERROR_BOUNDS[bucket + 1] or bucket == k.ERROR_BUCKETS - 1


@given(st.one_of(st.integers(-5, 100), st.integers(1, 2**37 - 1)))
@settings(max_examples=500, deadline=None)
def test_a_lag_is_near_the_middle_of_its_bucket(lag_ms: int) -> None:
    """What is told of a lag is within 1/16 of it; a lag of 0 or less is told as 0."""
    buckets: I16 = np.empty(1, dtype=np.int16)
    k.bucket_lags(np.array([lag_ms]), buckets)
    assert LAG_MIDDLES[buckets[0]] == pytest.approx(max(lag_ms, 0), rel=1 / 16)


def test_lags_beyond_the_last_bucket_are_in_it() -> None:
    """Four years and four hundred are told apart from nothing longer."""
    buckets: I16 = np.empty(3, dtype=np.int16)
    k.bucket_lags(np.array([2**37 - 1, 2**37, 2**62]), buckets)
    assert buckets.tolist() == [k.LAG_BUCKETS - 1] * 3
    assert len(LAG_MIDDLES) == k.LAG_BUCKETS


class Tallied:
    """Two tallies of a task, and rows added to them."""

    def __init__(self, task: Task, layout: Layout) -> None:
        self.task, self.layout = task, layout
        self.counts = np.zeros((2, layout.counts), dtype=np.int32)
        self.sums = np.zeros((2, layout.sums, layout.lanes), dtype=np.int64)

    def add(self, slots: I64, rows: Rows) -> None:
        """Add rows in their order."""
        into, nowhere = (k.Target(self.counts, self.sums, each) for each in (slots, np.full(len(slots), -1)))
        common = (nowhere, nowhere, into), rows.signs, rows.lag_buckets
        if self.task.is_regression:
            labels, predictions = (np.asarray(each, dtype=np.float64) for each in (rows.labels, rows.predictions))
            k.add_numbers(*common, labels, predictions, self.task.center, self.task.unit, self.layout.at)
        else:
            codes, others = (np.asarray(each, dtype=np.int16) for each in (rows.labels, rows.predictions))
            k.add_classes(*common, codes, others, rows.probabilities, self.layout.at)

    def of(self, slot: int, name: int, length: int) -> list[int]:
        """A part of the counts."""
        begin = int(self.layout.at[name])
        found: list[int] = self.counts[slot, begin : begin + length].tolist()
        return found


@st.composite
def class_rows(draw: st.DrawFn, codes: int, width: int) -> tuple[I64, Rows]:
    """Rows of a classification with codes 0 to `codes`, some without probabilities, some in no slot."""
    count = draw(st.integers(0, 25))

    def column(each: st.SearchStrategy[Any], dtype: type) -> Any:  # noqa: ANN401 - of the type asked for
        return np.array(draw(st.lists(each, min_size=count, max_size=count)), dtype=dtype)

    cells = column(st.lists(PROBABILITIES, min_size=width, max_size=width), np.float64).reshape(count, width)
    cells[column(st.booleans(), np.bool), 0] = np.nan
    lags = column(st.integers(0, k.LAG_BUCKETS - 1), np.int16)
    code = st.integers(0, codes)
    rows = Rows(np.ones(count, np.int8), lags, column(code, np.int16), column(code, np.int16), cells)
    return column(st.integers(-1, 1), np.int64), rows


@st.composite
def number_rows(draw: st.DrawFn) -> tuple[I64, Rows]:
    """Rows of a regression, some of them absurd."""
    parts = draw(
        st.lists(st.tuples(st.integers(-1, 1), st.integers(0, k.LAG_BUCKETS - 1), NUMBERS, NUMBERS), max_size=25)
    )
    slots, lags, labels, predictions = (np.array([part[at] for part in parts]) for at in range(4))
    numbers = labels.astype(np.float64), predictions.astype(np.float64)
    rows = Rows(np.ones(len(parts), np.int8), lags.astype(np.int16), *numbers, np.zeros((len(parts), 0)))
    return slots.astype(np.int64), rows


def assert_sums(found: F64, terms: list[list[float]]) -> None:
    """Exact sums are those of their terms, which lose what is below 2^-96 of each."""
    for value, each in zip(found.tolist(), terms, strict=True):
        assert value == pytest.approx(math.fsum(each), rel=1e-15, abs=len(each) * UNIT)


def naive_class_sums(rows: list[tuple[int, int, list[float]]], *, binary: bool) -> list[list[float]]:
    """The terms of each sum, of rows that have probabilities: label, prediction, probabilities."""
    terms: list[list[float]] = [[] for _ in range(k.CLASS_SUMS)]
    for label, prediction, cells in rows:
        loss = -math.log(min(max(cells[label - 1], 2.0**-52), 1.0 - 2.0**-52))
        hits = [float(label == code) for code in range(1, len(cells) + 1)]
        squares = [(p - hit) ** 2 for p, hit in zip(cells, hits, strict=True)]
        brier = squares[1] if binary else sum(squares)
        sure = cells[prediction - 1] if prediction else 0.0
        place = min(int(sure * k.CALIBRATION_BINS), k.CALIBRATION_BINS - 1)
        numbers = {k.LOG_LOSS: loss, k.LOG_LOSS_SQUARES: loss**2, k.BRIER: brier, k.BRIER_SQUARES: brier**2}
        for at, number in (numbers | {k.CONFIDENCE + place: sure}).items():
            terms[at].append(number)
    return terms


def assert_classes(task: Task, slots: I64, rows: Rows, layout: Layout) -> None:
    """Compare every count and every sum of both slots with numpy's and fsum's."""
    tallied = Tallied(task, layout)
    tallied.add(slots, rows)
    width, binary = layout.classes + 1, task.name == "binary"
    for slot in (0, 1):
        mine = slots == slot
        labels, predictions, cells = rows.labels[mine], rows.predictions[mine], rows.probabilities[mine]
        lags = np.bincount(rows.lag_buckets[mine], minlength=k.LAG_BUCKETS)
        table = np.zeros((width, width), dtype=np.int64)
        np.add.at(table, (labels.astype(np.int64), predictions.astype(np.int64)), 1)
        assert tallied.of(slot, k.LABELLED, 1) == [mine.sum()]
        assert tallied.of(slot, k.LAG, k.LAG_BUCKETS) == lags.tolist()
        assert tallied.of(slot, k.CONFUSION, width * width) == table.ravel().tolist()
        if not layout.has_scores:
            continue
        scored = (labels != 0) & ~np.isnan(cells[:, 0])
        labels, predictions, cells = labels[scored], predictions[scored], cells[scored]
        codes = [2] if binary else list(range(1, layout.classes + 1))
        scores = np.zeros((len(codes), 2, k.SCORE_BINS), dtype=np.int64)
        calibration = np.zeros((k.CALIBRATION_BINS, 2), dtype=np.int64)
        for label, prediction, row in zip(labels, predictions, cells, strict=True):
            for place, code in enumerate(codes):
                scores[place, int(label == code), k.score_bin(row[code - 1])] += 1
            sure = row[prediction - 1] if prediction else 0.0
            calibration[min(int(sure * 15), 14)] += 1, label == prediction
        assert tallied.of(slot, k.SCORED, 1) == [scored.sum()]
        assert tallied.of(slot, k.SCORES, scores.size) == scores.ravel().tolist()
        assert tallied.of(slot, k.CALIBRATION, calibration.size) == calibration.ravel().tolist()
        plain = list(zip(labels.tolist(), predictions.tolist(), cells.tolist(), strict=True))
        assert_sums(exact_values(tallied.sums[slot]), naive_class_sums(plain, binary=binary))


@given(class_rows(3, 3))
@settings(max_examples=150, deadline=None)
def test_two_classes_are_counted_as_a_naive_twin_counts(case: tuple[I64, Rows]) -> None:
    """Labels, lags, the confusion matrix with a third code, scores of code 2, calibration, losses and Brier scores."""
    assert_classes(BINARY, *case, Layout.of(BINARY, 2, has_scores=True))


@given(class_rows(6, 8))
@settings(max_examples=150, deadline=None)
def test_classes_are_counted_as_a_naive_twin_counts(case: tuple[I64, Rows]) -> None:
    """The same of several classes, each with scores of its own, with and without scores."""
    assert_classes(MULTICLASS, *case, Layout.of(MULTICLASS, 6, has_scores=True))
    assert_classes(MULTICLASS, *case, Layout.of(MULTICLASS, 6, has_scores=False))


@given(number_rows())
@settings(max_examples=200, deadline=None)
def test_numbers_are_counted_as_a_naive_twin_counts(case: tuple[I64, Rows]) -> None:
    """All counts and sums of a regression, with values cut to 2^60 units and counted as such."""
    (slots, rows), layout = case, Layout.of(REGRESSION, 0, has_scores=False)
    tallied = Tallied(REGRESSION, layout)
    tallied.add(slots, rows)
    for slot in (0, 1):
        mine = slots == slot
        labels, predictions = rows.labels[mine], rows.predictions[mine]
        with np.errstate(over="ignore"):
            raw = predictions - labels
            y, error = (labels - 10.0) / 4.0, raw / 4.0
            share = np.abs(raw[labels != 0.0] / labels[labels != 0.0])
        clipped = (np.abs(y) > 2.0**60) | (np.abs(error) > 2.0**60)
        y, error, share = (
            np.clip(y, -(2.0**60), 2.0**60),
            np.clip(error, -(2.0**60), 2.0**60),
            np.minimum(share, 2.0**60),
        )
        buckets = np.searchsorted(ERROR_BOUNDS[:-1], np.abs(error), side="right") - 1
        assert tallied.of(slot, k.LABELLED, 1) == [mine.sum()]
        lags = np.bincount(rows.lag_buckets[mine], minlength=k.LAG_BUCKETS)
        assert tallied.of(slot, k.LAG, k.LAG_BUCKETS) == lags.tolist()
        errors = np.bincount(buckets, minlength=k.ERROR_BUCKETS)
        assert tallied.of(slot, k.ERRORS, k.ERROR_BUCKETS) == errors.tolist()
        assert tallied.of(slot, k.NON_ZERO, 1) == [(labels != 0.0).sum()]
        assert tallied.of(slot, k.CLIPPED, 1) == [clipped.sum()]
        squared, y2 = error**2, y**2
        terms = [error, np.abs(error), squared, squared**2, y, y2, y2 * y, y2 * y2, squared * y, squared * y2]
        assert_sums(exact_values(tallied.sums[slot]), [each.tolist() for each in [*terms, share, share**2]])


def assert_leaves_no_trace(task: Task, layout: Layout, slots: I64, rows: Rows, seed: int) -> None:
    """Add rows in their order and in another, compare, and take all of them away in a third."""
    rng = np.random.default_rng(seed)
    one, other = Tallied(task, layout), Tallied(task, layout)
    one.add(slots, rows)
    order = rng.permutation(len(slots))
    other.add(slots[order], rows.part(order))
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_array_equal(one.sums, other.sums)
    order = rng.permutation(len(slots))
    away = rows.part(order)
    away.signs = -away.signs
    one.add(slots[order], away)
    assert not one.counts.any()
    assert not one.sums.any()


@given(case=class_rows(3, 3), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_classes_that_are_taken_away_leave_no_trace(case: tuple[I64, Rows], seed: int) -> None:
    """In any order, rows of a classification add up to equal bits, and taken away to exactly nothing."""
    assert_leaves_no_trace(BINARY, Layout.of(BINARY, 2, has_scores=True), *case, seed)


@given(case=number_rows(), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_numbers_that_are_taken_away_leave_no_trace(case: tuple[I64, Rows], seed: int) -> None:
    """A label of 1e308 that is corrected leaves nothing behind, in any order."""
    assert_leaves_no_trace(REGRESSION, Layout.of(REGRESSION, 0, has_scores=False), *case, seed)
