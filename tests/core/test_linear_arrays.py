"""Linear challengers: parity with scikit-learn, what a fit promises, and bytes that may come from anywhere."""

from functools import cache

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from worker.core.kernels.arrays import F64
from worker.core.maintenance.boosted_fit import fit_challenger
from worker.core.maintenance.challengers import LabelledRows, LinearRequest
from worker.core.maintenance.linear_arrays import LinearArrays
from worker.core.maintenance.linear_fit import fit_linear
from worker.core.options.maintenance import LinearOptions


def labelled_rows(n_rows: int, n_features: int, n_classes: int, seed: int) -> LabelledRows:
    """Gaussian rows on different scales, and targets that are linear in them, with noise."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n_rows, n_features))
    target: F64 = table @ rng.normal(size=n_features) + 0.5 * rng.normal(size=n_rows)
    rows = table * 10.0 ** rng.integers(-3, 4, size=n_features) + rng.normal(size=n_features)
    if n_classes:
        target = np.floor(np.argsort(np.argsort(target)) * n_classes / n_rows)
    return LabelledRows(rows, np.asarray(target, dtype=np.float64), n_classes)


@cache
def small_model() -> LinearArrays:
    """Three classes, three features."""
    return fit_linear(labelled_rows(60, 3, 3, 1), LinearOptions())


@given(
    n_rows=st.integers(20, 200),
    n_features=st.integers(1, 6),
    n_classes=st.sampled_from([0, 2, 4]),
    penalty=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_equals_scikit_learn(n_rows: int, n_features: int, n_classes: int, penalty: float, seed: int) -> None:
    """Predictions are those of scikit-learn's scaler and model, through bytes."""
    labelled = labelled_rows(n_rows, n_features, n_classes, seed)
    model = LinearArrays.from_bytes(fit_linear(labelled, LinearOptions(penalty=penalty)).to_bytes())
    theirs = LogisticRegression(C=1.0 / penalty, max_iter=300) if n_classes else Ridge(alpha=penalty)
    with threadpool_limits(1):
        pipeline = make_pipeline(StandardScaler(), theirs).fit(labelled.rows, labelled.targets)
        raw = pipeline.predict_proba(labelled.rows) if n_classes else pipeline.predict(labelled.rows)[:, np.newaxis]
    # The rounding of the scaler's variance differs; the solver of a likelihood stops at 1e-4 of its slope.
    np.testing.assert_allclose(model.predict(labelled.rows), raw, rtol=1e-6, atol=1e-4 if n_classes else 1e-8)


def test_outputs_equal_the_formula_of_what_is_stored() -> None:
    """Whoever has the arrays has the model: standardise, cut, multiply, softmax; to 1e-12."""
    model, rows = small_model(), labelled_rows(40, 3, 3, 2).rows
    powers = np.exp(np.clip((rows - model.mean) / model.scale, -10, 10) @ model.coefficients.T + model.intercept)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(rows), expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_weights_count_rows(n_classes: int) -> None:
    """A row with the weight 3 is as good as three rows."""
    labelled = labelled_rows(80, 3, n_classes, 3)
    weights = np.random.default_rng(4).integers(1, 4, size=80)
    rows, targets = np.repeat(labelled.rows, weights, axis=0), np.repeat(labelled.targets, weights)
    thrice = LabelledRows(rows.astype(np.float64), targets, n_classes)
    weighted = fit_linear(labelled._replace(weights=weights.astype(np.float64)), LinearOptions())
    repeated = fit_linear(thrice, LinearOptions())
    np.testing.assert_allclose(weighted.predict(labelled.rows), repeated.predict(labelled.rows), rtol=1e-3, atol=1e-3)


def test_missing_constant_and_wild_cells() -> None:
    """A missing cell is the mean; columns that are constant, empty or infinite leave finite outputs."""
    labelled = labelled_rows(100, 5, 2, 5)
    labelled.rows[:, 1], labelled.rows[:, 2] = 3.3, np.nan
    labelled.rows[:5, 3], labelled.rows[5:10, 4] = np.inf, -1.7e308
    model = LinearArrays.from_bytes(fit_linear(labelled, LinearOptions()).to_bytes())
    assert np.isfinite(model.predict(labelled.rows)).all()
    row, filled = np.full((1, 5), np.nan), model.mean[np.newaxis].copy()
    np.testing.assert_array_equal(model.raw(row)[0], model.intercept)
    np.testing.assert_allclose(model.raw(filled), model.raw(row), rtol=0.0, atol=1e-12)


def test_one_class_is_certain_and_absent_classes_are_not_there() -> None:
    """With labels of one class its probability is 1; a declared class without labels has none."""
    rows = labelled_rows(50, 2, 2, 6)
    one = fit_linear(LabelledRows(rows.rows, np.full(50, 1.0), 3), LinearOptions())
    np.testing.assert_array_equal(one.predict(rows.rows), np.tile([0.0, 1.0, 0.0], (50, 1)))
    two = fit_linear(LabelledRows(rows.rows, 2.0 * rows.targets, 3), LinearOptions())
    assert (two.predict(rows.rows)[:, 1] == 0.0).all()


def test_equal_requests_give_equal_bytes_on_any_number_of_threads() -> None:
    """The cores of a machine leave no trace in a model."""
    request = LinearRequest(labelled_rows(3000, 8, 3, 7), LinearOptions())
    found = set()
    for threads in (1, 3):
        with threadpool_limits(threads):
            found.add(fit_challenger(request).to_bytes())
    assert len(found) == 1


def test_refuses_impossible_fits_and_rows() -> None:
    """Too many columns, and rows with others than the fit had, raise ValueError."""
    with pytest.raises(ValueError, match="columns"):
        fit_linear(LabelledRows(np.zeros((3, 3000)), np.zeros(3), 0), LinearOptions())
    with pytest.raises(ValueError, match="columns"):
        small_model().raw(np.zeros((2, 4)))


def test_bytes_round_trip() -> None:
    """A model read back has the same bytes and outputs."""
    again, rows = LinearArrays.from_bytes(small_model().to_bytes()), labelled_rows(40, 3, 3, 8).rows
    assert again.to_bytes() == small_model().to_bytes()
    np.testing.assert_array_equal(again.raw(rows), small_model().raw(rows))
    assert again.nbytes == 8 * (3 + 3 + 9 + 3)


def stored(values: F64) -> bytes:
    """Doubles as they are stored."""
    return values.astype("<f8").tobytes()


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (0, 2, "format"),
        (1, 2, "lengths"),
        (1, 10**9, "n_features|<="),
        (2, 0, "class"),
        (3, [0, 1], "lengths"),
        (3, [1, 0, 2], "ascend"),
        (4, stored(np.full(3, np.nan)), "mean"),
        (5, stored(np.zeros(3)), "scale"),
        (5, stored(np.full(3, np.inf)), "scale"),
        (6, stored(np.full(9, np.inf)), "coefficient"),
        (6, b"x", "lengths"),
        (7, stored(np.full(3, 1e200)), "intercept"),
    ],
)
def test_wrong_bytes_are_refused(field: int, value: object, reason: str) -> None:
    """Anything that would be read out of bounds, or gives no finite output, raises ValueError."""
    record = msgspec.msgpack.decode(small_model().to_bytes())
    record[field] = value
    with pytest.raises(ValueError, match=reason if field else "1"):
        LinearArrays.from_bytes(msgspec.msgpack.encode(record))
