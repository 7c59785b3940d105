"""Challengers as ONNX: onnxruntime answers as the challenger itself and as scikit-learn, and the bytes never vary."""

from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from worker.core.maintenance import protobuf_wire
from worker.core.maintenance.boosted_arrays import BoostedArrays
from worker.core.maintenance.boosted_fit import fit_challenger
from worker.core.maintenance.challengers import BoostedRequest, ChallengerModel, LabelledRows, LinearRequest
from worker.core.maintenance.linear_arrays import LinearArrays
from worker.core.maintenance.onnx_models import onnx_model, published_classes
from worker.core.maintenance.target import Target
from worker.core.options.maintenance import BoostedOptions, LinearOptions

Rows = NDArray[np.float64]
_FEATURES = ("a", "b", "c", "d")
_CLASSES = ("north", "east", "south", "west")


def _answers(model: ChallengerModel, classes: Sequence[str], rows: Rows) -> Rows:
    """Return what onnxruntime says, after the reference checker has found nothing to say."""
    written = onnx_model(model, _FEATURES, classes)
    onnx.checker.check_model(onnx.load_model_from_string(written), full_check=True)
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    answer: Rows = session.run(None, {"rows": rows})[0]
    assert answer.dtype == np.float64
    return answer


def _rows(random: np.random.Generator, count: int) -> Rows:
    """Numbers, small integers, a constant, numbers that floats cannot tell apart; one in ten is missing."""
    rows = random.normal(size=(count, len(_FEATURES)))
    rows[:, 1] = random.integers(0, 4, count)
    rows[:, 2] = 7.0
    rows[:, 3] = 1e9 + random.integers(0, 40, count)
    rows[random.random(rows.shape) < 0.1] = np.nan
    return rows


def _asked(random: np.random.Generator, rows: Rows, thresholds: Sequence[float]) -> Rows:
    """Rows of the fit, new ones, infinite ones, and some that lie exactly on a threshold."""
    asked = np.concatenate([rows, _rows(random, 50), np.full((1, 4), np.inf), np.full((1, 4), -np.inf)])
    asked[: len(thresholds), :] = np.asarray(thresholds)[:, np.newaxis]
    return asked


@given(seed=st.integers(0, 2**32 - 1), seen=st.sets(st.integers(0, 3), min_size=1), linear=st.booleans())
@settings(max_examples=20, deadline=None)
def test_classes_as_the_challenger(seed: int, seen: set[int], *, linear: bool) -> None:
    """Probabilities of the classes that labels showed equal the challenger's to 1e-12, on thresholds too."""
    random, codes = np.random.default_rng(seed), sorted(seen)
    rows = _rows(random, 120)
    targets = random.choice(codes, 120).astype(float)
    targets[: len(codes)] = codes
    labelled = LabelledRows(rows, targets, len(_CLASSES))
    options = BoostedOptions(iterations=5, leaf_rows_min=5)
    request = LinearRequest(labelled, LinearOptions()) if linear else BoostedRequest(labelled, options, 1)
    model = fit_challenger(request)
    thresholds = model.threshold[:20].tolist() if isinstance(model, BoostedArrays) else []
    asked = _asked(random, rows, thresholds)
    answers = _answers(model, _CLASSES, asked)
    np.testing.assert_allclose(answers, model.predict(asked)[:, codes], rtol=0, atol=1e-12)
    assert published_classes(model.target, _CLASSES) == [_CLASSES[code] for code in codes]


