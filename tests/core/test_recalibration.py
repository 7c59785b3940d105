"""Recalibration: wrong outputs are put right, right ones stay, and nothing is judged on what it was fitted on."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from worker.core.kernels.arrays import F64, I64
from worker.core.maintenance import recalibration_fits as fits
from worker.core.maintenance.block_estimates import block_jackknife
from worker.core.maintenance.recalibration import Candidate, Recalibration, Task
from worker.core.maintenance.recalibration_figures import applied, compared, published
from worker.core.metric_names import BINARY_METRICS
from worker.core.options.maintenance import RecalibrationOptions

OPTIONS = RecalibrationOptions(block_labels=100, fade=0.95, blocks_min=5, blocks_max=200)
DELAY = 300


class Stream(NamedTuple):
    """Outputs of a model and what came true."""

    outputs: F64
    targets: F64
    segments: I64


def binary(n: int, intercept: float, slope: float, seed: int = 1) -> Stream:
    """Return scores of which logit P = intercept + slope logit score."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, size=n)
    truth = 1.0 / (1.0 + np.exp(-intercept - slope * np.log(p / (1.0 - p))))
    return Stream(p[:, np.newaxis], (rng.random(n) < truth).astype(float), np.full(n, -1))


def classes(n: int, temperature: float, seed: int = 1) -> Stream:
    """Return probabilities of three classes, too sure of themselves if `temperature` is above 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3)) * 2.0
    truth, said = (np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in (logits / temperature, logits))
    targets = (truth.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 2)
    return Stream(said, targets.astype(float), np.full(n, -1))


def numbers(n: int, intercept: float, slope: float, by_segment: float = 0.0, seed: int = 1) -> Stream:
    """Return a regression whose truth is intercept + slope output, more in segment 1, less in segment 0."""
    rng = np.random.default_rng(seed)
    x, segments = rng.normal(10.0, 3.0, size=n), rng.integers(0, 2, size=n)
    truth = intercept + slope * x + by_segment * (2 * segments - 1) + rng.normal(size=n)
    return Stream(x[:, np.newaxis], truth, segments)


STREAMS: dict[Task, tuple[Stream, Stream]] = {
    "binary": (binary(4_000, 1.0, 0.4), binary(4_000, 0.0, 1.0)),
    "multiclass": (classes(4_000, 3.0), classes(4_000, 1.0)),
    "regression": (numbers(4_000, 5.0, 0.5), numbers(4_000, 0.0, 1.0)),
}
LOSS = {"binary": "log_loss", "multiclass": "log_loss", "regression": "rmse"}


def served(
    recalibration: Recalibration, stream: Stream, cuts: int = 100, delay: int = DELAY, upto: int | None = None
) -> F64:
    """Predict and learn late, in batches that take turns; return what a server would have said."""
    n = len(stream.targets) if upto is None else upto
    said, generations = np.empty_like(stream.outputs[:n]), np.empty(n, dtype=np.int64)
    for begin in range(0, n + delay, 100):
        end = min(begin + 100, n)
        if begin < n:
            said[begin:end] = recalibration.apply(stream.outputs[begin:end], stream.segments[begin:end])
            generations[begin:end] = recalibration.generation
        low, high = max(0, begin - delay), min(n, begin + 100 - delay)
        for start in range(low, high, cuts):
            rows = slice(start, min(start + cuts, high))
            recalibration.learn(
                stream.outputs[rows], stream.targets[rows], generations[rows], stream.segments[rows],
                np.arange(n)[rows],
            )  # fmt: skip
    return said


def _learn(recalibration: Recalibration, stream: Stream, begin: int, end: int) -> None:
    """Learn rows that were predicted at the very beginning."""
    outputs, targets = stream.outputs[begin:end], stream.targets[begin:end]
    generations = np.zeros(end - begin, dtype=np.int64)
    recalibration.learn(outputs, targets, generations, stream.segments[begin:end], np.arange(begin, end))


def of(task: Task, stream: Stream, *candidates: Candidate) -> Recalibration:
    """Return a recalibration for a stream."""
    return Recalibration(task, stream.outputs.shape[1], OPTIONS, candidates or None)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_wrong_outputs_are_put_right(task: Task) -> None:
    """What is published loses less, by an interval, on labels that it had not seen."""
    stream = STREAMS[task][0]
    recalibration = of(task, stream)
    served(recalibration, stream)
    figure = compared(task, recalibration.blocks(), 1.96)[LOSS[task]]
    assert figure.difference.high is not None
    assert figure.difference.high < 0.0
    assert figure.after.value == pytest.approx((figure.before.value or 0.0) + (figure.difference.value or 0.0))
    assert published(recalibration).method != "identity"


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_right_outputs_stay_nearly_as_they_are(task: Task) -> None:
    """Where nothing is to be gained, next to nothing is lost."""
    stream = STREAMS[task][1]
    recalibration = of(task, stream)
    served(recalibration, stream)
    figure = compared(task, recalibration.blocks(), 1.96)[LOSS[task]]
    assert (figure.difference.value or 0.0) <= 0.005 * (figure.before.value or 1.0)


def test_coefficients_are_those_of_the_stream() -> None:
    """The relation that made the labels is found."""
    stream = binary(9_000, 1.0, 0.4)
    recalibration = of("binary", stream, Candidate("platt", (8_000,)))
    served(recalibration, stream)
    coefficients = published(recalibration).coefficients
    assert coefficients["a"] == pytest.approx([1.0], abs=0.15)
    assert coefficients["b"] == pytest.approx([0.4], abs=0.1)


def test_a_bias_of_segments_is_found() -> None:
    """What is too low in one segment and too high in another is put right in both."""
    stream = numbers(4_000, 0.0, 1.0, by_segment=3.0)
    recalibration = of("regression", stream)
    served(recalibration, stream)
    found = published(recalibration)
    assert found.method == "segment_bias"
    assert found.coefficients["bias_of_segment"][:2] == pytest.approx([-3.0, 3.0], abs=0.3)


@pytest.mark.parametrize(
    ("task", "method", "windows"),
    [
        ("binary", "platt", (500, 1_000)),
        ("binary", "temperature", (1_000,)),
        ("binary", "beta", (1_000,)),
        ("binary", "isotonic", (1_000,)),
        ("multiclass", "temperature", (500, 1_000)),
        ("multiclass", "vector", (1_000,)),
        ("regression", "linear", (1_000,)),
        ("regression", "isotonic", (1_000,)),
        ("regression", "segment_bias", (1_000,)),
    ],
)
def test_three_lines_of_numpy_give_what_is_judged(task: Task, method: str, windows: tuple[int, ...]) -> None:
    """A server that applies the published coefficients says what the worker has judged."""
    stream = numbers(2_000, 3.0, 0.5, 3.0) if method == "segment_bias" else STREAMS[task][0]
    recalibration = of(task, stream, Candidate(method, windows))
    served(recalibration, stream, upto=2_000)
    found = published(recalibration)
    assert found.method == method
    assert found.first_offset is not None
    judged = recalibration.apply(stream.outputs[:40], stream.segments[:40])
    for row in range(40):
        assert applied(found, stream.outputs[row], int(stream.segments[row])) == pytest.approx(judged[row], rel=1e-9)


@given(cuts=st.integers(1, 100))
@settings(max_examples=6, deadline=None)
def test_how_labels_are_cut_changes_no_bit(cuts: int) -> None:
    """The state after any cutting is the same."""
    stream = STREAMS["binary"][0]
    states = []
    for size in (100, cuts):
        recalibration = of("binary", stream)
        served(recalibration, stream, cuts=size, upto=1_500)
        states.append(recalibration.arrays())
    for name, array in states[0].items():
        assert array.tobytes() == states[1][name].tobytes(), name


def test_batches_that_are_cut_at_the_room_hold_one_step_at_most() -> None:
    """So each publication can be told with its own coefficients, at the last row of its batch."""
    stream = STREAMS["binary"][0]
    recalibration, at, steps = of("binary", stream), 0, 0
    while at < 2_000:
        end = at + min(recalibration.room, 37)
        found = recalibration.learn(
            stream.outputs[at:end], stream.targets[at:end], np.full(end - at, recalibration.generation),
            stream.segments[at:end], np.arange(at, end),
        )  # fmt: skip
        assert [step.row for step in found] in ([], [end - at - 1])
        assert not found or recalibration.room == 100
        steps, at = steps + len(found), end
    assert steps > 0


def test_a_label_is_judged_by_the_coefficients_of_its_prediction() -> None:
    """The sums of the published outputs are those of what was served when the events came."""
    stream = STREAMS["binary"][0]
    recalibration = of("binary", stream)
    said = served(recalibration, stream)
    brier = compared("binary", recalibration.blocks(), 1.96)["brier"]
    assert brier.after.value == pytest.approx(float(((said[:, 0] - stream.targets) ** 2).mean()))
    assert recalibration.late == 0


def test_a_label_of_a_forgotten_generation_judges_nothing() -> None:
    """It is counted, and what it was predicted with is taken for the model's own output."""
    stream = STREAMS["binary"][0]
    recalibration = Recalibration("binary", 1, RecalibrationOptions(generations_max=2))
    served(recalibration, stream, delay=2_000)
    assert recalibration.late > 0
    assert len(recalibration.blocks()) < len(stream.targets) // 100


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_one_class_alone_changes_nothing(target: float) -> None:
    """Of labels of one class nothing is learned."""
    stream = binary(2_000, 0.0, 1.0)._replace(targets=np.full(2_000, target))
    recalibration = of("binary", stream)
    said = served(recalibration, stream)
    assert (said == stream.outputs).all()


