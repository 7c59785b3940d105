"""Regimes of inputs: what is found at the start, what is new, has vanished or is back, and that cuts change nothing."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.events import RegimeChange
from worker.core.kernels.arrays import F64, I64
from worker.core.maintenance.presence import Presence
from worker.core.maintenance.regime_records import RegimePane
from worker.core.maintenance.regimes import RegimeWatch, StoredRegimes
from worker.core.options.maintenance import RegimeOptions
from worker.core.statistics.clusters import separated_clusters

OPTIONS = RegimeOptions(start_rows=512, pane_rows=256)
NAMES = ["amount", "age", "hour", "score"]
CENTRES = np.array([[0.0, 0.0, 0.0, 0.0], [900.0, 10.0, 0.0, 0.0], [0.0, 10.0, 9.0, 0.0], [900.0, -10.0, 0.0, 9.0]])


def stream(parts: Sequence[tuple[int, Sequence[float]]], seed: int = 1) -> tuple[F64, I64]:
    """Rows of regimes, so many with such shares of each, part after part; and which regime each row is of."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([rng.choice(len(CENTRES), size=count, p=shares) for count, shares in parts])
    return CENTRES[truth] + rng.normal(size=(len(truth), 4)) * [60.0, 1.0, 1.0, 1.0], truth


def watch(
    rows: F64, options: RegimeOptions = OPTIONS, cuts: Sequence[int] = ()
) -> tuple[RegimeWatch, list[RegimePane]]:
    """Send rows, cut into batches, through a new watch; offsets begin at 1000."""
    found, panes = RegimeWatch(NAMES, options, 7), []
    offsets = np.arange(len(rows)) + 1000
    for part, own in zip(np.split(rows, sorted(cuts)), np.split(offsets, sorted(cuts)), strict=True):
        panes += found.process(part, own)
    return found, panes


def changes(panes: Sequence[RegimePane]) -> list[RegimeChange]:
    """All changes that were told."""
    return [change for pane in panes for change in pane.changes]


STEADY = (0.6, 0.4, 0.0, 0.0)


def test_regimes_are_those_of_the_stream_and_their_shares_are_told() -> None:
    """Two regimes: two are found, each event is put to its own, panes tell 60 % and 40 %, and nothing changes."""
    rows, truth = stream([(8_000, STEADY)])
    found, panes = watch(rows)
    assert len(found.regimes) == 2
    numbers = found.assign(rows)
    assert np.mean(numbers == -1) < 0.02
    assert len({*zip(truth[numbers >= 0].tolist(), numbers[numbers >= 0].tolist(), strict=True)}) == 2
    usual = sorted(share.usual or 0.0 for share in panes[-1].shares)
    np.testing.assert_allclose(usual, [0.4, 0.6], atol=0.03)
    assert not changes(panes)


def test_a_new_regime_is_told_with_what_sets_it_apart() -> None:
    """10 % of the events come from elsewhere: one new regime, in its own units, with events that are of it."""
    rows, truth = stream([(6_000, STEADY), (4_000, (0.54, 0.36, 0.1, 0.0))])
    found, panes = watch(rows)
    (new,) = changes(panes)
    assert (new.kind, new.regime, new.share_before) == ("new", 2, 0.0)
    assert 6_700 <= new.since_offset <= 7_512
    assert new.share_after == pytest.approx(0.1, abs=0.03)
    assert new.features[0].name == "hour"
    assert new.features[0].value == pytest.approx(9.0, abs=0.5)
    assert new.features[0].elsewhere == pytest.approx(0.0, abs=0.5)
    assert new.centre["age"] == pytest.approx(10.0, abs=0.5)
    assert {truth[offset - 1000] for offset in new.example_offsets} == {2}
    assert np.mean(found.assign(rows[truth == 2]) == 2) > 0.95


def test_a_regime_that_vanishes_is_told_and_is_known_when_it_is_back() -> None:
    """The same number, before and after; and what its share was."""
    rows, _ = stream([(8_000, STEADY), (3_000, (1.0, 0.0, 0.0, 0.0)), (3_000, STEADY)])
    _, panes = watch(rows)
    vanished, returned = changes(panes)
    assert (vanished.kind, returned.kind) == ("vanished", "returned")
    assert vanished.regime == returned.regime
    assert vanished.share_before == pytest.approx(0.4, abs=0.03)
    assert vanished.share_after < 0.01
    assert abs(vanished.since_offset - 9_000) < 2 * OPTIONS.pane_rows
    assert returned.share_after > 0.1
    assert max(vanished.example_offsets) < 9_000 + OPTIONS.pane_rows


def test_one_that_comes_and_goes_is_told_until_its_pauses_are_known() -> None:
    """A night shift of six panes: the first pause is told, the later ones, no longer, are not."""
    day_and_night = [(2_048, STEADY), (1_536, (1.0, 0.0, 0.0, 0.0))]
    rows, _ = stream([(4_000, STEADY), *day_and_night * 5])
    _, panes = watch(rows)
    assert [change.kind for change in changes(panes)] == ["vanished", "returned"]


def test_single_far_rows_make_no_regime() -> None:
    """10 % of rows that are far, each in another direction, are counted as far and make nothing new."""
    rows, _ = stream([(10_000, STEADY)])
    rng = np.random.default_rng(3)
    wild = np.flatnonzero(rng.random(len(rows)) < 0.1)
    wild = wild[wild > 4_000]
    rows[wild] += rng.normal(size=(len(wild), 4)) * [9_000.0, 100.0, 90.0, 90.0]
    _, panes = watch(rows)
    assert not changes(panes)
    assert panes[-1].far > 10


