"""What labels say of a model, through the engine: metrics equal scikit-learn's on the rows as they finally stand."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from tests.labelled import Item, batches, grouped, run
from tests.streams import FAR_MS, SMALL, START_MS
from worker.core.engine import Engine
from worker.core.events import AlertEvent, MaintenanceEvent, Output, OutputTopic, PerformanceEvent
from worker.core.monitor import Monitor
from worker.core.options import (
    AlertOptions,
    ConceptDriftOptions,
    EngineOptions,
    LimitOptions,
    ModelPerformanceOptions,
    PerformanceOptions,
    ReportOptions,
)
from worker.core.options.performance import performance_contradictions
from worker.core.performance.concept import ConceptWatch
from worker.core.performance.intervals import Estimate
from worker.core.performance.limits import Condition
from worker.core.performance.limits import Moment as LimitMoment
from worker.core.performance.limits import Watch as LimitWatch

STEP_MS = 100
DRIFT_OFF = ConceptDriftOptions(detector="off")
PERFORMANCE = PerformanceOptions(
    label_wait_max_ms=60_000,
    join_events_max=5_000,
    early_labels_max=5_000,
    pane_ms=10_000,
    panes_max=100,
    windows_ms=(20_000, 50_000),
    block_labels=20,
    blocks_max=32,
    task_labels=10,
    reference_labels=200,
    support_min=40,
    alert_confidence=0.999,
    limits=(),
    drift=DRIFT_OFF,
)


def options(**changes: Any) -> EngineOptions:  # noqa: ANN401 - any option
    """Return options for models without features."""
    performance = msgspec.structs.replace(PERFORMANCE, **changes)
    return msgspec.structs.replace(SMALL, performance=performance, alerts=AlertOptions())


class Row(NamedTuple):
    """One prediction and its truth."""

    prediction: Any
    truth: Any
    probabilities: dict[str, float] | None = None
    region: str | None = None


class Sent(NamedTuple):
    """A label as it is sent: of which row, what, how long after the prediction, and how much later by its own time."""

    row: int
    label: Any
    lag_ms: int
    newer_ms: int = 0


class Told(NamedTuple):
    """All that was published."""

    metrics: list[PerformanceEvent]
    alerts: list[AlertEvent]
    maintenance: list[MaintenanceEvent]
    engine: Engine

    def lifetime(self, region: str | None = None) -> PerformanceEvent:
        """Return the last lifetime record of the model, or of a region."""
        return self.latest("lifetime", region=region)[None]

    def latest(
        self, window: str, region: str | None = None, order: str = "prediction_time"
    ) -> dict[int | None, PerformanceEvent]:
        """Return the records with the highest revision of each window that begins elsewhere."""
        found: dict[int | None, PerformanceEvent] = {}
        for record in self.metrics:
            segment = None if record.segment is None else record.segment.value
            if (record.window, record.order, segment) == (window, order, region):
                before = found.get(record.start_ms)
                assert before is None or before.revision < record.revision
                found[record.start_ms] = record
        return found

    def steps(self, kind: str) -> list[tuple[str, int]]:
        """Return status and offset of the alerts of a kind, in order."""
        return [(alert.status, alert.timestamp_ms) for alert in self.alerts if alert.kind == kind]


def time_of(row: int) -> int:
    """Return when a row was predicted."""
    return START_MS + STEP_MS * row


def play(rows: Sequence[Row], sent: Sequence[Sent], with_options: EngineOptions, inside: Sequence[int] = ()) -> Told:
    """Send predictions and labels, each when it is due, and let time pass until all is told."""
    stream: list[tuple[int, Item]] = []
    for number, row in enumerate(rows):
        event: dict[str, Any] = {"event_id": f"e{number}", "model_id": "m", "timestamp": time_of(number)}
        event |= {"features": {}, "prediction": row.prediction}
        if row.probabilities is not None:
            event["probabilities"] = row.probabilities
        if row.region is not None:
            event["segment"] = {"region": row.region}
        if number in inside:
            event["label"] = row.truth
        stream.append((time_of(number), Item(is_label=False, record=(json.dumps(event).encode(), time_of(number)))))
    for label in sent:
        now = time_of(label.row) + label.lag_ms
        stamp = max(now, time_of(label.row)) + label.newer_ms
        value = {"event_id": f"e{label.row}", "model_id": "m", "label": label.label, "timestamp": stamp}
        stream.append((now, Item(is_label=True, record=(json.dumps(value).encode(), stamp))))
    stream.sort(key=lambda each: each[0])
    outputs, engine = run(batches(grouped([item for _, item in stream], 50)), with_options)
    outputs += [output for _ in range(3) for output in engine.tick(0, FAR_MS)]
    return decoded(outputs, engine)


def decoded(outputs: Sequence[Output], engine: Engine) -> Told:
    """Return records by their sort."""
    told = Told([], [], [], engine)
    for output in outputs:
        value = output.value or b""
        assert output.topic is not OutputTopic.DEAD_LETTERS
        if output.topic is OutputTopic.ALERTS:
            told.alerts.append(msgspec.json.decode(value, type=AlertEvent))
        elif output.topic is OutputTopic.MAINTENANCE and b'"audit_id"' not in value:
            told.maintenance.append(msgspec.json.decode(value, type=MaintenanceEvent))
        elif b'"kind":"performance"' in value:
            told.metrics.append(msgspec.json.decode(value, type=PerformanceEvent))
    return told


def prompt(rows: Sequence[Row], lag_ms: int = 500) -> list[Sent]:
    """Return one label for each row."""
    return [Sent(number, row.truth, lag_ms) for number, row in enumerate(rows)]


def disturbed(rows: Sequence[Row], wrong: Sequence[Any], seed: int = 1) -> tuple[list[Sent], list[int]]:
    """Return labels delayed, shuffled, repeated, corrected, with 10 % missing; and the rows that have one at last."""
    rng = random.Random(seed)
    sent, known = [], []
    for number, row in enumerate(rows):
        if rng.random() < 0.1:
            continue
        known.append(number)
        lag = rng.choice([-200, 0, 300, 900, 5_000, 20_000])
        if rng.random() < 0.15:
            # The first one is wrong, and corrected later.
            sent += [Sent(number, rng.choice(wrong), lag), Sent(number, row.truth, lag + rng.choice([1, 3_000]))]
            lag += 4_000
        sent += [Sent(number, row.truth, lag)] * (2 if rng.random() < 0.1 else 1)
        if rng.random() < 0.1:
            # Older than what is known: it changes nothing.
            sent.append(Sent(number, rng.choice(wrong), lag + 6_000, newer_ms=-30_000))
    return sent, known


def made(task: str, count: int = 1_000, seed: int = 0) -> list[Row]:
    """Return predictions of a model that is mostly right."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        region = ["north", "south", "west"][rng.integers(3)]
        if task == "regression":
            value = float(rng.normal(100, 10))
            rows.append(Row(value + float(rng.normal(1, 3)), value, None, region))
        elif task == "score":
            p = float(rng.beta(0.7, 1.5))
            rows.append(Row(p, bool(rng.random() < p), None, region))
        else:
            names = ["ok", "fraud"] if task == "binary" else ["a", "b", "c", "d"]
            shares = rng.dirichlet(np.full(len(names), 0.4)).tolist()
            truth = names[rng.choice(len(names), p=shares)]
            rows.append(Row(names[int(np.argmax(shares))], truth, dict(zip(names, shares, strict=True)), region))
    return rows


