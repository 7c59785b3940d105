"""Prometheus metrics of a worker: which series there are, what they show, and when they go."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from worker.core.events import Output, OutputTopic
from worker.edges.telemetry import Count, Exposition, Gauge, Metrics, ModelBook, PublishedFigures, Stage, Telemetry
from worker.edges.telemetry.metrics import COUNTS, GAUGES, TIMES

EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"
Samples = dict[str, dict[tuple[str, ...], float]]
HOUR_MS, DAY_MS, PANE_MS = 3_600_000, 86_400_000, 900_000


class Worker:
    """The telemetry of one, and what a scrape of it gives."""

    def __init__(self, models_max: int = 2, features_max: int = 2) -> None:
        self.telemetry = Telemetry(structlog.get_logger(), models=ModelBook(models_max, features_max))
        self.published = PublishedFigures(self.telemetry)
        self._exposition = Exposition(self.telemetry, lambda: None)

    def publish(self, *outputs: Output) -> None:
        """Take committed records."""
        assert self.published.take(outputs) == 0

    def page(self) -> str:
        """Return the page."""
        return self._exposition.render().decode()

    def samples(self) -> Samples:
        """Return all samples by name without the prefix and values of labels."""
        found: Samples = {}
        for family in text_string_to_metric_families(self.page()):
            for sample in family.samples:
                name = sample.name.removeprefix("modelvigil_")
                found.setdefault(name, {})[tuple(sample.labels.values())] = sample.value
        return found


def record(topic: OutputTopic, shard: int, model_id: str | None, **fields: object) -> Output:
    """Return an output record."""
    value = json.dumps({"model_id": model_id, "shard": shard, **fields}).encode()
    return Output(topic, shard, 0, (model_id or "").encode(), value)


def pane(
    model_id: str = "m",
    shard: int = 0,
    *,
    index: int = 0,
    events: int = 10,
    features: Mapping[str, float | None] | None = None,
    prediction: float | None = 0.5,
    **more: object,
) -> Output:
    """Return a pane, with the fields that are read and one that is not."""
    columns: list[dict[str, Any]] = [{"name": "prediction", "role": "prediction", "mean": prediction, "histogram": {}}]
    columns += [
        {"name": name, "role": "feature", "mean": mean, "missing_rate": 0.25, "drift_psi": None}
        for name, mean in (features or {}).items()
    ]
    times = {"pane_start_ms": index * 60_000, "pane_end_ms": (index + 1) * 60_000}
    rates = {"events": events, "events_per_second": events / 60, "anomaly_rate": None, "drift_psi": 0.125}
    return record(OutputTopic.METRICS, shard, model_id, kind="pane", **times, **rates, columns=columns, **more)


def performance(window: str, length_ms: int, accuracy: float | None, **more: object) -> Output:
    """Return what labels say."""
    of_window = {"kind": "performance", "segment": None, "order": "prediction_time", "window": window}
    metrics = {"accuracy": {"value": accuracy, "low": None}, "brier": {"value": 0.1}, "f1": {"value": None}}
    labels = {"labelled": 40.0, "label_coverage": {"value": 0.5}, "label_lag": {"median": {"value": 1500.0}}}
    ends = {"start_ms": DAY_MS - length_ms, "end_ms": DAY_MS}
    return record(OutputTopic.METRICS, 0, "m", **{**of_window, **ends, **labels, "metrics": metrics, **more})


def test_a_pane_shows_its_figures_and_what_is_not_known_has_no_sample() -> None:
    """Null is no 0, and there is no series for it."""
    worker = Worker()
    worker.publish(pane(features={"a": 1.5, "b": None}))
    found = worker.samples()
    shown = ("m", "0")
    assert found["model_window_end_timestamp_seconds"] == {shown: 60.0}
    assert found["model_prediction_mean"] == {shown: 0.5}
    assert found["model_drift_psi"] == {shown: 0.125}
    assert found["model_events_total"] == {shown: 10}
    assert found["feature_mean"] == {("m", "0", "a"): 1.5}
    assert found["feature_missing_ratio"] == {("m", "0", "a"): 0.25, ("m", "0", "b"): 0.25}
    for absent in ("model_anomaly_ratio", "model_prediction_median", "feature_drift_psi", "model_accuracy_ratio"):
        assert absent not in found


def test_of_a_pane_in_parts_the_largest_one_counts_with_the_columns_of_its_rest() -> None:
    """A part without events has further columns; one that came late has few events; all are counted."""
    worker = Worker(features_max=3)
    worker.publish(pane(features={"a": 1.0, "b": 2.0}), pane(events=0, features={"c": 3.0, "d": 4.0}))
    worker.publish(pane(events=3, features={"a": 9.0}))
    found = worker.samples()
    assert found["feature_mean"] == {("m", "0", "a"): 1.0, ("m", "0", "b"): 2.0, ("m", "0", "c"): 3.0}
    assert found["model_events_total"] == {("m", "0"): 13}
    worker.publish(pane(events=30, features={"a": 5.0}))
    assert worker.samples()["feature_mean"] == {("m", "0", "a"): 5.0}
    worker.publish(pane(index=1, events=1, features={"a": 6.0}))
    assert worker.samples()["feature_mean"] == {("m", "0", "a"): 6.0}


def test_the_rest_of_a_smaller_part_of_a_pane_hides_nothing_of_the_largest_one() -> None:
    """Both parts may be too large for one record."""
    worker = Worker(features_max=9)
    worker.publish(pane(features={"a": 1.0}), pane(events=0, features={"b": 2.0}))
    worker.publish(pane(events=3, features={"a": 9.0}), pane(events=0, features={"b": 9.0}))
    assert worker.samples()["feature_mean"] == {("m", "0", "a"): 1.0, ("m", "0", "b"): 2.0}


def test_labels_are_shown_by_the_shortest_sliding_window_or_else_the_pane() -> None:
    """Whatever comes in which order; segments, windows by arrival and the lifetime are for others to look at."""
    worker = Worker()
    worker.publish(performance("pane", PANE_MS, 0.7))
    worker.publish(performance("pane", PANE_MS, 0.5, end_ms=DAY_MS - PANE_MS))  # a correction of an older pane
    assert worker.samples()["model_accuracy_ratio"] == {("m", "0"): 0.7}
    worker.publish(performance("sliding", HOUR_MS, 0.8), performance("sliding", DAY_MS, 0.9))
    worker.publish(performance("pane", PANE_MS, 0.6), performance("decayed", 0, 0.1, start_ms=None, end_ms=None))
    worker.publish(performance("sliding", HOUR_MS, 0.2, segment={"name": "region", "value": "north"}))
    worker.publish(performance("pane", PANE_MS, 0.3, order="label_arrival"))
    found = worker.samples()
    assert found["model_accuracy_ratio"] == {("m", "0"): 0.8}
    assert found["model_labels"] == {("m", "0"): 40}
    assert found["model_label_lag_seconds"] == {("m", "0"): 1.5}
    assert "model_f1_score" not in found
    worker.publish(performance("sliding", HOUR_MS, None))
    assert "model_accuracy_ratio" not in worker.samples()


def test_models_beyond_the_bound_are_counted_together_and_have_no_gauges() -> None:
    """The first ones keep their series; of the others nothing but alerts and maintenance is read."""
    worker = Worker(models_max=1)
    step = {"kind": "drift.input", "severity": "warning", "status": "opened"}
    for model_id in ("m", "n", "o"):
        unreadable = Output(OutputTopic.METRICS, 0, 0, model_id.encode(), b"{}")
        worker.publish(pane(model_id), *([] if model_id == "m" else [unreadable]))
        worker.publish(record(OutputTopic.ALERTS, 0, model_id, **step))
        worker.publish(record(OutputTopic.MAINTENANCE, 0, model_id, kind="alert_suppressed", reason="budget"))
    found = worker.samples()
    assert set(found["model_events_total"]) == set(found["model_window_end_timestamp_seconds"]) == {("m", "0")}
    assert {key[0]: value for key, value in found["alerts_total"].items()} == {"m": 1, "other": 2}
    assert {key[0]: value for key, value in found["maintenance_events_total"].items()} == {"m": 1, "other": 2}
    assert found["alerts_suppressed_total"]["budget",] == 3
    assert worker.telemetry.models.beyond(["m", "n", "o", "o"]) == 2


def test_gauges_go_with_the_shard_and_counters_when_their_place_is_needed() -> None:
    """What a shard has shown is old as soon as another worker has it; what was counted may not have been read yet."""
    worker = Worker(models_max=2)
    worker.publish(pane("m", 0), pane("m", 1), pane("n", 1), pane("late", 1))
    worker.telemetry.models.forget([1])
    found = worker.samples()
    assert set(found["model_events_per_second"]) == {("m", "0")}
    assert set(found["model_events_total"]) == {("m", "0"), ("m", "1"), ("n", "1")}
    worker.publish(pane("new", 2))
    found = worker.samples()
    assert set(found["model_events_per_second"]) == {("m", "0"), ("new", "2")}
    assert set(found["model_events_total"]) == {("m", "0"), ("m", "1"), ("new", "2")}


def test_series_are_bounded_whatever_models_come_and_go() -> None:
    """A thousand models over as many rebalances leave as few series as may be."""
    worker = Worker(models_max=3, features_max=1)
    for number in range(1000):
        worker.publish(pane(f"m{number}", number, features={"a": 1.0, "b": 2.0}))
        worker.telemetry.models.forget([number])
    worker.publish(pane("last", 0, features={"a": 1.0, "b": 2.0}))
    found = worker.samples()
    assert len(found["model_events_total"]) == 3
    assert set(found["feature_mean"]) == {("last", "0", "a")}


def test_names_of_models_and_features_are_escaped() -> None:
    """They are chosen by others: quotes, backslashes and line breaks stay what they are."""
    worker = Worker()
    name = 'a "b" \\ c\nd{e="f"} 7 é'
    worker.publish(pane(name, features={name: 1.0}))
    assert worker.samples()["feature_mean"] == {(name, "0", name): 1.0}
    assert all(line.startswith(("#", "modelvigil_", "process_")) for line in worker.page().splitlines())


def test_what_cannot_be_read_is_counted_and_does_no_harm() -> None:
    """A worker must not end for the sake of a gauge."""
    worker = Worker()
    broken = [Output(topic, 0, 0, b"m", b'{"kind": 3}') for topic in OutputTopic]
    assert worker.published.take([*broken, pane()]) == 3
    assert worker.samples()["model_events_total"] == {("m", "0"): 10}


def test_every_counter_time_and_gauge_of_the_log_is_a_metric_too() -> None:
    """What is in the line and not here has labels there: consumed, rejected, transactions, refusals, stages."""
    labelled = {Count.RECORDS_CONSUMED, Count.RECORDS_REJECTED, Count.RESTORES_REFUSED}
    labelled |= {Count.TRANSACTIONS_COMMITTED, Count.TRANSACTIONS_ABORTED}
    assert set(Count) - COUNTS.keys() == labelled
    assert set(GAUGES) == set(Gauge)
    assert {stage.value for stage in set(Stage) - TIMES.keys()} == set(Metrics.STAGE.known)
    worker = Worker()
    for place, count in enumerate(Count):
        worker.telemetry.add(count, place + 1)
    for stage in Stage:
        worker.telemetry.spend(stage, 0.25)
    for gauge in Gauge:
        worker.telemetry.set_gauge(gauge, 3.5)
    found = worker.samples()
    assert found["outputs_total"]["dead_letters",] == list(Count).index(Count.DEAD_LETTERS) + 1
    assert found["refit_wait_seconds_total"] == {(): 0.25}
    assert found["stage_seconds_sum"]["commit",] == 0.25
    assert found["shards"] == {("live",): 3.5, ("restoring",): 3.5, ("refused",): 3.5}


def test_a_histogram_has_inclusive_bounds_and_all_of_its_buckets() -> None:
    """An observation at a bound is in that bucket; one beyond the last is in `+Inf` only."""
    worker = Worker()
    for seconds in (0.004, 0.005, 0.45, 61.0):
        worker.telemetry.series.observe(Metrics.EVENT_TO_ALERT, seconds)
    found = worker.samples()
    buckets = {key[0]: value for key, value in found["event_to_alert_seconds_bucket"].items()}
    assert [buckets[each] for each in ("0.005", "0.4", "0.5", "60.0", "+Inf")] == [2, 2, 3, 3, 4]
    assert len(buckets) == len(Metrics.EVENT_TO_ALERT.buckets) + 1
    assert found["event_to_alert_seconds_count"] == {(): 4}
    assert found["event_to_alert_seconds_sum"] == {(): pytest.approx(61.459)}


def test_scrapes_do_not_disturb_the_work_nor_the_other_way_round() -> None:
    """While models come and go in one thread, each page that another one makes can be read as a whole."""
    worker = Worker(models_max=50, features_max=5)
    failures: list[Exception] = []
    done = threading.Event()

    def scrape() -> None:
        try:
            while not done.is_set():
                _check_counts(worker.samples())
        except Exception as error:  # noqa: BLE001 - told below, in the thread of the test
            failures.append(error)

    thread = threading.Thread(target=scrape)
    thread.start()
    features = {f"f{number}": 1.0 for number in range(5)}
    for number in range(3000):
        worker.publish(pane(f"m{number % 120}", number % 7, index=number, features=features))
        worker.telemetry.spend(Stage.HANDLE, 0.001)
        if number % 50 == 0:
            worker.telemetry.models.forget([number % 7])
    done.set()
    thread.join()
    assert failures == []


def _check_counts(found: Samples) -> None:
    infinite = {key[0]: value for key, value in found["stage_seconds_bucket"].items() if key[-1] == "+Inf"}
    assert infinite == {key[0]: value for key, value in found["stage_seconds_count"].items()}
    assert len(found.get("model_events_total", {})) <= 50 * 7


def test_headers_of_families_come_once() -> None:
    """Each name has one HELP, one TYPE, and its samples together, as the format demands."""
    worker = Worker()
    worker.publish(pane("m"), pane("n"))
    families = [line.split()[2] for line in worker.page().splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
    names = [line.split("{")[0].split(" ")[0] for line in worker.page().splitlines() if not line.startswith("#")]
    runs = [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]
    plain = [name for name in runs if not name.endswith(("_bucket", "_sum", "_count"))]
    assert len(plain) == len(set(plain))


def test_real_records_of_every_kind_can_be_read() -> None:
    """The examples that users see are records of a real engine: panes, windows of labels, steps, advice, notes."""
    worker = Worker()
    counted = {"metrics": OutputTopic.METRICS, "alerts": OutputTopic.ALERTS, "maintenance": OutputTopic.MAINTENANCE}
    examples = {name: json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8")) for name in counted}
    for name, topic in counted.items():
        for example in examples[name]:
            key = (example["model_id"] or "").encode()
            worker.publish(Output(topic, example["shard"], 0, key, json.dumps(example).encode()))
    found = worker.samples()
    assert sum(found["alerts_total"].values()) == len(examples["alerts"])
    assert sum(found["maintenance_events_total"].values()) == len(examples["maintenance"])
    kinds = {example["kind"] for example in examples["metrics"]}
    assert kinds == {"pane", "performance"}
    assert found["model_events_per_second"]
    assert "model_labels" not in found
    labelled = next(example for example in examples["metrics"] if example["kind"] == "performance")
    value = json.dumps(labelled | {"order": "prediction_time"}).encode()
    worker.publish(Output(OutputTopic.METRICS, 0, 0, labelled["model_id"].encode(), value))
    assert worker.samples()["model_labels"] == {(labelled["model_id"], str(labelled["shard"])): labelled["labelled"]}