@pytest.mark.parametrize("linear", [False, True])
def test_numbers_as_the_challenger(*, linear: bool) -> None:
    """A regression answers in double precision: floats would take different rows for the same."""
    random = np.random.default_rng(3)
    rows = _rows(random, 500)
    labelled = LabelledRows(rows, np.nan_to_num(rows[:, 0]) + 10.0 * np.nan_to_num(rows[:, 3], nan=1e9), 0)
    request = LinearRequest(labelled, LinearOptions()) if linear else BoostedRequest(labelled, BoostedOptions(), 1)
    model = fit_challenger(request)
    asked = _asked(random, rows, [])
    expected = model.predict(asked)
    np.testing.assert_allclose(_answers(model, (), asked), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    apart = rows[:40].copy()
    apart[:] = rows[0]
    apart[:, 3] = 1e9 + np.arange(40)
    assert len(set(_answers(model, (), apart)[:, 0].tolist())) > 10  # as floats they are one row


def test_trees_as_scikit_learn() -> None:
    """End to end, the model that a server loads gives what scikit-learn's own gives to 1e-12."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415 - a second to load

    random, options = np.random.default_rng(5), BoostedOptions(iterations=20)
    rows = random.normal(size=(600, 4)).astype(np.float32).astype(np.float64)
    targets = (rows[:, 0] * rows[:, 1] > 0).astype(float)
    model = fit_challenger(BoostedRequest(LabelledRows(rows, targets, 2), options, 1))
    fitted = HistGradientBoostingClassifier(
        max_iter=options.iterations,
        max_leaf_nodes=options.leaves_max,
        max_depth=options.depth_max,
        learning_rate=options.learning_rate,
        min_samples_leaf=options.leaf_rows_min,
        l2_regularization=options.l2,
        early_stopping=False,
        random_state=1,
    ).fit(rows, targets)
    np.testing.assert_allclose(_answers(model, _CLASSES[:2], rows), fitted.predict_proba(rows), rtol=0, atol=1e-12)


def test_a_tree_that_is_one_leaf() -> None:
    """A tree that never split adds its value to every row, beside one that did."""
    model = BoostedArrays(
        n_features=4,
        target=Target(0, ()),
        baseline=np.array([1000.0]),
        starts=np.array([0, 1, 4, 5]),
        feature=np.array([0, 2, 0, 0, 0], dtype=np.int16),
        threshold=np.zeros(5),
        left=np.array([0, 1, 0, 0, 0], dtype=np.int32),
        missing_left=np.zeros(5, dtype=bool),
        value=np.array([10.0, 0.0, 1.0, 2.0, 100.0]),
    )
    rows = np.array([[0.0, 0, -1, 0], [0, 0, 1, 0], [0, 0, np.nan, 0]])
    assert _answers(model, (), rows)[:, 0].tolist() == [1111, 1112, 1112]


def _small() -> LinearArrays:
    return LinearArrays(Target(2, (0, 1)), np.zeros(1), np.ones(1), np.array([[2.0]]), np.array([-1.0]))


def test_bytes_are_a_function_of_the_arrays() -> None:
    """The checksum of a model is published: it changes with no release of any library, so this one is pinned."""
    written = onnx_model(_small(), ("temperature",), ("cold", "warm"))
    assert sha256(written).hexdigest() == "b7721ee44dfb75ebc4ebae044f38e17e056b899b2d72e047c53bbc99dfcd6959"
    properties = {entry.key: entry.value for entry in onnx.load_model_from_string(written).metadata_props}
    assert properties == {"features": '["temperature"]', "classes": '["cold", "warm"]'}


@pytest.mark.parametrize(("features", "classes"), [((), ("cold", "warm")), (("temperature",), ("cold",))])
def test_names_must_fit(features: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """A model is not written under names that are too few or too many."""
    with pytest.raises(ValueError, match="1 features and 2 classes"):
        onnx_model(_small(), features, classes)


def test_integers_as_protocol_buffers_write_them() -> None:
    """Integers are written in seven bits a byte, negative ones as ten bytes, larger ones never shorter."""
    assert [protobuf_wire.varint(number).hex() for number in (0, 127, 128, 300)] == ["00", "7f", "8001", "ac02"]
    assert protobuf_wire.varint(-1).hex() == "ff" * 9 + "01"
    lengths = [len(protobuf_wire.varint(1 << bits)) for bits in range(63)]
    assert all(later - sooner in (0, 1) for sooner, later in pairwise(lengths))
    with pytest.raises(ValueError, match="64 bits"):
        protobuf_wire.varint(1 << 63)
