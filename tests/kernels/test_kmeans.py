"""k-means: kernels beside naive twins."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score

from worker.core.kernels import kmeans
from worker.core.kernels.arrays import F64, I64


def rows_of(count: int, features: int, missing: float, seed: int) -> F64:
    """Scaled rows, some values missing."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(-1.0, 2.0, size=(count, features))
    rows[rng.random(rows.shape) < missing] = np.nan
    return rows


def naive_squares(row: F64, centres: F64) -> F64:
    """Partial squared distances to all centres (d x k)."""
    known = ~np.isnan(row)
    steps = (row[known, np.newaxis] - centres[known]) ** 2
    found: F64 = steps.sum(axis=0) * len(row) / known.sum()
    return found


def assigned(rows: F64, centres: F64) -> tuple[I64, F64]:
    """Call the kernel."""
    places, squares = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    kmeans.assign(rows, centres, centres.shape[1], np.empty(centres.shape[1]), places, squares)
    return places, squares


cases = given(
    count=st.integers(1, 40),
    features=st.integers(1, 6),
    clusters=st.integers(1, 5),
    missing=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 10_000),
)


@cases
@settings(max_examples=80, deadline=None)
def test_rows_go_to_the_nearest_centre(count: int, features: int, clusters: int, missing: float, seed: int) -> None:
    """Distances are the twin's, the centre is the nearest, and a row without values goes nowhere."""
    rows = rows_of(count, features, missing, seed)
    centres = np.random.default_rng(seed + 1).uniform(0.0, 1.0, size=(features, clusters))
    for row, place, square in zip(rows, *assigned(rows, centres), strict=True):
        if np.isnan(row).all():
            assert place == kmeans.UNKNOWN
            assert np.isnan(square)
        else:
            expected = naive_squares(row, centres)
            np.testing.assert_allclose(square, expected.min(), rtol=1e-12)
            np.testing.assert_allclose(expected[place], expected.min(), rtol=1e-12)


@cases
@settings(max_examples=60, deadline=None)
def test_centres_end_at_the_means_of_their_rows(
    count: int, features: int, clusters: int, missing: float, seed: int
) -> None:
    """One round moves each centre to the mean of what its rows have, and leaves one without rows where it was."""
    rows = rows_of(count, features, missing, seed)
    before = np.random.default_rng(seed + 1).uniform(0.0, 1.0, size=(features, clusters))
    places, _ = assigned(rows, before)
    after = before.copy()
    work = np.empty(clusters), np.empty(count, dtype=np.int64), np.empty(count), np.empty(before.shape)
    kmeans.iterate(rows, 1, *work, np.zeros(before.shape, dtype=np.int64), after, clusters)
    for place in range(clusters):
        for column in range(features):
            values = rows[places == place, column]
            values = values[~np.isnan(values)]
            expected = values.mean() if len(values) else before[column, place]
            np.testing.assert_allclose(after[column, place], expected, rtol=1e-12, atol=1e-12)


@cases
@settings(max_examples=60, deadline=None)
def test_a_start_is_made_of_different_rows(count: int, features: int, clusters: int, missing: float, seed: int) -> None:
    """Centres are rows (missing values as usual), no row twice; all of them when there are fewer than wanted."""
    rows = rows_of(count, features, missing, seed)
    usual, centres = np.full(features, 0.5), np.zeros((features, clusters))
    state = np.full(1, seed, dtype=np.uint64)
    found = kmeans.spread(rows, usual, clusters, state, np.empty(clusters), np.empty(count), centres)
    filled = np.where(np.isnan(rows), usual, rows)[~np.isnan(rows).all(axis=1)]
    for place in range(found):
        assert (filled == centres[:, place]).all(axis=1).any()
    if not missing:
        assert found == min(count, clusters)
        assert len(np.unique(centres[:, :found], axis=1).T) == found