def test_few_labels_change_nothing() -> None:
    """Before there are blocks of losses of what was fitted, outputs stay as they are."""
    stream = STREAMS["binary"][0]
    recalibration = of("binary", stream)
    assert (served(recalibration, stream, upto=400) == stream.outputs[:400]).all()
    assert published(recalibration).method == "identity"
    assert recalibration.fitted_on() is None


@pytest.mark.parametrize(
    ("task", "candidate"),
    [
        ("multiclass", Candidate("isotonic", (500,))),
        ("binary", Candidate("isotonic", (500, 1_000))),
        ("binary", Candidate("linear", (500,))),
        ("regression", Candidate("linear", ())),
    ],
)
def test_a_candidate_that_cannot_be_is_refused(task: Task, candidate: Candidate) -> None:
    """Methods belong to tasks, and knots have no mean."""
    with pytest.raises(ValueError, match=candidate.method):
        of(task, STREAMS[task][0], candidate)


def test_separable_and_constant_scores_do_no_harm() -> None:
    """Where there is no maximum of the likelihood the prior holds the coefficients."""
    stream = binary(2_000, 0.0, 1.0)
    apart = stream._replace(targets=(stream.outputs[:, 0] > 0.5).astype(float))
    constant = stream._replace(outputs=np.full((2_000, 1), 0.9))
    for each in (apart, constant):
        recalibration = of("binary", each)
        said = served(recalibration, each)
        assert np.isfinite(said).all()
        loss = compared("binary", recalibration.blocks(), 1.96)["brier"]
        assert (loss.difference.value or 0.0) <= 1e-3
    # All there is to know of a constant score is how often it is right.
    assert said[-1, 0] == pytest.approx(0.5, abs=0.06)


