"""Takes what modelvigil advises: a recalibration, a challenger, the way back; and, if asked to, who answers best now.

Rule 1: an event is about one version. If another one is in service, the advice is old and is not taken.
Rule 2: a model is loaded only from below the configured root, and only if its bytes have the checksum of the event.
Rule 3: what is in service changes as one reference, so no answer is half from one model and half from another.
Rule 4: what is in service is remembered in a file with how far events were read, so a restart changes nothing. (To
        read all events anew would need every model that ever was in service.)
Rule 5: whatever is wrong with an event, the server goes on with what it has, and tells so in `/health`.
Rule 6: a version begins as it is, without recalibration or advice, also when it comes back: the worker, too, begins
        anew with each version, and would never take back what it does not know of.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from examples.server.champion import (
    FIRST_VERSION,
    METHODS,
    MODEL_ID,
    Chances,
    Features,
    Model,
    OnnxModel,
    Recalibration,
)

MODEL_BYTES_MAX = 64 * 1024 * 1024
POLICIES = ("proven", "advised")
"""Who answers: the deployed model (recalibrated), or also, before anything is proven, whoever is best right now."""
CHAMPION, RECALIBRATED = "champion", "recalibrated"
_IDENTITY = Recalibration("identity", {})
_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[0-9a-f]{64}\.onnx")
_log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A model, and the artefact that it came from, as its event told of it; None for our own."""

    model: Model
    artefact: Mapping[str, Any] | None = None


class Advised(NamedTuple):
    """The candidate that answers; of `champion` and `recalibrated` there is nothing to load."""

    candidate: str
    loaded: Loaded | None = None


class Said(NamedTuple):
    """The deployed model's own probabilities, and those that are answered."""

    own: list[Chances]
    answered: list[Chances]


class InService(NamedTuple):
    """The deployed model, the version that its predictions are published under, and who answers in its place."""

    version: str
    loaded: Loaded
    recalibration: Recalibration = _IDENTITY
    advised: Advised | None = None

    @property
    def candidate(self) -> str:
        """Return who answers."""
        if self.advised is not None:
            return self.advised.candidate
        return CHAMPION if self.recalibration.method == "identity" else RECALIBRATED

    def answers(self, asked: Sequence[Features]) -> Said:
        """Ask the deployed model, and who answers in its place."""
        own = self.loaded.model.chances(asked)
        if self.advised is not None and self.advised.loaded is not None:
            return Said(own, self.advised.loaded.model.chances(asked))
        if self.candidate == CHAMPION:
            return Said(own, own)
        return Said(own, [self.recalibration.applied(each) for each in own])


class AdviceError(Exception):
    """An event cannot be followed; the message says why."""


