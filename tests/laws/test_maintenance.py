"""Laws 2, 3, 4 and 6 for model maintenance: any cut gives the same bytes, and all of it survives a restore."""

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.maintained import MAINTAINED, MODELS, Item, Model, Shard, grouped, items, reached
from tests.streams import FAR_MS
from worker.core.cut import FITTED, LIVE
from worker.core.events import Manifest, Output
from worker.core.kernels.shadow import MISSED
from worker.core.maintenance import after_promotion, challenger_fits, maintainer, presence, said, shadowing, waiting
from worker.core.snapshot import SnapshotError, pack, unpack
from worker.core.state import AnyArray, State

# Its streams are worked on once for all tests, which takes as long as the rest: once in one process.
pytestmark = pytest.mark.xdist_group("maintenance")

EVENTS = 1_000
SEEDS = {"two": 1, "three": 0, "number": 2, "plain": 2, "bare": 2}


@pytest.fixture(autouse=True)
def _small_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the ring of waiting rows go round and grow, searches end, and promises be made, within a short stream."""
    monkeypatch.setattr(waiting, "_WINDOW_MIN", 64)
    monkeypatch.setattr(waiting, "PART_ROWS_MAX", 16)
    monkeypatch.setattr(maintainer, "PART_ROWS_MAX", 16)
    monkeypatch.setattr(said, "PART_ROWS_MAX", 16)
    monkeypatch.setattr(shadowing, "GRID_LABELS", 100)
    monkeypatch.setattr(challenger_fits, "SEARCH_TAKEOVER_MS", 1_000)
    monkeypatch.setattr(shadowing, "_PROMISE_LABELS_MIN", 200)
    monkeypatch.setattr(presence, "SETTLE", 2)
    monkeypatch.setattr(after_promotion, "BLOCK_LABELS", 50)


@cache
def stream(model: Model) -> list[Item]:
    """Return the stream of a model as a worker takes it."""
    return grouped(items(model, SEEDS[model], EVENTS), 40)


@cache
def uncut(model: Model) -> tuple[list[Output], tuple[str, str]]:
    """Return what its largest batches give."""
    shard = Shard()
    return shard.take(stream(model)), shard.result


# ----------------------------------------------------------------------------------------------------------- any cut


@pytest.mark.parametrize("model", ["two", "three", "number"])
def test_batches_of_one_record_change_nothing(model: Model) -> None:
    """Records one by one give the same outputs, artefacts, state and trace."""
    shard = Shard()
    assert shard.take(stream(model), lambda _: True) == uncut(model)[0]
    assert shard.result == uncut(model)[1]


@settings(max_examples=4, deadline=None)
@given(model=st.sampled_from(MODELS), seed=st.integers(0, 2**32), share=st.sampled_from([0.02, 0.2, 0.6]))
def test_any_cut_changes_nothing(model: Model, seed: int, share: float) -> None:
    """Neither do random cuts of both topics."""
    rng, shard = random.Random(seed), Shard()
    assert shard.take(stream(model), lambda _: rng.random() < share) == uncut(model)[0]
    assert shard.result == uncut(model)[1]


HOSTILE_MODELS: tuple[Model, ...] = ("two", "three", "number")
SAYINGS = "maintenance.sayings"
KINDS = {
    "recalibration_ready",
    "threshold_ready",
    "advice_changed",
    "challenger_ready",
    "challenger_withdrawn",
    "challenger_tuned",
    "rollback_advised",
    "retrain_requested",
    "regime_new",
    "regime_vanished",
    "regime_returned",
    "maintenance_thinned",
    "segment_evicted",
}


def test_the_streams_reach_everything() -> None:
    """The laws are not empty: all that maintenance tells is told, models come along, labels come too late."""
    outputs = [output for model in MODELS for output in uncut(model)[0]]
    assert reached(outputs) >= KINDS
    assert len({output.artefact for output in outputs if output.artefact is not None}) > 10
    late = [snapshots(model)["offers"][0].live(model).arrays[f"{SAYINGS}.clock"][MISSED] for model in HOSTILE_MODELS]
    assert min(late) > 0
    assert set(MOMENTS) <= {moment for model in HOSTILE_MODELS for moment in snapshots(model)}


def test_nothing_is_told_where_it_is_not_wanted() -> None:
    """Without maintenance, and without labels, there are no models, no advice, and no state of them."""
    for changed in (
        {"maintenance": msgspec.structs.replace(MAINTAINED.maintenance, enabled=False)},
        {"performance": msgspec.structs.replace(MAINTAINED.performance, enabled=False)},
    ):
        shard = Shard(msgspec.structs.replace(MAINTAINED, **changed))
        outputs = shard.take(stream("two")[:700])
        assert not reached(outputs) & (KINDS - {"segment_evicted"})
        assert not any(output.artefact for output in outputs)
        assert len(own_arrays(captured(shard).live("two"))) == 2


def test_a_pool_that_begins_anew_takes_back_what_the_one_before_told() -> None:
    """New classes leave nothing in force that was said of the old ones: the version is the same."""
    told = [json.loads(output.value) for output in uncut("three")[0] if output.topic == "maintenance" and output.value]
    classes, advised, method, ready, begun = 0, "champion", "identity", set[str](), 0
    for event in told:
        if event.get("recalibration"):
            known = len(event["recalibration"]["classes"])
            before, method = method, event["recalibration"]["method"]
            if classes and known > classes and before != "identity":
                assert (advised, method, ready) == ("champion", "identity", set())
                begun += 1
            classes = known
        elif event["kind"] == "advice_changed":
            advised = event["challenger"]["candidate"]
        elif event["kind"] == "challenger_ready":
            ready.add(event["challenger"]["candidate"])
        elif event["kind"] == "challenger_withdrawn":
            ready.discard(event["challenger"]["candidate"])
    assert begun


def test_no_two_events_have_one_id() -> None:
    """Whoever takes an event for one that came twice would miss another one."""
    for model in MODELS:
        events = [json.loads(output.value) for output in uncut(model)[0] if output.value]
        ids = Counter(event["maintenance_id"] for event in events if "maintenance_id" in event)
        assert max(ids.values()) == 1


def test_levels_told_at_one_record_are_told_apart() -> None:
    """A shard without traffic stays where it is while others make the worker thin, and thin less, again and again."""
    shard = Shard()
    shard.take(stream("two")[:300])
    told = [json.loads(output.value or b"") for output in shard.take([Item("thin", level) for level in (2, 1, 2, 2)])]
    assert [event["thinning"] for event in told] == [2, 1, 2]
    assert len({event["maintenance_id"] for event in told}) == 3
    assert {event["model_version"] for event in told} != {None}


def test_a_manifest_tells_the_seed_of_its_fit() -> None:
    """Of boosted trees; there is no chance in a linear model."""
    artefacts = [output.artefact for output in uncut("two")[0] if output.artefact]
    told = [msgspec.json.decode(each.manifest, type=Manifest) for each in artefacts]
    assert {each.candidate for each in told} >= {"recent", "all"}
    assert all((each.seed == 0) == (each.candidate == "linear") for each in told)
    fits = {each.version.rpartition("-")[0] for each in told if each.seed}
    assert len({each.seed for each in told if each.seed}) == len(fits)


def test_memory_is_bounded() -> None:
    """From the first models on, state grows by new columns alone, and rows that wait by their bound."""
    for model in ("two", "number"):
        stored = [each for each, _ in snapshots(model).values()]
        assert max(len(each.live(model).arrays.get(f"{SAYINGS}.cells", ())) for each in stored) == 100
        for name, rows in (("recent", 120), ("sampled", 400)):
            sizes = {len(each.live(model).arrays.get(f"maintenance.shadow.buffer.{name}.rows", ())) for each in stored}
            assert sizes == {0, rows}


def test_a_value_of_a_segment_that_gave_way_leaves_nothing() -> None:
    """The gate never has more labels of a value than there were events of it: who gets a place begins with none."""
    predictions = [item.value for item in stream("number") if item.kind == "prediction"]
    counted = 0
    for stored, offsets in snapshots("number").values():
        live = stored.live("number")
        plain = msgspec.msgpack.decode(live.plain, strict=False)
        cells = live.arrays.get("maintenance.shadow.pool.gate.segments", np.zeros((1, 0, 3)))
        seen = Counter(
            value for event in predictions[: offsets["prediction"]] for value in event.get("segment", {}).items()
        )
        places = plain["maintenance"]["places"]["places"] if cells.size else []
        for number, (segment, own) in enumerate(zip(plain["performance"]["segments"], places, strict=False)):
            for name, (_, value_id, _) in segment["values"].items():
                place = own.get(value_id)
                if place is not None:
                    labels = cells[:, number * cells.shape[1] // len(places) + place, 0].max()
                    assert labels <= seen[segment["name"], name]
                    counted += labels > 0
    assert counted > 5


# ----------------------------------------------------------------------------------------------------------- restoring

Parts = dict[tuple[str, str], bytes]


class Stored(NamedTuple):
    """What is stored of a shard: its header, and the parts of its monitors."""

    header: bytes
    parts: Parts

    def live(self, model: Model) -> State:
        """Return the live part of a model."""
        return unpack(self.parts[model, LIVE])

    def with_live(self, model: Model, state: State) -> "Stored":
        """Return it with another live part."""
        return self._replace(parts=self.parts | {(model, LIVE): pack(state)})


def captured(shard: Shard) -> Stored:
    """Return what is stored of a shard."""
    header, parts = shard.engine.begin_cut(0, {}), Parts()
    while taken := shard.engine.take_captured(0, 100_000):
        parts |= {(each.model_id, each.part): each.payload for each in taken}
    return Stored(header, parts)


def restored(stored: Stored, model: Model, offsets: dict[str, int]) -> Shard:
    """Return a new shard with that state."""
    shard = Shard()
    shard.offsets = dict(offsets)
    shard.engine.restore_monitor(0, model, stored.parts[model, LIVE], stored.parts.get((model, FITTED)))
    shard.engine.finish_restore(0, stored.header, [model])
    return shard


def moments(stored: Stored, model: Model) -> Iterator[str]:
    """Name what is special about a model's maintenance."""
    plain = msgspec.msgpack.decode(stored.live(model).plain, strict=False)
    own = plain["maintenance"]
    if not own["is_active"]:
        yield "no labels"
        return
    yield "first labels" if own["shadow"] is None else f"a pool, {own['shadow']['fits']['under_way']} under way"
    if plain["judge"]["generation"] and plain["seen"] < plain["judge"]["origin"] + MAINTAINED.warmup_events:
        yield "another warm-up"
    if own["shadow"] and own["shadow"]["promises"]:
        yield "a watch"
    if own["retraining"]["reasons"]:
        yield "reasons to train"
    if own["offers"]:
        yield "offers"


