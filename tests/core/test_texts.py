"""Free texts are watched by their length."""

import json

import numpy as np

from tests.streams import START_MS, batch, run
from worker.core.arrivals import PredictionEvents
from worker.core.columns import TEXT_CHARS_MIN, ColumnTable, Kind
from worker.core.events import FeatureValue, OutputTopic, PredictionEvent
from worker.core.options import EngineOptions


def test_a_free_text_is_its_length() -> None:
    """A column whose first value is long holds lengths; what is no text is invalid, what is missing stays missing."""
    values: list[FeatureValue] = ["x" * TEXT_CHARS_MIN, "short", None, 7.0, ""]
    events = [PredictionEvent("e", "m", {"note": value}, 1.0) for value in values]
    table = ColumnTable(features_max=8, categories_max=2)
    table.learn(events)
    assert [column.kind for column in table.columns] == [Kind.NUMERIC, Kind.TEXT]
    assert table.is_numeric.all()
    matrix = table.matrix(PredictionEvents.of(events))
    assert np.array_equal(matrix.cells[:, 1], [TEXT_CHARS_MIN, 5.0, np.nan, np.nan, 0.0], equal_nan=True)
    assert matrix.invalid.tolist() == [[3, 1]]


def test_a_text_of_an_unusual_length_is_flagged_by_name() -> None:
    """A prompt a hundred times too long is an unusual input, told with its length and what is usual."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(200, 400, size=1_600)
    lengths[1_500:1_520] = 90_000
    values = [
        json.dumps(
            {
                "event_id": f"e{place}",
                "model_id": "m",
                "features": {"prompt": "x" * int(length), "n": float(rng.normal())},
                "prediction": 1.0,
            }
        ).encode()
        for place, length in enumerate(lengths)
    ]
    stream = [(value, START_MS + place * 100) for place, value in enumerate(values)]
    outputs, _ = run([batch(0, 0, stream)], EngineOptions())
    alerts = [json.loads(each.value or b"") for each in outputs if each.topic is OutputTopic.ALERTS]
    alert = next(each for each in alerts if each["kind"] == "anomaly.input" and each["severity"] == "critical")
    assert alert["features"][0]["name"] == "prompt"
    assert alert["features"][0]["observed"] == 90_000.0
    assert alert["features"][0]["expected_high"] < 420.0
