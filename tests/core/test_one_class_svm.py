"""The one-class SVM: parity with scikit-learn, what it sees, and bytes that may come from anywhere."""

from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import OneClassSVM

from worker.core.detectors.forest_fit import InlineRefits
from worker.core.detectors.one_class_svm import OneClassSvm
from worker.core.detectors.refitted import Schedule
from worker.core.detectors.svm_arrays import SvmArrays
from worker.core.detectors.svm_fit import fit_svm
from worker.core.kernels.arrays import F64
from worker.core.options import ForestOptions, SvmOptions

SCHEDULE = Schedule.of(ForestOptions(refit_events_first=256, refit_growth=8, takeover_events_min=64))


def scaled_rows(count: int, features: int, seed: int) -> F64:
    """Rows as a model sees them: mostly in [0, 1], some at the end of their reach."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0.5, 0.3, size=(count, features))
    rows[:: max(count // 10, 2)] = 6.0
    return rows


@given(
    rows=st.integers(5, 300),
    features=st.integers(1, 12),
    nu=st.sampled_from([0.05, 0.5, 0.9]),
    gamma_factor=st.sampled_from([0.1, 0.3, 1.0, 10.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_equals_scikit_learn(rows: int, features: int, nu: float, gamma_factor: float, seed: int) -> None:
    """Whatever is fitted, the decision is scikit-learn's to 1e-12 of its largest value, through bytes, too."""
    train, probe = scaled_rows(rows, features, seed), scaled_rows(50, features, seed + 1)
    reference = OneClassSVM(nu=nu, gamma=gamma_factor / (features * train.var())).fit(train)
    model = SvmArrays.from_bytes(fit_svm(train, nu=nu, gamma_factor=gamma_factor).to_bytes())
    scale = max(1.0, float(reference.dual_coef_.sum()))
    np.testing.assert_allclose(model.decision(probe), reference.decision_function(probe), rtol=0, atol=1e-12 * scale)


def test_the_logarithm_is_that_of_the_mean_kernel() -> None:
    """The other score is the logarithm of what the decision is, before the offset, over the sum of the weights."""
    model = small_model()
    rows = scaled_rows(40, 3, 5)
    total = model.coefficients.sum()
    expected = np.log(np.maximum((model.decision(rows) + model.offset) / total, 1e-12))
    np.testing.assert_allclose(model.log_density(rows), expected, rtol=1e-9)


def test_equal_rows_have_a_model() -> None:
    """Rows without any variance are fitted, not refused: they are inside, everything else is outside."""
    model = fit_svm(np.full((30, 2), 0.5), nu=0.5, gamma_factor=0.3)
    inside, outside = model.decision(np.array([[0.5, 0.5], [1.5, 0.5]]))
    assert np.isfinite([inside, outside]).all()
    assert outside < inside


def test_refuses_impossible_fits_and_rows() -> None:
    """No rows, too many, missing values and other columns raise ValueError."""
    for rows in (
        np.empty((0, 2)),
        np.zeros((5000, 2)),
        np.zeros((5, 0)),
        np.full((5, 2), np.nan),
        np.full((5, 2), 1e9),
    ):
        with pytest.raises(ValueError, match="an SVM"):
            fit_svm(rows, nu=0.5, gamma_factor=0.3)
    with pytest.raises(ValueError, match="columns"):
        small_model().decision(np.zeros((2, 4)))


# ---------------------------------------------------------------------------------------------------------- detector


def detector_of(rows: F64, options: SvmOptions) -> OneClassSvm:
    """A detector that has learned rows as a monitor lets it."""
    detector, seen = OneClassSvm(rows.shape[1], options, SCHEDULE, InlineRefits(), 200, seed=2), 0
    detector.fit(rows[:200])
    while seen < len(rows):
        stop = min(len(rows), detector.barrier())
        detector.score_and_learn(rows[seen:stop])
        seen = stop
        while detector.barrier() == seen:
            detector.cross()
    return detector


@pytest.mark.parametrize("score", ["decision", "log"])
def test_both_scores_order_events_alike(score: str) -> None:
    """Farther out is more anomalous; the logarithm goes on where the decision has no more to say."""
    rows = np.random.default_rng(3).normal(size=(600, 3))
    detector = detector_of(rows, msgspec.convert({"score": score}, SvmOptions))
    scores = detector.score(np.array([[0.0, 0, 0], [2.0, 0, 0], [4.0, 0, 0], [8.0, 8, 8]]))
    assert (np.diff(scores) > 0).all()