@given(count=st.integers(4, 40), clusters=st.integers(2, 4), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_silhouette_is_that_of_scikit_learn(count: int, clusters: int, seed: int) -> None:
    """For any rows in any clusters, as long as there are two."""
    rng = np.random.default_rng(seed)
    rows, places = rng.normal(size=(count, 3)), rng.integers(clusters, size=count)
    places[:2] = 0, 1
    if len(np.unique(places)) == count:
        places[2] = 0
    distances = np.empty((count, count))
    kmeans.pairwise(rows, distances)
    sizes = np.bincount(places, minlength=clusters)
    found = kmeans.silhouette(distances, places, sizes, np.empty(clusters))
    np.testing.assert_allclose(found, silhouette_score(rows, places), rtol=1e-9, atol=1e-12)


def test_strips_count_the_rows_between_two_centres() -> None:
    """A row at each tenth of the way is one row in each strip; rows of a third cluster do not count."""
    centres = np.array([[0.0, 1.0, 9.0], [0.0, 0.0, 0.0]])
    rows = np.array([[tenth / 10.0 + 0.001, 0.3] for tenth in range(-3, 15)])
    places = np.array([0 if x < 0.5 else 1 for x, _ in rows])
    strips = np.zeros(13, dtype=np.int64)
    kmeans.count_along(rows, places, centres, 0, 1, strips)
    assert strips.tolist() == [1] * 13
    kmeans.count_along(rows, np.full(len(rows), 2), centres, 0, 1, strips)
    assert strips.tolist() == [0] * 13


@given(seed=st.integers(0, 1000), spread=st.sampled_from([0.01, 0.1]))
@settings(max_examples=30, deadline=None)
def test_the_densest_place_is_found_among_scattered_rows(seed: int, spread: float) -> None:
    """A tight bunch of 20 among 30 scattered rows: its mean, and its rows."""
    rng = np.random.default_rng(seed)
    bunch = rng.normal(0.5, spread, size=(20, 4))
    scattered = rng.choice([-1.0, 1.0], size=(30, 4)) * rng.uniform(3.0, 5.0, size=(30, 4))
    rows = np.concatenate([scattered, bunch])
    centre, members = np.zeros(4), np.zeros(50, dtype=np.bool)
    assert kmeans.densest(rows, 4.0, centre, members) == 20
    np.testing.assert_allclose(centre, bunch.mean(axis=0))
    assert members.tolist() == [False] * 30 + [True] * 20


@given(
    features=st.integers(1, 4),
    stride=st.integers(1, 4),
    missing=st.sampled_from([0.0, 0.4]),
    cut=st.integers(0, 60),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_a_pane_is_counted_as_the_twin_counts(features: int, stride: int, missing: float, cut: int, seed: int) -> None:
    """Every s-th row, scaled: to the nearest centre if it is within its limit, else far; cut anywhere."""
    rows = rows_of(60, features, missing, seed) * 10.0
    rng = np.random.default_rng(seed + 1)
    low, width, centres = np.full(features, 2.0), np.full(features, 8.0), rng.uniform(0.0, 1.0, size=(features, 3))
    limits, clusters = np.array([0.1, 0.3, 0.2]) * features, 3
    sums, known = np.zeros((features, clusters)), np.zeros((features, clusters), dtype=np.int64)
    hits, totals = np.zeros(clusters, dtype=np.int64), np.zeros(clusters, dtype=np.int64)
    examples, far = np.zeros((clusters, 2), dtype=np.int64), np.zeros((1, 5, features))
    far_offsets, far_counts = np.zeros((1, 5), dtype=np.int64), np.zeros(1, dtype=np.int64)
    counters, state = np.zeros(kmeans.COUNTERS, dtype=np.int64), np.full(1, seed, dtype=np.uint64)
    counters[kmeans.COUNT] = clusters
    arrays = centres, limits, sums, known, hits, totals, examples, far, far_offsets, far_counts, state, counters
    work = np.empty(features), np.empty(clusters)
    offsets = np.arange(60) + 500
    kmeans.watch_rows(rows[:cut], offsets[:cut], 0, stride, 1_000, low, width, *arrays, *work)
    kmeans.watch_rows(rows[cut:], offsets[cut:], 0, stride, 1_000, low, width, *arrays, *work)
    own: dict[int, list[int]] = {place: [] for place in range(-2, clusters)}
    scaled = np.clip((rows - 2.0) / 8.0, -5.0, 6.0)
    for number in range(0, 60, stride):
        row = scaled[number]
        if np.isnan(row).all():
            own[-2].append(number)
        else:
            squares = naive_squares(row, centres)
            place = int(squares.argmin())
            own[place if squares[place] <= limits[place] else -1].append(number)
    assert hits.tolist() == [len(own[place]) for place in range(clusters)]
    assert (counters[kmeans.MISSING], far_counts[0]) == (len(own[-2]), len(own[-1]))
    assert (counters[kmeans.SEEN], counters[kmeans.FIRST]) == (60, 500)
    for place in range(clusters):
        np.testing.assert_allclose(sums[:, place], np.nansum(scaled[own[place]], axis=0), atol=1e-12)
        np.testing.assert_array_equal(known[:, place], (~np.isnan(scaled[own[place]])).sum(axis=0))
        assert set(examples[place].tolist()) - {0} == {number + 500 for number in own[place][-2:]}
    kept = far_offsets[0, : min(far_counts[0], 5)] - 500
    assert set(kept.tolist()) <= set(own[-1])
    np.testing.assert_allclose(far[0, : len(kept)], scaled[kept], atol=1e-12)
