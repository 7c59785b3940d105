"""The end of a block of drift's windows against its meaning, written down plainly."""

import numpy as np
import pytest

from worker.core.kernels.binning import add_differences
from worker.core.kernels.two_sample import FOUND, ODD, PSI, compare
from worker.core.kernels.windows import DIFFERENCES_MAX, ODD_MAX, PRIOR_BLOCKS, SQUARE_MAX, learn_differences, look

_LENGTHS = [1, 2, 4]
_COLUMNS, _BINS = 3, 5


def _ring(seed: int, odd_column: int | None) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint32]]":
    rng = np.random.default_rng(seed)
    ring = rng.integers(40, 60, (4, _COLUMNS, _BINS)).astype(np.uint32)
    if odd_column is not None:
        ring[:, odd_column, 0] += 400
    return ring


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("odd_column", [None, 2])
@pytest.mark.parametrize("watched", [-1, 1])
def test_a_look_stops_at_each_length_that_is_not_calm(blocks: int, odd_column: int | None, watched: int) -> None:
    """Those that are due come in order; what may be spent is spent where all is calm, and the latest PSI is kept."""
    ring, reference = _ring(blocks, odd_column), np.full((_COLUMNS, _BINS), 500)
    is_ordered, factors = np.array([True, False, True]), np.full((2, _COLUMNS), 1.5)
    affected = np.array([-1, watched, -1], dtype=np.int8)
    unspent, latest = np.ones(3), np.full(_COLUMNS, np.nan)
    window, found = np.zeros((_COLUMNS, _BINS), dtype=np.int64), np.zeros((_COLUMNS, FOUND))
    stops, k = [], -1
    while True:
        k = look(
            ring, blocks, k + 1, np.array(_LENGTHS), 2, reference, is_ordered, factors, affected, unspent, latest,
            window, found,
        )  # fmt: skip
        if k == len(_LENGTHS):
            break
        stops.append(k)
    expected = np.ones(3)
    not_calm = []
    for place, length in enumerate(_LENGTHS):
        if blocks < length or blocks % max(length // 2, 1):
            continue
        total = sum(ring[(blocks - 1 - back) % 4].astype(np.int64) for back in range(min(length, 4)))
        own = np.zeros((_COLUMNS, FOUND))
        compare(reference, total, is_ordered, factors[0], factors[1], own)
        if length == min(2, blocks):
            np.testing.assert_array_equal(latest, own[:, PSI])
        if own[:, ODD].max() > ODD_MAX or watched == place:
            not_calm.append(place)
        else:
            expected[place] = 0.0
    assert stops == not_calm
    assert unspent.tolist() == expected.tolist()
    assert (stops != []) == (odd_column is not None or (watched == 1 and blocks > 1))


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_differences_of_blocks_widen_the_design_and_fade(blocks: int) -> None:
    """Only of columns that are not affected; sums at their maximum are halved, and a factor is at least 1."""
    ring = _ring(3, None)
    ring[(blocks - 1) % 4, 0, 0] += 200
    score = np.tile(np.arange(_BINS, dtype=np.int16) * 100, (_COLUMNS, 1))
    spread, affected = np.full(_COLUMNS, 2e4), np.array([-1, 2, -1], dtype=np.int8)
    design, factors = np.array([[1.0, 2.0, 3.0], [1.5, 2.5, 3.5]]), np.zeros((2, _COLUMNS))
    differences = np.array([[3.0, 4.0, DIFFERENCES_MAX - 1.0], [90.0, 4.0, 100.0]])
    expected = differences.copy()
    if blocks > 1:
        older, newer = ring[(blocks - 2) % 4], ring[(blocks - 1) % 4]
        add_differences(older, newer, score, spread * design[0], affected < 0, SQUARE_MAX, expected)
        expected[:, expected[0] >= DIFFERENCES_MAX] /= 2.0
        assert (expected[:, 0] > differences[:, 0]).all()
        assert expected[0, 2] == DIFFERENCES_MAX / 2.0
    learn_differences(ring, blocks, score, spread, affected, design, differences, factors)
    np.testing.assert_array_equal(differences, expected)
    more = np.maximum((PRIOR_BLOCKS + expected[1]) / (PRIOR_BLOCKS + expected[0]), 1.0)
    np.testing.assert_array_equal(factors, design * more)