def test_a_missing_value_is_the_median() -> None:
    """An event without one value scores as if it were the usual one."""
    rows = np.random.default_rng(4).normal(5.0, 2.0, size=(600, 3))
    detector = detector_of(rows, SvmOptions())
    median = np.median(rows[:200, 1])
    partial, filled = detector.score(np.array([[5.0, np.nan, 6.0], [5.0, median, 6.0]]))
    assert partial == pytest.approx(filled)


def test_anomalies_are_not_fitted() -> None:
    """A tenth of far rows in a burst after the first model: the next model still has them far outside."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(2600, 3))
    rows[1900:2000] = 9.0
    detector = detector_of(rows, SvmOptions())
    assert detector.taken_over == 2
    assert detector.score(np.full((1, 3), 9.0)) > np.quantile(detector.score(rows[:1900]), 0.999)


@pytest.mark.parametrize("requested", [-1, 10, 400])
def test_a_request_of_another_size_is_refused(requested: int) -> None:
    """The rows of a refit under way are counted; a payload cannot choose how many there are."""
    source = detector_of(np.random.default_rng(6).normal(size=(260, 3)), SvmOptions())
    live = {name: array.copy() for name, array in source.live().items()}
    assert len(live["refits.request"]) == 256
    live["counters"][2] = requested
    with pytest.raises(ValueError, match="stored"):
        OneClassSvm(3, SvmOptions(), SCHEDULE, InlineRefits(), 200, seed=2).restore(260, live, source.fitted())


# ------------------------------------------------------------------------------------------------------------- bytes


@cache
def small_model() -> SvmArrays:
    """A model of 3 features."""
    return fit_svm(scaled_rows(60, 3, 1), nu=0.5, gamma_factor=0.3)


def test_bytes_round_trip() -> None:
    """A model read back has the same bytes and the same decisions."""
    again, rows = SvmArrays.from_bytes(small_model().to_bytes()), scaled_rows(20, 3, 2)
    assert again.to_bytes() == small_model().to_bytes()
    np.testing.assert_array_equal(again.decision(rows), small_model().decision(rows))


@given(payload=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(payload: bytes) -> None:
    """Bytes that nobody wrote as a model raise ValueError and nothing else."""
    with pytest.raises(ValueError, match="one-class SVM bytes"):
        SvmArrays.from_bytes(payload)


def record(**changes: Any) -> bytes:  # noqa: ANN401 - a hostile writer can send anything
    """A model of two vectors of one feature, changed."""
    fields = {
        "format": 1,
        "n_features": 1,
        "vectors": np.array([0.0, 1.0]).tobytes(),
        "coefficients": np.array([1.0, 1.0]).tobytes(),
        "offset": 0.5,
        "gamma": 1.0,
    }
    return msgspec.msgpack.encode(list({**fields, **changes}.values()))


def test_a_written_model_is_read() -> None:
    """The helper of the next test writes what `from_bytes` reads: two kernels of the width 1."""
    decision = SvmArrays.from_bytes(record()).decision(np.array([[0.0], [1e9]]))
    np.testing.assert_allclose(decision, [1.0 + np.exp(-1.0) - 0.5, -0.5])


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"n_features": 0},
        {"n_features": 2},
        {"n_features": 10**9},
        {"vectors": b""},
        {"vectors": np.array([0.0, np.nan]).tobytes()},
        {"vectors": np.array([0.0, 1e300]).tobytes()},
        {"vectors": "text"},
        {"coefficients": b""},
        {"coefficients": b"123"},
        {"coefficients": np.array([1.0, np.nan]).tobytes()},
        {"coefficients": np.array([1.0, -1.0]).tobytes()},
        {"coefficients": np.zeros(2).tobytes()},
        {"coefficients": np.ones(5000).tobytes(), "vectors": np.ones(5000).tobytes()},
        {"offset": np.nan},
        {"offset": np.inf},
        {"gamma": np.nan},
        {"gamma": -1.0},
        {"gamma": np.inf},
        {"more": 1},
    ],
    ids=str,
)
def test_hostile_bytes_are_refused(changes: dict[str, Any]) -> None:
    """What would read out of bounds, or give no score, is refused before it reaches the kernel."""
    with pytest.raises(ValueError, match="one-class SVM bytes"):
        SvmArrays.from_bytes(record(**changes))
