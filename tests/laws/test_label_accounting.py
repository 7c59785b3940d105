"""Law 8 for labels: every prediction and every label is accounted for, by what became of it."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.labelled import LABELLED, TASKS, Item, batches, grouped, items, run
from tests.streams import FAR_MS
from worker.core.engine import Engine
from worker.core.events import OutputTopic, PerformanceEvent
from worker.core.monitor import Monitor
from worker.core.options import EngineOptions

SMALL_JOIN = msgspec.structs.replace(
    LABELLED, performance=msgspec.structs.replace(LABELLED.performance, join_events_max=40, early_labels_max=4)
)
"""Options under which many rows have no room."""


class Account(NamedTuple):
    """What a model was sent, what still waits, and its last lifetime record."""

    predictions: int
    labels: int
    waiting: int
    early: int
    lifetime: PerformanceEvent
    facts: dict[str, int]

    @property
    def joined(self) -> int:
        """Predictions that got a label, by what became of the others."""
        gone = self.facts["unlabelled_in_time"] + self.facts["unlabelled_no_room"]
        return self.predictions - self.facts["duplicate_predictions"] - self.waiting - gone


def sent(seed: int, count: int, tasks: Sequence[str] = TASKS) -> list[Item]:
    """Return a stream in which no event has a label both ahead of it and inside of it: only one of these is counted."""
    stream, ahead = [], set[str]()
    for item in grouped(items(seed, count, tasks), 40):
        value = json.loads(item.record[0] or b"")
        if item.is_label:
            ahead.add(value["event_id"])
        elif value["event_id"] in ahead:
            value.pop("label", None)
        stream.append(item._replace(record=(json.dumps(value).encode(), item.record[1])))
    return stream


def values(stream: Sequence[Item], *, labels: bool) -> list[dict[str, Any]]:
    """Return the decoded records of one topic."""
    return [json.loads(item.record[0] or b"") for item in stream if item.is_label == labels]


def monitors(engine: Engine) -> dict[str, Monitor]:
    """Return the monitors of the only shard."""
    return engine._shards[0]._monitors  # what waits is told nowhere else


def accounts(stream: Sequence[Item], options: EngineOptions = LABELLED) -> dict[str, Account]:
    """Run a stream to its end; return the account of each model whose task is known."""
    outputs, engine = run(batches(stream), options)
    outputs += [output for _ in range(3) for output in engine.tick(0, FAR_MS)]
    lifetimes: dict[str, PerformanceEvent] = {}
    for output in outputs:
        if output.topic is OutputTopic.METRICS and b'"lifetime"' in (output.value or b""):
            record = msgspec.json.decode(output.value or b"", type=PerformanceEvent)
            if record.segment is None:
                lifetimes[record.model_id] = record
    predicted = Counter(value["model_id"] for value in values(stream, labels=False))
    inside = Counter(value["model_id"] for value in values(stream, labels=False) if "label" in value)
    told = Counter(value["model_id"] for value in values(stream, labels=True))
    found = {}
    for model_id, lifetime in lifetimes.items():
        join = monitors(engine)[model_id]._performance.join
        rows = join.state()
        waiting = int((rows["waiting.kind"] == -1).sum())
        labels = told[model_id] + inside[model_id]
        facts = lifetime.label_facts or {}
        found[model_id] = Account(predicted[model_id], labels, waiting, join.early, lifetime, facts)
    return found


def check_predictions(account: Account) -> None:
    """Each prediction is a duplicate, or in the lifetime; and there it is labelled, waits, or is gone by reason."""
    assert account.lifetime.predictions == account.predictions - account.facts["duplicate_predictions"]
    misfits = account.joined - account.lifetime.labelled
    assert 0 <= misfits <= account.facts["label_kind"] + account.facts["prediction_kind"]
    assert min(account.facts.values()) >= 0
    assert account.waiting >= 0


def check_labels(account: Account) -> None:
    """Each label is the one of its prediction, or more of the same, or waits, or is gone by reason."""
    facts = account.facts
    again = facts["duplicate_labels"] + facts["outdated_labels"] + facts["corrections"]
    gone = facts["label_without_prediction"] + facts["label_no_room"]
    assert account.labels == account.joined + again + account.early + gone


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32), small=st.booleans())
def test_every_prediction_and_every_label_is_accounted_for(seed: int, small: bool) -> None:  # noqa: FBT001 - drawn by Hypothesis
    """Predictions = labelled + waiting + unlabelled + duplicates; labels = joined + repeated + waiting + dropped."""
    stream = sent(seed, 250)
    found = accounts(stream, SMALL_JOIN if small else LABELLED)
    assert found.keys() == set(TASKS)
    for account in found.values():
        check_predictions(account)
        check_labels(account)


def test_no_reason_is_left_out() -> None:
    """The equations are not empty: with little room for both topics each reason has a count."""
    total: Counter[str] = Counter()
    own = {"probabilities", "prediction_kind", "clipped"}
    for seed in range(3):
        # Few events of many models reach the horizon, many of one have no room.
        for tasks, count, options in ((TASKS, 900, LABELLED), (("binary",), 300, SMALL_JOIN)):
            for account in accounts(sent(seed, count, tasks), options).values():
                check_predictions(account)
                check_labels(account)
                total.update(account.facts | {"early": account.early, "waiting": account.waiting})
        left = {name for name, count in total.items() if count == 0} - own
        if not left:
            return
    pytest.fail(f"never counted: {', '.join(sorted(left))}")


def test_what_fits_is_in_the_lifetime_to_the_last_label() -> None:
    """Without labels of a wrong kind, the lifetime has exactly the predictions that got a label."""
    for seed in range(3):
        for task in ("regression", "multiclass"):
            stream = [item for item in sent(seed, 300, [task]) if not (item.is_label and _is_odd(item, task))]
            (account,) = accounts(stream).values()
            assert account.facts["label_kind"] == account.facts["prediction_kind"] == 0
            assert account.joined == account.lifetime.labelled
            assert account.joined > 200


def _is_odd(item: Item, task: str) -> bool:
    label = json.loads(item.record[0] or b"")["label"]
    return not isinstance(label, float if task == "regression" else str)


def test_pane_by_pane_the_predictions_are_those_of_the_lifetime() -> None:
    """As long as no pane is old, the latest record of each pane adds up to the lifetime, for predictions and labels."""
    stream = grouped(items(7, 250, ["multiclass"]), 40)
    outputs, engine = run(batches(stream))
    outputs += [output for _ in range(3) for output in engine.tick(0, FAR_MS)]
    latest: dict[tuple[str, str, str | None], PerformanceEvent] = {}
    for output in outputs:
        if b'"kind":"performance"' in (output.value or b"") and output.topic is OutputTopic.METRICS:
            record = msgspec.json.decode(output.value or b"", type=PerformanceEvent)
            if record.segment is None:
                latest[record.order, record.window, str(record.start_ms)] = record
    panes = [each for (order, window, _), each in latest.items() if (order, window) == ("prediction_time", "pane")]
    lifetime = latest["prediction_time", "lifetime", "None"]
    assert 3 < len(panes) < LABELLED.performance.panes_max
    assert sum(pane.predictions or 0 for pane in panes) == lifetime.predictions
    assert sum(pane.labelled for pane in panes) == lifetime.labelled
    by_arrival = [each for (order, window, _), each in latest.items() if (order, window) == ("label_arrival", "pane")]
    assert len(by_arrival) > 3
    # Corrections to a label that does not fit take events out of the lifetime, never out of what has arrived.
    assert sum(pane.labelled for pane in by_arrival) >= lifetime.labelled
