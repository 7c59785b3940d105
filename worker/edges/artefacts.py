"""Stores published models on a local folder, or on anything else that fsspec reaches (`s3://bucket/folder`).

Rule 1: a name is the SHA-256 of what it holds. The same model put twice is stored once, and nothing is ever changed.
Rule 2: a name holds all of it or is not there. Files are written beside it and moved; object stores show a file when it
        is complete.
Rule 3: the manifest comes last, so a model with a manifest is whole.
Rule 4: a model lies here BEFORE the event that names it is visible: `put` returns before that transaction commits.

Rule 4 is how an exactly-once event can name a thing outside of Kafka. The event is a function of the input, and so are
the name and the checksum in it. Crash after `put`, before the commit: the replay makes the same bytes, and putting them
again changes nothing. Aborted, or another worker has taken over: the file is an orphan, which nobody is told of and
`retain` removes in time. Never the other way round: no reader sees an event whose model is not there yet.
"""

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
from fsspec.core import url_to_fs

from worker.core.events.artefacts import Manifest, ModelPath
from worker.core.maintenance.manifest import checksum, manifest_path, model_path
from worker.ports import ArtefactStoreError

MODEL_BYTES_MAX = 64 * 1024 * 1024
_MANIFEST_BYTES_MAX = 4 * 1024 * 1024
_UNFINISHED_S = 3_600.0
"""What has no manifest for so long is left over from a crash, not under way in another worker."""
_WHOLE_WHEN_SHOWN = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "az", "memory"})
"""File systems that show a file when it is complete, and where moving is copying."""
_PART = ".part-"
_S3_DEADLINES = {"config_kwargs": {"connect_timeout": 3, "read_timeout": 10, "retries": {"max_attempts": 1}}}
"""botocore's own are minutes: the loop waits for `put`, and its watchdog would end the worker before them."""


class ArtefactError(ArtefactStoreError):
    """A model could not be stored, read or trusted; the message says which, where and why."""


class DamagedArtefactError(ArtefactError):
    """A stored model is not what it was when it was put: a file is missing, cut, or changed."""


class Stored(NamedTuple):
    """Where a model lies: a path below the root, for events, and the whole address."""

    path: str
    uri: str


class _Decision(NamedTuple):
    """What says whether a model may be removed: event time of its decision, partitions it was fitted on."""

    decided_ms: int
    partitions: frozenset[int]


