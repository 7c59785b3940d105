"""The isolation forest: parity with scikit-learn, the kernel's laws, and bytes that may come from anywhere."""

import math
import struct
from functools import cache
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.ensemble import IsolationForest

from worker.core.detectors.forest_fit import average_path_length, fit_forest, floor_to_float32
from worker.core.detectors.isolation_forest import ForestArrays, to_forest_rows
from worker.core.kernels import isolation
from worker.core.kernels.arrays import F32, F64

FLOAT32 = st.floats(width=32, allow_nan=False)


def rows_of(n_rows: int, n_features: int, missing: float, seed: int = 11) -> F64:
    """Gaussian rows, columns on different scales, some values repeated, with the given share missing."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(n_rows, n_features)) * 10.0 ** generator.integers(-3, 4, size=n_features)
    rows[:, 0] = np.round(rows[:, 0], 1)
    rows[generator.random(rows.shape) < missing] = np.nan
    return rows


def sklearn_forest(rows: F64 | F32, n_trees: int, sample_size: int, seed: int) -> Any:  # noqa: ANN401 (no types there)
    """The reference, fitted as `fit_forest` promises."""
    size = min(sample_size, len(rows))
    return IsolationForest(n_estimators=n_trees, max_samples=size, random_state=seed).fit(to_forest_rows(rows))


def naive_scores(forest: ForestArrays, rows: F32) -> F64:
    """The naive twin of the kernel: one row and one tree at a time, in Python."""
    feature, threshold, missing_left = forest.splits()
    scores = []
    for row in rows:
        total = 0.0
        for tree in range(len(feature)):
            node = 0
            while node < feature.shape[1]:
                value = row[feature[tree, node]]
                left = missing_left[tree, node] if np.isnan(value) else value <= threshold[tree, node]
                node = 2 * node + (1 if left else 2)
            total += float(forest.leaf_value[tree, node - feature.shape[1]])
        scores.append(2.0 ** -(total / forest.denominator))
    return np.array(scores)


@cache
def small_forest() -> ForestArrays:
    """A forest of 5 trees on 3 columns."""
    return fit_forest(rows_of(80, 3, 0.1), n_trees=5, sample_size=16, seed=1)


@pytest.mark.parametrize("trained_with_missing", [0.0, 0.05])
def test_equals_scikit_learn_with_missing_values(trained_with_missing: float) -> None:
    """Scores equal -score_samples to 1e-12 on 5 % missing values, whether the fit saw missing values or not."""
    train = rows_of(2048, 10, trained_with_missing)
    probe = np.concatenate([rows_of(4000, 10, 0.05, seed=12), 30.0 * rows_of(1000, 10, 0.05, seed=13)])
    forest = fit_forest(train, seed=4)
    expected = -sklearn_forest(train, 100, 256, 4).score_samples(to_forest_rows(probe))
    scores = forest.score(probe)
    assert np.abs(scores - expected).max() <= 1e-12
    assert ((scores > 0.0) & (scores < 1.0)).all()


@given(
    n_rows=st.integers(1, 60),
    n_features=st.integers(1, 5),
    n_trees=st.integers(1, 6),
    sample_size=st.integers(1, 64),
    missing=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_equals_scikit_learn_for_any_shape(
    n_rows: int, n_features: int, n_trees: int, sample_size: int, missing: float, seed: int
) -> None:
    """One row, one tree, nothing but missing values: still scikit-learn's scores."""
    train = rows_of(n_rows, n_features, missing, seed % 997)
    probe = np.concatenate([train, rows_of(10, n_features, 0.3, seed=3)])
    forest = fit_forest(train, n_trees=n_trees, sample_size=sample_size, seed=seed)
    expected = -sklearn_forest(train, n_trees, sample_size, seed).score_samples(to_forest_rows(probe))
    np.testing.assert_allclose(forest.score(probe), expected, rtol=0.0, atol=1e-12)


def test_huge_values_are_cut_and_scored() -> None:
    """Values that float32 cannot hold neither become infinite nor make the fit or the score fail."""
    train = rows_of(300, 3, 0.0)
    train[:20, 1] = 1e300
    train[20:40, 2] = -1.7e308
    forest = fit_forest(train, n_trees=10, seed=2)
    assert np.isfinite(to_forest_rows(train)).all()
    expected = -sklearn_forest(train, 10, 256, 2).score_samples(to_forest_rows(train))
    np.testing.assert_allclose(forest.score(train), expected, rtol=0.0, atol=1e-12)
    assert forest.score(np.array([[np.inf, 0.0, 0.0]])) == forest.score(np.array([[1e300, 0.0, 0.0]]))


