"""Laws 6 and 8: everything is bounded, and every record is accounted for."""

import json
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams import SMALL, START_MS, TOPIC, batch, close_all, cut, records, run
from worker.core.alerts.silences import SilenceBook
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.events import LabelEvent, MetricEvent, Output, OutputTopic, PredictionEvent, RejectCode
from worker.core.monitor import Home, Monitor
from worker.core.statistics.merging import merge_panes


def metrics(outputs: list[Output]) -> list[MetricEvent]:
    """Return the metric records among outputs."""
    return [msgspec.json.decode(o.value or b"", type=MetricEvent) for o in outputs if o.topic is OutputTopic.METRICS]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_record_is_counted_once(seed: int) -> None:
    """Events counted in metrics plus dead letters are the records; each dead letter is the original."""
    stream = records(seed, 500, bad=0.2)
    outputs, engine = run(cut(stream, [100, 101, 300]))
    outputs += close_all(engine)
    letters = [output for output in outputs if output.topic is OutputTopic.DEAD_LETTERS]
    assert sum(metric.events for metric in metrics(outputs)) + len(letters) == len(stream)
    assert len({letter.offset for letter in letters}) == len(letters)
    assert all(letter.value == stream[letter.offset][0] for letter in letters)


def test_too_many_models_are_dead_letters() -> None:
    """Beyond `models_max` an event is rejected with its code; known models go on."""
    events = [{"event_id": "e", "model_id": f"m{n % 6}", "features": {"a": n}, "prediction": 1} for n in range(60)]
    outputs, engine = run([batch(0, 0, [(json.dumps(event).encode(), START_MS) for event in events])])
    assert engine.models == SMALL.models_max == 4
    codes = [dict(output.headers)["modelvigil.reason"] for output in outputs]
    assert codes == [RejectCode.MODELS_MAX.value.encode()] * 20


def test_too_many_features_and_categories_are_bounded_and_counted() -> None:
    """Features beyond `features_max` are counted as unknown; categories beyond `categories_max` as others."""
    events = [
        {
            "event_id": f"e{n}",
            "model_id": "m",
            "features": {"city": f"city{n}"} | {f"f{place}": n for place in range(20)},
            "prediction": 1,
        }
        for n in range(40)
    ]
    _, engine = run([batch(0, 0, [(json.dumps(event).encode(), START_MS) for event in events])])
    (metric,) = metrics(close_all(engine))
    columns = {column.name: column for column in metric.columns}
    assert len(columns) == 1 + SMALL.features_max
    assert metric.unknown_features == 40 * 13
    assert len(columns["city"].categories or {}) == SMALL.categories_max
    assert columns["city"].other_categories == 36


def test_a_model_without_features_is_counted_and_has_no_verdicts() -> None:
    """Its prediction has statistics; there is nothing to detect anomalies in."""
    event = {"event_id": "e", "model_id": "m", "features": {}, "prediction": "yes"}
    _, engine = run([batch(0, 0, [(json.dumps(event).encode(), START_MS)] * 100)])
    (metric,) = metrics(close_all(engine))
    assert (metric.events, metric.scored_events, metric.anomaly_rate) == (100, 0, None)
    assert [column.name for column in metric.columns] == ["prediction"]


def metrics_of_features(rows: list[dict[str, object]], prediction: object = 1) -> list[MetricEvent]:
    """Return the metrics of events with these features."""
    events = [{"event_id": "e", "model_id": "m", "features": row, "prediction": prediction} for row in rows]
    options = msgspec.structs.replace(SMALL, features_max=300, categories_max=64)
    _, engine = run([batch(0, 0, [(json.dumps(event).encode(), START_MS) for event in events])], options)
    outputs = close_all(engine)
    assert all(len(output.value or b"") < 900_000 for output in outputs)
    return metrics(outputs)


def test_the_largest_numbers_there_are_do_no_harm() -> None:
    """Numbers at both ends of the doubles have a mean and no deviation, and nothing crashes."""
    (metric,) = metrics_of_features([{"x": 1.7e308}, {"x": -1.7e308}] * 20)
    column = metric.columns[1]
    assert column.count == 40
    assert column.mean is not None