def test_a_restored_one_goes_on_alike() -> None:
    """State is stored and taken back at any label, in the middle of a block too."""
    stream = STREAMS["regression"][0]
    first, second = of("regression", stream), of("regression", stream)
    _learn(first, stream, 0, 1_150)
    second.restore({name: array.copy() for name, array in first.arrays().items()})
    for each in (first, second):
        _learn(each, stream, 1_150, 2_000)
    assert all(array.tobytes() == second.arrays()[name].tobytes() for name, array in first.arrays().items())


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("own.methods", 7, "a method is none of its candidate"),
        ("own.counters", -1, "a count is out of range"),
        ("own.published", 99, "what is published does not exist"),
        ("own.fits", np.nan, "not finite"),
        ("rows.segments", 16, "a segment does not exist"),
        ("rows.targets", 3.0, "a class does not exist"),
        ("rows.outputs", 1.5, "a probability is out of range"),
        ("choice.chosen", 9, "the chosen one does not exist"),
    ],
)
def test_what_kernels_would_stumble_over_is_refused(name: str, value: float, reason: str) -> None:
    """Stored state that cannot be is refused with its reason, and nothing is taken over."""
    mine = of("binary", STREAMS["binary"][0])
    arrays = {each: array.copy() for each, array in mine.arrays().items()}
    arrays[name].flat[0] = value
    before = {each: array.tobytes() for each, array in mine.arrays().items()}
    with pytest.raises(ValueError, match=reason):
        mine.restore(arrays)
    assert before == {each: array.tobytes() for each, array in mine.arrays().items()}


def test_knots_beyond_their_table_are_refused() -> None:
    """A count of knots is where a kernel would read out of bounds."""
    mine = of("binary", STREAMS["binary"][0], Candidate("isotonic", (2_000,)))
    arrays = {each: array.copy() for each, array in mine.arrays().items()}
    arrays["own.methods"][0, 1], arrays["own.coefficients"][0, 1, 0] = 4, 1_000.0
    with pytest.raises(ValueError, match="knots are out of range"):
        mine.restore(arrays)


def test_isotonic_knots_are_those_of_scikit_learn() -> None:
    """With room for all knots the fit is scikit-learn's, at each output and between."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=200), rng.normal(size=200)
    found = fits.fit_number_steps(fits.Rows((x + y)[:, np.newaxis], y, np.full(200, -1)), 400)
    assert found is not None
    knots = int(found[0])
    at = np.linspace(-4.0, 4.0, 300)
    wanted = IsotonicRegression(out_of_bounds="clip").fit(x + y, y).predict(at)
    assert np.interp(at, found[1 : 1 + knots], found[401 : 401 + knots]) == pytest.approx(wanted, abs=1e-9)


def test_an_interval_holds_under_autocorrelation() -> None:
    """Of 200 intervals of means of AR(0.98) errors at 95 % nearly as many hold 0 as they say."""
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(200, 8_000))
    for step in range(1, 8_000):
        noise[:, step] += 0.98 * noise[:, step - 1]
    blocks = noise.reshape(200, 80, 100).sum(axis=2)
    held = 0
    for each in blocks:
        found = block_jackknife(
            np.column_stack([np.full(80, 100.0), each]), lambda sums: float(sums[1] / sums[0]), 1.96
        )
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.0 <= found.high
    assert held >= 178


def test_figures_have_the_names_that_metrics_have() -> None:
    """What is compared is named as what is measured elsewhere."""
    assert {"log_loss", "accuracy"} <= BINARY_METRICS & set(compared("binary", np.zeros((0, 2, 36)), 1.96))