def test_equal_arguments_give_equal_forests() -> None:
    """A fit depends on rows and seed alone; another seed gives another forest."""
    rows = rows_of(100, 3, 0.05)
    first, second = (fit_forest(rows, n_trees=3, seed=9).to_bytes() for _ in range(2))
    assert first == second
    assert first != fit_forest(rows, n_trees=3, seed=10).to_bytes()


def test_refuses_impossible_fits_and_rows() -> None:
    """No rows, too many trees and rows with other columns raise ValueError."""
    with pytest.raises(ValueError, match="at least one row"):
        fit_forest(np.empty((0, 3)), seed=1)
    with pytest.raises(ValueError, match="trees"):
        fit_forest(np.zeros((3, 3)), n_trees=100_000, seed=1)
    with pytest.raises(ValueError, match="columns"):
        small_forest().score(np.zeros((2, 4)))


# ------------------------------------------------------------------------------------------------------------ kernel


@given(st.integers(0, 40), st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=30, deadline=None)
def test_kernel_equals_its_naive_twin_in_any_cut(n_rows: int, cuts: list[int]) -> None:
    """Rows in eights, the rest, and any cut into batches give the bits of one row at a time, near the naive twin."""
    rows = to_forest_rows(rows_of(n_rows, 3, 0.2, seed=5))
    whole = small_forest().score(rows)
    parts = [small_forest().score(part) for part in np.split(rows, sorted(min(cut, n_rows) for cut in cuts))]
    singles = [small_forest().score(rows[i : i + 1]) for i in range(n_rows)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(np.concatenate([*singles, np.empty(0)]), whole)
    np.testing.assert_allclose(whole, naive_scores(small_forest(), rows), rtol=1e-14)


def test_blocks_change_no_bit() -> None:
    """A batch of several blocks has the bits of its rows scored alone."""
    rows = to_forest_rows(rows_of(2 * isolation.ROWS_PER_BLOCK + 13, 3, 0.1, seed=6))
    singles = [small_forest().score(rows[i : i + 1])[0] for i in range(len(rows))]
    np.testing.assert_array_equal(small_forest().score(rows), singles)


@given(
    value=FLOAT32,
    threshold=st.floats(min_value=-8e37, max_value=8e37),
    steps=st.integers(-2, 2),
)
@settings(max_examples=500, deadline=None)
def test_threshold_rounded_down_decides_alike(value: float, threshold: float, steps: int) -> None:
    """For every float32 x and float64 t: x <= t is x <= floor32(t), also for the neighbours of t."""
    floor = floor_to_float32(np.array([threshold]))[0]
    neighbour = floor
    for _ in range(abs(steps)):
        neighbour = np.nextafter(neighbour, np.float32(math.copysign(np.inf, steps)))
    assert float(floor) <= threshold < float(np.nextafter(floor, np.float32(np.inf)))
    for x in (np.float32(value), neighbour):
        assert (float(x) <= threshold) == bool(x <= floor)


@given(FLOAT32, FLOAT32)
@settings(max_examples=500, deadline=None)
def test_ordered_bits_have_the_order_of_the_floats(a: float, b: float) -> None:
    """The integers that the kernel compares are in the order of the floats, both zeros being equal."""
    x, y = (int(isolation.ordered_bits(bits)) for bits in np.array([a, b], dtype=np.float32).view(np.int32))
    assert (x < y, x == y) == (a < b, a == b)


@given(st.floats(-1000.0, 0.0))
@settings(max_examples=500, deadline=None)
def test_exp2_is_a_power_of_two(exponent: float) -> None:
    """The kernel's own power equals the C library's to a few units in the last place."""
    assert math.isclose(isolation.exp2(exponent), 2.0**exponent, rel_tol=5e-16)


def test_average_path_length_of_small_samples() -> None:
    """c(1) = 0, c(2) = 1, and c(256) is the 10.24 known from the paper's default."""
    lengths = average_path_length(np.array([1, 2, 256]))
    np.testing.assert_allclose(lengths, [0.0, 1.0, 10.2448], atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- bytes


def test_bytes_round_trip() -> None:
    """A forest read back has the same bytes and the same scores."""
    forest = small_forest()
    again = ForestArrays.from_bytes(forest.to_bytes())
    rows = rows_of(50, 3, 0.1, seed=7)
    assert again.to_bytes() == forest.to_bytes()
    np.testing.assert_array_equal(again.score(rows), forest.score(rows))


@given(payload=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(payload: bytes) -> None:
    """Bytes that nobody wrote as a forest raise ValueError and nothing else."""
    for start in (b"", b"mvforest", b"mvforest\x01\x00"):
        with pytest.raises(ValueError, match="forest bytes"):
            ForestArrays.from_bytes(start + payload)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_truncated_or_flipped_bytes_are_refused(data: st.DataObject) -> None:
    """One changed bit or a missing end anywhere is noticed."""
    payload = small_forest().to_bytes()
    place = data.draw(st.integers(0, len(payload) - 1))
    flipped = bytearray(payload)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    for broken in (payload[:place], bytes(flipped), payload + b"\x00"):
        with pytest.raises(ValueError, match="forest bytes"):
            ForestArrays.from_bytes(broken)


def sealed(header: list[Any], arrays: bytes) -> bytes:
    """A payload with a right prefix and checksum: what a hostile writer can send."""
    encoded = msgspec.msgpack.encode(header)
    body = struct.pack("<8sHH", b"mvforest", 1, len(encoded)) + encoded + arrays
    return body + blake2b(body, digest_size=32).digest()


def stump(*, threshold: float = 0.0, leaf: float = 1.0, feature: int = 0, missing_left: int = 1) -> bytes:
    """The arrays of one tree of height 1."""
    return struct.pack("<fddhB", threshold, leaf, 2.0, feature, missing_left)


def test_a_written_stump_is_read() -> None:
    """The helper of the next tests writes what `from_bytes` reads: a split at 0, paths of 1 and 2."""
    forest = ForestArrays.from_bytes(sealed([1, 1, 1, 1.0], stump()))
    np.testing.assert_array_equal(forest.score(np.array([[0.0], [1.0], [np.nan]])), [0.5, 0.25, 0.5])


@pytest.mark.parametrize(
    "payload",
    [
        sealed([1, 1, 1, 1.0], stump(threshold=math.nan)),
        sealed([1, 1, 1, 1.0], stump(leaf=math.nan)),
        sealed([1, 1, 1, 1.0], stump(leaf=-1.0)),
        sealed([1, 1, 1, 1.0], stump(leaf=1e300)),
        sealed([1, 1, 1, 1.0], stump(feature=1)),
        sealed([1, 1, 1, 1.0], stump(feature=-1)),
        sealed([1, 1, 1, 1.0], stump(missing_left=2)),
        sealed([1, 1, 1, 1e-300], stump()),
        sealed([1, 1, 1, -1.0], stump()),
        sealed([1, 1, 1, math.nan], stump()),
        sealed([1, 1, 1, math.inf], stump()),
        sealed([0, 1, 1, 1.0], stump()),
        sealed([1, 0, 1, 1.0], stump()),
        sealed([1, 1000, 1, 1.0], stump()),
        sealed([1, 1, 60, 1.0], stump()),
        sealed([1, 1, -1, 1.0], stump()),
        sealed([1, 1, 1, 1.0, 1], stump()),
        sealed([1, 1, 1], stump()),
        sealed([1, 1, 1, "1.0"], stump()),
        sealed([1, 1, 1, 1.0], stump()[:-1]),
        sealed([1, 1, 1, 1.0], b""),
    ],
)
def test_hostile_bytes_with_a_right_checksum_are_refused(payload: bytes) -> None:
    """What would read out of bounds, or give no score, is refused before it reaches the kernel."""
    with pytest.raises(ValueError, match="forest bytes"):
        ForestArrays.from_bytes(payload)


@given(
    header=st.tuples(st.integers(-1, 3), st.integers(-1, 3), st.integers(-1, 3), st.floats()),
    arrays=st.binary(max_size=300),
)
@settings(max_examples=300, deadline=None)
def test_any_sealed_bytes_are_refused_or_score(header: tuple[Any, ...], arrays: bytes) -> None:
    """Whatever is inside a right frame: ValueError, or a forest with scores in [0, 1]."""
    try:
        forest = ForestArrays.from_bytes(sealed(list(header), arrays))
    except ValueError:
        return
    scores = forest.score(np.zeros((9, forest.n_features)))
    assert ((scores >= 0.0) & (scores <= 1.0)).all()


def test_other_formats_are_named() -> None:
    """A forest of a later format is refused as such, not as damage."""
    payload = bytearray(small_forest().to_bytes())
    payload[8] = 9
    with pytest.raises(ValueError, match="format 9 is unknown"):
        ForestArrays.from_bytes(bytes(payload))


@given(hnp.arrays(np.float64, (3, 2), elements=st.floats()))
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("error")
def test_forest_rows_are_finite_or_missing(rows: F64) -> None:
    """Any double becomes a finite float32 without a warning, and only NaN is missing."""
    cut = to_forest_rows(rows)
    assert cut.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(cut), np.isnan(rows))
    assert not np.isinf(cut).any()