WRONG: dict[str, list[Any]] = {
    "binary": ["ok", "fraud"],
    "multiclass": ["a", "b", "c", "d"],
    "score": [True, False],
    "regression": [0.0, -1e12, 77.7],
}
TASKS = list(WRONG)


def of_regression(rows: Sequence[Row]) -> dict[str, float]:
    """Return scikit-learn's metrics of a regression."""
    y, p = [row.truth for row in rows], [row.prediction for row in rows]
    mse = sk.mean_squared_error(y, p)
    return {
        "mse": mse,
        "rmse": mse**0.5,
        "mae": sk.mean_absolute_error(y, p),
        "median_absolute_error": sk.median_absolute_error(y, p),
        "r2": sk.r2_score(y, p),
        "bias": float(np.mean(np.subtract(p, y))),
        "mape": sk.mean_absolute_percentage_error(y, p),
    }


def of_classes(rows: Sequence[Row], names: list[str], positive: str | None) -> dict[str, float]:
    """Return scikit-learn's metrics of a classification; probabilities by class."""
    y, p = [_name(row.truth) for row in rows], [_class(row) for row in rows]
    found = {
        "accuracy": sk.accuracy_score(y, p),
        "balanced_accuracy": sk.balanced_accuracy_score(y, p),
        "matthews": sk.matthews_corrcoef(y, p),
    }
    for average in ("macro", "weighted", "micro"):
        three = sk.precision_recall_fscore_support(y, p, average=average, zero_division=0)
        found |= {f"{name}_{average}": three[place] for place, name in enumerate(("precision", "recall", "f1"))}
    scores = np.array([[_probability(row, name) for name in names] for row in rows])
    truth = np.array([[name == each for name in names] for each in y], dtype=float)
    found["log_loss"] = float(-np.log((scores * truth).sum(axis=1)).mean())
    found["brier"] = float(((scores - truth) ** 2).sum(axis=1).mean()) / (1 if positive is None else 2)
    columns = list(range(len(names))) if positive is None else [names.index(positive)]
    found["roc_auc"] = float(np.mean([sk.roc_auc_score(truth[:, c], scores[:, c]) for c in columns]))
    precisions = [sk.average_precision_score(truth[:, c], scores[:, c]) for c in columns]
    found["average_precision"] = float(np.mean(precisions))
    if positive is not None:
        three = sk.precision_recall_fscore_support(y, p, average="binary", pos_label=positive, zero_division=0)
        found |= {name: three[place] for place, name in enumerate(("precision", "recall", "f1"))}
        found["selection_rate"] = p.count(positive) / len(p)
        chances, of_class = scores[:, columns[0]], truth[:, columns[0]]
        found["calibration_in_the_large"] = float((chances - of_class).mean())
        within = np.clip(chances, OUTERMOST, 1.0 - OUTERMOST)
        logits = np.log(within / (1.0 - within))
        fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1_000).fit(logits[:, np.newaxis], of_class)
        found["calibration_slope"] = float(fit.coef_[0, 0])
    return found


