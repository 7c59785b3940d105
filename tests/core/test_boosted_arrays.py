"""Boosted challengers: parity with scikit-learn, what a fit promises, and bytes that may come from anywhere."""

from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from worker.core.kernels.arrays import F64
from worker.core.maintenance.boosted_arrays import BoostedArrays
from worker.core.maintenance.boosted_fit import fit_boosted, fit_challenger
from worker.core.maintenance.challengers import BoostedRequest, LabelledRows
from worker.core.options.maintenance import BoostedOptions

SMALL = BoostedOptions(iterations=5, leaves_max=8, leaf_rows_min=5)


def labelled_rows(n_rows: int, n_features: int, n_classes: int, missing: float, seed: int) -> LabelledRows:
    """Rows whose first column is rounded and last one constant, with something to learn."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, n_features)) * 10.0 ** rng.integers(-3, 4, size=n_features)
    rows[:, 0] = np.round(rng.normal(size=n_rows), 1)
    if n_features > 1:
        rows[:, -1] = 7.0
    target = rows[:, 0] + 0.5 * rng.normal(size=n_rows)
    rows[rng.random(rows.shape) < missing] = np.nan
    if n_classes == 0:
        return LabelledRows(rows, target, 0)
    codes = np.where(target > 0.0, rng.permutation(n_rows) % n_classes, 0)
    return LabelledRows(rows, codes.astype(np.float64), n_classes)


def reference(labelled: LabelledRows, options: BoostedOptions, probe: F64) -> F64:
    """What scikit-learn's own model with these options predicts, for all classes."""
    kind = HistGradientBoostingClassifier if labelled.n_classes else HistGradientBoostingRegressor
    model: Any = kind(
        max_iter=options.iterations,
        max_leaf_nodes=options.leaves_max,
        max_depth=options.depth_max,
        learning_rate=options.learning_rate,
        min_samples_leaf=options.leaf_rows_min,
        l2_regularization=options.l2,
        early_stopping=False,
    )
    with threadpool_limits(1):
        model.fit(labelled.rows, labelled.targets, sample_weight=labelled.weights)
        if not labelled.n_classes:
            return np.asarray(model.predict(probe)[:, np.newaxis])
        expected = np.zeros((len(probe), labelled.n_classes))
        expected[:, model.classes_.astype(int)] = model.predict_proba(probe)
        return expected


@cache
def small_model() -> BoostedArrays:
    """Three classes, three features."""
    return fit_boosted(labelled_rows(120, 3, 3, 0.1, 1), SMALL, 0)


