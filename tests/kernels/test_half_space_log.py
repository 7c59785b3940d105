"""Half-space trees with the logarithmic score: a naive twin, River's draw, the gate, fading, and broken state."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.kernels.test_reservoir import Splitmix64
from worker.core.detectors.half_space_log import LogHalfSpaceTrees
from worker.core.kernels.arrays import F32, F64
from worker.core.kernels.half_space_log import LEARNED, PADDING, PASSED, WINDOWS, draw
from worker.core.options import HalfSpaceOptions

OPTIONS = HalfSpaceOptions(trees=5, height=4, window_events=30, score="log")


class Node(NamedTuple):
    """A split of a naive tree, by its place in heap order."""

    feature: int
    threshold: float


class NaiveTree:
    """The naive twin: masses of all nodes are counted, one row after the other, in dictionaries."""

    def __init__(self, splits: list[Node], height: int, window: int, fade: float) -> None:
        self.splits, self.height, self.window, self.fade = splits, height, window, fade
        self.reference: dict[int, float] = {}
        self.learned: dict[int, int] = {}

    def path(self, row: F32) -> list[int]:
        """The nodes that a row meets; a missing value goes where there was more mass."""
        nodes = [0]
        for _ in range(self.height):
            split, left = self.splits[nodes[-1]], 2 * nodes[-1] + 1
            value = row[split.feature]
            if np.isnan(value):
                goes_right = self.reference.get(left, 0.0) < self.reference.get(left + 1, 0.0)
            else:
                goes_right = value > np.float32(split.threshold)
            nodes.append(left + goes_right)
        return nodes

    def score(self, row: F32) -> float:
        """Minus the logarithm of the density where the walk ends."""
        total = self.reference[0]
        for depth, node in enumerate(self.path(row)):
            mass = self.reference.get(node, 0.0)
            if mass < 0.1 * total or depth == self.height:
                # Of single precision, as leaves are looked up.
                return float(np.float32(-math.log2(1.0 + mass * self.window / total * 2.0**depth)))
        raise AssertionError

    def learn(self, row: F32) -> None:
        """Count a visit of each node of the path."""
        for node in self.path(row):
            self.learned[node] = self.learned.get(node, 0) + 1

    def end_window(self) -> None:
        """What was learned becomes what is known."""
        nodes = {*self.reference, *self.learned}
        self.reference = {n: self.fade * self.reference.get(n, 0.0) + self.learned.get(n, 0) for n in nodes}
        self.learned = {}


def splits_of(features: int, options: HalfSpaceOptions, seed: int) -> list[list[Node]]:
    """Draw trees with the kernel."""
    shape = options.trees, 2**options.height - 1
    feature, threshold = np.zeros(shape, dtype=np.int16), np.zeros(shape, dtype=np.float32)
    draw(np.full(1, seed, dtype=np.uint64), feature, threshold, features)
    return [
        [Node(int(f), float(t)) for f, t in zip(*tree, strict=True)] for tree in zip(feature, threshold, strict=True)
    ]


def naive_scores(rows: F32, options: HalfSpaceOptions, seed: int) -> F64:
    """Score and learn without a gate."""
    window = options.window_events
    splits = splits_of(rows.shape[1], options, seed)
    trees = [NaiveTree(tree, options.height, window, options.fade) for tree in splits]
    scores = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        if i >= window:
            scores[i] = np.mean([tree.score(row) for tree in trees])
        for tree in trees:
            tree.learn(row)
            if (i + 1) % window == 0:
                tree.end_window()
    return scores


def detector_of(features: int, options: HalfSpaceOptions, settle: int = 0) -> LogHalfSpaceTrees:
    """A detector whose limits are [0, 1]."""
    detector = LogHalfSpaceTrees(features, options, settle, seed=3)
    detector.fit(np.repeat(np.linspace(0.25, 0.75, 26)[:, np.newaxis], features, axis=1))
    detector.restore(0, detector.live(), {"low": np.zeros(features), "high": np.ones(features)})
    return detector


def rows_of(count: int, features: int, missing: float, seed: int = 1) -> F64:
    """Rows in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows = np.clip(rng.normal(0.5, 0.15, size=(count, features)), 0.0, 1.0)
    rows[rng.random(rows.shape) < missing] = np.nan
    return rows


@given(
    features=st.integers(1, 6),
    trees=st.integers(1, 4),
    height=st.integers(1, 6),
    window=st.integers(1, 50),
    fade=st.sampled_from([0.0, 0.5]),
    missing=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=25, deadline=None)
def test_scores_are_those_of_the_naive_twin(
    features: int, trees: int, height: int, window: int, fade: float, missing: float
) -> None:
    """Any shape, window and fading, with and without missing values."""
    window = max(window, 10) if fade else window  # so that float32 holds the faded masses exactly, as doubles do
    options = replace(OPTIONS, trees=trees, height=height, window_events=window, fade=fade)
    rows = rows_of(150, features, missing)
    scores = detector_of(features, options).score_and_learn(rows)
    np.testing.assert_allclose(scores, naive_scores(rows.astype(np.float32), options, 3), rtol=1e-5, atol=1e-5)


