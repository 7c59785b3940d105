"""What model maintenance asks of the loop: models are stored before what speaks of them, and it keeps its budget."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import pytest

from tests.core.test_loop import IDENTITY, NEVER, Listener, bad, digest_of, good, journal_of, live
from tests.offering import OfferingEngine, artefact_of
from tests.streams import SMALL, START_MS
from tests.world import World
from worker.artefact_publishing import ArtefactOptions
from worker.budget import BudgetOptions
from worker.core.detectors.forest_fit import InlineRefits
from worker.core.events import InputTopic, Manifest, Output
from worker.core.journal import Entry, EntryKind
from worker.core.monitor import Monitor
from worker.core.shard import Topics
from worker.loop import CommitFailedError, FencedError, Loop, LoopOptions, Ports
from worker.ports import ArtefactStoreError, CommitOutcome, Effort, Spent


class Offering(OfferingEngine):
    """An engine whose dead letters speak of models; one of these is in use."""

    def artefacts_in_use(self) -> set[str]:
        return {"in use"}


class StoredHere(NamedTuple):
    """Where a model lies."""

    uri: str


class Registry:
    """Implements `ports.ModelRegistry`."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    def register(self, manifest: Manifest, uri: str) -> None:
        assert manifest.sha256 in uri
        self.addresses.append(uri)


class Store:
    """Implements `ports.ArtefactStore`, and knows what was visible when a model came."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.models: dict[bytes, Manifest] = {}
        self.puts: list[tuple[bytes, int]] = []
        self.retained: list[tuple[int, set[str]]] = []
        self.failures = 0
        self.cannot_remove = False

    def put(self, model: bytes, manifest: Manifest) -> StoredHere:
        if self.failures:
            self.failures -= 1
            raise ArtefactStoreError("cannot write s3://models: no answer")
        self.models[model] = manifest
        self.puts.append((model, len(self.world.visible)))
        return StoredHere(f"here/{manifest.sha256}")

    def retain(self, artefacts_max: int, keep: Collection[str] = ()) -> int:
        self.retained.append((artefacts_max, set(keep)))
        if self.cannot_remove:
            raise ArtefactStoreError("cannot list s3://models")
        return 0


class Told(Listener):
    """Also listens to what is told of models and of the budget."""

    def artefact_stored(self, path: str, size: int, seconds: float) -> None:
        self.told.append(f"stored {size}")

    def artefact_failed(self, message: str) -> None:
        self.told.append(message)


@pytest.fixture
def world() -> World:
    """A world in which this worker owns partition 0."""
    made = World()
    made.group.append(("assigned", [0]))
    return made


def loop_of(
    world: World,
    store: Store | None = None,
    effort: Effort | None = None,
    observer: Told | None = None,
    registry: Registry | None = None,
) -> Loop:
    """Return a loop whose every port is the world, but these."""
    options = LoopOptions(snapshots=NEVER, budget=BudgetOptions(), artefacts=ArtefactOptions(7, {"modelvigil": "1"}))
    ports = Ports(world, world, world, world, world, effort, store, registry)
    return Loop(Offering(SMALL, Topics(), InlineRefits()), ports, IDENTITY, options, observer)


def broken(*names: str) -> list[tuple[bytes, int]]:
    """Records that each give one dead letter, which speaks of a model of its own."""
    return [(name.encode(), START_MS) for name in names]


def names_of(store: Store) -> list[str]:
    """Return which records the models are of, in the order in which they came."""
    return [model.removeprefix(b"model of ").decode() for model, _ in store.puts]


def test_a_model_is_stored_before_the_record_that_speaks_of_it(world: World) -> None:
    """Then old ones are removed, but none that is in use or has just been offered; the manifest names libraries."""
    store, registry = Store(world), Registry()
    loop = live(world, loop_of(world, store, registry=registry))
    world.give(0, broken("a", "b"))
    loop.step()
    assert len(registry.addresses) == 2
    assert names_of(store) == ["a", "b"]
    assert {visible for _, visible in store.puts} == {0}
    assert len(world.visible) == 2
    assert store.retained == [(7, {"in use", *(artefact_of(model).path for model, _ in store.puts)})]
    assert {str(manifest.libraries) for manifest in store.models.values()} == {"{'modelvigil': '1'}"}
    loop.step()
    assert len(store.retained) == 1


def test_a_store_that_does_not_answer_is_asked_again(world: World) -> None:
    """Nothing is committed before; what is there already is not sent again, neither is it after an aborted commit."""
    store, told = Store(world), Told()
    loop = live(world, loop_of(world, store, observer=told))
    world.give(0, broken("a", "b"))
    world.outcomes = [CommitOutcome.ABORTED]
    store.failures, before_ms = 3, world.now_ms
    loop.step()
    assert names_of(store) == ["a", "b"]
    assert len(world.visible) == 2
    assert told.told.count("a model cannot be stored: cannot write s3://models: no answer") == 3
    assert world.now_ms - before_ms > (1 << 1 | 1 << 2 | 1 << 3) * 100


def test_a_store_that_never_answers_ends_the_worker_with_a_sentence(world: World) -> None:
    """Nothing became visible; the next start does the same records again."""
    store = Store(world)
    loop = live(world, loop_of(world, store))
    world.give(0, broken("a"))
    store.failures = 1_000
    with pytest.raises(CommitFailedError, match=r"a model cannot be stored: cannot write s3://models.*10 attempts"):
        loop.step()
    assert world.visible == []


def test_old_models_that_cannot_be_removed_hold_nothing_up(world: World) -> None:
    """It is told; the next model brings the next try."""
    store, told = Store(world), Told()
    store.cannot_remove = True
    loop = live(world, loop_of(world, store, observer=told))
    for name in ("a", "b"):
        world.give(0, broken(name))
        loop.step()
    assert (len(world.visible), len(store.retained)) == (2, 2)
    assert told.told.count("old models cannot be removed: cannot list s3://models") == 2


def test_a_crash_between_model_and_commit_stores_the_same_model_again(world: World) -> None:
    """The replacement makes the same record of the same input; one model is there."""
    store = Store(world)
    loop = live(world, loop_of(world, store))
    world.give(0, broken("a"))
    world.outcomes = [CommitOutcome.FENCED]
    with pytest.raises(FencedError):
        loop.step()
    assert (len(store.models), world.visible) == (1, [])
    world.group = [("assigned", [0])]
    other = live(world, loop_of(world, store))
    world.inbox = [world.open(InputTopic.PREDICTIONS, 0, 0).read(100, 0)]
    other.step()
    assert names_of(store) == ["a", "a"]
    assert (len(store.models), len(world.visible)) == (1, 1)


def test_a_restore_stores_nothing(world: World) -> None:
    """What it computes again is visible already, with its model."""
    store = Store(world)
    loop = live(world, loop_of(world, store))
    world.give(0, broken("a", "b", "c"))
    loop.step()
    world.group = [("assigned", [0])]
    live(world, loop_of(world, store))
    assert names_of(store) == ["a", "b", "c"]


def test_without_a_store_records_are_committed_all_the_same(world: World) -> None:
    """Models are not kept then, as the settings say."""
    loop = live(world, loop_of(world))
    world.give(0, broken("a"))
    loop.step()
    assert len(world.visible) == 1


class Busy:
    """Implements `ports.Effort`: every batch and every tick costs a second, a part of it for maintenance."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._pieces = 0
        self._maintenance_s = 0.0
        self._open = False

    def begin(self) -> None:
        assert not self._open
        self._open = True

    def end(self) -> None:
        assert self._open
        self._open = False
        self._pieces += 1
        self._maintenance_s += self.share

    def spent(self) -> Spent:
        return Spent(float(self._pieces), self._maintenance_s, 0.0)