MOMENTS = (
    "no labels",
    "first labels",
    "a pool, None under way",
    "a pool, fits under way",
    "a pool, search under way",
    "another warm-up",
    "a watch",
    "reasons to train",
    "offers",
)


@cache
def snapshots(model: Model) -> dict[str, tuple[Stored, dict[str, int]]]:
    """Return what is stored at each special moment, the last there is of it, and the offsets that come next."""
    shard, taken = Shard(), stream(model)
    found: dict[str, tuple[Stored, dict[str, int]]] = {}
    for begin in range(0, len(taken), 20):
        shard.take(taken[begin : begin + 20])
        stored = captured(shard)
        found |= dict.fromkeys(moments(stored, model), (stored, dict(shard.offsets)))
    return found


@pytest.mark.parametrize("model", MODELS)
def test_a_restored_model_goes_on_with_equal_bits(model: Model) -> None:
    """Restored again and again, at any record, it gives the bytes of one that never was."""
    taken, rng = stream(model), random.Random(model)
    places = [0, *sorted(rng.sample(range(1, len(taken)), 40)), len(taken)]
    chain, out = Shard(), list[Output]()
    for begin, end in itertools.pairwise(places):
        out += chain.take(taken[begin:end])
        chain = restored(captured(chain), model, chain.offsets)
    assert out == uncut(model)[0]
    assert chain.result == uncut(model)[1]


