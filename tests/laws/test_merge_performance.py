"""Law 5 for labels: the performance records of several shards, or of several panes, merge to those of one."""

from collections.abc import Sequence

import msgspec
import pytest

from tests.labelled import LABELLED, Item, batches, items
from tests.streams import close_all
from worker.core.codec import decode_metric
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import OutputTopic, PerformanceEvent
from worker.core.options import ModelPerformanceOptions
from worker.core.performance.facts import MEANINGS
from worker.core.performance.intervals import Estimate
from worker.core.performance.merging import latest, merge_performance
from worker.core.shard import Topics

TASKS = ("binary", "score", "multiclass", "regression")
WIDE = msgspec.structs.replace(
    LABELLED,
    performance=msgspec.structs.replace(
        LABELLED.performance,
        label_wait_max_ms=2_000_000,
        join_events_max=10_000,
        early_labels_max=10_000,
        panes_max=1_000,
        classes_max=20,
        segments=(),
        limits=(),
        # Told, so that no shard infers another task from its few labels.
        models=(
            ModelPerformanceOptions("binary", task="binary", classes=("ok", "fraud")),
            ModelPerformanceOptions("multiclass", task="multiclass", classes=tuple("abcdef")),
        ),
    ),
)


def published(stream: Sequence[Item], shard: int = 0) -> list[PerformanceEvent]:
    """Run a stream through a shard; return the newest revision of every performance record."""
    engine = Engine(WIDE, Topics(), InlineRefits())
    engine.add_shard(shard)
    outputs = [output for raw in batches(stream, partition=shard) for output in engine.handle(raw).outputs]
    for _ in range(3):
        outputs += close_all(engine, shard)
    records = [decode_metric(output.value or b"") for output in outputs if output.topic is OutputTopic.METRICS]
    return latest([record for record in records if isinstance(record, PerformanceEvent)])


def of(records: Sequence[PerformanceEvent], task: str, window: str, order: str) -> list[PerformanceEvent]:
    """Return the records of one model, window and order."""
    return [each for each in records if (each.model_id, each.window, each.order) == (task, window, order)]


def assert_same(found: dict[str, Estimate], wanted: dict[str, Estimate]) -> None:
    """Equal to 1e-9, or as far as the histograms of different units allow."""
    assert found.keys() == wanted.keys()
    for name, estimate in wanted.items():
        slack = 0.0 if name != "median_absolute_error" else 2.0 * (estimate.error_max or 0.0)
        if estimate.value is None:
            assert found[name].value is None, name
        else:
            assert found[name].value == pytest.approx(estimate.value, rel=1e-9, abs=1e-12 + slack), name


@pytest.mark.parametrize("task", TASKS)
def test_shards_and_panes_merge_to_the_whole(task: str) -> None:
    """However events are spread over three shards, and however they fall into panes, the metrics are the same."""
    stream = items(11, 900, [task])
    whole = published(stream)
    (lifetime,) = of(whole, task, "lifetime", "prediction_time")
    wanted = merge_performance([lifetime], 1.96)
    assert_same({name: Estimate(*msgspec.structs.astuple(each)) for name, each in lifetime.metrics.items()}, wanted)
    assert_same(merge_performance(of(whole, task, "pane", "prediction_time"), 1.96), wanted)
    parts = [published([item for item in stream if hash_of(item) % 3 == shard], shard) for shard in range(3)]
    spread = [record for part in parts for record in of(part, task, "lifetime", "prediction_time")]
    assert len(spread) == 3
    assert sum(record.labelled for record in spread) == lifetime.labelled
    assert_same(merge_performance(spread, 1.96), wanted)


def hash_of(item: Item) -> int:
    """Return a number that an event and its labels share."""
    event = msgspec.json.decode(item.record[0] or b"{}")
    return int("".join(filter(str.isdigit, event["event_id"])))


def test_what_does_not_belong_together_is_refused() -> None:
    """Two tasks, or windows without parts, are an error, not a number."""
    records = published(items(3, 500, ["binary", "regression"]))
    lifetimes = [each for each in records if each.window == "lifetime"]
    with pytest.raises(ValueError, match="one model and task"):
        merge_performance(lifetimes, 1.96)
    with pytest.raises(ValueError, match="panes and lifetimes"):
        merge_performance(of(records, "binary", "decayed", "label_arrival"), 1.96)


def test_every_label_fact_has_a_meaning() -> None:
    """A person who finds a count in a lifetime record can look it up."""
    (lifetime,) = [each for each in published(items(5, 400, ["binary"])) if each.window == "lifetime"]
    assert lifetime.label_facts is not None
    assert lifetime.label_facts.keys() == MEANINGS.keys()
