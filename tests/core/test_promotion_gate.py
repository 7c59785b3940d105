"""The promotion gate: who is ready, what blocks, what is told, and what is refused."""

import numpy as np
import pytest

from worker.core.kernels.arrays import F64, I32
from worker.core.kernels.promotion import (
    BEGUN,
    BLOCKS,
    DISPERSION,
    EVIDENCE,
    GAIN,
    LABELS,
    MEANS,
    OPEN,
    RUNS,
    SINCE,
    STATUS,
    VARIANCE,
    WEIGHT,
)
from worker.core.maintenance.gate import PromotionGate, reach_of
from worker.core.options.maintenance import GateOptions

ROWS = 6_000


def losses(seed: int, gains: list[float], rows: int = ROWS) -> F64:
    """Return 0/1 losses of a champion that errs in 30 %, and of challengers that err less by a gain, independently."""
    rng = np.random.default_rng(seed)
    return (rng.random((rows, 1 + len(gains))) < 0.3 - np.array([0.0, *gains])).astype(float)


def no_places(rows: int) -> I32:
    """Return that there are no segments."""
    return np.zeros((rows, 0), dtype=np.int32)


def run(gate: PromotionGate, rows: F64, places: I32 | None = None) -> list[int]:
    """Take all rows; return those after which a status was another one."""
    told, row = [], 0
    places = no_places(len(rows)) if places is None else places
    while (row := gate.take(rows, places, row)) < len(rows):
        told.append(row)
        row += 1
    return told


def test_only_the_better_challenger_gets_ready() -> None:
    """Ten points better is ready after the least number of labels and the hold; an equal and a worse one are not."""
    gate = PromotionGate(3, 0, 1.0, GateOptions())
    told = run(gate, losses(1, [0.1, 0.0, -0.1]))
    assert [gate.status(each) for each in range(3)] == ["ready", "trying", "trying"]
    assert len(told) == 1
    assert 2_000 <= told[0] + 1 <= 4_000
    finding = gate.finding(0)
    assert finding.gain_low is not None
    assert finding.gain_high is not None
    assert 0.0 < finding.gain_low < 0.1 < finding.gain_high
    assert gate.finding(2).trials > 1


def test_equal_challengers_hardly_ever_get_ready() -> None:
    """Of forty seeded streams of three equally good challengers at most two have one that is ready."""
    ready = 0
    for seed in range(40):
        gate = PromotionGate(3, 0, 1.0, GateOptions())
        run(gate, losses(seed, [0.0, 0.0, 0.0]))
        ready += any(gate.status(each) == "ready" for each in range(3))
    assert ready <= 2


def test_old_evidence_does_not_make_a_challenger_ready() -> None:
    """A challenger that was better before its evidence had stood for long, and is worse now, is not ready."""
    gate = PromotionGate(1, 0, 1.0, GateOptions())
    told = run(gate, np.concatenate([losses(2, [0.12], 1_800), losses(3, [-0.12], 4_000)]))
    assert told == []


def test_a_challenger_that_has_become_worse_is_no_longer_ready() -> None:
    """Being ready is taken back when the recent labels say otherwise."""
    gate = PromotionGate(1, 0, 1.0, GateOptions())
    told = run(gate, np.concatenate([losses(4, [0.1], 5_000), losses(5, [-0.1], 4_000)]))
    assert len(told) == 2
    assert gate.status(0) == "trying"


def test_a_long_equal_past_does_not_hide_a_gain() -> None:
    """After 8,000 equal labels a drift makes the challenger 20 points better: it is ready within 5,000 labels."""
    gate = PromotionGate(1, 0, 1.0, GateOptions())
    told = run(gate, np.concatenate([losses(6, [0.0], 8_000), losses(7, [0.2], 5_000)]))
    assert len(told) == 1
    assert told[0] > 8_000


def test_a_segment_that_is_worse_blocks_and_a_rare_one_does_not() -> None:
    """Ten points better in all, but 20 points worse in one value: blocked; where that is rare: ready, and told."""
    rows = losses(8, [0.12])
    rng = np.random.default_rng(9)
    for share, status, verdict in ((0.1, "blocked", "worse"), (0.02, "ready", "too_few")):
        harmed = rng.random(ROWS) < share
        changed = rows.copy()
        changed[harmed, 1] = rng.random(int(harmed.sum())) < 0.6
        gate = PromotionGate(1, 2, 1.0, GateOptions())
        run(gate, changed, harmed.astype(np.int32)[:, np.newaxis])
        assert gate.status(0) == status
        assert {each.place: each.verdict for each in gate.segment_findings(0)} == {0: "not_worse", 1: verdict}


def test_a_gain_that_is_not_worth_a_promotion_makes_no_one_ready() -> None:
    """A challenger that avoids 3 % of the errors is ready if 0 or 1 % is asked, and not if 10 % is."""
    rows = losses(16, [0.0], 60_000)
    rows[:, 1] = rows[:, 0] * (np.random.default_rng(17).random(60_000) < 0.97)
    for gain_min, status in ((0.0, "ready"), (0.01, "ready"), (0.1, "trying")):
        gate = PromotionGate(1, 0, 1.0, GateOptions(gain_min=gain_min))
        run(gate, rows)
        assert gate.status(0) == status


def test_the_gain_is_of_the_labels_since_the_evidence_began() -> None:
    """After 6,000 labels at a loss, what is told of a gain of 15 points is not diluted by them."""
    gate = PromotionGate(1, 0, 1.0, GateOptions())
    run(gate, np.concatenate([losses(18, [-0.1], 6_000), losses(19, [0.15], 4_000)]))
    finding = gate.finding(0)
    assert 3_000 <= finding.labels <= 4_400
    assert finding.gain == pytest.approx(0.15, abs=0.03)
    assert finding.trials > 1


