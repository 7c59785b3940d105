"""The rows of an incident in groups: planted causes are found, one cause is one group, and the sample is fair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from worker.core.alerts.grouping import directions, group_places, groups
from worker.core.alerts.incident_rows import PART_MAX, IncidentRows, Kept, unusual_parts
from worker.core.columns import Column, Kind
from worker.core.events.alerts import AnomalyGroup
from worker.core.kernels.arrays import F64, I64
from worker.core.options.detection import GroupingOptions
from worker.core.statistics.bands import Usual

OPTIONS = GroupingOptions()
COLUMNS = [
    Column("amount", Kind.NUMERIC, {}),
    Column("country", Kind.CATEGORICAL, {"DE": 1, "ZZ": 2}),
    Column("age", Kind.NUMERIC, {}),
    Column("active", Kind.BOOLEAN, {}),
    *(Column(f"other{place}", Kind.NUMERIC, {}) for place in range(4)),
]
WIDTH = len(COLUMNS)
USUAL = Usual(np.full(WIDTH, -1.6), np.zeros(WIDTH), np.full(WIDTH, 1.6))


def incident(causes: list[dict[int, float]], rows: int, noise: float = 0.1, seed: int = 1) -> tuple[Kept, I64]:
    """Rows of an incident, each of one cause: feature and the value it has; and which cause each row is of."""
    rng = np.random.default_rng(seed)
    truth = np.sort(rng.integers(len(causes), size=rows))
    rng.shuffle(truth)
    parts, cells = rng.normal(size=(rows, WIDTH)) * noise, rng.normal(size=(rows, WIDTH)) * 0.5
    cells[:, [1, 3]] = 1.0
    for place, cause in enumerate(causes):
        own = truth == place
        for feature, value in cause.items():
            cells[own, feature] = value
            # Never lost in the noise of the other features: of such a row nobody could tell what its cause is.
            parts[own, feature] += np.maximum(rng.gamma(4.0, 0.5 / len(cause), size=own.sum()), 5.0 * noise)
    return Kept(parts, cells, np.arange(rows) * 3 + 100), truth


def found(kept: Kept) -> list[AnomalyGroup]:
    """Groups as they are told."""
    return groups(kept, COLUMNS, USUAL, OPTIONS, 5)


def places(kept: Kept, seed: int = 5) -> I64:
    """The group of each row."""
    categorical = np.array([column.kind is Kind.CATEGORICAL for column in COLUMNS])
    return group_places(directions(kept, USUAL, categorical), OPTIONS, seed)


CAUSES = [{0: 9000.0}, {1: 2.0}, {2: -40.0}, {2: 50.0}, {4: 8.0, 5: 9.0}]


@given(count=st.integers(2, 5), rows=st.sampled_from([60, 200, 500]), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_planted_causes_are_recovered(count: int, rows: int, seed: int) -> None:
    """Two to five causes, one of them of two features, two of them the same feature in two directions."""
    kept, truth = incident(CAUSES[-count:], rows, seed=seed)
    assert adjusted_rand_score(truth, places(kept)) > 0.9


@given(cause=st.sampled_from(CAUSES), rows=st.sampled_from([1, 2, 3, 60, 500]), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_one_cause_is_one_group(cause: dict[int, float], rows: int, seed: int) -> None:
    """However strong each row is, as long as it is stronger than noise."""
    kept, _ = incident([cause], rows, seed=seed)
    assert [group.rows for group in found(kept)] == [rows]


def test_groups_are_told_in_words() -> None:
    """Largest first, with features, directions, values against the usual band, and events to look at."""
    kept, truth = incident([{0: 9000.0}, {0: 9000.0}, {1: 2.0}, {2: -40.0}], 200, noise=0.01)
    largest, *rest = found(kept)
    assert largest.text == "amount is above usual: 9000, usual -1.6 to 1.6"
    assert {group.text for group in rest} == {
        "country is rare: ZZ",
        "age is below usual: -40, usual -1.6 to 1.6",
    }
    assert largest.rows == int((truth <= 1).sum())
    assert sum(group.share for group in [largest, *rest]) == pytest.approx(1.0)
    assert {int(truth[(offset - 100) // 3]) for offset in largest.example_offsets} <= {0, 1}
    assert largest.features[0].part > 0.6


def test_rows_without_parts_are_one_group_without_features() -> None:
    """Nothing stands out, and nothing is made up."""
    kept = Kept(np.zeros((5, WIDTH)), np.full((5, WIDTH), np.nan), np.arange(5))
    (group,) = found(kept)
    assert (group.rows, group.features, group.text) == (5, [], "no single feature stands out")
    assert found(Kept(np.zeros((0, WIDTH)), np.zeros((0, WIDTH)), np.zeros(0, dtype=np.int64))) == []


def test_enormous_and_tiny_parts_are_directions_all_the_same() -> None:
    """No overflow, no loss: only which features matter counts."""
    parts: F64 = np.zeros((3, WIDTH))
    parts[:, 0] = 1e300, 1e-300, 1.0
    rows = directions(Kept(parts, np.ones((3, WIDTH)), np.arange(3)), USUAL, np.zeros(WIDTH, dtype=np.bool))
    assert rows[:, 0].tolist() == [1.0, 1.0, 1.0]
    assert not rows[:, 1:].any()


@settings(deadline=None)
@given(far=st.floats(0.0, 1e9), column=st.integers(0, 2))
def test_a_value_is_as_unusual_as_it_lies_beyond_its_band(far: float, column: int) -> None:
    """In widths of the band, on a log scale, on either side; nothing within it and for what is missing."""
    usual = Usual(np.array([0.0, -2.0, np.nan]), np.array([1.0, 0.0, np.nan]), np.array([2.0, 2.0, np.nan]))
    for row in (usual.high + far * (usual.high - usual.low), usual.low - far * (usual.high - usual.low)):
        parts = unusual_parts(row[np.newaxis], usual)[0]
        expected = 0.0 if column == 2 else np.log1p(min(far, PART_MAX))
        assert parts[column] == pytest.approx(expected, rel=1e-6, abs=1e-6)
    rows = np.stack([usual.median, np.full(3, np.nan)])
    assert not unusual_parts(rows, usual).any()


def test_what_is_always_the_same_is_unusual_when_it_differs() -> None:
    """As if it were one band beyond, whatever its unit; the largest numbers do no harm."""
    usual = Usual(np.array([1.0, 1.0, 1.0, -1e300]), np.full(4, 1.0), np.array([1.0, 1.0, 1.0 + 1e-15, 1.0]))
    parts = unusual_parts(np.array([[1.0, 1e9, 1.7e308, -1.7e308]]), usual)
    assert parts[0].tolist() == pytest.approx([0.0, np.log(2.0), np.log1p(PART_MAX), np.log1p(PART_MAX)])


def add(rows: IncidentRows, count: int, begin: int = 0) -> None:
    """Offer events whose offset is their number."""
    for number in range(begin, begin + count):
        rows.add(np.full(2, number / 1_000.0), np.array([number, np.nan]), number)


def test_the_sample_is_even() -> None:
    """Of 2,000 events, 500 are kept, from all of the incident, each one whole."""
    rows = IncidentRows(2, 500, 3)
    add(rows, 2_000)
    kept = rows.kept()
    assert rows.seen == 2_000
    assert len(np.unique(kept.offsets)) == 500
    assert np.all(np.diff(kept.offsets) > 0)
    assert 800 < kept.offsets.mean() < 1_200
    np.testing.assert_allclose(kept.parts[:, 1], kept.offsets / 1_000.0, rtol=1e-6)
    np.testing.assert_array_equal(kept.cells[:, 0], kept.offsets)


@settings(deadline=None)
@given(rows_max=st.integers(1, 100), count=st.integers(0, 100))
def test_all_events_are_kept_while_there_is_room(rows_max: int, count: int) -> None:
    """And memory is taken for these alone."""
    rows = IncidentRows(2, rows_max, 3)
    add(rows, count)
    kept = min(rows_max, count)
    assert len(rows.kept().offsets) == kept
    assert rows.kept().offsets.tolist() == list(range(count)) or count > rows_max
    assert [len(array) for name, array in rows.arrays().items() if name != "random"] == [kept] * 3


def test_what_is_restored_goes_on_as_if_nothing_had_been() -> None:
    """The same rows are kept, wherever it is cut."""
    for cut in (0, 5, 40, 300):
        whole, other = (IncidentRows(2, 50, seed) for seed in (3, 4))
        add(whole, cut)
        other.restore({name: array.copy() for name, array in whole.arrays().items()}, cut)
        for rows in (whole, other):
            add(rows, 300, cut)
        for one, two in zip(whole.kept(), other.kept(), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("name", "value"), [("parts", np.nan), ("parts", -1.0), ("parts", 1e9), ("cells", np.inf), ("offsets", -1)]
)
def test_state_that_cannot_be_is_refused(name: str, value: float) -> None:
    """With the reason."""
    rows = IncidentRows(2, 50, 3)
    add(rows, 10)
    arrays = {key: array.copy() for key, array in rows.arrays().items()}
    IncidentRows(2, 50, 3).restore(arrays, 10)
    with pytest.raises(ValueError, match="stored rows of an incident"):
        IncidentRows(2, 50, 3).restore(arrays, 11)
    arrays[name].flat[0] = value
    with pytest.raises(ValueError, match="stored rows of an incident"):
        IncidentRows(2, 50, 3).restore(arrays, 10)