def test_a_slow_drift_moves_the_centre_and_is_no_change() -> None:
    """What moves by six deviations over 100 panes is followed: it stays the same regime."""
    rows, _ = stream([(26_112, STEADY)])
    rows[:, 3] += np.linspace(0.0, 6.0, len(rows))
    found, panes = watch(rows, msgspec.structs.replace(OPTIONS, memory_rows=1_000))
    assert not changes(panes)
    assert np.mean(found.assign(rows[-500:]) == -1) < 0.05


def test_where_there_is_no_room_a_new_regime_is_counted() -> None:
    """Nothing is forgotten that is still there."""
    rows, _ = stream([(6_000, STEADY), (4_000, (0.54, 0.36, 0.1, 0.0))])
    found, panes = watch(rows, msgspec.structs.replace(OPTIONS, regimes_max=2))
    assert not changes(panes)
    assert found.refused >= 1


def test_missing_values_are_counted_and_left_out() -> None:
    """Rows without any value belong nowhere; single missing values do not hide the regimes."""
    rows, _ = stream([(6_000, STEADY)])
    rng = np.random.default_rng(5)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows[::10] = np.nan
    found, panes = watch(rows, msgspec.structs.replace(OPTIONS, cells_per_event_max=1_000))
    assert sum(pane.missing for pane in panes[-4:]) == pytest.approx(0.1 * 4 * OPTIONS.pane_rows, rel=0.1)
    assert (found.assign(rows[::10]) == -1).all()
    assert len(found.regimes) == 2
    assert not changes(panes)


@given(cuts=st.lists(st.integers(0, 9_000), max_size=8), cells=st.sampled_from([8, 32, 1_000]))
@settings(max_examples=12, deadline=None)
def test_cuts_change_nothing(cuts: list[int], cells: int) -> None:
    """Panes, changes and state are the same to the bit, with every event used or every fourth."""
    rows, _ = stream([(4_000, STEADY), (3_000, (0.54, 0.36, 0.1, 0.0)), (2_000, (0.9, 0.0, 0.1, 0.0))])
    rows[::7, 1] = np.nan
    options = msgspec.structs.replace(OPTIONS, cells_per_event_max=cells)
    whole, told = watch(rows, options)
    cut, told_cut = watch(rows, options, cuts)
    assert told == told_cut
    assert whole.plain() == cut.plain()
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(array, cut.arrays()[name], err_msg=name)


@pytest.mark.parametrize("at", [300, 5_000, 7_333])
def test_what_is_restored_goes_on_as_if_nothing_had_been(at: int) -> None:
    """While the start is gathered, and later."""
    rows, _ = stream([(6_000, STEADY), (4_000, (0.54, 0.36, 0.1, 0.0))])
    offsets = np.arange(len(rows))
    whole, other = RegimeWatch(NAMES, OPTIONS, 7), RegimeWatch(NAMES, OPTIONS, 7)
    whole.process(rows[:at], offsets[:at])
    other.restore(whole.plain(), {name: array.copy() for name, array in whole.arrays().items()})
    assert whole.process(rows[at:], offsets[at:]) == other.process(rows[at:], offsets[at:])
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name], err_msg=name)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("watch.counters", -1, "not given yet"),
        ("watch.counters", 10**6, "number is wrong"),
        ("watch.far_counts", -1, "a count is out of range"),
        ("watch.totals", -5, "a count is out of range"),
        ("watch.centres", np.nan, "a centre is out of range"),
        ("watch.limits", np.nan, "a limit is out of range"),
        ("watch.offered", 3, "it has started without rows"),
        ("scale.low", np.inf, "a limit is infinite"),
        ("presence.panes", -1, "a count is out of range"),
    ],
)
def test_state_that_cannot_be_is_refused(name: str, value: float, reason: str) -> None:
    """With the reason, and nothing is taken over."""
    found, _ = watch(stream([(3_000, STEADY)])[0])
    arrays = {key: array.copy() for key, array in found.arrays().items()}
    arrays[name][...] = value
    fresh = RegimeWatch(NAMES, OPTIONS, 7)
    with pytest.raises(ValueError, match=reason):
        fresh.restore(found.plain(), arrays)
    assert fresh.regimes == []


def test_numbers_that_cannot_be_are_refused() -> None:
    """A regime twice, and one that was never given a number."""
    found, _ = watch(stream([(3_000, STEADY)])[0])
    for ids, reason in (([0, 0], "twice"), ([0, 5], "not given")):
        with pytest.raises(ValueError, match=reason):
            RegimeWatch(NAMES, OPTIONS, 7).restore(StoredRegimes(started=True, ids=ids), found.arrays())


@pytest.mark.parametrize("features", [1, 3, 12])
@pytest.mark.parametrize("shape", ["bell", "flat"])
def test_what_has_no_gap_is_one_cluster(features: int, shape: str) -> None:
    """k-means cuts a bell or a flat stretch anywhere; it is not told as several regimes."""
    rng = np.random.default_rng(features)
    rows = rng.normal(size=(1_500, features)) if shape == "bell" else rng.random(size=(1_500, features))
    assert separated_clusters(rows, 8, 1).number == 1


def test_presence_seldom_takes_chance_for_an_end() -> None:
    """4,000 panes of five regimes that keep their shares, one of them in clumps: none is told to have vanished."""
    rng = np.random.default_rng(2)
    presence = Presence(5, 1e5, 2)
    for _ in range(4_000):
        hits = rng.multinomial(256, [0.5, 0.3, 0.15, 0.04, 0.01])
        hits[4] = rng.choice([0, 12], p=[0.8, 0.2])
        vanished, _ = presence.look(hits, 256)
        assert not vanished
