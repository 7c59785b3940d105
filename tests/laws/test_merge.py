"""Law 5: the pane statistics of two shards merge to what one shard would have."""

import json
from collections import defaultdict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams import SMALL, START_MS, batch, close_all, run
from worker.core.events import MetricEvent, OutputTopic
from worker.core.statistics.merging import merge_panes

VALUES = st.floats(-1e6, 1e6, allow_subnormal=False) | st.sampled_from([0.0, 1.0, None])


def metric_of(shard: int, events: list[dict[str, object]]) -> list[MetricEvent]:
    """Run events of one pane through a shard and return what it publishes of it."""
    records = [(json.dumps(event).encode(), START_MS) for event in events]
    options = msgspec.structs.replace(SMALL, pane_ms=60_000, buckets_max=64)
    _, engine = run([batch(shard, 0, records)], options)
    outputs = close_all(engine, shard)
    return [msgspec.json.decode(o.value or b"", type=MetricEvent) for o in outputs if o.topic is OutputTopic.METRICS]


def close(actual: float | None, expected: float | None) -> bool:
    """Equal to 1e-9 of the values' own size (up to 1e6, squares up to 1e12 times the count)."""
    if actual is None or expected is None:
        return actual is expected
    return actual == pytest.approx(expected, rel=1e-9, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(VALUES, st.sampled_from(["x", "y", "z"]), st.booleans()), min_size=1, max_size=60),
    owners=st.lists(st.integers(0, 2), min_size=60, max_size=60),
)
def test_shards_merge_to_the_whole(rows: list[tuple[float | None, str, bool]], owners: list[int]) -> None:
    """Counts, categories and histograms are equal, floats to 1e-9, however events are spread over three shards."""
    events = [
        {
            "event_id": f"e{number}",
            "model_id": "m",
            "features": {"value": value, "category": category, "flag": flag},
            "prediction": 1.5,
        }
        for number, (value, category, flag) in enumerate(rows)
    ]
    parts: dict[int, list[dict[str, object]]] = defaultdict(list)
    for event, owner in zip(events, owners, strict=False):
        parts[owner].append(event)
    records = [record for owner, part in sorted(parts.items()) for record in metric_of(owner, part)]
    merged, whole = merge_panes(records, 64), merge_panes(metric_of(0, events), 64)
    assert merged.events == whole.events == len(rows)
    columns = {column.name: column for column in merged.columns}
    for expected in whole.columns:
        actual = columns[expected.name]
        assert (actual.count, actual.missing, actual.invalid) == (expected.count, expected.missing, expected.invalid)
        assert actual.categories == expected.categories
        assert actual.histogram == expected.histogram
        assert (actual.median, actual.p05, actual.p95) == (expected.median, expected.p05, expected.p95)
        assert (actual.minimum, actual.maximum) == (expected.minimum, expected.maximum)
        assert close(actual.mean, expected.mean)
        assert close(actual.m2, expected.m2)


def test_drift_of_shards_merges_to_the_largest() -> None:
    """Each shard has a reference of its own: the worst is told, null only when it is known nowhere."""
    event = {"event_id": "e", "model_id": "m", "features": {"a": 1.0, "b": 2.0}, "prediction": 1}
    (record,) = metric_of(0, [event])
    values: tuple[tuple[float | None, ...], ...] = ((None, None, 0.5), (0.1, None, 0.0))
    shards = [
        msgspec.structs.replace(
            record,
            shard=shard,
            drift_psi=psi[2],
            columns=[
                msgspec.structs.replace(column, drift_psi=each)
                for column, each in zip(record.columns, psi, strict=True)
            ],
        )
        for shard, psi in enumerate(values)
    ]
    merged = merge_panes(shards, 64)
    assert merged.drift_psi == 0.5
    assert [column.drift_psi for column in merged.columns] == [0.1, None, 0.5]


def test_records_of_different_panes_are_refused() -> None:
    """Merging what does not belong together is an error, not a number."""
    event = {"event_id": "e", "model_id": "m", "features": {}, "prediction": 1}
    later = event | {"timestamp": START_MS - 60_000}
    with pytest.raises(ValueError, match="exactly one model and one pane"):
        merge_panes(metric_of(0, [event]) + metric_of(0, [later]), 64)