# ------------------------------------------------------------------------------------------------------- hostile bytes


def future(model: Model) -> list[Item]:
    """Return what comes after a restore: predictions with labels, and without, labels of known events, a tick."""
    taken = stream(model)
    later = [item for item in taken[200:320] if item.kind != "thin"]
    again = [item for item in taken[::7] if item.kind == "label"][-40:]
    return [*later, *again, Item("tick", FAR_MS), *taken[-60:], Item("thin", 2), Item("tick", FAR_MS)]


def refusal(model: Model, stored: Stored, offsets: dict[str, int]) -> str | None:
    """Return why stored state is refused; if it is not, everything goes on without an error."""
    try:
        shard = restored(stored, model, offsets)
    except SnapshotError as error:
        return str(error)
    shard.take(future(model))
    assert captured(shard)
    return None


def own_arrays(state: State) -> dict[str, AnyArray]:
    """Return the arrays of maintenance."""
    return {name: array for name, array in state.arrays.items() if name.startswith("maintenance.")}


@pytest.mark.parametrize(("model", "moment"), [("two", "first labels"), ("three", MOMENTS[3])])
def test_arrays_of_another_type_or_shape_are_refused(model: Model, moment: str) -> None:
    """Each array of maintenance must be there with its type and its shape, and no other."""
    stored, offsets = snapshots(model)[moment]
    assert refusal(model, stored, offsets) is None
    live = stored.live(model)
    for name, array in own_arrays(live).items():
        rest = {key: mine for key, mine in live.arrays.items() if key != name}
        typed = np.zeros(array.shape, np.int8 if array.dtype.kind == "f" else np.float64)
        for other in (None, np.zeros((), array.dtype), typed):
            arrays = rest if other is None else rest | {name: other}
            found = refusal(model, stored.with_live(model, State(live.plain, arrays)), offsets)
            assert found is not None, (name, other)
    more = State(live.plain, {**live.arrays, "maintenance.more": np.zeros(1)})
    assert refusal(model, stored.with_live(model, more), offsets) is not None


