"""The store of models: whole or not there, the same name for the same bytes, and crashes leave only what is removed."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from fsspec.core import url_to_fs

from worker.core.events import InputFeature, Manifest, TrainingRange
from worker.core.maintenance.manifest import checksum, model_folder, model_path
from worker.edges.artefacts import MODEL_BYTES_MAX, ArtefactError, ArtefactStore, DamagedArtefactError
from worker.ports import ArtefactStoreError

_HOUR_S = 3_600.0


def _manifest(model: bytes, *, model_id: str = "fraud", decided_ms: int = 0) -> Manifest:
    return Manifest(
        model_id=model_id,
        replaces_version="1",
        version="1+boosted",
        candidate="boosted_recent",
        task="classification",
        features=[InputFeature("amount", "numeric"), InputFeature("country", "categorical", ["de", "fr"])],
        classes=["no", "yes"],
        trained_on=[TrainingRange("predictions", 3, 100, 2_099, 2_000)],
        metrics=[],
        seed=7,
        decided_ms=decided_ms,
        sha256=checksum(model),
        bytes=len(model),
        libraries={"scikit-learn": "1.9.1"},
    )


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a store's root that holds nothing: a folder that is not there yet, or one in memory."""
    return str(tmp_path / "models") if request.param == "local" else f"memory://{uuid4().hex}"


def _files(store: ArtefactStore) -> list[str]:
    return sorted(store._names())


def test_what_is_put_is_there_and_true(root: str) -> None:
    """A model that was put can be verified by its path, and its manifest says what was said."""
    store, manifest = ArtefactStore(root), _manifest(b"model")
    stored = store.put(b"model", manifest)
    assert stored.path == model_path("fraud", checksum(b"model"))
    assert stored.uri.endswith(stored.path)
    assert "://" in stored.uri
    assert ArtefactStore(root).verify(stored.path) == manifest
    assert store.listed() == [(stored.path, manifest)]


def test_to_put_again_changes_nothing(tmp_path: Path) -> None:
    """A replay puts the same model again, under other libraries even: no file is touched, the first manifest stays."""
    store, manifest = ArtefactStore(str(tmp_path)), _manifest(b"model")
    first = store.put(b"model", manifest)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert store.put(b"model", msgspec.structs.replace(manifest, libraries={"scikit-learn": "9"})) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_s3_may_not_take_longer_than_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls to S3 have deadlines, which the configuration may change; other file systems know no such option."""
    asked: dict[str, dict[str, Any]] = {}

    def opened(root: str, **options: Any) -> tuple[Any, str]:  # noqa: ANN401 - stands for fsspec's
        asked[root] = options
        found: tuple[Any, str] = url_to_fs("memory://")
        return found

    monkeypatch.setattr("worker.edges.artefacts.url_to_fs", opened)
    for root, options in (("s3://a", {"endpoint_url": "http://s3"}), ("s3://b", {"config_kwargs": {}}), ("gs://c", {})):
        ArtefactStore(root, options)
    assert asked["s3://a"]["config_kwargs"]["read_timeout"] <= 10
    assert asked["s3://a"]["endpoint_url"] == "http://s3"
    assert asked["s3://b"] == {"config_kwargs": {}}
    assert asked["gs://c"] == {}


@pytest.mark.parametrize("damage", [b"", b"mode", b"other", None])
def test_damage_is_found_and_mended(tmp_path: Path, damage: bytes | None) -> None:
    """A model that was cut, changed or removed is not verified; to put it again mends it."""
    store = ArtefactStore(str(tmp_path))
    stored = store.put(b"model", _manifest(b"model"))
    file = tmp_path / stored.path
    file.unlink() if damage is None else file.write_bytes(damage)
    with pytest.raises(DamagedArtefactError, match=r"checksum|not there"):
        store.verify(stored.path)
    store.put(b"model", _manifest(b"model"))
    store.verify(stored.path)


def test_a_model_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    """A model and a manifest that fit each other, but not their name, are not what an event told of."""
    store = ArtefactStore(str(tmp_path))
    one, other = (store.put(model, _manifest(model)).path for model in (b"one", b"other"))
    for ending in (".onnx", ".json"):
        (tmp_path / one).with_suffix(ending).write_bytes((tmp_path / other).with_suffix(ending).read_bytes())
    with pytest.raises(DamagedArtefactError, match="checksum"):
        store.verify(one)


def _crash_points(store: ArtefactStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Yield preparations: the process ends (here: an exception) at the n-th call that changes a disk."""
    for calls in range(1, 20):

        def prepare(calls: int = calls) -> None:
            left = [calls]

            def dying(call: Callable[..., Any]) -> Callable[..., Any]:
                def counted(*given: Any) -> Any:  # noqa: ANN401 - stands in for several system calls
                    left[0] -= 1
                    if left[0] == 0:
                        raise KeyboardInterrupt
                    return call(*given)

                return counted

            for name in ("fsync", "replace"):
                monkeypatch.setattr(os, name, dying(getattr(os, name)))

        yield prepare


