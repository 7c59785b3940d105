"""Drift in the records of panes: always there, so that a dashboard shows it before, during and after an alert."""

import json
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from tests.streams import START_MS, batch, close_all, run
from worker.core import pane_records
from worker.core.events import MetricEvent, OutputTopic
from worker.core.options import DriftOptions, EngineOptions
from worker.core.options.change import DriftColumnOptions, DriftReferenceOptions

REFERENCE, BLOCK, WARM_UP, PANE = 1_000, 100, 500, 500
EVENT_MS = 20
OPTIONS = EngineOptions(
    warmup_events=WARM_UP,
    pane_ms=PANE * EVENT_MS,
    pane_grace_ms=0,
    detectors=(),
    drift=DriftOptions(reference_events=REFERENCE, block_events=BLOCK),
)
BEGIN = WARM_UP + REFERENCE
"""The event from which on there is a reference."""
Row = dict[str, object]


def shifted(place: int, row: Row, begin: int, end: int) -> Row:
    """A row, with feature `b` two deviations higher between two events."""
    return row | {"b": row["b"] + 2.0} if begin <= place < end else row  # type: ignore[operator] # a number


def panes_of(events: int, change: Callable[[int, Row], Row], options: EngineOptions = OPTIONS) -> list[MetricEvent]:
    """The pane records of one model whose stationary features a function changes."""
    rng = np.random.default_rng(7)
    numbers = rng.normal(size=(events, 2))
    records = [
        (
            json.dumps(
                {
                    "event_id": f"e{place}",
                    "model_id": "m",
                    "timestamp": START_MS + place * EVENT_MS,
                    "features": change(place, dict(zip("ab", row, strict=True)) | {"c": "xyz"[place % 3]}),
                    "prediction": 1.0 + row[0],
                }
            ).encode(),
            START_MS + place * EVENT_MS,
        )
        for place, row in enumerate(numbers.tolist())
    ]
    outputs, engine = run([batch(0, 0, records)], options)
    outputs += close_all(engine, 0)
    values = [each.value or b"" for each in outputs if each.topic is OutputTopic.METRICS]
    return [msgspec.json.decode(value, type=MetricEvent) for value in values if b'"kind":"pane"' in value]


def psi_of(pane: MetricEvent) -> dict[str, float | None]:
    """The effect of each column by its name."""
    return {column.name: column.drift_psi for column in pane.columns}


def test_a_shifted_feature_shows_and_a_calm_one_does_not() -> None:
    """Null before there is a reference; then small, high for the shifted feature alone, and small again after it."""
    panes = panes_of(BEGIN + 5 * PANE, lambda place, row: shifted(place, row, BEGIN + PANE, BEGIN + 2 * PANE))
    found = [psi_of(pane) for pane in panes]
    known = BEGIN // PANE
    assert all(set(psi.values()) == {None} for psi in found[:known])
    assert [pane.drift_psi for pane in panes[:known]] == [None] * known
    for place, psi in enumerate(found[known:]):
        high = psi.pop("b")
        assert high is not None
        assert high > 1.0 if place == 1 else high < 0.05
        assert psi.keys() == {"prediction", "a", "c"}
        assert all(value is not None and value < 0.05 for value in psi.values())
    for pane in panes[known:]:
        assert pane.drift_psi == max(value or 0.0 for name, value in psi_of(pane).items() if name != "prediction")


def test_the_window_is_the_latest_four_blocks() -> None:
    """Half of four blocks that are shifted show less than four, and what came before them is not seen."""
    effects = []
    for blocks in (1, 2, 4, 5):
        end = BEGIN + 2 * PANE
        (*_, pane) = panes_of(end, lambda place, row, begin=end - blocks * BLOCK: shifted(place, row, begin, 10**9))  # type: ignore[misc] # a default
        effects.append(psi_of(pane)["b"] or 0.0)
    one, two, four, five = effects
    assert 0.02 < one < two < four
    assert five == pytest.approx(four, rel=0.2)


def test_drift_that_is_not_watched_is_null() -> None:
    """Not 0, which would say that all is well."""
    options = msgspec.structs.replace(OPTIONS, drift=DriftOptions(enabled=False))
    panes = panes_of(BEGIN + 2 * PANE, lambda _, row: row, options)
    assert {pane.drift_psi for pane in panes} == {None}
    assert {column.drift_psi for pane in panes for column in pane.columns} == {None}


def test_a_reference_of_nothing_is_none() -> None:
    """A column that is given with no frequencies at all has nothing to be compared with; the others have."""
    given = DriftReferenceOptions("m", (DriftColumnOptions("a"),))
    drift = msgspec.structs.replace(OPTIONS.drift, references=(given,))
    (*_, pane) = panes_of(BEGIN + PANE, lambda _, row: row, msgspec.structs.replace(OPTIONS, drift=drift))
    psi = psi_of(pane)
    assert psi["a"] is None
    assert psi["b"] is not None


def test_of_a_pane_in_parts_the_first_tells_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the columns of a pane do not fit into one record, the others tell only of their own."""
    monkeypatch.setattr(pane_records, "COLUMNS_BYTES_MAX", 1_000)
    panes = panes_of(BEGIN + PANE, lambda place, row: shifted(place, row, BEGIN, 10**9))
    first, *others = [pane for pane in panes if pane.pane_start_ms == panes[-1].pane_start_ms]
    assert "b" not in psi_of(first)
    assert first.drift_psi == next(psi["b"] for psi in map(psi_of, others) if "b" in psi)
    assert {part.drift_psi for part in others} == {None}
