"""Labels through real Kafka: late, shuffled, repeated, corrected, some missing; the metrics are scikit-learn's."""

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from confluent_kafka import Producer
from river.datasets import ImageSegments, Phishing, TrumpApproval
from sklearn import metrics as sk
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.e2e.harness import PARTITIONS, WAIT_SECONDS_MAX, Deployment
from worker.core.codec import decode_metric
from worker.core.events import PerformanceEvent
from worker.core.performance.intervals import Estimate
from worker.core.performance.merging import latest, merge_performance

START_MS = 1_767_225_600_000
EVENT_MS = 20
LABEL_DELAY_EVENTS = 100
SHUFFLE_EVENTS = 150


class Served(NamedTuple):
    """A model's answers to the rows of a real stream, in time order; probabilities are n x classes, or None."""

    model_id: str
    truth: Sequence[Any]
    answers: Sequence[Any]
    probabilities: Any
    classes: Sequence[str]


def phishing() -> Served:
    """1,250 web sites, phishing or not: logistic regression on the first 300 serves the rest."""
    rows, truth = _table(Phishing())
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows[:300], truth[:300])
    answers, chances = model.predict(rows[300:]), model.predict_proba(rows[300:])
    return Served(
        "phishing", [bool(each) for each in truth[300:]], list(map(bool, answers)), chances, ["false", "true"]
    )


def segments() -> Served:
    """2,310 image segments of 7 classes: a forest on half of them, in a seeded order, serves the other half."""
    table, names = _table(ImageSegments())  # type: ignore[no-untyped-call]  # as above
    order = np.random.default_rng(3).permutation(len(table))
    rows, truth = table[order], np.array(names)[order]
    half = len(rows) // 2
    model = RandomForestClassifier(20, max_depth=4, random_state=0).fit(rows[:half], truth[:half])
    answers, chances = model.predict(rows[half:]), model.predict_proba(rows[half:])
    return Served("segments", truth[half:].tolist(), answers.tolist(), chances, list(map(str, model.classes_)))


def approval() -> Served:
    """1,001 days of approval ratings: linear regression on the first 300 serves the rest."""
    rows, truth = _table(TrumpApproval())  # type: ignore[no-untyped-call]  # as above
    model = LinearRegression().fit(rows[:300], truth[:300])
    return Served("approval", list(truth[300:]), model.predict(rows[300:]).tolist(), None, [])


def _table(stream: Any) -> tuple[Any, list[Any]]:  # noqa: ANN401 - River ships no types
    pairs = list(stream)
    names = list(pairs[0][0])
    return np.array([[float(row[name]) for name in names] for row, _ in pairs]), [truth for _, truth in pairs]


class Feed:
    """All records of a model in the order in which they are sent, and what the labels amount to in the end."""

    def __init__(self, served: Served, seed: int) -> None:
        self._served = served
        self._rng = random.Random(seed)
        self.labelled = [row for row in range(len(served.truth)) if self._rng.random() > 0.1]
        self.records = sorted([*self._predictions(), *self._labels()], key=lambda each: each[0])

    def _predictions(self) -> list[tuple[float, str, int, bytes]]:
        served = self._served
        out = []
        for row, answer in enumerate(served.answers):
            event = {
                "event_id": f"{served.model_id}-{row}",
                "model_id": served.model_id,
                "timestamp": START_MS + row * EVENT_MS,
                "features": {"row": row},
                "prediction": answer,
            }
            if served.probabilities is not None:
                event["probabilities"] = dict(zip(served.classes, served.probabilities[row].tolist(), strict=True))
            out.append((float(row), "predictions", row % PARTITIONS, json.dumps(event).encode()))
        return out

    def _labels(self) -> list[tuple[float, str, int, bytes]]:
        rng, out = self._rng, []
        for row in self.labelled:
            at = row + LABEL_DELAY_EVENTS + rng.random() * SHUFFLE_EVENTS
            copies = 2 if rng.random() < 0.1 else 1
            if rng.random() < 0.1:
                # First a wrong one; sometimes the right one even comes before it.
                out.append((at + rng.choice([-40, 20]), *self._label(row, rng.choice(self._served.truth), at - 60)))
            out += [(at + 30 * copy, *self._label(row, self._served.truth[row], at)) for copy in range(copies)]
        return out

    def _label(self, row: int, label: Any, at: float) -> tuple[str, int, bytes]:  # noqa: ANN401 - any label
        event = {
            "event_id": f"{self._served.model_id}-{row}",
            "model_id": self._served.model_id,
            "timestamp": START_MS + int(at * EVENT_MS),
            "label": label,
        }
        return "labels", row % PARTITIONS, json.dumps(event).encode()