def work(world: World, loop: Loop, windows: int, records: Sequence[tuple[bytes | None, int]]) -> None:
    """Let so many windows of the budget pass, with a batch in each."""
    for _ in range(windows):
        world.give(0, list(records))
        world.now_ms += BudgetOptions().window_ms
        loop.step()


def test_maintenance_that_costs_too_much_is_thinned_by_the_journal(world: World) -> None:
    """Every shard gets the level; a restore takes it over at the same place, and goes on from there."""
    effort = Busy(0.9)
    loop = live(world, loop_of(world, effort=effort))
    work(world, loop, 2, bad(1))
    assert loop._engine.thinning(0) == 0  # the first window is not judged
    work(world, loop, 1, bad(1))
    assert loop._engine.thinning(0) == 4
    effort.share = 0.1
    work(world, loop, 1, bad(2))
    entries = journal_of(world)
    assert Entry(EntryKind.THINNING, 4) in entries[:-1]
    world.group = [("assigned", [0])]
    other = live(world, loop_of(world, effort=Busy(0.1)))
    assert digest_of(other) == digest_of(loop)
    assert other._engine.thinning(0) == other._budget.level == 4


def test_a_level_is_state(world: World) -> None:
    """It survives a snapshot, and a calm worker takes it back, as a step of the journal."""
    loop = live(world, loop_of(world, effort=Busy(1.0)))
    work(world, loop, 3, bad(1))
    world.group = [("revoked", [0])]
    loop.step()
    world.group = [("assigned", [0])]
    other = live(world, loop_of(world, effort=Busy(0.0)))
    assert (journal_of(world), other._engine.thinning(0)) == ([], 4)
    work(world, other, 9, bad(1))
    assert (EntryKind.THINNING, 3) in journal_of(world)


def test_models_are_told_the_level_and_new_ones_begin_at_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are there when it changes, and one that appears afterwards."""
    told: list[tuple[str, int]] = []
    thin = Monitor.thin

    def listen(monitor: Monitor, level: int, offset: int) -> list[Output]:
        told.append((monitor._model_id, level))
        return thin(monitor, level, offset)

    monkeypatch.setattr(Monitor, "thin", listen)
    loop = live(world, loop_of(world, effort=Busy(1.0)))
    work(world, loop, 3, good(1))
    assert told == [("m", 4)]
    value, stamp = good(1)[0]
    world.give(0, [((value or b"").replace(b'"m"', b'"other"'), stamp)])
    loop.step()
    assert told == [("m", 4), ("other", 4)]


def test_a_full_journal_takes_no_level(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits until there is room."""
    loop = live(world, loop_of(world, effort=Busy(1.0)))
    work(world, loop, 2, bad(1))
    with monkeypatch.context() as full:
        full.setattr(type(loop._tracks[0]), "full", property(lambda _: True))
        full.setattr(loop, "_store_now", lambda _track: None)
        work(world, loop, 1, bad(1))
        assert (loop._budget.level, loop._engine.thinning(0)) == (4, 0)
    loop.step()
    assert loop._engine.thinning(0) == 4
