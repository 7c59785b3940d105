"""Laws 2 and 3 for labels: any cut of both topics gives the same bytes, and performance state survives a restore."""

import json
import math
import random
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.labelled import LABELLED, TASKS, Item, batches, grouped, items, run
from tests.laws.forms import Form, form
from tests.streams import FAR_MS
from worker.core.cut import FITTED, LIVE
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import Output, OutputTopic, RawBatch
from worker.core.shard import Topics
from worker.core.snapshot import SnapshotError, pack, unpack
from worker.core.state import State

EVENTS = 140


def stream(seed: int, count: int = EVENTS, tasks: Sequence[str] = TASKS) -> list[Item]:
    """Return a stream as a worker takes it, with a few odd values and with new versions of the models."""
    rng = random.Random(seed)
    changed = []
    for number, item in enumerate(items(seed, count, tasks)):
        value = json.loads(item.record[0] or b"")
        # Not among the first ones, which tell the task.
        odd = number > 30 * len(tasks)
        if not item.is_label:
            value["model_version"] = f"v{number // 40}"
            if odd and rng.random() < 0.04:
                value |= rng.choice(ODD_PREDICTIONS)
        elif odd and rng.random() < 0.02:
            value["label"] = rng.choice([1e30, -3, "zzz", True])
        changed.append(item._replace(record=(json.dumps(value).encode(), item.record[1])))
    return grouped(changed, 40)


ODD_PREDICTIONS: list[dict[str, Any]] = [
    {"prediction": "odd"},
    {"prediction": 1e30},
    {"prediction": True},
    {"probabilities": {"a": 0.2, "b": 0.3}},
    {"probabilities": {"ok": 0.2, "a": 0.3, "1": 0.1}},
]


def feed(engine: Engine, raw: Sequence[RawBatch]) -> list[Output]:
    """Feed batches to an engine, then let time pass until nothing is open."""
    outputs = [output for each in raw for output in engine.handle(each).outputs]
    return outputs + [output for _ in range(3) for output in engine.tick(0, FAR_MS)]


# ----------------------------------------------------------------------------------------------------------- any cut


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.sets(st.integers(1, 2 * EVENTS), max_size=40))
def test_any_cut_of_both_topics_changes_nothing(seed: int, cuts: set[int]) -> None:
    """Predictions and labels give the same outputs, digest and trace however both topics are cut into batches."""
    taken = stream(seed)
    whole, one = run(batches(taken))
    parts, many = run(batches(taken, sorted(cuts)))
    assert parts == whole
    assert many.digest(0) == one.digest(0)
    assert many.trace(0) == one.trace(0)


@pytest.mark.parametrize("task", TASKS)
def test_batches_of_one_record_change_nothing(task: str) -> None:
    """For every task, records one by one give the same bytes as whole batches."""
    taken = stream(5, 150, [task])
    whole, one = run(batches(taken))
    parts, many = run(batches(taken, range(len(taken))))
    assert parts == whole
    assert (many.digest(0), many.trace(0)) == (one.digest(0), one.trace(0))


KINDS = ("performance.limit", "performance.drop", "label.coverage", "label.lag", "drift.concept")
REACHED = {f"{kind} {status}" for kind in KINDS for status in ("opened", "resolved")}
REACHED |= {"task_inferred", "reference_taken", "segment_evicted"}
REACHED |= {f"{window} revised" for window in ("pane", "sliding", "decayed", "lifetime")}
REACHED |= {
    "unlabelled_in_time",
    "unlabelled_no_room",
    "label_without_prediction",
    "label_no_room",
    "duplicate_predictions",
    "duplicate_labels",
    "outdated_labels",
    "corrections",
    "unknown_class",
    "label_kind",
    "prediction_kind",
    "probabilities",
    "clipped",
}


def recovering(seed: int, count: int, tasks: Sequence[str]) -> list[Item]:
    """Return a stream that goes bad, as all do, and then another one, that begins with good answers."""
    again = []
    for item in stream(seed + 100, count, tasks):
        value = json.loads(item.record[0] or b"")
        value |= {"event_id": f"again {value['event_id']}", "timestamp": value["timestamp"] + AGAIN_MS}
        again.append(item._replace(record=(json.dumps(value).encode(), item.record[1] + AGAIN_MS)))
    return stream(seed, count, tasks) + again


AGAIN_MS = 100_000