OUTERMOST = 1.25 * 2.0**-18
"""The middle of the first bin of scores."""


def _name(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _class(row: Row) -> str:
    return _name(row.prediction >= 0.5) if isinstance(row.prediction, float) else str(row.prediction)


def _probability(row: Row, name: str) -> float:
    if row.probabilities is not None:
        return row.probabilities[name]
    return float(row.prediction) if name == "true" else 1.0 - float(row.prediction)


def expected(task: str, rows: Sequence[Row]) -> dict[str, float]:
    """Return what scikit-learn says."""
    if task == "regression":
        return of_regression(rows)
    names, positive = {
        "binary": (["ok", "fraud"], "ok"),
        "score": (["false", "true"], "true"),
        "multiclass": (["a", "b", "c", "d"], None),
    }[task]
    return of_classes(rows, names, positive)


FROM_HISTOGRAMS = (
    "roc_auc",
    "average_precision",
    "median_absolute_error",
    "calibration_in_the_large",
    "calibration_slope",
)


def check(record: PerformanceEvent, wanted: Mapping[str, float], count: int) -> None:
    """Assert that a record has scikit-learn's values, and intervals around them."""
    assert record.labelled == count
    assert record.metrics.keys() - {"expected_calibration_error"} == wanted.keys()
    for name, value in wanted.items():
        found = record.metrics[name]
        assert found.value is not None, name
        if name == "calibration_slope" and found.low is None:
            # A slope has an interval only with ten events of each class.
            continue
        assert found.low is not None, name
        assert found.high is not None, name
        assert found.low <= found.value <= found.high, name
        if name in FROM_HISTOGRAMS:
            assert found.error_max is not None, name
            assert abs(found.value - value) <= found.error_max + 1e-9, name
            assert found.error_max < (0.4 if name == "calibration_slope" else 0.1) * max(1.0, value), name
        else:
            assert found.value == pytest.approx(value, rel=1e-9, abs=1e-9), name


# ------------------------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("task", TASKS)
def test_every_window_equals_scikit_learn(task: str) -> None:
    """Lifetime, regions, panes and sliding windows have scikit-learn's values of the rows as they finally stand."""
    rows = made(task)
    sent, known = disturbed(rows, WRONG[task])
    told = play(rows, sent, options(segments=("region",)))
    check(told.lifetime(), expected(task, [rows[n] for n in known]), len(known))
    assert told.lifetime().predictions == len(rows)
    for region in ("north", "south", "west"):
        mine = [rows[n] for n in known if rows[n].region == region]
        check(told.lifetime(region), expected(task, mine), len(mine))
    panes = told.latest("pane")
    assert len(panes) == len(rows) * STEP_MS // PERFORMANCE.pane_ms
    windows = [*panes.values(), *[each for each in told.latest("sliding").values() if each.end_ms == max_end(told)]]
    assert len(windows) == len(panes) + len(PERFORMANCE.windows_ms)
    for record in windows:
        assert record.start_ms is not None
        assert record.end_ms is not None
        mine = [rows[n] for n in known if record.start_ms <= time_of(n) < record.end_ms]
        check(record, expected(task, mine), len(mine))
    facts = told.lifetime().label_facts or {}
    assert min(facts["corrections"], facts["duplicate_labels"], facts["outdated_labels"]) > 20


def max_end(told: Told) -> int:
    """Return when the newest pane ends."""
    return max(record.end_ms or 0 for record in told.latest("pane").values())


def test_sliding_windows_are_whole() -> None:
    """A sliding window ends with a pane that is published, and is told again while labels for it come."""
    rows = made("multiclass", 800)
    told = play(rows, prompt(rows), options())
    ends = {record.end_ms for record in told.metrics if record.window == "pane" and record.order == "prediction_time"}
    last: dict[str, PerformanceEvent] = {}
    for record in told.metrics:
        if record.window == "sliding":
            assert record.end_ms in ends
            last[record.metric_id] = record
    for record in last.values():
        assert record.start_ms is not None
        assert record.end_ms is not None
        if record.start_ms >= START_MS and record.end_ms < max_end(told):
            # Labels of the newest few events come when the next window is told.
            assert record.predictions == (record.end_ms - record.start_ms) // STEP_MS
            assert record.labelled >= 0.9 * record.predictions


@pytest.mark.parametrize("task", TASKS)
def test_the_order_of_labels_does_not_matter(task: str) -> None:
    """Labels that come in another order give the same lifetime, bit for bit."""
    rows = made(task, 400)
    found = []
    for seed in (1, 2):
        rng = random.Random(seed)
        # The first labels tell the task and the scale.
        sent = [Sent(n, row.truth, 500 if n < 20 else rng.randrange(600, 40_000)) for n, row in enumerate(rows)]
        found.append(play(rows, sent, options(segments=("region",))))
    for region in (None, "north"):
        one, other = (told.lifetime(region) for told in found)
        assert one.metrics == other.metrics
        assert (one.classification, one.regression) == (other.classification, other.regression)
    assert found[0].lifetime().label_lag != found[1].lifetime().label_lag


def test_a_corrected_absurd_label_leaves_no_trace() -> None:
    """A label of 1e12 that is corrected changes no bit of any figure."""
    rows = made("regression", 300)
    absurd = [*prompt(rows), Sent(100, 1e12, 400), Sent(200, -1e300, 450)]
    one, other = play(rows, prompt(rows), options()), play(rows, absurd, options())
    assert (other.lifetime().label_facts or {})["corrections"] == 2
    before, after = one.latest("pane"), other.latest("pane")
    assert before.keys() == after.keys()
    pairs = [(one.lifetime(), other.lifetime()), *((before[start], after[start]) for start in before)]
    for mine, its in pairs:
        assert mine.metrics == its.metrics
        assert mine.regression == its.regression


def test_a_correction_takes_away_what_was_added_though_more_names_are_known_since() -> None:
    """Probabilities of one class only, a number that is a class later: what is taken away is what was added."""
    rows = made("binary", 400)
    rows = [row._replace(probabilities={"ok": (row.probabilities or {})["ok"]}) for row in rows[:200]] + rows[200:]
    wrong = [Sent(n, "ok", 500) for n in range(50)] + [Sent(n, rows[n].truth, 30_000) for n in range(50)]
    found = []
    for sent in (prompt(rows), wrong + prompt(rows)[50:]):
        told = play(rows, sent, options())
        state = monitor_of(told)._performance.confidences.state()  # published as an estimate only
        found.append((told.lifetime().metrics, state["labelled"].tolist()))
    assert found[0] == found[1]
    rows = [Row("a", "abc"[n % 3]) for n in range(200)] + [Row("3", "a") for _ in range(100)]
    late = [Sent(n, 3, 500) if n == 100 else label for n, label in enumerate(prompt(rows))]
    one = play(rows, prompt(rows), options())
    other = play(rows, [*late, Sent(100, rows[100].truth, 15_000)], options())
    assert other.lifetime().metrics == one.lifetime().metrics


def monitor_of(told: Told) -> Monitor:
    """Return the only monitor."""
    return told.engine._shards[0]._monitors["m"]


@pytest.mark.parametrize("task", TASKS)
def test_labels_before_inside_and_after_mean_the_same(task: str) -> None:
    """It does not matter whether a label comes ahead of its prediction, in it, or after it."""
    rows = made(task, 200)
    after = play(rows, prompt(rows), options())
    inside = play(rows, [], options(), inside=range(len(rows)))
    before = play(rows, prompt(rows, -30_000), options())
    for told in (inside, before):
        assert told.lifetime().labelled == len(rows)
        # The classes come in another order, and so do the terms of a sum.
        for name, value in after.lifetime().metrics.items():
            assert told.lifetime().metrics[name].value == pytest.approx(value.value, rel=1e-12), name
        assert (told.lifetime().label_facts or {})["label_without_prediction"] == 0


def test_by_label_arrival_a_pane_has_the_labels_as_they_came() -> None:
    """Panes by arrival count each event once, when its first label comes, and corrections change nothing of them."""
    rows = made("binary", 300)
    sent = [Sent(n, "ok" if n % 10 == 0 else row.truth, 500) for n, row in enumerate(rows)]
    sent += [Sent(n, rows[n].truth, 15_000) for n in range(0, 300, 10)]
    told = play(rows, sent, options())
    panes = told.latest("pane", order="label_arrival")
    for start, record in panes.items():
        assert start is not None
        assert record.predictions is None
        mine = [n for n in range(300) if start <= time_of(n) + 500 < start + PERFORMANCE.pane_ms]
        as_it_came = [rows[n]._replace(truth="ok") if n % 10 == 0 else rows[n] for n in mine]
        check(record, expected("binary", as_it_came), len(mine))
    check(told.lifetime(), expected("binary", rows), 300)


# -------------------------------------------------------------------------------------------------- what does not fit


def test_labels_that_do_not_fit_are_counted() -> None:
    """A number for a text class and a third class in a binary model are facts about the data; nothing crashes."""
    rows = made("binary", 200)
    sent = [Sent(n, {50: 3, 51: 4.5, 60: "third", 61: "fourth"}.get(n, row.truth), 500) for n, row in enumerate(rows)]
    told = play(rows, sent, options())
    facts = told.lifetime().label_facts or {}
    assert (facts["label_kind"], facts["unknown_class"]) == (2, 2)
    assert told.lifetime().labelled == 198
    assert told.lifetime().task == "binary"
    parts = told.lifetime().classification
    assert parts is not None
    assert sum(parts.confusion[0]) == 2


def test_a_positive_class_that_has_not_come_yet_is_no_crash() -> None:
    """A score whose labels are all of the same class so far has an accuracy, and more once the other class comes."""
    rows = [Row(0.1, "ok") for _ in range(150)]
    told = play(rows, prompt(rows), options())
    assert told.lifetime().metrics["accuracy"].value is not None
    rows += [Row(0.9, "wrong") for _ in range(50)]
    told = play(rows, prompt(rows), options())
    assert told.lifetime().labelled == 200
    assert told.lifetime().metrics["recall"].support == 50


def test_a_model_without_labels_has_no_performance() -> None:
    """No labels, no records: unknown is not zero."""
    told = play(made("binary", 300), [], options(segments=("region",)))
    assert told.metrics == []
    assert {record.kind for record in told.maintenance} <= {"schema_frozen", "drift_reference_taken"}


def test_performance_can_be_switched_off() -> None:
    """With `enabled = false` nothing is published, and no row is kept."""
    rows = made("binary", 200)
    told = play(rows, prompt(rows), options(enabled=False))
    assert told.metrics == []
    assert monitor_of(told)._performance.join.waiting == 0


# -------------------------------------------------------------------------------------------------------------- limits


def right_or_wrong(shares: Sequence[tuple[int, float]], seed: int = 3) -> list[Row]:
    """Return rows of a model of three classes that is right so often, for so many events, in turn."""
    rng = random.Random(seed)
    rows = []
    for count, share in shares:
        for _ in range(count):
            truth = rng.choice("abc")
            wrong = rng.choice([name for name in "abc" if name != truth])
            rows.append(Row(truth if rng.random() < share else wrong, truth))
    return rows


def test_a_limit_fires_when_its_interval_excludes_it_and_resolves() -> None:
    """A minimum of 0.8 is silent at 0.82, opens once at 0.6, and resolves once after the recovery."""
    limits = (LimitOptions("accuracy", minimum=0.8),)
    quiet = right_or_wrong([(1_000, 0.82)])
    assert play(quiet, prompt(quiet), options(limits=limits)).alerts == []
    rows = right_or_wrong([(600, 0.9), (500, 0.6), (1_500, 0.92)])
    told = play(rows, prompt(rows), options(limits=limits))
    first, *updates, last = told.alerts
    assert (first.kind, first.status, last.status) == ("performance.limit", "opened", "resolved")
    assert {alert.status for alert in updates} <= {"updated"}
    assert {alert.incident_id for alert in told.alerts} == {first.incident_id}
    evidence = first.performance
    assert evidence is not None
    assert evidence.low <= evidence.observed <= evidence.high < evidence.limit == 0.8
    assert evidence.support >= PERFORMANCE.support_min
    assert time_of(600) < first.timestamp_ms < time_of(900)
    assert evidence.since_ms <= first.timestamp_ms
    assert time_of(1_100) < last.timestamp_ms
    assert last.resolved_at_ms == last.timestamp_ms
    assert [row.offset for row in first.evidence] == sorted(row.offset for row in first.evidence)
    assert all(rows[row.offset].prediction != rows[row.offset].truth for row in first.evidence)


def test_a_drop_names_the_class_that_lost_most_and_the_segment() -> None:
    """When a class fails in one region, the alert of that region says so; other regions are silent."""
    rng = random.Random(5)
    rows = []
    for number in range(3_000):
        truth, region = rng.choice("abc"), rng.choice(["north", "south"])
        fails = number > 1_500 and region == "south" and truth == "b" and rng.random() < 0.8
        right = rng.random() < 0.9 and not fails
        rows.append(Row(truth if right else rng.choice("ac"), truth, None, region))
    told = play(rows, prompt(rows), options(limits=(LimitOptions("accuracy", drop=0.02),), segments=("region",)))
    taken = [record.segment for record in told.maintenance if record.kind == "reference_taken"]
    assert {"region = north", "region = south"} <= set(taken)
    opened = [alert for alert in told.alerts if alert.status == "opened" and alert.kind.startswith("performance.")]
    assert opened
    regions = {
        None if each.performance is None or each.performance.segment is None else each.performance.segment.value
        for each in opened
    }
    assert "south" in regions
    assert "north" not in regions
    for alert in opened:
        assert alert.kind == "performance.drop"
        assert alert.performance is not None
        assert alert.performance.classes[0] == "b"
        assert alert.performance.reference is not None
        assert alert.performance.observed < alert.performance.limit < alert.performance.reference
        assert "b" in alert.summary


def test_the_report_of_the_training_is_the_reference() -> None:
    """A model that was never as good as its report says is found out, without a stretch of good labels first."""
    report = (ReportOptions("accuracy", 0.95, 2_000),)
    model = ModelPerformanceOptions("m", report=report, limits=(LimitOptions("accuracy", drop=0.02),))
    rows = right_or_wrong([(400, 0.8)])
    told = play(rows, prompt(rows), options(models=(model,)))
    assert told.alerts[0].status == "opened"
    assert told.alerts[0].performance is not None
    assert told.alerts[0].performance.reference == 0.95
    assert told.alerts[0].timestamp_ms < time_of(200)
    good = right_or_wrong([(400, 0.95)])
    assert play(good, prompt(good), options(models=(model,))).alerts == []


@pytest.mark.parametrize("detector", ["adwin", "page_hinkley", "ddm", "hddm_a", "hddm_w"])
def test_concept_drift_is_told_once_and_not_at_a_recovery(detector: str) -> None:
    """A jump of the error opens one alert; a fall of it, and what follows, opens none."""
    drift = ConceptDriftOptions(detector=detector, effect_min=0.05, rest_labels=200)  # type: ignore[arg-type]  # one of the names
    rows = right_or_wrong([(1_500, 0.95), (1_000, 0.6), (1_500, 0.95)])
    told = play(rows, prompt(rows), options(drift=drift))
    steps = told.steps("drift.concept")
    assert [status for status, _ in steps if status != "updated"] == ["opened", "resolved"]
    assert time_of(1_500) < steps[0][1] < time_of(2_500)
    assert time_of(2_500) < steps[-1][1]
    evidence = told.alerts[0].performance
    assert evidence is not None
    assert evidence.reference is not None
    assert (evidence.metric, evidence.detector) == ("error", detector)
    assert evidence.observed > evidence.reference + 0.05
    better = right_or_wrong([(1_500, 0.7), (1_500, 0.97)])
    assert play(better, prompt(better), options(drift=drift)).steps("drift.concept") == []


def test_a_drift_is_not_over_because_of_what_came_before_it() -> None:
    """The labels before an alarm say nothing of its end."""
    watch = ConceptWatch(ConceptDriftOptions(detector="hddm_w", effect_min=0.05), chunk_labels=400)
    errors = np.concatenate([np.zeros(1_170), np.ones(600), np.zeros(1_000)])
    steps = list(watch.process(errors, np.arange(len(errors)), np.arange(len(errors))))
    assert [step.status for step in steps] == ["opened", "updated", "resolved"]
    assert 1_170 < steps[0].row < 1_200
    assert steps[-1].row > 1_770


def test_a_drift_that_stands_is_told_with_each_chunk_of_labels() -> None:
    """From the first chunk on with the error as it has become, until the chunk that is back."""
    watch = ConceptWatch(ConceptDriftOptions(detector="hddm_w", effect_min=0.05), chunk_labels=100)
    errors = np.concatenate([np.zeros(1_000), np.tile([1.0, 0.0], 250), np.zeros(500)])
    steps = list(watch.process(errors, np.arange(len(errors)), np.arange(len(errors))))
    opened, *updated, resolved = steps
    assert (opened.status, resolved.status, {step.status for step in updated}) == ("opened", "resolved", {"updated"})
    assert [step.row for step in updated] == [opened.row + 100 * (place + 1) for place in range(len(updated))]
    assert len(updated) >= 4
    assert [step.now for step in updated[:3]] == [0.5] * 3
    assert {step.drift.after for step in updated} == {0.5}
    assert {step.drift.opened_offset for step in steps} == {opened.row}


def accuracy_of(share: float, support: float = 400.0) -> Estimate:
    """Return an accuracy with an interval of two points."""
    return Estimate(share, share - 0.02, share + 0.02, support)


def looked_at(watch: LimitWatch, shares: Sequence[float], size: int = 1) -> list[tuple[int, str, str]]:
    """Show one window after the other to the limits; return number, status and severity of each step."""
    found: list[tuple[int, str, str]] = []
    for number, share in enumerate(shares, start=1):
        moment = LimitMoment(1_000 * number, number, {size: 0})
        known = {"accuracy": accuracy_of(0.9)}
        steps = watch.look(number, number, lambda *_, share=share: {"accuracy": accuracy_of(share)}, known, moment)
        found += [(number, step.status, step.breach.severity) for step in steps]
    return found


def test_an_open_breach_is_told_at_each_look_at_which_it_is_broken() -> None:
    """With the severity of then; at one at which the interval does not exclude the limit, nothing is said."""
    watch = LimitWatch([Condition("accuracy", "minimum", 0.8)], support_min=100)
    assert looked_at(watch, [0.85, 0.75, 0.74, 0.6, 0.75, 0.79, 0.75, 0.8, 0.85]) == [
        (2, "opened", "warning"),
        (3, "updated", "warning"),
        (4, "updated", "critical"),
        (5, "updated", "warning"),
        (7, "updated", "warning"),
        (8, "resolved", "warning"),
    ]


@pytest.mark.parametrize(
    ("sort", "limit", "shares"),
    [
        # Each: a value that breaks the limit, one that keeps it but is not clear of it, one that is.
        ("minimum", 0.8, (0.7, 0.81, 0.83)),
        ("maximum", 0.8, (0.9, 0.79, 0.77)),
        ("drop", 0.05, (0.7, 0.86, 0.88)),
        ("rise", 0.05, (1.2, 0.94, 0.92)),
    ],
)
def test_a_breach_is_over_when_the_value_is_clear_of_the_limit(sort: Any, limit: float, shares: Any) -> None:  # noqa: ANN401 - literals
    """By 0.02, in the unit of the limit; without it the limit itself is enough."""
    for clear, last in ((0.0, 2), (0.02, 3)):
        watch = LimitWatch([Condition("accuracy", sort, limit, clear)], support_min=100)
        assert [step[:2] for step in looked_at(watch, shares)] == [(1, "opened"), (last, "resolved")]


def test_how_far_it_must_be_clear_has_a_bound() -> None:
    """More than back at the reference is not asked for."""
    limits = (LimitOptions("accuracy", drop=0.02, clear=0.03), LimitOptions("mae", maximum=0.02, clear=0.03))
    found = performance_contradictions(msgspec.structs.replace(PERFORMANCE, limits=limits), 1_000)
    [problem] = [problem for problem in found if "clear" in problem]
    assert problem.startswith("engine.performance.limits: clear of `accuracy` must not be more than its drop or rise")


# -------------------------------------------------------------------------------------------------- labels themselves


def test_labels_that_stop_coming_are_told() -> None:
    """When half of the labels stay away, `label.coverage` opens; when they come again, it resolves."""
    rows = made("binary", 3_000)
    sent = [Sent(n, row.truth, 500) for n, row in enumerate(rows) if n % 2 or not 1_200 < n < 1_900]
    told = play(rows, sent, options(limits=(LimitOptions("label_coverage", drop=0.05),)))
    steps = told.steps("label.coverage")
    assert [status for status, _ in steps if status != "updated"] == ["opened", "resolved"]
    assert time_of(1_200) < steps[0][1] < time_of(1_500)
    assert time_of(1_900) < steps[-1][1]
    evidence = told.alerts[0].performance
    assert evidence is not None
    assert (evidence.metric, evidence.reference) == ("label_coverage", 1.0)
    places = [row.timestamp_ms for row in told.alerts[0].evidence]
    assert places == [evidence.since_ms, told.alerts[0].timestamp_ms]
    steady = prompt(rows[:1_500])
    assert play(rows[:1_500], steady, options(limits=(LimitOptions("label_coverage", drop=0.05),))).alerts == []


def test_labels_that_take_longer_are_told() -> None:
    """When labels take four times as long, `label.lag` opens; the median and the 95 % quantile are metrics."""
    rows = made("binary", 1_500)
    rng = random.Random(2)
    sent = [Sent(n, row.truth, rng.randrange(800, 1_200) * (4 if n > 900 else 1)) for n, row in enumerate(rows)]
    told = play(rows, sent, options(limits=(LimitOptions("label_lag_median", rise=1.0),)))
    assert told.steps("label.lag")[0][0] == "opened"
    assert time_of(900) < told.steps("label.lag")[0][1] < time_of(1_200)
    lag = told.latest("pane")[START_MS // 10_000 * 10_000 + 20_000].label_lag
    assert lag.median.value == pytest.approx(1_000, rel=0.1)
    assert lag.p95.value == pytest.approx(1_180, rel=0.1)
    coverage = told.lifetime().label_coverage
    assert coverage is not None
    assert coverage.value == 1.0


# ----------------------------------------------------------------------------------------------------------- estimates


def test_an_estimate_is_marked_and_compared_once_labels_come() -> None:
    """Panes whose labels are late have an estimate of the accuracy first, and its error once they are there."""
    rows = made("binary", 1_500)
    sent = [Sent(n, row.truth, 500 if n < 800 else 40_000) for n, row in enumerate(rows)]
    told = play(rows, sent, options())
    start = time_of(1_000) // 10_000 * 10_000
    revisions = [record for record in told.metrics if record.start_ms == start and record.window == "pane"]
    revisions = [record for record in revisions if record.order == "prediction_time"]
    first, last = revisions[0], revisions[-1]
    assert (first.labelled, last.labelled) == (0, 100)
    assert first.metrics["accuracy"].value is None
    assert first.estimate is not None
    assert first.estimate.accuracy is not None
    assert first.estimate.realised_error is None
    assert last.estimate is not None
    assert last.estimate.accuracy is not None
    assert last.estimate.realised_error is not None
    accuracy = last.metrics["accuracy"].value
    assert accuracy is not None
    assert last.estimate.realised_error == pytest.approx(last.estimate.accuracy - accuracy)
    assert abs(last.estimate.realised_error) < 0.12
    assert last.estimate.confidence_distance is not None
    assert last.estimate.confidence_distance < 0.25