def test_a_crash_leaves_a_model_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a process ends while it puts: no half model has its name, the next try succeeds, the rest goes."""
    died = 0
    for place, prepare in enumerate(_crash_points(ArtefactStore(str(tmp_path)), monkeypatch)):
        folder = tmp_path / str(place)
        store, manifest = ArtefactStore(str(folder)), _manifest(b"model")
        with monkeypatch.context():
            prepare()
            try:
                store.put(b"model", manifest)
            except KeyboardInterrupt:
                died += 1
        monkeypatch.undo()
        named = list(folder.rglob("*.onnx"))
        assert all(path.read_bytes() == b"model" for path in named)
        for path, _ in store.listed():
            store.verify(path)
        later = ArtefactStore(str(folder), clock=lambda: time.time() + 2 * _HOUR_S)
        later.verify(later.put(b"model", manifest).path)
        later.retain(1, keep={later.listed()[0][0]})
        assert len(_files(later)) == 2
    assert died == 6


def test_the_oldest_decisions_go_first(root: str) -> None:
    """Of a model the oldest go by the event time of their decision, but none that is needed; others' models stay."""
    store = ArtefactStore(root)
    models = [b"third", b"first", b"second", b"fourth"]
    times = [3, 1, 2, 4]
    paths = {
        at: store.put(model, _manifest(model, decided_ms=at)).path for model, at in zip(models, times, strict=True)
    }
    assert store.retain(2, keep={paths[1]}) == 4
    assert [path for path, _ in store.listed()] == [paths[1], paths[4]]
    assert store.retain(2, keep={paths[1]}) == 0
    other = store.put(b"other", _manifest(b"other", model_id="churn")).path
    assert store.retain(0, keep=[paths[1]]) == 2
    assert {path for path, _ in store.listed()} == {paths[1], other}


def test_models_of_partitions_of_another_worker_stay(root: str) -> None:
    """Of a model that is spread over partitions only their worker knows which ones are needed."""
    store, paths = ArtefactStore(root), dict[int, str]()
    for at, partition in enumerate((3, 3, 5, 5)):
        manifest = _manifest(str(at).encode(), decided_ms=at)
        ranges = [msgspec.structs.replace(manifest.trained_on[0], partition=partition)]
        paths[at] = store.put(str(at).encode(), msgspec.structs.replace(manifest, trained_on=ranges)).path
    assert store.retain(1, keep={paths[3]}) == 2
    assert [path for path, _ in store.listed()] == [paths[0], paths[1], paths[3]]