def reached(outputs: Sequence[Output]) -> set[str]:
    """Return the alerts, maintenance, facts and revised windows in outputs by name."""
    found: set[str] = set()
    for output in outputs:
        record = msgspec.json.decode(output.value or b"{}")
        if output.topic is OutputTopic.ALERTS:
            found.add(f"{record['kind']} {record['status']}")
        elif output.topic is OutputTopic.MAINTENANCE:
            found.add(record["kind"])
        elif record.get("kind") == "performance":
            found |= {f"{record['window']} revised"} if record["revision"] else set()
            found |= {name for name, count in (record["label_facts"] or {}).items() if count}
    return found


def test_the_streams_reach_everything() -> None:
    """The laws are not empty: streams like these open and resolve every kind of alert, and count every fact."""
    left = set(REACHED)
    others = product(range(5, 25), ("binary", "regression", "score"))
    for seed, task in ((6, "score"), (13, "regression"), *others):  # those that reach it soon come first
        if left:
            outputs, _ = run(batches(recovering(seed, 300, [task])))
            left -= reached(outputs)
    assert left == set()


# ----------------------------------------------------------------------------------------------------------- restoring

Parts = dict[tuple[str, str], bytes]


def captured(engine: Engine) -> tuple[bytes, Parts]:
    """Return what is stored of a shard: its header, and the parts of its monitors."""
    header = engine.begin_cut(0, {})
    parts: Parts = {}
    while taken := engine.take_captured(0, 100_000):
        parts |= {(each.model_id, each.part): each.payload for each in taken}
    return header, parts


def restored(header: bytes, parts: Parts, model_ids: Sequence[str]) -> Engine:
    """Return a new engine with that state."""
    engine = Engine(LABELLED, Topics(), InlineRefits())
    engine.add_shard(0)
    for model_id in reversed(model_ids):
        engine.restore_monitor(0, model_id, parts[model_id, LIVE], parts.get((model_id, FITTED)))
    engine.finish_restore(0, header, model_ids)
    return engine


def check_restore(taken: Sequence[Item], places: Sequence[int]) -> None:
    """Restore at some places of a stream, one after the other, and compare with going through."""
    raw = batches(taken, places)
    whole, chain = (Engine(LABELLED, Topics(), InlineRefits()) for _ in range(2))
    whole.add_shard(0)
    chain.add_shard(0)
    done, stops = 0, set(places)
    for each in raw:
        assert chain.handle(each).outputs == whole.handle(each).outputs
        done += len(each.offsets)
        if done in stops:
            chain = restored(*captured(chain), chain.model_ids(0))
            assert chain.digest(0) == whole.digest(0)
            assert chain.trace(0) == whole.trace(0)
    assert feed(chain, []) == feed(whole, [])
    assert chain.digest(0) == whole.digest(0)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.0, 1.0))
def test_a_restored_shard_goes_on_with_equal_bits(seed: int, share: float) -> None:
    """Wherever both topics are cut, outputs and state after a restore are those of an uninterrupted worker."""
    taken = stream(seed)
    check_restore(taken, [max(round(share * len(taken)), 1)])


@pytest.mark.parametrize("task", TASKS)
def test_every_task_survives_many_restores(task: str) -> None:
    """Restored after every few records, with and without a task, each kind of model gives the same bytes."""
    taken = stream(11, 200, [task])
    check_restore(taken, sorted(random.Random(task).sample(range(1, len(taken)), 25)))


# ------------------------------------------------------------------------------------------------------- hostile bytes


@cache
def snapshot(task: str, count: int) -> tuple[bytes, Parts]:
    """Return the state of a model after some events."""
    _, engine = run(batches(stream(3, count, [task])))
    header, parts = captured(engine)
    plain = msgspec.msgpack.decode(unpack(parts[task, LIVE]).plain, strict=False)["performance"]
    assert bool(plain["pending"]) == (plain["ledger"] is None) == (count < 10)
    return header, parts


@cache
def future(task: str) -> list[RawBatch]:
    """Return what comes after a restore: labels and corrections of known events, then new events."""
    later = [
        item._replace(record=(item.record[0], item.record[1] + 3))
        for item in stream(3, 100, [task])
        if item.is_label or random.Random(item.record[1]).random() < 0.3
    ]
    corrected = []
    for item in stream(3, 100, [task]):
        if item.is_label:
            value = json.loads(item.record[0] or b"")
            value |= {"label": 55.0 if task in ("regression", "digits") else "other", "timestamp": FAR_MS - 1}
            corrected.append(item._replace(record=(json.dumps(value).encode(), FAR_MS)))
    return batches([*corrected, *later, *stream(4, 60, [task])])