def test_intervals_hold_at_all_times() -> None:
    """Of 300 walks with variance 1 about 0, at most 5 % leave the confidence sequence at any of 10 to 5,000 labels."""
    walks = np.random.default_rng(20).normal(size=(300, 5_000)).cumsum(axis=1)
    labels = np.arange(1, 5_001)
    reach = np.array([reach_of(int(each), 0.05) for each in labels]) * labels
    left = (np.abs(walks) > reach)[:, 10:].any(axis=1)
    assert left.mean() <= 0.05
    assert reach[1_999] / labels[1_999] < 3.5 / np.sqrt(2_000)


def test_the_error_of_intervals_is_shared_by_the_values() -> None:
    """With a second value beside it, the interval of the first one is wider, from the same labels."""
    rows, widths = losses(21, [0.0], 2_000), []
    for columns in (1, 2):
        gate = PromotionGate(1, 2, 1.0, GateOptions())
        run(gate, rows, np.tile(np.arange(columns, dtype=np.int32), (2_000, 1)))
        found = gate.segment_findings(0)[0]
        widths.append(found.gain_high - found.gain_low)
    assert widths[0] < widths[1]


def test_forgotten_places_and_challengers_begin_anew() -> None:
    """A place whose value gave way has no labels; a challenger that is another model has no evidence."""
    gate = PromotionGate(1, 3, 1.0, GateOptions())
    run(gate, losses(10, [0.1]), np.full((ROWS, 1), 2, dtype=np.int32))
    gate.forget_places([2])
    assert gate.segment_findings(0) == []
    gate.begin_anew(0)
    finding = gate.finding(0)
    assert (finding.status, finding.labels, finding.gain, finding.evidence) == ("trying", 0, None, None)


def test_the_scale_and_clipping_are_symmetric() -> None:
    """Losses of any unit give the same decision as those divided by the scale; a huge error counts as one of scale."""
    rows = losses(11, [0.1])
    one, other = PromotionGate(1, 0, 1.0, GateOptions()), PromotionGate(1, 0, 64.0, GateOptions())
    wild = 64.0 * rows
    wild[wild[:, 0] > wild[:, 1], 0] *= 1_000.0
    assert run(one, rows) == run(other, wild)
    assert one.finding(0).gain == pytest.approx((other.finding(0).gain or 0.0) / 64.0)


def test_a_restored_gate_goes_on_as_if_nothing_had_been() -> None:
    """Restored in the middle, it decides the same as the one that went on."""
    rows = losses(12, [0.1])
    whole, first, second = (PromotionGate(1, 1, 1.0, GateOptions()) for _ in range(3))
    run(whole, rows)
    run(first, rows[:1_234])
    second.restore({name: array.copy() for name, array in first.arrays().items()})
    run(second, rows[1_234:])
    assert {name: array.tobytes() for name, array in whole.arrays().items()} == {
        name: array.tobytes() for name, array in second.arrays().items()
    }


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("counts", (0, LABELS), -1),
        ("counts", (0, SINCE), 7_000),
        ("counts", (0, BEGUN), 7_000),
        ("counts", (0, STATUS), 3),
        ("counts", (0, RUNS), 0),
        ("counts", (0, BLOCKS), 31),
        ("counts", (0, BLOCKS), 2),
        ("sums", (0, OPEN), 201.0),
        ("sums", (0, WEIGHT), 1.0),
        ("sums", (0, MEANS), np.nan),
        ("sums", (0, GAIN), 1e9),
        ("sums", (0, EVIDENCE), np.inf),
        ("sums", (0, VARIANCE), -1.0),
        ("sums", (0, DISPERSION), 0.0),
        ("money", (0, 1), 1e9),
        ("segments", (0, 0, 0), 3_000.0),
        ("segments", (0, 0, 2), np.inf),
    ],
)
def test_stored_arrays_that_cannot_be_are_refused(name: str, place: tuple[int, ...], value: float) -> None:
    """Whatever a kernel would go wrong with is refused with a reason, and nothing is taken over."""
    gate = PromotionGate(1, 1, 1.0, GateOptions())
    run(gate, losses(13, [0.1]))
    stored = {key: array.copy() for key, array in gate.arrays().items()}
    stored[name][place] = value
    other = PromotionGate(1, 1, 1.0, GateOptions())
    with pytest.raises(ValueError, match="stored promotion gate"):
        other.restore(stored)
    assert other.finding(0).labels == 0


def test_what_does_not_fit_is_refused() -> None:
    """A place that there is not, and losses of another pool, are refused before a kernel sees them."""
    gate = PromotionGate(1, 2, 1.0, GateOptions())
    with pytest.raises(ValueError, match="a place"):
        gate.take(losses(0, [0.0], 10), np.full((10, 1), 2, dtype=np.int32), 0)
    with pytest.raises(ValueError, match="do not fit"):
        gate.take(losses(0, [0.0, 0.0], 10), no_places(10), 0)
    with pytest.raises(ValueError, match="cannot be"):
        PromotionGate(0, 2, 1.0, GateOptions())


def test_ten_segments_of_a_thousand_values_have_places() -> None:
    """Performance monitoring follows them, so the pool of such a model must begin."""
    gate = PromotionGate(2, 10 * 1_001, 1.0, GateOptions())
    assert gate.segment_findings(0) == []