class Maintenance:
    """What is in service, and what was before. One thread calls `handle`; any thread may read `now`."""

    def __init__(
        self,
        first: Model,
        root: str,
        memory: Path | None = None,
        options: Mapping[str, Any] | None = None,
        follow: str = "proven",
    ) -> None:
        """Begin with what `memory` tells, or else with a model of our own.

        Args:
            first: our own model.
            root: folder or URL below which models are taken from.
            memory: a file of ours; it need not be there yet.
            options: fsspec's for `root`.
            follow: one of POLICIES.
        """
        self.now = self._first = InService(FIRST_VERSION, Loaded(first))
        self.before: InService | None = None
        self.positions: dict[int, int] = {}
        """Offset of each partition of `maintenance` to read on from."""
        self.taken = 0
        self.problem: str | None = None
        self._memory = memory
        self._root = root.rstrip("/")
        self._options = dict(options or {})
        self._followed: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "recalibration_ready": self._recalibrate,
            "challenger_ready": self._swap,
            "rollback_advised": self._roll_back,
        }
        if follow == "advised":
            self._followed["advice_changed"] = self._advise
        if memory is not None and memory.exists():
            self._recall(json.loads(memory.read_text()))

    def handle(self, event: Mapping[str, Any], partition: int, offset: int) -> bool:
        """Follow one event of the `maintenance` topic; tell whether it changed what is in service."""
        follow = self._followed.get(event.get("kind", ""))
        if follow is None or event.get("model_id") != MODEL_ID or event.get("model_version") != self.now.version:
            return False
        try:
            follow(event)
        except (AdviceError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            self.problem = f"{event.get('kind')} {event.get('maintenance_id')} not taken: {error!r}"
            _log.error("%s", self.problem)
            return False
        self.taken += 1
        self.problem = None
        # Events that are not taken change nothing, so to see them again after a restart does no harm.
        self.positions[partition] = offset + 1
        self._remember()
        _log.warning("%s taken: %s of version %s answers", event["kind"], self.now.candidate, self.now.version)
        return True

    def _recalibrate(self, event: Mapping[str, Any]) -> None:
        told = event["recalibration"]
        if told["method"] not in METHODS:
            raise AdviceError(f"no recalibration {told['method']!r} is known here")
        self._check_classes(told["classes"])
        numbers = {name: list(map(float, values)) for name, values in told["coefficients"].items()}
        made = Recalibration(told["method"], numbers, positive=told["classes"][-1])
        if told["p_min"] is not None:
            made = made._replace(p_min=float(told["p_min"]))
        if not all(0.0 <= made.probability(p) <= 1.0 for p in (0.0, 0.5, 1.0)):
            raise AdviceError(f"{made} gives no probabilities")
        self.now = self.now._replace(recalibration=made)

    def _swap(self, event: Mapping[str, Any]) -> None:
        artefact = _artefact(event)
        version = str(artefact["manifest"]["version"])
        if version == self.now.version:
            raise AdviceError(f"the model calls itself {version}, like the one in service")
        self.before, self.now = self.now, InService(version, self._load(artefact))

    def _roll_back(self, event: Mapping[str, Any]) -> None:
        former = event["rollback"]["former_version"]
        if self.before is None or former not in {None, self.before.version}:
            raise AdviceError(f"version {former} is not what was in service before")
        self.now, self.before = InService(self.before.version, self.before.loaded), None

    def _advise(self, event: Mapping[str, Any]) -> None:
        candidate = event["challenger"]["candidate"]
        is_own = candidate in {CHAMPION, RECALIBRATED}
        if not is_own and event["challenger"]["artefact"] is None:
            candidate, is_own = CHAMPION, True  # one that learns online, and cannot be had
        advised = Advised(candidate, None if is_own else self._load(_artefact(event)))
        self.now = self.now._replace(advised=advised)

    # ------------------------------------------------------------------------------------------------------ the models

    def _load(self, artefact: Mapping[str, Any]) -> Loaded:
        """Return the model that an event tells of, once it is known to be that and to be about the same question."""
        path, manifest = artefact["path"], artefact["manifest"]
        if manifest["model_id"] != MODEL_ID:
            raise AdviceError(f"the model is of {manifest['model_id']}")
        self._check_classes(manifest["classes"])
        return Loaded(OnnxModel(self._fetch(path, manifest["sha256"]), manifest), artefact)

    def _check_classes(self, classes: Sequence[str]) -> None:
        known = self.now.loaded.model.classes
        if sorted(classes) != sorted(known):
            raise AdviceError(f"it has the classes {classes}, not {known}")

    def _fetch(self, path: str, checksum: str) -> bytes:
        """Return the bytes of a model, if they are those that the event tells of."""
        if not _PATH.fullmatch(path):
            raise AdviceError(f"{path} is no path of a stored model")
        try:
            with fsspec.open(f"{self._root}/{path}", "rb", **self._options) as opened:
                content: bytes = opened.read(MODEL_BYTES_MAX + 1)
        except Exception as error:  # each file system has errors of its own
            raise AdviceError(f"{path} cannot be read: {error}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != checksum:
            raise AdviceError(f"{path} has the checksum {found}, not {checksum}")
        return content

    # ------------------------------------------------------------------------------------------------------ the memory

    def _remember(self) -> None:
        if self._memory is None:
            return
        kept = {
            "positions": self.positions,
            "now": _described(self.now),
            "before": _described(self.before) if self.before else None,
        }
        part = self._memory.with_suffix(".part")
        part.write_text(json.dumps(kept))
        part.replace(self._memory)

    def _recall(self, kept: Mapping[str, Any]) -> None:
        self.positions = {int(partition): offset for partition, offset in kept["positions"].items()}
        try:
            self.now = self._restored(kept["now"])
            self.before = self._restored(kept["before"]) if kept["before"] else None
            if kept["now"]["advised"] is not None:
                candidate, artefact = kept["now"]["advised"]
                self.now = self.now._replace(advised=Advised(candidate, self._load(artefact) if artefact else None))
        except (AdviceError, ValueError) as error:
            self.problem = f"not all that was in service before the restart is to be had: {error}"
            _log.error("%s", self.problem)

    def _restored(self, described: Mapping[str, Any]) -> InService:
        artefact = described["artefact"]
        loaded = self._first.loaded if artefact is None else self._load(artefact)
        return InService(described["version"], loaded, Recalibration(*described["recalibration"]))


def _artefact(event: Mapping[str, Any]) -> Mapping[str, Any]:
    artefact: Mapping[str, Any] | None = event["challenger"]["artefact"]
    if artefact is None:
        raise AdviceError(f"{event['challenger']['candidate']} has no artefact")
    return artefact


def _described(served: InService) -> dict[str, Any]:
    advised = served.advised
    return {
        "version": served.version,
        "artefact": served.loaded.artefact,
        "recalibration": served.recalibration,
        "advised": advised and [advised.candidate, advised.loaded and advised.loaded.artefact],
    }
