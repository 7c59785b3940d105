"""Brings the snapshots of a file back as new ones, at positions of the cluster that it writes to.

    file -> engine (proves it) -> parts ... -> manifest -> restore (proves it again) -> pointer

Rule 1: all shards are proven before anything is written.
Rule 2: until the pointer of a shard is committed its old one stands. Its records lie in the slots that the old snapshot
        does not use, and the old ones are deleted with the commit of the new pointer, not before.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from worker.core.detectors.forest_fit import InlineRefits
from worker.core.engine import Engine
from worker.core.events import InputTopic
from worker.core.journal import Base, Ref
from worker.core.shard import Topics
from worker.core.snapshot import SnapshotError
from worker.edges.kafka import KafkaSink
from worker.fingerprint import fingerprint
from worker.ports import Bounds, Position, StateRecord
from worker.recovery.parts import Assembly
from worker.recovery.problems import StateProblemError
from worker.recovery.reading import Steps, bounds_of
from worker.recovery.restore_job import RestoreJob, RestoreOptions
from worker.recovery.snapshot_job import SnapshotJob
from worker.recovery.stored import Kind, Manifest, decode_key
from worker.recovery.track import Anchor, Track
from worker.state_admin.container import Export, read_from
from worker.state_admin.differences import ALERT_OPTIONS, option_differences
from worker.state_admin.session import Session, StateAdminError, drive, readable_pointer

At = Literal["committed", "earliest", "latest"]


class Arrival(NamedTuple):
    """One shard of the file, and where it is to go on."""

    manifest: Manifest
    """As it is in the file."""
    digest: str
    trace: str
    before: Position | None
    """What is committed now."""
    offset: int
    label_offset: int
    feedback_offset: int

    @property
    def partition(self) -> int:
        """The shard."""
        return self.manifest.partition

    @property
    def generation(self) -> int:
        """Of the last commit that there was here."""
        pointer = readable_pointer(self.before)
        return 0 if pointer is None else pointer.generation

    @property
    def line(self) -> str:
        """It in words."""
        return (
            f"shard {self.partition}: {len(self.manifest.models)} models go on at offset {self.offset}, labels at "
            f"{self.label_offset}, feedback at {self.feedback_offset}"
        )


def import_state(session: Session, path: Path, wanted: Sequence[int], at: At, *, write: bool) -> Iterator[str]:
    """Check the file and import it, or only say what would be done; yield a line for each shard.

    Raises:
        StateAdminError: something cannot be used, or the group has members.
        SelectionError: there is no such partition.
        FileError: the file cannot be read.
    """
    try:
        with read_from(path) as export:
            arrivals = _plan(session, export, wanted, at)
            if not write:
                yield from (arrival.line for arrival in arrivals)
                return
            with session.sink() as sink:
                for arrival in arrivals:
                    _import_shard(session, sink, export, arrival)
                    yield arrival.line
    except SnapshotError as error:
        raise StateAdminError(f"{path} cannot be used: {error}") from None


# Before anything is written.


def _plan(session: Session, export: Export, wanted: Sequence[int], at: At) -> list[Arrival]:
    """Prove that all of it can be used. Raises SnapshotError, too."""
    session.refuse_members()
    partitions = session.selected(wanted or export.partitions)
    missing = [partition for partition in partitions if partition not in export.partitions]
    if missing:
        raise StateAdminError(f"shard {missing[0]} is not in the file: it has {export.partitions}")
    beyond = [partition for partition in partitions if partition >= session.stateful]
    if beyond:
        raise StateAdminError(f"shard {beyond[0]} has no partition of labels or state: see `modelvigil topics check`")
    manifests = [export.manifest(partition) for partition in partitions]
    for manifest in manifests:
        _refuse_other_options(session, export, manifest)
    positions = session.positions(partitions)
    return [_arrival(session, export, manifest, positions[manifest.partition], at) for manifest in manifests]


def _refuse_other_options(session: Session, export: Export, manifest: Manifest) -> None:
    """State means the same only under the same options. That the topic has another name here does not matter."""
    if manifest.fingerprint == fingerprint(session.settings.engine, export.header.predictions_topic):
        return
    differing = option_differences(manifest.options, session.identity.options)
    differing = [each for each in differing if not each.startswith(ALERT_OPTIONS)]
    which = "; ".join(differing) or "another version has other ones"
    raise StateAdminError(f"the state in the file was written with other [engine] options: {which}: set them so")


def _arrival(session: Session, export: Export, manifest: Manifest, before: Position | None, at: At) -> Arrival:
    offset, label_offset = _target(session, manifest.partition, before, at)
    feedback_offset = _feedback_offset(session, before, at)
    engine = _engine(session)
    _restore(engine, export, manifest)
    digest, trace = engine.digest(manifest.partition), engine.trace(manifest.partition)
    return Arrival(manifest, digest, trace, before, offset, label_offset, feedback_offset)


def _engine(session: Session) -> Engine:
    topics = session.settings.topics
    names = Topics(topics.predictions, topics.labels, topics.feedback)
    return Engine(session.settings.engine, names, InlineRefits())


def _restore(engine: Engine, export: Export, manifest: Manifest) -> None:
    """Give a shard of the file to an engine, which checks everything. Raises SnapshotError."""
    engine.add_shard(manifest.partition)
    assembly = Assembly(engine, manifest)
    for part, payload in export.parts(manifest):
        assembly.take(part, payload)
    assembly.finish()


# Where to go on.


def _target(session: Session, partition: int, before: Position | None, at: At) -> tuple[int, int]:
    predictions = drive(bounds_of(session.history, InputTopic.PREDICTIONS, partition))
    labels = drive(bounds_of(session.history, InputTopic.LABELS, partition))
    if at != "committed":
        return _edge(predictions, at), _edge(labels, at)
    if before is None:
        raise StateAdminError(
            f"shard {partition}: no position is committed: say --at earliest or --at latest, or leave it out with "
            "--partition"
        )
    if not predictions.first <= before.offset <= predictions.end:
        raise StateAdminError(
            f"shard {partition}: the committed position {before.offset} is not in the topic, which has "
            f"{predictions.first} to {predictions.end}: say --at earliest or --at latest"
        )
    return before.offset, _label_offset(before, labels)


def _edge(bounds: Bounds, at: At) -> int:
    return bounds.first if at == "earliest" else bounds.end


def _label_offset(before: Position, labels: Bounds) -> int:
    """Return where labels go on: as the pointer says, or else as it was committed for those who watch the lag."""
    pointer = readable_pointer(before)
    wanted = before.label_offset if pointer is None else pointer.label_offset
    return labels.first if wanted is None else min(max(wanted, labels.first), labels.end)


def _feedback_offset(session: Session, before: Position | None, at: At) -> int:
    """Return where feedback goes on: as the pointer says, or else at the first record, which may still be in force.

    What the state has taken already counts once.
    """
    if not session.has_feedback:
        return 0
    bounds = drive(bounds_of(session.history, InputTopic.FEEDBACK, 0))
    pointer = readable_pointer(before) if at == "committed" else None
    return bounds.first if pointer is None else min(max(pointer.feedback_offset, bounds.first), bounds.end)


# Writing.


def _import_shard(session: Session, sink: KafkaSink, export: Export, arrival: Arrival) -> None:
    """Store one shard and point at it. Raises StateAdminError."""
    partition = arrival.partition
    snapshot, kept = _store(session, sink, export, arrival)
    # There is nothing before this snapshot to go back to, so no link either.
    base = Base(arrival.offset, arrival.label_offset, snapshot, feedback_offset=arrival.feedback_offset)
    position = Track(partition, session.identity, base, generation=arrival.generation).position(arrival.trace)
    _prove(session, arrival, position)
    tombstones = [StateRecord(partition, key, None) for key in session.stored_keys(partition) if key not in kept]
    session.commit(sink, {partition: position}, tombstones)


def _store(session: Session, sink: KafkaSink, export: Export, arrival: Arrival) -> tuple[Ref, set[bytes]]:
    """Write a snapshot of the shard as a worker does; return where it lies, and under which keys, the link's apart."""
    engine = _engine(session)
    _restore(engine, export, arrival.manifest)
    partition = arrival.partition
    # What is committed now is committed again with each part: so the broker refuses it when somebody has joined. Where
    # nothing is committed, only the last commit can be guarded like that.
    fence = {} if arrival.before is None else {partition: arrival.before._replace(label_offset=None)}
    old = session.manifest_in_use(partition, arrival.before)
    here = Base(arrival.offset, arrival.label_offset, feedback_offset=arrival.feedback_offset)
    anchor = Anchor(None, here.offset, here.label_offset, here.feedback_offset, old)
    track = Track(partition, session.identity, here, anchor, generation=arrival.generation)
    job = SnapshotJob(engine, track, int(time.time() * 1000), whole=True)
    keys: set[bytes] = set()
    while not job.done:
        records = job.next_records(session.settings.worker.snapshot_commit_bytes_max)
        job.written(session.commit(sink, fence, records))
        keys.update(record.key for record in records if not _is_link(record.key))
    assert track.base.snapshot is not None, "a complete snapshot has been adopted"
    return track.base.snapshot, keys


def _is_link(key: bytes) -> bool:
    known = decode_key(key)
    return known is not None and known.kind is Kind.LINK


def _prove(session: Session, arrival: Arrival, position: Position) -> None:
    """Restore what was written, exactly as a worker will, before anything points at it."""
    engine = _engine(session)
    options = RestoreOptions(has_feedback=session.has_feedback)
    job = RestoreJob(arrival.partition, position, engine, session.history, session.identity, options)
    try:
        drive(_restoring(job))
        if engine.digest(arrival.partition) != arrival.digest:
            raise StateAdminError(f"shard {arrival.partition}: what was read back is not what was written; try again")
    except StateProblemError as problem:
        raise StateAdminError(f"what was written cannot be restored: {problem}") from None
    finally:
        job.close()


def _restoring(job: RestoreJob) -> Steps[None]:
    while job.track is None:
        yield job.step()