def refusal(task: str, header: bytes, parts: Parts) -> str | None:
    """Return why stored state is refused; if it is not, everything goes on without an error."""
    try:
        engine = restored(header, parts, [task])
    except SnapshotError as error:
        return str(error)
    feed(engine, future(task))
    assert captured(engine)
    return None


def with_live(parts: Parts, task: str, state: State) -> Parts:
    """Return the parts with another live one."""
    return parts | {(task, LIVE): pack(state)}


SITUATIONS = [*((task, 100) for task in TASKS), ("binary", 5), ("score", 5), ("regression", 5)]
"""With a task, and before it is known."""
FREE = (".wrong", ".begins")
"""Arrays whose length is their own."""


@cache
def first_with_form() -> dict[Form, tuple[str, int, str]]:
    """Return the first situation in which there is an array of each form, and its name."""
    found: dict[Form, tuple[str, int, str]] = {}
    for task, count in SITUATIONS:
        for name, array in unpack(snapshot(task, count)[1][task, LIVE]).arrays.items():
            found.setdefault(form(name, array), (task, count, name))
    return found


@pytest.mark.parametrize(("task", "count"), SITUATIONS)
def test_arrays_of_another_type_or_shape_are_refused(task: str, count: int) -> None:
    """Each array of the performance must be there with its type and its shape, and no other; each form once."""
    header, parts = snapshot(task, count)
    assert refusal(task, header, parts) is None
    live, missed = unpack(parts[task, LIVE]), set[str]()
    for name, array in live.arrays.items():
        if not name.startswith("performance."):
            continue
        rest = {key: mine for key, mine in live.arrays.items() if key != name}
        found = form(name, array)
        wrong = [] if found.kind in missed else [rest]
        missed.add(found.kind)
        if first_with_form()[found] == (task, count, name):
            typed = np.zeros(array.shape, np.int64 if array.dtype.kind == "f" else np.float64)
            wrong += [rest | {name: np.zeros((), array.dtype)}, rest | {name: typed}]
            if not name.endswith(FREE):
                wrong.append(rest | {name: np.zeros((len(array) + 1, *array.shape[1:]), array.dtype)})
        for arrays in wrong:
            assert refusal(task, header, with_live(parts, task, State(live.plain, arrays))) is not None, name
    more = State(live.plain, {**live.arrays, "performance.more": np.zeros(1)})
    assert refusal(task, header, with_live(parts, task, more)) is not None


HOSTILE: list[object] = [None, -1, 0, 1, 2**53, 2**63 - 1, -(2**63), 0.5, math.nan, math.inf, "x", [], {}, True, b"x"]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_value_in_an_array_is_refused_or_does_no_harm(data: st.DataObject) -> None:
    """Whatever one place of a stored array holds: a SnapshotError at once, or everything goes on."""
    task, count = data.draw(st.sampled_from(SITUATIONS))
    header, parts = snapshot(task, count)
    live = unpack(parts[task, LIVE])
    names = [name for name, array in live.arrays.items() if array.size and name.startswith("performance.")]
    name = data.draw(st.sampled_from(names))
    array = live.arrays[name].copy()
    if array.dtype.kind == "b":
        limits: Any = (0, 1)
    else:
        kind = np.finfo(array.dtype) if array.dtype.kind == "f" else np.iinfo(array.dtype)
        limits = kind.min, kind.max
    special = st.sampled_from([math.nan, math.inf, -math.inf]) if array.dtype.kind == "f" else st.nothing()
    values = st.sampled_from([*limits, -1, 0, 1, 2**40]) | st.integers(-70_000, 70_000) | special
    drawn = data.draw(values)
    place = data.draw(st.integers(0, array.size - 1))
    array.flat[place] = (
        drawn if isinstance(drawn, float) and math.isnan(drawn) else min(max(drawn, limits[0]), limits[1])
    )
    refusal(task, header, with_live(parts, task, State(live.plain, {**live.arrays, name: array})))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_plain_value_is_refused_or_does_no_harm(data: st.DataObject) -> None:
    """The same for what is not in arrays."""
    task, count = data.draw(st.sampled_from(SITUATIONS))
    header, parts = snapshot(task, count)
    live = unpack(parts[task, LIVE])
    plain = msgspec.msgpack.decode(live.plain, strict=False)
    path: list[Any] = []
    node = plain["performance"]
    while isinstance(node, dict | list) and node and (not path or data.draw(st.integers(0, 5))):
        path.append(data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))))
        parent, node = node, node[path[-1]]
    parent[path[-1]] = data.draw(st.sampled_from(HOSTILE))
    refusal(task, header, with_live(parts, task, State(msgspec.msgpack.encode(plain), live.arrays)))