@given(
    n_rows=st.integers(10, 300),
    n_features=st.integers(1, 5),
    n_classes=st.sampled_from([0, 2, 3, 5]),
    missing=st.sampled_from([0.0, 0.2]),
    heaviest=st.sampled_from([1.0, 3.0]),
    l2=st.sampled_from([0.0, 10.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=20, deadline=None)
def test_equals_scikit_learn(
    n_rows: int, n_features: int, n_classes: int, missing: float, heaviest: float, l2: float, seed: int
) -> None:
    """Whatever is fitted, predictions are scikit-learn's to 1e-12, through bytes, for rows with missing values, too."""
    labelled = labelled_rows(n_rows, n_features, n_classes, missing, seed)
    if heaviest > 1.0:
        labelled = labelled._replace(weights=np.random.default_rng(seed).uniform(0.1, heaviest, size=n_rows))
    options = msgspec.structs.replace(SMALL, l2=l2)
    probe = np.concatenate([labelled.rows, 3.0 * labelled_rows(50, n_features, 0, 0.3, seed + 1).rows])
    model = BoostedArrays.from_bytes(fit_boosted(labelled, options, 0).to_bytes())
    if n_classes and len(np.unique(labelled.targets)) == 1:
        assert (model.predict(probe)[:, int(labelled.targets[0])] == 1.0).all()
        return
    expected = reference(labelled, options, probe)
    np.testing.assert_allclose(model.predict(probe), expected, rtol=0.0 if n_classes else 1e-12, atol=1e-12)


def test_equals_scikit_learn_at_the_default_size() -> None:
    """A whole ensemble of default options: the same numbers, bit by bit."""
    labelled, options = labelled_rows(1000, 6, 0, 0.05, 3), BoostedOptions()
    probe = np.concatenate([labelled_rows(1000, 6, 0, 0.05, 4).rows, np.full((1, 6), np.inf), np.full((1, 6), np.nan)])
    probe[0, 0] = -np.inf
    finite = np.where(np.isinf(probe), np.sign(probe) * 1e300, probe)
    predicted = fit_boosted(labelled, options, 0).predict(probe)
    np.testing.assert_array_equal(predicted, reference(labelled, options, finite))


def test_a_class_without_labels_has_no_probability() -> None:
    """Of five declared classes two have labels: those share all probability, and with one label it is certain."""
    labelled = labelled_rows(100, 3, 2, 0.0, 5)
    some = LabelledRows(labelled.rows, np.where(labelled.targets > 0.0, 3.0, 1.0), 5)
    predicted = fit_boosted(some, SMALL, 0).predict(labelled.rows)
    assert (predicted[:, [0, 2, 4]] == 0.0).all()
    np.testing.assert_allclose(predicted[:, 1] + predicted[:, 3], 1.0, rtol=0.0, atol=1e-15)
    one = BoostedArrays.from_bytes(fit_boosted(some._replace(targets=np.full(100, 4.0)), SMALL, 0).to_bytes())
    np.testing.assert_array_equal(one.predict(labelled.rows), np.tile([0.0, 0.0, 0.0, 0.0, 1.0], (100, 1)))


def test_wild_cells_and_targets_do_not_break_a_fit() -> None:
    """Infinities, the largest floats and a column without any value are fitted; outputs stay finite."""
    labelled = labelled_rows(100, 4, 0, 0.0, 6)
    labelled.rows[:10, 1], labelled.rows[10:20, 1], labelled.rows[20:30, 1] = np.inf, -np.inf, 1.7e308
    labelled.rows[:, 2] = np.nan
    labelled.targets[0] = 1e200
    model = fit_boosted(labelled, SMALL, 0)
    assert np.isfinite(model.predict(labelled.rows)).all()
    assert BoostedArrays.from_bytes(model.to_bytes()).to_bytes() == model.to_bytes()


def test_equal_requests_give_equal_bytes_on_any_number_of_threads() -> None:
    """The cores of a machine, or whoever else set a number of threads, leave no trace in a model."""
    labelled = labelled_rows(2000, 4, 2, 0.05, 7)
    found = set()
    for threads in (1, 3):
        with threadpool_limits(threads):
            found.add(fit_challenger(BoostedRequest(labelled, SMALL, 0)).to_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rows": np.zeros((1, 2)), "targets": np.zeros(1)}, "is not 2 to"),
        ({"rows": np.zeros((9, 0))}, "columns"),
        ({"targets": np.zeros(8)}, "8 targets"),
        ({"targets": np.full(9, np.nan)}, "not finite"),
        ({"targets": np.full(9, 0.5)}, "not a code"),
        ({"targets": np.full(9, -1.0)}, "not declared"),
        ({"targets": np.full(9, 2.0)}, "not declared"),
        ({"n_classes": 5000}, "classes"),
        ({"weights": np.zeros(9)}, "weight"),
        ({"weights": np.full(9, np.nan)}, "weight"),
        ({"weights": np.ones(3)}, "weight"),
    ],
)
def test_refuses_impossible_fits(change: dict[str, Any], reason: str) -> None:
    """Rows, labels and weights that cannot be fitted raise ValueError with the reason."""
    labelled = LabelledRows(np.zeros((9, 2)), np.arange(9.0) % 2, 2)
    with pytest.raises(ValueError, match=reason):
        fit_boosted(labelled._replace(**change), SMALL, 0)


def test_refuses_too_large_ensembles_and_other_rows() -> None:
    """An ensemble beyond the limit is refused before it is fitted; so are rows with other columns."""
    labelled = LabelledRows(np.zeros((1000, 2)), np.arange(1000.0), 1000)
    with pytest.raises(ValueError, match="nodes"):
        fit_boosted(labelled, BoostedOptions(), 0)
    with pytest.raises(ValueError, match="columns"):
        small_model().raw(np.zeros((2, 4)))


# ------------------------------------------------------------------------------------------------------------- bytes


def probe() -> F64:
    """Rows for the small model."""
    return labelled_rows(40, 3, 3, 0.2, 8).rows.astype(np.float64)


def test_bytes_round_trip() -> None:
    """A model read back has the same bytes and the same outputs, and tells its size."""
    again = BoostedArrays.from_bytes(small_model().to_bytes())
    assert again.to_bytes() == small_model().to_bytes()
    np.testing.assert_array_equal(again.raw(probe()), small_model().raw(probe()))
    assert 0.5 * len(again.to_bytes()) < again.nbytes < 10 * len(again.to_bytes())


ARRAYS = {
    "baseline": "<f8",
    "starts": "<i8",
    "feature": "<i2",
    "threshold": "<f8",
    "left": "<i4",
    "missing_left": "|u1",
}


def changed(name: str, place: int, value: float) -> bytes:
    """The small model's bytes with one element of an array changed."""
    record = msgspec.msgpack.decode(small_model().to_bytes())
    at = 4 + [*ARRAYS, "value"].index(name)
    array = np.frombuffer(record[at], dtype={**ARRAYS, "value": "<f8"}[name]).copy()
    array[place] = value
    record[at] = array.tobytes()
    return msgspec.msgpack.encode(record)


@pytest.mark.parametrize(
    ("name", "place", "value", "reason"),
    [
        ("baseline", 0, np.nan, "baseline"),
        ("baseline", 0, np.inf, "baseline"),
        ("starts", 0, 1, "follow"),
        ("starts", 1, 0, "follow"),
        ("starts", 1, 2**62, "follow"),
        ("starts", 1, -(2**63), "follow"),
        ("starts", -1, 3, "follow"),
        ("feature", 0, 3, "column"),
        ("feature", 0, -1, "column"),
        ("threshold", 0, np.nan, "NaN"),
        ("left", 0, -1, "child"),
        ("left", 0, 2**30, "child"),
        ("left", 1, 1, "child"),
        ("left", -1, 1, "child"),
        ("missing_left", 0, 2, "left nor right"),
        ("value", -1, np.nan, "leaf"),
        ("value", -1, 1e101, "leaf"),
    ],
)
def test_bytes_that_would_lead_astray_are_refused(name: str, place: int, value: float, reason: str) -> None:
    """Whatever a walk would leave its tree by, or turn in circles with, is refused with the reason."""
    with pytest.raises(ValueError, match=reason):
        BoostedArrays.from_bytes(changed(name, place, value))


def test_a_right_child_beyond_its_tree_is_refused() -> None:
    """The last node of a tree can be a right child only: as a left one its sibling would be in the next tree."""
    last = int(small_model().starts[1]) - 1
    with pytest.raises(ValueError, match="child"):
        BoostedArrays.from_bytes(changed("left", 0, last))
    BoostedArrays.from_bytes(changed("left", 0, last - 1))


@pytest.mark.parametrize("field", range(4))
@pytest.mark.parametrize("value", [None, -1, 2**70, "x", [0], [2, 1, 0], [0, 1, 1], [0, 1, 5], 10**6, b""])
def test_other_plain_fields_are_refused(field: int, value: object) -> None:
    """A format, a number of features and classes that do not fit the arrays raise ValueError."""
    record = msgspec.msgpack.decode(small_model().to_bytes())
    record[field] = value
    with pytest.raises((ValueError, OverflowError)):
        BoostedArrays.from_bytes(msgspec.msgpack.encode(record))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_broken_bytes_never_crash(data: st.DataObject) -> None:
    """Cut, and with any byte changed: either refused, or a model whose outputs are finite."""
    payload = bytearray(small_model().to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 0, 1, 8, 100]))
    try:
        model = BoostedArrays.from_bytes(bytes(payload[: len(payload) - cut]))
    except ValueError:
        return
    assert np.isfinite(model.predict(np.zeros((3, model.n_features)))).all()