def expected(served: Served, rows: Sequence[int]) -> dict[str, float]:
    """What scikit-learn says of the labelled rows."""
    truth, answers = [served.truth[row] for row in rows], [served.answers[row] for row in rows]
    if served.probabilities is None:
        return {
            "mse": sk.mean_squared_error(truth, answers),
            "rmse": sk.root_mean_squared_error(truth, answers),
            "mae": sk.mean_absolute_error(truth, answers),
            "median_absolute_error": sk.median_absolute_error(truth, answers),
            "r2": sk.r2_score(truth, answers),
            "bias": float(np.mean(np.array(answers) - np.array(truth))),
            "mape": sk.mean_absolute_percentage_error(truth, answers),
        }
    chances = served.probabilities[list(rows)]
    found = {
        "accuracy": sk.accuracy_score(truth, answers),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, answers),
        "matthews": sk.matthews_corrcoef(truth, answers),
    }
    for average in ("macro", "weighted", "micro"):
        for name, function in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
            found[f"{name}_{average}"] = function(truth, answers, average=average, zero_division=0)
    if len(served.classes) == 2:
        positive = chances[:, 1]
        found |= {
            "precision": sk.precision_score(truth, answers),
            "recall": sk.recall_score(truth, answers),
            "f1": sk.f1_score(truth, answers),
            "log_loss": sk.log_loss(truth, chances, labels=[False, True]),
            "brier": sk.brier_score_loss(truth, positive),
            "roc_auc": sk.roc_auc_score(truth, positive),
            "average_precision": sk.average_precision_score(truth, positive),
        }
    else:
        one_hot = np.array([[name == each for name in served.classes] for each in truth], dtype=float)
        found |= {
            "log_loss": sk.log_loss(truth, chances, labels=served.classes),
            "brier": float(((chances - one_hot) ** 2).sum(axis=1).mean()),
            "roc_auc": sk.roc_auc_score(one_hot, chances, average="macro"),
            "average_precision": sk.average_precision_score(one_hot, chances, average="macro"),
        }
    return found


@pytest.fixture
def deployment(kafka: str, topic_prefix: str) -> Deployment:
    """Fresh topics and a fresh group."""
    made = Deployment(kafka, topic_prefix)
    made.create_topics()
    return made


def send(deployment: Deployment, records: Sequence[tuple[float, str, int, bytes]]) -> None:
    """Write records of both topics in their order, with the times at which they are due."""
    producer = Producer({"bootstrap.servers": deployment.servers, "linger.ms": 20})
    for at, topic, partition, value in records:
        stamp = START_MS + max(int(at * EVENT_MS), 0)
        producer.produce(deployment.topics[topic], value, key=b"key", partition=partition, timestamp=stamp)
        producer.poll(0)
    assert producer.flush(30) == 0


def lifetimes(deployment: Deployment) -> dict[str, list[PerformanceEvent]]:
    """Return the newest lifetime record of each shard, by model."""
    records = [decode_metric(message.value() or b"") for message in deployment.read("metrics")]
    found = [each for each in records if isinstance(each, PerformanceEvent) and each.window == "lifetime"]
    return {model: latest([each for each in found if each.model_id == model]) for model in {e.model_id for e in found}}


def wait_for_labels(deployment: Deployment, labelled: dict[str, int]) -> dict[str, list[PerformanceEvent]]:
    """Wait until so many labelled events of each model are in the lifetime records."""
    end = time.monotonic() + WAIT_SECONDS_MAX
    while True:
        found = lifetimes(deployment)
        now = {model: int(sum(record.labelled for record in records)) for model, records in found.items()}
        if now == labelled:
            return found
        assert time.monotonic() < end, f"labelled after {WAIT_SECONDS_MAX} s: {now} of {labelled}"
        time.sleep(0.5)


def assert_close(found: dict[str, Estimate], wanted: dict[str, float]) -> None:
    """Equal to rounding, or within the bound that is stated for what comes from a histogram."""
    for name, value in wanted.items():
        estimate = found[name]
        assert estimate.value is not None, name
        assert estimate.value == pytest.approx(value, rel=1e-9, abs=(estimate.error_max or 0.0) + 1e-12), name
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high, name


def test_every_metric_is_scikit_learns(deployment: Deployment) -> None:
    """Three real streams over four shards, labels as they come in real life; the shards merge to what is true."""
    all_served = [phishing(), segments(), approval()]
    feeds = {served.model_id: Feed(served, seed) for seed, served in enumerate(all_served)}
    send(deployment, sorted((record for feed in feeds.values() for record in feed.records), key=lambda each: each[0]))
    with deployment.worker() as worker:
        found = wait_for_labels(deployment, {model: len(feed.labelled) for model, feed in feeds.items()})
        worker.terminate()
        assert worker.wait(20) == 0
    for served in all_served:
        records = found[served.model_id]
        assert len(records) == PARTITIONS
        assert sum(record.predictions or 0 for record in records) == len(served.truth)
        merged = merge_performance(records, 1.96, positive="true" if served.model_id == "phishing" else None)
        assert_close(merged, expected(served, feeds[served.model_id].labelled))
    facts = [record.label_facts or {} for record in found["segments"]]
    assert sum(fact["corrections"] for fact in facts) > 20
    assert sum(fact["duplicate_labels"] for fact in facts) > 20
    assert sum(fact["outdated_labels"] for fact in facts) > 10


def test_kill_in_the_middle_of_joining(deployment: Deployment) -> None:
    """Killed again and again while labels are joined: in the end the records are those of an undisturbed run."""
    served = segments()
    feed = Feed(served, 7)
    quarter = len(feed.records) // 4
    for kill in range(3):
        before = deployment.committed()
        send(deployment, feed.records[kill * quarter : (kill + 1) * quarter])
        with deployment.worker() as worker:
            deadline = time.monotonic() + WAIT_SECONDS_MAX
            while deployment.committed() <= before and time.monotonic() < deadline and kill < 2:
                time.sleep(0.02)
            time.sleep(0.15 * kill)
            os.kill(worker.pid, signal.SIGKILL)
    send(deployment, feed.records[3 * quarter :])
    with deployment.worker() as worker:
        found = wait_for_labels(deployment, {served.model_id: len(feed.labelled)})
        worker.terminate()
        assert worker.wait(20) == 0
    assert_close(merge_performance(found[served.model_id], 1.96), expected(served, feed.labelled))
    records = [decode_metric(message.value() or b"") for message in deployment.read("metrics")]
    seen = [(each.metric_id, each.revision) for each in records if isinstance(each, PerformanceEvent)]
    assert len(seen) == len(set(seen)), "a revision was published twice"
