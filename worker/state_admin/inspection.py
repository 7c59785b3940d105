"""Looks at the stored state of each shard as a restore would, changes nothing, and says what it found.

A problem is what would keep a worker from going on by itself; a note is what it would deal with.
"""

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct

from worker.core.events import InputTopic
from worker.core.journal import Base, Entry, EntryKind, JournalError, Pointer, Ref, decode_entries
from worker.core.snapshot import SnapshotError
from worker.ports import Position
from worker.recovery.parts import parts_as_stored, read_parts
from worker.recovery.problems import ProblemKind
from worker.recovery.reading import Chunks, bounds_of
from worker.recovery.stored import Kind, Link, Manifest, decode_key, decode_link, decode_manifest
from worker.state_admin.differences import ALERT_OPTIONS, option_differences
from worker.state_admin.session import Session, drive, pointer_of


class Problem(Struct, frozen=True):
    """What a person must decide on."""

    kind: ProblemKind
    message: str


class Lag(Struct, frozen=True):
    """Where a shard is in one of its input topics, and what that still holds."""

    first: int
    end: int
    position: int | None
    lag: int
    """What is still to be read; without a position, all that there is."""


class Part(Struct, frozen=True):
    """One part of one model's state."""

    model_id: str
    part: str
    slot: int
    version: int
    bytes: int
    offsets: list[int]


class Snapshot(Struct, frozen=True):
    """The snapshot that the journal begins with."""

    written_ms: int
    age_seconds: float
    slot: int
    offsets: list[int]
    """Of the chunks of its manifest."""
    chunks: int
    """All together."""
    bytes: int
    models: int
    parts: list[Part] | None = None
    """Told on demand."""


class JournalSize(Struct, frozen=True):
    """What happened after the snapshot: a restore replays it."""

    entries: int
    records: int
    predictions: int
    labels: int
    feedback: int
    ticks: int
    thinnings: int
    """So often the share of events was changed that are used for maintenance."""
    chars: int


class Belonging(Struct, frozen=True):
    """Whether the state was written here and for these settings."""

    cluster: bool
    predictions: bool
    labels: bool
    feedback: bool
    state: bool
    fingerprint: bool
    policy: bool
    """Of the options of alerts, under which the journal must be replayed."""
    environment: bool


class Stored(Struct, frozen=True):
    """What the pointer of a shard says, and what it points at."""

    generation: int
    base_offset: int
    base_label_offset: int
    label_offset: int
    base_feedback_offset: int
    feedback_offset: int
    journal: JournalSize
    digest: str
    fingerprint: str
    belongs: Belonging
    snapshot: Snapshot | None
    option_differences: list[str]


class ShardReport(Struct, frozen=True):
    """One shard."""

    partition: int
    predictions: Lag
    labels: Lag | None
    feedback: Lag | None
    """None where there is no such topic."""
    stored: Stored | None
    problems: list[Problem]
    notes: list[str]


class Report(Struct, frozen=True):
    """All that `state inspect` tells."""

    group: str
    topic: str
    cluster: str
    inspected_ms: int
    members: list[str]
    shards: list[ShardReport]

    @property
    def sound(self) -> bool:
        """Whether a worker could go on everywhere by itself."""
        return not any(shard.problems for shard in self.shards)


class Depth(NamedTuple):
    """How closely to look."""

    parts: bool = False
    """List the parts of each model."""
    verify: bool = False
    """Read every part and compare its checksum."""


def inspect_state(session: Session, partitions: Sequence[int], depth: Depth) -> Report:
    """Look at some shards."""
    now_ms = int(time.time() * 1000)
    positions = session.positions(partitions)
    return Report(
        group=session.identity.group,
        topic=session.settings.topics.predictions,
        cluster=session.identity.origin.cluster,
        inspected_ms=now_ms,
        members=session.group.members(),
        shards=[_Look(session, partition, positions[partition], depth, now_ms).report() for partition in partitions],
    )