def test_long_texts_and_wide_models_fit_into_records() -> None:
    """Long categories are known by a short name, and a pane with many columns is published in parts that merge."""
    rows: list[dict[str, object]] = [{f"f{c}": f"{n}-" + "x" * 500 * (n > 0) for c in range(250)} for n in range(60)]
    records_of_pane = metrics_of_features(rows, prediction="y" * 20_000)
    assert len(records_of_pane) > 1
    assert [metric.part for metric in records_of_pane] == list(range(len(records_of_pane)))
    assert len({metric.metric_id for metric in records_of_pane}) == len(records_of_pane)
    merged = merge_panes(records_of_pane, 64)
    assert merged.events == 60
    assert len(merged.columns) == 251
    assert all((column.count, column.missing) == (60, 0) for column in merged.columns)


def test_labels_are_told_once() -> None:
    """A metric record tells the labels since the last one; of a pane in several parts, only the first one does."""
    options = msgspec.structs.replace(SMALL, features_max=300, categories_max=64)
    monitor = Monitor("m", Home(0, TOPIC, "labels"), options, InlineRefits(), SilenceBook(10))
    told: list[MetricEvent] = []
    for pane, (labels, count) in enumerate([(3, 60), (2, 1), (1, 1)]):
        sent = [LabelEvent(f"unknown{n}", "m", 1.0) for n in range(labels)]
        monitor.label(sent, np.arange(labels), np.full(labels, START_MS))
        events = [
            PredictionEvent(f"e{n}", "m", {f"f{c}": f"{n}-" + "x" * 500 * (n > 0) for c in range(250)}, 1.0)
            for n in range(count)
        ]
        times = np.full(count, START_MS + 10_000 * pane)
        told += metrics(monitor.process(events, 100 * pane + np.arange(count), times))
    first, *others, last = told
    assert (first.labels, last.labels) == (5, 1)
    assert others
    assert not any(metric.labels for metric in others)
    assert merge_panes([first, *others], 64).labels == 5


def test_wrong_types_are_counted_and_left_out() -> None:
    """A value of another type than its column's is invalid: counted, and not in the statistics."""
    values = [1.0, 2.0, "three", None, True, 6.0]
    events = [{"event_id": "e", "model_id": "m", "features": {"a": v, "b": 1}, "prediction": 1} for v in values]
    _, engine = run([batch(0, 0, [(json.dumps(event).encode(), START_MS) for event in events])])
    (metric,) = metrics(close_all(engine))
    column = next(column for column in metric.columns if column.name == "a")
    assert (column.count, column.missing, column.invalid) == (3, 1, 2)
    assert column.mean == pytest.approx(3.0)


def test_statistics_equal_numpy() -> None:
    """Mean, deviation, range and quantiles of a pane are what numpy says of the same values."""
    values = np.random.default_rng(3).lognormal(1, 1, 400)
    events = [{"event_id": "e", "model_id": "m", "features": {"a": v}, "prediction": 1} for v in values]
    _, engine = run([batch(0, 0, [(json.dumps(event).encode(), START_MS) for event in events])])
    (metric,) = metrics(close_all(engine))
    column = next(column for column in metric.columns if column.name == "a")
    assert column.mean == pytest.approx(values.mean(), rel=1e-12)
    assert column.standard_deviation == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert (column.minimum, column.maximum) == (values.min(), values.max())
    assert column.histogram is not None
    error = 1.05 * np.tanh(0.5 * np.log(2) * 2.0**-column.histogram.scale)
    for share, quantile in ((0.5, column.median), (0.05, column.p05), (0.95, column.p95)):
        assert quantile == pytest.approx(np.quantile(values, share, method="inverted_cdf"), rel=error)


def test_an_incident_tells_its_course() -> None:
    """Each incident's records are opened (updated)* resolved, under one id, and incidents do not overlap."""
    outputs, _ = run(cut(records(4, 4000), []))
    alerts = [msgspec.json.decode(o.value or b"") for o in outputs if o.topic is OutputTopic.ALERTS]
    courses: dict[str, list[str]] = {}
    open_now: dict[str, str] = {}
    for alert in alerts:
        courses.setdefault(alert["incident_id"], []).append(alert["status"])
        current = open_now.get(alert["fingerprint"])
        assert current is None if alert["status"] == "opened" else current == alert["incident_id"]
        if alert["status"] == "resolved":
            del open_now[alert["fingerprint"]]
        else:
            open_now[alert["fingerprint"]] = alert["incident_id"]
    assert len(courses) > 20
    for course in courses.values():
        assert course[0] == "opened"
        assert course.count("opened") == 1
        assert course.count("resolved") <= 1
        assert "resolved" not in course[:-1]
    assert Counter(alert["alert_id"] for alert in alerts).most_common(1)[0][1] == 1
    assert all(len(alert["evidence"]) <= SMALL.incident.evidence_max for alert in alerts)
