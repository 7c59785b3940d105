"""Writes one snapshot of one shard, spread over as many transactions as it takes.

    cut -> parts ... -> manifest and link -> adopted: the next commit points at it

Rule 1: records go out with the shard's own position, so a worker that has lost the shard cannot write any.
Rule 2: nothing points at a snapshot before all of it is visible. Until then the old one stands, and the one before it:
        neither lies in the slots that are written.
"""

from collections.abc import Sequence

from worker.core.cut import FITTED, Captured
from worker.core.engine import Engine
from worker.core.journal import encode_entries
from worker.core.snapshot import checksum
from worker.ports import StateRecord
from worker.recovery.stored import (
    SLOTS,
    Key,
    Kind,
    Link,
    Manifest,
    PartRef,
    Written,
    encode_link,
    encode_manifest,
    ref_of,
    written,
)
from worker.recovery.track import Track


class SnapshotJob:
    """One snapshot under way: ask for `next_records`, commit them, tell what they got (`written`), until `done`.

    Args:
        engine: holds the shard.
        track: of the shard; its cut begins here.
        now_ms: the time, for people.
        whole: store everything, whatever the last snapshot holds; it only tells which slots are taken.
    """

    def __init__(self, engine: Engine, track: Track, now_ms: int, *, whole: bool = False) -> None:
        self._engine = engine
        self._track = track
        self._old = track.anchor.manifest
        """The snapshot before: where its parts lie, new ones must not go."""
        kept = None if whole else self._old
        self._kept = {} if kept is None else kept.models
        """What of it still holds, unless it is written anew."""
        self._now_ms = now_ms
        self._offset, self._label_offset = track.offset, track.label_offset
        self._feedback_offset = track.feedback_offset
        track.cut()
        # Behind the one that this builds on lies the newest, if that is damaged: its link is still needed.
        ahead = 2 if track.damaged else 1
        self._slot = ((-1 if self._old is None else self._old.slot) + ahead) % SLOTS
        stored = {} if kept is None else kept.versions(FITTED)
        self._header = engine.begin_cut(track.partition, stored)
        self._model_ids = engine.model_ids(track.partition)
        self._parts: dict[str, dict[str, PartRef]] = {}
        self._sent: list[tuple[Written, Captured]] = []
        self._last: tuple[Manifest, Written, Written] | None = None
        self.bytes = 0
        self.done = False

    def next_records(self, bytes_max: int) -> list[StateRecord]:
        """Return what goes into the next transaction: parts of about `bytes_max` bytes, at last manifest and link."""
        assert not self._sent, "the last records are not committed yet"
        assert self._last is None, "the manifest is not committed yet"
        captured = self._engine.take_captured(self._track.partition, bytes_max)
        self._sent = [(self._part(each), each) for each in captured]
        if captured:
            records = [record for what, _ in self._sent for record in what.records]
        else:
            self._last = self._manifest_and_link()
            records = [*self._last[1].records, *self._last[2].records]
        self.bytes += sum(len(record.value or b"") for record in records)
        return records

    def written(self, offsets: Sequence[int]) -> None:
        """Learn the offsets of the records that `next_records` gave: they are visible now."""
        if self._last is not None:
            manifest, manifest_written, link_written = self._last
            end = len(manifest_written.records)
            self._track.adopt(manifest, ref_of(manifest_written, offsets[:end]), ref_of(link_written, offsets[end:]))
            self.done = True
            return
        begin = 0
        for what, captured in self._sent:
            own = offsets[begin : begin + len(what.records)]
            begin += len(own)
            self._parts.setdefault(captured.model_id, {})[captured.part] = self._ref(what, captured, own)
        self._sent = []

    def _part(self, captured: Captured) -> Written:
        before = self._before(captured)
        slot, chunks = (0, 0) if before is None else (before.free_slot, before.chunks[before.free_slot])
        key = Key(self._track.identity.group, Kind.PART, slot, 0, captured.model_id, captured.part)
        return written(self._track.partition, key, captured.payload, chunks)

    def _ref(self, what: Written, captured: Captured, offsets: Sequence[int]) -> PartRef:
        before = self._before(captured)
        chunks = [0] * SLOTS if before is None else list(before.chunks)
        chunks[what.key.slot] = what.chunks
        return PartRef(
            slot=what.key.slot,
            version=captured.version,
            size=len(captured.payload),
            offsets=list(offsets[: what.chunks]),
            checksum=checksum(captured.payload),
            before=None if before is None else before.slot,
            chunks=chunks,
        )

    def _before(self, captured: Captured) -> PartRef | None:
        if self._old is None:
            return None
        return self._old.models.get(captured.model_id, {}).get(captured.part)

    def _manifest_and_link(self) -> tuple[Manifest, Written, Written]:
        track, identity, anchor = self._track, self._track.identity, self._track.anchor
        manifest = Manifest(
            group=identity.group,
            partition=track.partition,
            slot=self._slot,
            generation=track.generation,
            offset=self._offset,
            label_offset=self._label_offset,
            written_ms=self._now_ms,
            fingerprint=identity.fingerprint,
            environment=identity.environment,
            options=identity.options,
            origin=identity.origin,
            header=self._header,
            models={model_id: self._parts_of(model_id) for model_id in self._model_ids},
            feedback_offset=self._feedback_offset,
        )
        journal = encode_entries(track.way_to_cut())
        link = Link(anchor.offset, anchor.label_offset, journal, anchor.feedback_offset, identity.policy)
        keys = [Key(identity.group, kind, manifest.slot, 0) for kind in (Kind.MANIFEST, Kind.LINK)]
        return (
            manifest,
            written(track.partition, keys[0], encode_manifest(manifest)),
            written(track.partition, keys[1], encode_link(link)),
        )

    def _parts_of(self, model_id: str) -> dict[str, PartRef]:
        return {**self._kept.get(model_id, {}), **self._parts.get(model_id, {})}