class ArtefactStore:
    """Models below one root, of one worker among several that may share it. Holds the connection, and what it has read.

    Raises ArtefactError from everything.
    """

    def __init__(
        self, root: str, options: Mapping[str, Any] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Open the store.

        Args:
            root: a folder or an fsspec URL. A local folder is made when it is first written to.
            options: for the file system (fsspec's `storage_options`): endpoint, timeouts, ...
            clock: seconds since the epoch, to tell how old files are that a crash left over.
        """
        self._clock = clock
        self._root_given = root
        self._decisions: dict[str, _Decision] = {}
        """Of the models that were there when it was looked last."""
        deadlines = _S3_DEADLINES if root.startswith(("s3://", "s3a://")) else {}
        with _told(f"open the store of models {root}"):
            self._files, self._root = url_to_fs(root, **{**deadlines, **(options or {})})
        protocol = self._files.protocol
        self._protocols = {protocol} if isinstance(protocol, str) else set(protocol)

    def put(self, model: bytes, manifest: Manifest) -> Stored:
        """Store a model and its manifest, if they are not there yet; on return both are there to stay.

        O(bytes); a model that is there is read once and compared. Damaged files are written anew.
        """
        if len(model) > MODEL_BYTES_MAX:
            raise ArtefactError(f"a model of {len(model)} bytes is over the limit of {MODEL_BYTES_MAX}")
        if checksum(model) != manifest.sha256 or len(model) != manifest.bytes:
            raise ArtefactError(f"the manifest of {manifest.candidate} tells another size or checksum than its model's")
        path = model_path(manifest.model_id, manifest.sha256)
        if not self._is_whole(path):
            self._write(path, model)
            self._write(manifest_path(path), msgspec.json.format(msgspec.json.encode(manifest)))
        return Stored(path, self.uri(path))

    def verify(self, path: str) -> Manifest:
        """Read the model at `path` and compare it with its manifest, which is returned."""
        manifest = self.manifest(path)
        model = self._read(path, MODEL_BYTES_MAX)
        found = sha256(model).hexdigest()
        if found != manifest.sha256 or model_path(manifest.model_id, found) != path:
            raise DamagedArtefactError(
                f"{self.uri(path)} has the checksum {found}, its manifest tells {manifest.sha256}"
            )
        return manifest

    def manifest(self, path: str) -> Manifest:
        """Return the manifest of the model at `path`."""
        _check_path(path)
        stored = self._read(manifest_path(path), _MANIFEST_BYTES_MAX)
        try:
            return msgspec.json.decode(stored, type=Manifest)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DamagedArtefactError(f"the manifest of {self.uri(path)} cannot be read: {error}") from None

    def listed(self) -> list[tuple[str, Manifest]]:
        """Return all models by path, the oldest decision first, without those whose manifest is damaged.

        Reads each manifest.
        """
        found = []
        for path in _models(self._names()):
            with suppress(DamagedArtefactError):
                found.append((path, self.manifest(path)))
        return sorted(found, key=lambda pair: (pair[1].decided_ms, pair[0]))

    def retain(self, artefacts_max: int, keep: Collection[str] = ()) -> int:
        """Remove the oldest artefacts beyond so many of each model of which `keep` names one; return how many files.

        What crashes left over goes with them.

        Those in `keep` stay and count: what is deployed, and what a rollback would go back to. Of a model that it names
        nothing of, another worker may know more; so may it of partitions that nothing in `keep` was fitted on.
        """
        names, folders = self._names(), {_folder(path) for path in keep}
        self._decisions = self._decided([path for path in _models(names) if _folder(path) in folders])
        whole = self._decisions
        ours = {each for path in keep if path in whole for each in whole[path].partitions}
        surplus: list[str] = []
        for folder in folders:
            own = [path for path, each in whole.items() if _folder(path) == folder and each.partitions <= ours]
            surplus += [path for path in own if path not in keep][: max(len(own) - artefacts_max, 0)]
        # The manifest goes first: what has none is no model any more, wherever this is interrupted.
        gone = [name for path in surplus for name in (manifest_path(path), path)]
        gone += self._left_over([name for name in names if _folder(name) in folders], {*whole, *keep})
        for name in gone:
            with _told(f"remove {self.uri(name)}"), suppress(FileNotFoundError):
                self._files.rm_file(self._full(name))
        return len(gone)

    def _decided(self, paths: Sequence[str]) -> dict[str, _Decision]:
        """Return what is to be known of these models, the oldest first. A manifest is read once: it never changes."""
        found = {}
        for path in paths:
            with suppress(DamagedArtefactError):
                found[path] = self._decisions.get(path) or _decision(self.manifest(path))
        return dict(sorted(found.items(), key=lambda pair: (pair[1].decided_ms, pair[0])))

    def uri(self, path: str) -> str:
        """Return the whole address of a path below the root."""
        with _told(f"name {path}"):
            return str(self._files.unstrip_protocol(self._full(path)))

    # ------------------------------------------------------------------------------------------------------------ files

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    def _is_whole(self, path: str) -> bool:
        """Tell whether a model is there and undamaged; a store that does not answer is an error, not a no."""
        try:
            self.verify(path)
        except DamagedArtefactError:
            return False
        return True

    def _read(self, path: str, bytes_max: int) -> bytes:
        with _told(f"read {self.uri(path)}"), self._files.open(self._full(path), "rb") as opened:
            content: bytes = opened.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise DamagedArtefactError(f"{self.uri(path)} is larger than {bytes_max} bytes")
        return content

    def _write(self, path: str, content: bytes) -> None:
        full = self._full(path)
        with _told(f"write {self.uri(path)}"):
            if self._protocols & _WHOLE_WHEN_SHOWN:
                self._files.pipe_file(full, content)
                return
            folder, part = full.rpartition("/")[0], f"{full}{_PART}{uuid4().hex}"
            self._files.makedirs(folder, exist_ok=True)
            with self._files.open(part, "wb") as opened:
                opened.write(content)
                opened.flush()
                if "file" in self._protocols:
                    os.fsync(opened.fileno())
            self._move(part, full)

    def _move(self, part: str, full: str) -> None:
        """Give a complete file its name; on a local disk in one step, and it survives a loss of power."""
        if "file" not in self._protocols:
            self._files.mv(part, full)
            return
        os.replace(part, full)  # noqa: PTH105 - fsspec speaks in texts
        folder = os.open(os.path.dirname(full), os.O_RDONLY)  # noqa: PTH120 - as above
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _names(self) -> list[str]:
        """Return all files below the root; none while there is no root."""
        with _told(f"list {self._root_given}"):
            self._files.invalidate_cache()
            found = self._files.find(self._root) if self._files.exists(self._root) else []
        return [name[len(self._root.rstrip("/")) + 1 :] for name in found]

    def _left_over(self, names: Sequence[str], kept: Collection[str]) -> list[str]:
        """Return those of these files that belong to none of the models and have not been touched for a while."""
        found = []
        for name in names:
            finished, is_part, _ = name.partition(_PART)
            path = finished.removesuffix(".json").removesuffix(".onnx") + ".onnx"
            if _is_path(path) and (is_part or path not in kept) and self._age_s(name) > _UNFINISHED_S:
                found.append(name)
        return found

    def _age_s(self, name: str) -> float:
        """Return the seconds since a file was written; 0 for one that is gone."""
        with _told(f"look at {self.uri(name)}"), suppress(FileNotFoundError):
            return self._clock() - float(self._files.modified(self._full(name)).timestamp())
        return 0.0


@contextmanager
def _told(doing: str) -> Iterator[None]:
    """Turn whatever a file system raises (each has its own) into one sentence."""
    try:
        yield
    except ArtefactError:
        raise
    except FileNotFoundError as error:
        raise DamagedArtefactError(f"cannot {doing}: it is not there") from error
    except ImportError as error:
        raise ArtefactError(f"cannot {doing}: {error}; for S3: pip install 'modelvigil[s3]'") from error
    except Exception as error:
        raise ArtefactError(f"cannot {doing}: {type(error).__name__}: {error}") from error


def _decision(manifest: Manifest) -> _Decision:
    return _Decision(manifest.decided_ms, frozenset(each.partition for each in manifest.trained_on))


def _folder(name: str) -> str:
    return name.partition("/")[0]


def _models(names: Sequence[str]) -> list[str]:
    """Return the models that have a manifest among these files."""
    found = [name.removesuffix(".json") + ".onnx" for name in names if name.endswith(".json")]
    return [path for path in found if _is_path(path)]


def _is_path(path: str) -> bool:
    try:
        msgspec.convert(path, ModelPath)
    except msgspec.ValidationError:
        return False
    return True


def _check_path(path: str) -> None:
    """Refuse a path that would lead out of the store: it comes from an event."""
    if not _is_path(path):
        raise ArtefactError(f"{path!r} is no path of a stored model")