class _Look:
    """A look at one shard."""

    def __init__(self, session: Session, partition: int, position: Position | None, depth: Depth, now_ms: int) -> None:
        self._session = session
        self._partition = partition
        self._position = position
        self._depth = depth
        self._now_ms = now_ms
        self._problems: list[Problem] = []
        self._notes: list[str] = []
        self._chunks = Chunks(session.history, partition)

    def report(self) -> ShardReport:
        try:
            return self._report()
        finally:
            self._chunks.close()

    def _report(self) -> ShardReport:
        position = self._position
        predictions = self._lag(InputTopic.PREDICTIONS, None if position is None else position.offset)
        if self._partition >= self._session.stateful:
            self._problem(
                ProblemKind.NO_STATE_PARTITION, "labels or state have no such partition: see `modelvigil topics check`"
            )
            return self._reported(predictions, None, None, None)
        pointer = self._pointer()
        labels = self._lag(InputTopic.LABELS, None if pointer is None else pointer.label_offset)
        feedback = None
        if self._session.has_feedback:
            feedback = self._lag(InputTopic.FEEDBACK, None if pointer is None else pointer.feedback_offset)
        stored = None if pointer is None else self._stored(pointer, predictions, labels, feedback)
        return self._reported(predictions, labels, feedback, stored)

    def _reported(
        self, predictions: Lag, labels: Lag | None, feedback: Lag | None, stored: Stored | None
    ) -> ShardReport:
        return ShardReport(self._partition, predictions, labels, feedback, stored, self._problems, self._notes)

    def _problem(self, kind: ProblemKind, message: str) -> None:
        self._problems.append(Problem(kind, message))

    def _lag(self, topic: InputTopic, position: int | None) -> Lag:
        bounds = drive(bounds_of(self._session.history, topic, self._partition))
        return Lag(bounds.first, bounds.end, position, bounds.end - (bounds.first if position is None else position))

    def _pointer(self) -> Pointer | None:
        try:
            pointer = pointer_of(self._position)
        except JournalError as error:
            self._problem(ProblemKind.OTHER_FORMAT, str(error))
            return None
        if pointer is None:
            self._explain_absence()
        return pointer

    def _explain_absence(self) -> None:
        """Nothing points at state: say whether there is any."""
        keys = map(decode_key, self._session.stored_keys(self._partition))
        if any(key is not None and key.kind is Kind.MANIFEST for key in keys):
            where = "no position is committed" if self._position is None else "the committed position points at none"
            self._problem(ProblemKind.POSITION_MISSING, f"there is stored state, but {where} (expired, or reset)")
            return
        begin = self._session.settings.worker.start_at
        where = f"the {begin} record" if self._position is None else "the committed position"
        self._notes.append(f"no state: a worker begins with empty state at {where}, and with labels at the {begin} one")

    # With a pointer.

    def _stored(self, pointer: Pointer, predictions: Lag, labels: Lag, feedback: Lag | None) -> Stored:
        belongs = self._belonging(pointer)
        base = pointer.base
        self._check_input("predictions", predictions, base.offset)
        self._check_input("labels", labels, base.label_offset)
        manifest = self._manifest(pointer, predictions, labels)
        journal = self._journal(pointer, predictions.position)
        self._check_feedback(pointer, feedback, journal)
        differing = self._differing(belongs, manifest, journal)
        return Stored(
            generation=pointer.generation,
            base_offset=base.offset,
            base_label_offset=base.label_offset,
            label_offset=pointer.label_offset,
            base_feedback_offset=base.feedback_offset,
            feedback_offset=pointer.feedback_offset,
            journal=journal,
            digest=pointer.trace,
            fingerprint=pointer.fingerprint,
            belongs=belongs,
            snapshot=None if manifest is None or base.snapshot is None else self._snapshot(base.snapshot, manifest),
            option_differences=differing,
        )

    def _differing(self, belongs: Belonging, manifest: Manifest | None, journal: JournalSize) -> list[str]:
        """Name the options that differ, and say what that means. Those of alerts matter only to a journal."""
        if belongs.fingerprint and belongs.policy:
            return []
        differing = [] if manifest is None else option_differences(manifest.options, self._session.identity.options)
        alerts = [each for each in differing if each.startswith(ALERT_OPTIONS)]
        others = [each for each in differing if each not in alerts]
        if not belongs.fingerprint:
            which = "; ".join(others) or "which ones cannot be told"
            self._problem(ProblemKind.OTHER_OPTIONS, f"written with other [engine] options: {which}")
        which = "; ".join(alerts) or "which ones cannot be told"
        if not belongs.policy and journal.entries:
            self._problem(
                ProblemKind.OTHER_OPTIONS,
                f"the worker did not stop cleanly under the former [engine.alerts]: {which}: start once with these "
                "options set back and stop it (SIGTERM)",
            )
        elif not belongs.policy:
            self._notes.append(f"[engine.alerts] has been changed, which a worker takes over: {which}")
        return differing

    def _check_feedback(self, pointer: Pointer, feedback: Lag | None, journal: JournalSize) -> None:
        """Look for records of feedback that must be read again; what was never read may be gone."""
        if feedback is not None:
            self._check_input(
                "feedback", feedback, pointer.base.feedback_offset if journal.feedback else feedback.first
            )
        elif journal.feedback:
            self._problem(ProblemKind.INPUT_GONE, "feedback must be read again, but there is no such topic")

    def _belonging(self, pointer: Pointer) -> Belonging:
        """Compare where the state was written with where we are. An id that Kafka does not tell matches any."""
        identity = self._session.identity
        here, there = identity.origin, pointer.origin
        same = {
            name: not (getattr(here, name) and getattr(there, name)) or getattr(here, name) == getattr(there, name)
            for name in ("cluster", "predictions", "labels", "feedback", "state")
        }
        if not same["cluster"]:
            self._problem(ProblemKind.FOREIGN_CLUSTER, f"written on cluster {there.cluster}, this is {here.cluster}")
        for name in ("predictions", "labels", "feedback", "state"):
            if not same[name]:
                self._problem(ProblemKind.TOPIC_RECREATED, f"the {name} topic has been created again since")
        if pointer.environment != identity.environment:
            self._notes.append("written by other library versions or on another CPU: a replay may differ")
        return Belonging(
            **same,
            fingerprint=pointer.fingerprint == identity.fingerprint,
            policy=pointer.policy == identity.policy,
            environment=pointer.environment == identity.environment,
        )

    def _check_input(self, topic: str, lag: Lag, base: int) -> None:
        if base < lag.first:
            self._problem(
                ProblemKind.INPUT_GONE,
                f"{topic} must be read again from offset {base}, but begins at {lag.first} (retention, or deleted "
                "records)",
            )
        if lag.position is not None and lag.position > lag.end:
            self._problem(
                ProblemKind.INPUT_TRUNCATED, f"{topic} has been read up to offset {lag.position}, but ends at {lag.end}"
            )

    def _journal(self, pointer: Pointer, position: int | None) -> JournalSize:
        try:
            entries = decode_entries(pointer.journal)
        except JournalError as error:
            self._problem(ProblemKind.OTHER_FORMAT, str(error))
            entries = []
        kinds = (EntryKind.PREDICTIONS, EntryKind.LABELS, EntryKind.FEEDBACK)
        predictions, labels, feedback = (_amount(entries, kind) for kind in kinds)
        base = pointer.base
        ends = (base.offset + predictions, base.label_offset + labels, base.feedback_offset + feedback)
        if ends != (position, pointer.label_offset, pointer.feedback_offset):
            self._problem(ProblemKind.OTHER_FORMAT, "the journal ends at another position")
        return JournalSize(
            entries=len(entries),
            records=predictions + labels + feedback,
            predictions=predictions,
            labels=labels,
            feedback=feedback,
            ticks=sum(entry.kind is EntryKind.TICK for entry in entries),
            thinnings=sum(entry.kind is EntryKind.THINNING for entry in entries),
            chars=len(pointer.journal),
        )

    # The snapshot.

    def _manifest(self, pointer: Pointer, predictions: Lag, labels: Lag) -> Manifest | None:
        """Read the newest snapshot, and the one before it, which stands in when that is damaged."""
        base = pointer.base
        newest, why = self._readable(base.snapshot, base.offset, base.label_offset)
        older, why_not_older = self._older(base)
        if why and older is None:
            self._problem(
                ProblemKind.STATE_DAMAGED, f"the snapshot cannot be used: {why}; and the one before it: {why_not_older}"
            )
        elif why and older is not None:
            self._notes.append(f"the newest snapshot cannot be used: {why}; a worker goes back to the one before it")
            self._check_input("predictions", predictions, older.offset)
            self._check_input("labels", labels, older.label_offset)
        elif base.link is not None and older is None:
            self._notes.append(f"the snapshot before the newest one cannot be used: {why_not_older}")
        return newest

    def _older(self, base: Base) -> tuple[Link | None, str]:
        """Return the way from the snapshot before the newest one, or why it cannot be used."""
        if base.link is None:
            return None, "there is none"
        try:
            link, _ = decode_link(drive(self._chunks.payload(base.link)))
        except SnapshotError as error:
            return None, str(error)
        _, why = self._readable(base.previous, link.offset, link.label_offset)
        return None if why else link, why

    def _readable(self, ref: Ref | None, offset: int, label_offset: int) -> tuple[Manifest | None, str]:
        """Return the manifest of a snapshot, and what is wrong with it, if anything."""
        if ref is None:
            return None, ""
        manifest = None
        expected = (self._session.identity.group, self._partition, offset, label_offset)
        try:
            manifest = decode_manifest(drive(self._chunks.payload(ref)))
            if (manifest.group, manifest.partition, manifest.offset, manifest.label_offset) != expected:
                return manifest, "the manifest is of another shard or position"
            if self._depth.verify:
                drive(read_parts(self._chunks, manifest, lambda _part, _payload: None))
        except SnapshotError as error:
            return manifest, str(error)
        return manifest, ""

    def _snapshot(self, ref: Ref, manifest: Manifest) -> Snapshot:
        parts = [
            Part(each.model_id, each.part, each.ref.slot, each.ref.version, each.ref.size, each.ref.offsets)
            for each in parts_as_stored(manifest)
        ]
        return Snapshot(
            written_ms=manifest.written_ms,
            age_seconds=round((self._now_ms - manifest.written_ms) / 1000, 1),
            slot=manifest.slot,
            offsets=ref.offsets,
            chunks=len(ref.offsets) + sum(len(part.offsets) for part in parts),
            bytes=manifest.size,
            models=len(manifest.models),
            parts=parts if self._depth.parts else None,
        )


def _amount(entries: Iterable[Entry], kind: EntryKind) -> int:
    return sum(entry.amount for entry in entries if entry.kind is kind)