@pytest.mark.parametrize("part", ["trained", "wanted"])
def test_categories_of_other_features_are_refused(part: str) -> None:
    """An artefact would describe other columns than its model has."""
    stored, offsets = snapshots("two")["a pool, fits under way"]
    live = stored.live("two")
    plain = msgspec.msgpack.decode(live.plain, strict=False)
    next(iter(plain["maintenance"]["shadow"]["fits"][part].values()))["codes"].append(1)
    found = refusal("two", stored.with_live("two", State(msgspec.msgpack.encode(plain), live.arrays)), offsets)
    assert found is not None
    assert "categories" in found


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_value_in_an_array_is_refused_or_does_no_harm(data: st.DataObject) -> None:
    """Whatever one place of a stored array holds: a SnapshotError at once, or everything goes on."""
    model = data.draw(st.sampled_from(HOSTILE_MODELS))
    stored, offsets = snapshots(model)[data.draw(st.sampled_from(sorted(snapshots(model))))]
    live = stored.live(model)
    names = [name for name, array in own_arrays(live).items() if array.size]
    name = data.draw(st.sampled_from(names))
    array = live.arrays[name].copy()
    kind: Any = np.finfo(array.dtype) if array.dtype.kind == "f" else np.iinfo(array.dtype)
    special = st.sampled_from([math.nan, math.inf, -math.inf]) if array.dtype.kind == "f" else st.nothing()
    values = st.sampled_from([kind.min, kind.max, -1, 0, 1, 2**40]) | st.integers(-70_000, 70_000) | special
    array.flat[data.draw(st.integers(0, array.size - 1))] = np.clip(data.draw(values), kind.min, kind.max)
    refusal(model, stored.with_live(model, State(live.plain, {**live.arrays, name: array})), offsets)


HOSTILE: list[object] = [None, -1, 0, 1, 2**53, 2**63 - 1, -(2**63), 0.5, math.nan, math.inf, "x", [], {}, True, b"x"]


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_plain_value_is_refused_or_does_no_harm(data: st.DataObject) -> None:
    """The same for what is not in arrays."""
    model = data.draw(st.sampled_from(HOSTILE_MODELS))
    stored, offsets = snapshots(model)[data.draw(st.sampled_from(sorted(snapshots(model))))]
    live = stored.live(model)
    plain = msgspec.msgpack.decode(live.plain, strict=False)
    path: list[Any] = []
    node = plain["maintenance"]
    while isinstance(node, dict | list) and node and (not path or data.draw(st.integers(0, 5))):
        path.append(data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))))
        parent, node = node, node[path[-1]]
    parent[path[-1]] = data.draw(st.sampled_from(HOSTILE))
    state = State(msgspec.msgpack.encode(plain), live.arrays)
    refusal(model, stored.with_live(model, state), offsets)