def test_a_manifest_is_read_once(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old models are looked at with each commit that stores another one: that must not take longer and longer."""
    store, read = ArtefactStore(root), list[str]()
    really = store._read

    def note(path: str, bytes_max: int) -> bytes:
        read.append(path)
        return really(path, bytes_max)

    first = store.put(b"first", _manifest(b"first")).path
    store.put(b"churn", _manifest(b"churn", model_id="churn"))
    store.retain(5, keep={first})
    second = store.put(b"second", _manifest(b"second")).path
    monkeypatch.setattr(store, "_read", note)
    assert store.retain(5, keep={first}) == 0
    assert read == [second.replace(".onnx", ".json")]


def test_left_overs_go_when_they_are_old_and_others_never(tmp_path: Path) -> None:
    """A file without its manifest may be under way in another worker: it goes after an hour. Strange files stay."""
    store = ArtefactStore(str(tmp_path))
    (tmp_path / "notes.json").write_text("mine")
    folder = tmp_path / model_folder("fraud")
    folder.mkdir()
    (folder / f"{'a' * 64}.onnx").write_bytes(b"orphan")
    (folder / f"{'b' * 64}.onnx.part-1").write_bytes(b"ha")
    kept = store.put(b"model", _manifest(b"model")).path
    (tmp_path / kept).with_suffix(".json").write_text("{")
    assert store.listed() == []
    assert store.retain(5) == 0
    old = ArtefactStore(str(tmp_path), clock=lambda: time.time() + 2 * _HOUR_S)
    assert old.retain(5, keep={kept}) == 2
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == sorted(
        ["notes.json", (tmp_path / kept).name, (tmp_path / kept).with_suffix(".json").name]
    )


def test_a_store_that_does_not_answer_is_no_damage(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a store cannot be read nothing is written anew, and nothing is removed."""
    store = ArtefactStore(root)
    store.put(b"model", _manifest(b"model"))

    other = model_path("fraud", "0" * 64)
    given, really = [], store._files.open

    def fail_to_read(path: str, mode: str = "rb", **more: Any) -> Any:  # noqa: ANN401 - stands for fsspec's
        if mode == "rb":
            raise OSError("no route to host")
        given.append(path)
        return really(path, mode, **more)

    monkeypatch.setattr(store._files, "open", fail_to_read)
    for attempt in (lambda: store.put(b"model", _manifest(b"model")), lambda: store.retain(0, keep={other})):
        with pytest.raises(ArtefactStoreError, match="no route to host") as raised:
            attempt()
        assert not isinstance(raised.value, DamagedArtefactError)
    assert len(_files(store)) == 2


@pytest.mark.parametrize(
    "path", ["../secret.onnx", "/etc/passwd", f"fraud/../{'a' * 64}.onnx", f"..{'/' + 'a' * 64}.onnx"]
)
def test_a_path_leads_nowhere_else(root: str, path: str) -> None:
    """A path comes from an event: one that would leave the store is refused before anything is read."""
    with pytest.raises(ArtefactError, match="no path of a stored model"):
        ArtefactStore(root).verify(path)


def test_models_have_folders_of_their_own() -> None:
    """Any id makes a safe folder, and two ids never share one."""
    ids = ["fraud", "Fraud", "a/b", "a-b", "..", "", "ü" * 300, "fraud/eu"]
    folders = [model_folder(model_id) for model_id in ids]
    assert len(set(folders)) == len(ids)
    assert all(msgspec.convert(model_path(model_id, "0" * 64), str) for model_id in ids)
    for model_id in ids:
        store = ArtefactStore(f"memory://{uuid4().hex}")
        store.verify(store.put(b"m", _manifest(b"m", model_id=model_id)).path)


def test_what_does_not_fit_is_refused(root: str) -> None:
    """A manifest of another model, and a model over the limit, are refused before anything is written."""
    store = ArtefactStore(root)
    with pytest.raises(ArtefactError, match="another size or checksum"):
        store.put(b"model", _manifest(b"other"))
    with pytest.raises(ArtefactError, match="over the limit"):
        store.put(bytes(MODEL_BYTES_MAX + 1), _manifest(b"other"))
    assert _files(store) == []


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    """An unknown protocol and a folder that cannot be made are one sentence each."""
    with pytest.raises(ArtefactError, match=r"open the store of models nowhere://x: .*nowhere"):
        ArtefactStore("nowhere://x")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtefactError, match=r"cannot (read|write) "):
        ArtefactStore(str(tmp_path / "file")).put(b"model", _manifest(b"model"))
