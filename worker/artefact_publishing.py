"""Puts the models that output records speak of into the store, before these records are committed.

Rule 1: when a record is visible, its model is in the store. A crash between the two leaves a model that nothing speaks
        of; a replay makes the same record, the same model and the same place of it again.
Rule 2: what cannot be stored is not committed, and is tried again. Removing old models may fail: the next time is soon.
Rule 3: a registry is told of what is stored, and is waited for by nobody.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from worker.core.events import Manifest, Output
from worker.core.events.topics import Artefact
from worker.observer import Observer
from worker.ports import ArtefactStore, ArtefactStoreError, Clock, ModelRegistry


class ArtefactOptions(NamedTuple):
    """How models are kept."""

    artefacts_max: int = 50
    """Older ones are removed, unless they may be needed."""
    libraries: Mapping[str, str] = {}
    """Versions of what has made them, for the manifests."""


class ArtefactPublisher:
    """Stores models for one worker; without a store it lets them go.

    Args:
        store: keeps them.
        registry: is told of them.
        options: how.
        clock: tells how long it takes.
        observer: is told.
    """

    def __init__(
        self,
        store: ArtefactStore | None,
        registry: ModelRegistry | None,
        options: ArtefactOptions,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._store = store
        self._registry = registry
        self._options = options
        self._clock = clock
        self._observer = observer
        self._stored: set[str] = set()
        """Since the last commit."""
        self.problem = ""
        """Why the last attempt failed; empty if it did not."""

    def put(self, outputs: Sequence[Output]) -> bool:
        """Return whether all models that these outputs speak of are in the store. Some may be there from before."""
        self.problem = ""
        if self._store is None:
            return True
        artefacts = [output.artefact for output in outputs if output.artefact is not None]
        try:
            for artefact in artefacts:
                if artefact.path not in self._stored:
                    self._put(self._store, artefact)
        except ArtefactStoreError as error:
            self.problem = f"a model cannot be stored: {error}"
            self._observer.artefact_failed(self.problem)
        return not self.problem

    @property
    def has_new(self) -> bool:
        """Whether models were stored since the last commit."""
        return bool(self._stored)

    def tidy(self, in_use: Collection[str]) -> None:
        """A commit has gone through: if it spoke of new models, remove the oldest, but none of those in use."""
        stored, self._stored = self._stored, set()
        if not stored or self._store is None:
            return
        try:
            self._store.retain(self._options.artefacts_max, {*in_use, *stored})
        except ArtefactStoreError as error:
            self._observer.artefact_failed(f"old models cannot be removed: {error}")
        self._observer.alive()

    def _put(self, store: ArtefactStore, artefact: Artefact) -> None:
        began_ms = self._clock.monotonic_ms()
        manifest = msgspec.json.decode(artefact.manifest, type=Manifest)
        manifest = msgspec.structs.replace(manifest, libraries={**manifest.libraries, **self._options.libraries})
        stored = store.put(artefact.content, manifest)
        self._stored.add(artefact.path)
        if self._registry is not None:
            self._registry.register(manifest, stored.uri)
        self._observer.artefact_stored(
            artefact.path, len(artefact.content), (self._clock.monotonic_ms() - began_ms) / 1000
        )
        self._observer.alive()