def test_trees_are_drawn_by_rivers_rule() -> None:
    """Each threshold lies in the middle 70 % of its node's range; features are asked for the width of theirs."""
    features, options = 3, HalfSpaceOptions(trees=50, height=7)
    counts = np.zeros(features)
    for tree in splits_of(features, options, 9):
        ranges = [np.repeat([[0.0, 1.0]], features, axis=0)]
        for node, (feature, threshold) in enumerate(tree):
            low, high = ranges[node][feature]
            margin = PADDING * (high - low)
            assert low + margin - 1e-6 <= threshold <= high - margin + 1e-6
            left, right = ranges[node].copy(), ranges[node].copy()
            left[feature, 1] = right[feature, 0] = threshold
            ranges += [left, right] if len(ranges) == 2 * node + 1 else []
        counts[tree[0].feature] += 1
    assert counts.min() > 8
    assert len({tree[0].threshold for tree in splits_of(features, options, 9)}) == 50


def test_the_first_draw_is_the_generators() -> None:
    """The root's feature and threshold come from the first two numbers of splitmix64."""
    generator = Splitmix64(9)
    first, second = (generator.next() / 2**64 for _ in range(2))
    root = splits_of(4, HalfSpaceOptions(trees=1, height=1), 9)[0][0]
    assert root.feature == int(first * 4)
    assert root.threshold == pytest.approx(PADDING + (1 - 2 * PADDING) * second, abs=1e-6)


@given(cuts=st.lists(st.integers(0, 700), max_size=12), quantile=st.sampled_from([0.9, 1.0]))
@settings(max_examples=30, deadline=None)
def test_cuts_change_nothing(cuts: list[int], quantile: float) -> None:
    """However the stream is cut, scores and state have the same bits, though windows end where the gate lets them."""
    rows, options = rows_of(700, 4, 0.1), replace(OPTIONS, gate_quantile=quantile, fade=0.7)
    whole, parts = detector_of(4, options, settle=40), detector_of(4, options, settle=40)
    scores = np.concatenate([parts.score_and_learn(part) for part in np.split(rows, sorted(cuts))])
    np.testing.assert_array_equal(scores, whole.score_and_learn(rows))
    for name, array in whole.live().items():
        np.testing.assert_array_equal(array, parts.live()[name])


def test_the_gate_keeps_a_burst_out_of_the_masses() -> None:
    """Rows of a burst are passed over, so the trees still find them anomalous when it has lasted for five windows."""
    options = replace(OPTIONS, trees=25, window_events=100)
    burst = np.full((500, 3), 0.98)
    scores = {}
    for quantile in (0.95, 1.0):
        detector = detector_of(3, replace(options, gate_quantile=quantile))
        detector.score_and_learn(rows_of(12_000, 3, 0.0))
        before = detector.live()["position"].copy()
        scores[quantile] = detector.score_and_learn(burst)
        passed = detector.live()["position"][PASSED] - before[PASSED]
        assert passed == (500 if quantile < 1.0 else 0)
    assert scores[0.95][-1] == scores[0.95][0]
    assert scores[1.0][-1] < scores[1.0][0] - 2.0


def test_position_counts_every_row() -> None:
    """Rows learned in windows, in this window, and passed over are all rows."""
    options = replace(OPTIONS, gate_quantile=0.9)
    detector = detector_of(3, options)
    detector.score_and_learn(rows_of(2000, 3, 0.0))
    position = detector.live()["position"]
    assert position[LEARNED] + position[WINDOWS] * 30 + position[PASSED] == 2000
    assert 100 < position[PASSED] < 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("position", 30),
        ("position", -1),
        ("learned", -1),
        ("learned", 29),
        ("masses", -1.0),
        ("masses", np.nan),
        ("masses", np.inf),
        ("masses", 1e9),
        ("trees", 0),
        ("gate.threshold", np.nan),
    ],
)
def test_state_that_cannot_be_is_refused(name: str, value: float) -> None:
    """Counts that are not those of so many rows, and trees of another seed, are refused with a reason."""
    source = detector_of(3, OPTIONS)
    source.score_and_learn(rows_of(100, 3, 0.0))
    live = {key: array.copy() for key, array in source.live().items()}
    before = live[name].reshape(-1)[0]
    live[name].reshape(-1)[0] = before ^ 1 if name == "trees" else value
    with pytest.raises(ValueError, match=r"stat|stored"):
        LogHalfSpaceTrees(3, OPTIONS, 0, seed=3).restore(100, live, source.fitted())


def test_no_features_are_refused() -> None:
    """Trees without a feature to ask cannot be drawn."""
    with pytest.raises(ValueError, match="features"):
        LogHalfSpaceTrees(0, OPTIONS, 0, seed=3)
